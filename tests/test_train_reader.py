"""Tuning the cell reader alone: it resumes, only the reader changes, worse weights are refused, confidence is calibrated."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from palimpsest.codecs.adapter import load_codec
from palimpsest.codecs.checkpoint import CheckpointError, identify, kept_revision, read_weights
from palimpsest.codecs.embedded.cell_reader import FILE, CellReader, load_reader
from palimpsest.codecs.embedded.vocabulary import SYMBOLS
from palimpsest.codecs.presets import find_preset
from palimpsest.lab.training.codec_pages import BALANCED, PageSampler
from palimpsest.lab.training.frozen_pages import FrozenPages
from palimpsest.lab.training.reader_errors import Errors, calibration_error, compare, measure, worse
from palimpsest.lab.training.reader_prior import correct, letter_prior
from palimpsest.lab.training.train_reader import (
    ReaderBlend,
    ReaderConfig,
    WorseWeights,
    export_reader,
    load_config,
    train_reader,
)
from palimpsest.lab.training.writing import KINDS, Writer
from palimpsest.pages.characters import LATIN

WEIGHTS = Path(__file__).parents[1] / "pipeline/palimpsest/codecs/embedded/weights"
WORDS = "The quick brown fox jumps over the lazy dog; 42 élèves, no more.\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": WORDS * 200, "text_class": name}) for name in ("prose", "code", "latin")))
    return str(path)


def small(text: str, out: Path, steps: int) -> ReaderConfig:
    blends = (ReaderBlend(grid="64x32", mode="tiny", weight=1.0, pages=1, kept=2),)
    return ReaderConfig(
        text=text, out=str(out), steps=steps, cells=64, grow=1, save_every=1, log_every=1, evaluate_pages=1, blends=blends
    )


def test_it_resumes_and_only_the_reader_learns(text: str, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = []
    train_reader(small(text, tmp_path, 2), rows.append)
    train_reader(small(text, tmp_path, 4), rows.append)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    trained = torch.load(tmp_path / "state.pt", weights_only=True)["reader"]
    shipped = read_weights(WEIGHTS / FILE)
    assert any(not torch.equal(trained[name], value.float()) for name, value in shipped.items() if name != "temperature")
    assert set(trained) == {*shipped, "temperature"}


def test_weights_that_read_a_class_worse_are_refused(text: str, tmp_path: Path) -> None:
    config = small(text, tmp_path, 1)
    train_reader(config)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    good = {name: value.clone() for name, value in saved["reader"].items()}
    saved["reader"]["head.layers.3.bias"][7] += 500.0  # one character is read everywhere
    torch.save(saved, tmp_path / "state.pt")
    with pytest.raises(WorseWeights, match="64x32 tiny prose: .* of the characters wrong, was 0.000%"):
        export_reader(config, tmp_path / "weights", classes=("prose", "chat"))
    assert not list((tmp_path / "weights").iterdir()), "nothing is written"
    saved["reader"] = good
    torch.save(saved, tmp_path / "state.pt")
    found = export_reader(config, tmp_path / "weights", classes=("prose", "chat"), force=True)
    assert {row["text_class"] for row in found["rows"]} == {"prose", "chat"}
    reader = load_reader(tmp_path / "weights", torch.float32, "cpu")
    assert float(reader.temperature) == pytest.approx(found["temperature"], rel=0.01)
    assert found["calibration_error"]["calibrated"] < 0.01


def test_errors_are_counted_by_character_and_by_word(text: str) -> None:
    codec = load_codec("embedded", parts="encoder")
    pool = FrozenPages(codec, "64x32", "tiny", 4, keep_texts=True)
    pool.grow(PageSampler(text, 1, held_out=True), ["prose", "random"])
    by_class = {found.text_class: found for found in measure(load_reader(WEIGHTS, torch.bfloat16, "cpu"), [pool])}
    assert by_class["prose"].by_character < 0.01 and by_class["random"].characters == len(pool.texts[1])
    found = compare(pool, "prose", ["a yes! ok", "x"], ["a yes( ok", "x y"])
    assert (found.characters, found.wrong_characters, found.words, found.wrong_words) == (10, 3, 4, 1)
    assert found.confused == {"!(": 1}


def errors(characters: range, words: range) -> Errors:
    """Of a reader that misreads these characters and words of a million and a hundred thousand."""
    return Errors(
        grid="96x48", mode="tiny", text_class="chat", characters=1_000_000, wrong_characters=len(characters), words=100_000,
        wrong_words=len(words), confused={}, misread=frozenset((0, at) for at in characters),
        misread_words=frozenset((0, at) for at in words),
    )  # fmt: skip


def test_worse_by_character_or_by_word_is_named() -> None:
    old = errors(range(1000), range(500))
    assert worse([old], [errors(range(1200), range(600))]) == []  # by not more than the slack
    found = ["96x48 tiny chat: 0.130% of the characters wrong, was 0.100%"]
    assert worse([old], [errors(range(1300), range(500))]) == found
    assert worse([old], [errors(range(1300), range(500))], {("96x48", "tiny")}) == found
    assert worse([old], [errors(range(1300), range(500))], {("80x40", "tiny")}) == []  # not offered by a policy
    assert worse([old], [errors(range(500), range(700))]) == ["96x48 tiny chat: 0.700% of the words wrong, was 0.500%"]


def test_what_may_be_chance_is_decided_by_what_only_one_of_the_two_misreads() -> None:
    """The same shares: of disjoint errors a difference may be chance, of errors in addition to the same ones it is none."""
    old = errors(range(100_000), range(500))
    assert worse([old], [errors(range(200_000, 300_300), range(500))]) == []
    assert len(worse([old], [errors(range(100_300), range(500))])) == 1


def test_the_prior_lowers_rare_letters_and_leaves_ascii(text: str) -> None:
    prior = letter_prior(PageSampler(text, seed=1, shares=BALANCED))
    at = {chr(symbol): number for number, symbol in enumerate(SYMBOLS)}
    assert prior[at["Ĵ"]] < -1 and prior[at["ŵ"]] < -1 < prior[at["é"]]  # the texts have many é
    assert all(prior[at[character]] == 0 for character in "JAz5!’ ")
    reader = CellReader(64)
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    correct(reader, prior, 0.5)
    changed = {name for name, value in reader.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.layers.3.bias"}
    torch.testing.assert_close(reader.state_dict()["head.layers.3.bias"] - before["head.layers.3.bias"], 0.5 * prior)


def test_every_character_of_the_alphabet_is_written() -> None:
    writer = Writer(random.Random(0), lambda length: WORDS * (length // len(WORDS) + 1))
    written = {kind: writer.write(kind, 20_000) for kind in KINDS}
    assert not set(LATIN) - set("".join(written.values())) and not set(LATIN) - set(written["alphabet"])
    assert {"!", "“", "’", "—", "ﬁ"} <= set(written["chat"] + written["typography"]) and all(
        len(t) >= 20_000 for t in written.values()
    )


def test_confidence_is_compared_with_accuracy() -> None:
    logits = torch.tensor([[2.0, 0.0]] * 100)
    right = torch.tensor([0] * 88 + [1] * 12)
    assert calibration_error(logits, right) == pytest.approx(0.0008, abs=1e-3)
    assert calibration_error(logits * 3, right) == pytest.approx(0.1175, abs=1e-3)


def test_another_reader_keeps_the_revision_and_another_model_does_not(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    folder = tmp_path / "weights"
    shipped = identify(find_preset("embedded"))
    (folder / FILE).write_bytes((folder / FILE).read_bytes() + b"\0")
    changed = identify(find_preset("embedded"), folder)
    assert changed[1] == shipped[1] == "sha256:6ba681a32908c03f" and changed[2] != shipped[2]
    (folder / "model.safetensors").write_bytes(b"other")
    assert identify(find_preset("embedded"), folder)[1] != shipped[1] and kept_revision(folder) is None
    (folder / "revision.json").write_text("{}")
    with pytest.raises(CheckpointError, match="revision.json: expected"):
        kept_revision(folder)


def test_the_preset_names_every_operating_point(tmp_path: Path) -> None:
    config = load_config("codec-reader", ("text=x", f"out={tmp_path}"))
    blends = {(blend.grid, blend.mode) for blend in config.blends}
    assert {("64x32", "tiny"), ("96x48", "tiny"), ("80x40", "small"), ("160x80", "large"), ("128x64", "base")} <= blends
    assert len(blends) == len(config.blends)
