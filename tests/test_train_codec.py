"""Training the embedded codec: it resumes, it learns, and its checkpoint loads."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from palimpsest.codecs.adapter import load_codec
from palimpsest.codecs.checkpoint import read_weights
from palimpsest.codecs.embedded.architecture import PATCH_CHANNELS, TOKEN_DIM
from palimpsest.codecs.embedded.cell_reader import DIRECTIONS, FILE, PITCH, WAVES, CellHead, CellReader, cell_places
from palimpsest.codecs.embedded.target import AddressedTarget
from palimpsest.codecs.embedded.vocabulary import BOS, FIRST_CELL, FIRST_TOKEN, FIRST_Y, SYMBOLS
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.token_storage import pack, unpack
from palimpsest.config import ConfigError
from palimpsest.lab.training.batches import Blend, batches
from palimpsest.lab.training.codec_pages import PageSampler
from palimpsest.lab.training.compress import principal_projection
from palimpsest.lab.training.lessons import WRITING
from palimpsest.lab.training.mark_places import mark_places, pages_of_every_mode, place_code, unread
from palimpsest.lab.training.packed import pack_weights
from palimpsest.lab.training.painting import Painter
from palimpsest.lab.training.train_codec import OTHERS, TrainConfig, begin_with, learning_rate, load_config, train
from palimpsest.lab.training.trainee import Trainee
from palimpsest.pages.atlas import atlas
from palimpsest.pages.characters import BLANK, END
from palimpsest.pages.layouts.grid import Grid

WORDS = "The quick brown fox jumps over the lazy dog; 42 élèves, no more.\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [json.dumps({"text": WORDS * 200, "text_class": name}) for name in ("prose", "code", "latin")]
    path.write_text("\n".join(lines))
    return str(path)


def small(text: str, out: Path, steps: int) -> TrainConfig:
    blends = (Blend(grid="64x32", mode="tiny", weight=1.0, pages=1),)
    return TrainConfig(
        text=text,
        out=str(out),
        steps=steps,
        blends=blends,
        save_every=1,
        log_every=1,
        evaluate_pages=0,
        cells=64,
        stretch=32,
        compile=False,
        workers=0,
    )


def test_it_resumes_where_it_was_stopped(text: str, tmp_path: Path) -> None:
    train(small(text, tmp_path, 2))
    first = torch.load(tmp_path / "state.pt", weights_only=True)
    train(small(text, tmp_path, 3))
    second = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (first["step"], second["step"]) == (2, 3)
    moved = [name for name, value in first["trainee"].items() if not torch.equal(value, second["trainee"][name])]
    assert any("language_model" in name for name in moved) and any("sam_encoder" in name for name in moved)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3] and all(np.isfinite(row["token_loss"]) for row in log)


def test_the_decoder_learns_from_kept_tokens_while_the_encoder_stays_as_it_is(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], Trainee.encode
    monkeypatch.setattr(Trainee, "encode", lambda trainee, images: encoded.append(len(images)) or encode(trainee, images))
    weights = Path(__file__).parents[1] / "pipeline/palimpsest/codecs/embedded/weights"
    blends = (Blend(grid="64x32", mode="tiny", weight=1.0, pages=1, encoder=False),)
    taught = small(text, tmp_path, 8).replace(start=str(weights), blends=blends, replay=1.0, copy_cells=64, begin_decoder=True)
    taught = taught.replace(stretches_from=4)
    rows: list[dict[str, object]] = []
    train(taught, rows.append)
    assert len(encoded) == OTHERS + 1  # of eight steps
    begins_afresh = rows[0]["begins_afresh"]
    assert "model.lm_head.weight" in begins_afresh and not any("vision" in name for name in begins_afresh)
    assert all(np.isfinite(row["copied_loss"]) for row in rows[1:])
    assert all(np.isfinite(row["guidance"]) and 0 <= row["looked"] <= 1 for row in rows[5:]) and "looked" not in rows[4]
    before = load_codec("embedded", weights, dtype=torch.float32).model.state_dict()
    after = torch.load(tmp_path / "state.pt", weights_only=True)["trainee"]
    for name, value in before.items():
        if name.startswith(("model.vision", "model.multi_modal")):
            assert torch.equal(value, after[f"model.{name}"]), name
    read = read_weights(weights / FILE)
    assert all(torch.equal(value.float(), after[f"reader.{name}"]) for name, value in read.items())


def test_what_the_decoder_reads_with_stays_as_it_is_while_it_learns_to_write(text: str, tmp_path: Path) -> None:
    weights = Path(__file__).parents[1] / "pipeline/palimpsest/codecs/embedded/weights"
    blends = (Blend(grid="64x32", mode="tiny", weight=1.0, pages=1, encoder=False),)
    lessons = small(text, tmp_path, 2).replace(
        start=str(weights), blends=blends, copy_cells=64, begin_decoder=True, stretches_from=2
    )
    rows: list[dict[str, object]] = []

    def state(config: TrainConfig) -> dict[str, torch.Tensor]:
        train(config, rows.append)
        return torch.load(tmp_path / "state.pt", weights_only=True)["trainee"]

    begun, read, written = (state(config) for config in (lessons.replace(steps=1), lessons, lessons.replace(steps=4)))
    assert [row["step"] for row in rows if "copied_loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "written_loss" in row] == [3, 4]

    def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], name: str, rows: slice = slice(None)) -> bool:
        name = f"model.{name}.weight"
        return not torch.equal(before[name][rows], after[name][rows])

    symbols, places = slice(FIRST_CELL, FIRST_CELL + len(SYMBOLS)), slice(FIRST_Y, FIRST_TOKEN)
    embeddings = "model.language_model.embed_tokens"
    for name, of_reading, of_writing in (("lm_head", symbols, places), (embeddings, places, symbols)):
        assert moved(begun, read, name, of_reading) and not moved(begun, read, name, of_writing), name
        assert moved(read, written, name, of_writing) and not moved(read, written, name, of_reading), name
    cells = begun[f"model.{embeddings}.weight"][symbols]
    assert ((cells == cells[0]).all(1).numpy() == [code != END for code in SYMBOLS]).all()
    assert not moved(begun, written, embeddings, slice(BOS, BOS + 1)) and not moved(
        begun, written, embeddings, slice(FIRST_TOKEN, None)
    )
    layer = "model.language_model.layers.{}.{}".format
    for number in (1, 2):
        reading, writing = slice(-WRITING), slice(-WRITING, None)
        gate = layer(number, "mlp.gate_proj")
        assert moved(begun, read, gate, reading) and not moved(begun, read, gate, writing)
        assert moved(read, written, gate, writing) and not moved(read, written, gate, reading)
    trainee = Trainee(0)
    trainee.load_state_dict(written)
    decoder = trainee.model.model.language_model
    at_bos = decoder(inputs_embeds=decoder.embed_tokens(torch.tensor([[BOS]])), output_hidden_states=True).hidden_states[2]
    third = decoder.layers[2]
    assert third.self_attn.v_proj(third.input_layernorm(at_bos)).abs().max() < 1e-4
    for name, number, learns in (
        ("self_attn.q_proj", 0, True),
        ("self_attn.o_proj", 2, True),
        ("self_attn.v_proj", 0, False),
        ("self_attn.v_proj", 1, False),
        ("self_attn.o_proj", 1, False),
        ("post_attention_layernorm", 1, False),
    ):
        assert moved(read, written, layer(number, name)) == learns, name


def test_tokens_that_say_their_place_are_read_as_before(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped encoder, whose mixing layer knows the places: marked again, its tokens name theirs and lose no cell."""
    monkeypatch.setattr("palimpsest.lab.training.mark_places.FITTING_STEPS", 100)
    trainee, grid = Trainee(0), Grid.parse("64x32", "latin")
    begin_with(trainee, Path(__file__).parents[1] / "pipeline/palimpsest/codecs/embedded/weights")
    with torch.no_grad():  # as if nothing had been marked yet
        directions = unread(trainee)
        projector = trainee.model.model.multi_modal_projector
        projector.weight -= directions.T @ (directions @ projector.weight)
    batch = PageSampler(text, seed=8).batch(grid, "tiny", 6, stretch=1)
    index, waves = trainee.place(grid, "tiny", "cpu")

    def seen() -> tuple[torch.Tensor, float]:
        with torch.no_grad():
            tokens = trainee.stored(trainee.encode(trainee.paint(torch.from_numpy(batch.drawn), grid, "tiny"))[1])
            read = trainee.reader(tokens, index, waves).argmax(-1)
        said = (tokens @ unread(trainee).T) @ place_code(8).T
        return read, float((said.argmax(-1) == torch.arange(64)).float().mean())

    before, placed = seen()
    assert placed < 0.1
    marked = mark_places(trainee, pages_of_every_mode(text, seed=3, pages=60))
    after, placed = seen()
    assert placed > 0.8 and marked["placed"]["8x8"] > 0.5  # of few pages; a training run takes hundreds
    assert float((before == after).float().mean()) > 0.999


def test_a_run_that_fails_ends_its_workers(text: str, tmp_path: Path) -> None:
    def full(row: dict[str, object]) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        train(small(text, tmp_path, 3).replace(workers=1), full)
    assert multiprocessing.active_children() == []


def test_it_begins_with_the_checkpoint_that_ships(text: str, tmp_path: Path) -> None:
    weights = Path(__file__).parents[1] / "pipeline/palimpsest/codecs/embedded/weights"
    train(small(text, tmp_path / "shipped", 1).replace(start=str(weights), learning_rate=0.0, evaluate_pages=1))
    log = json.loads((tmp_path / "shipped" / "log.jsonl").read_text())
    assert log["token"] > 0.5  # one page of whatever kind; a fresh model reads nothing
    rows = [json.loads(line) for line in (tmp_path / "shipped" / "evaluation.jsonl").read_text().splitlines()]
    assert len(rows) == 5 and all(row["cells_read"] > 0.9 and row["ratio"] > 0 and row["cells_written"] >= 0 for row in rows)


def test_pages_and_targets_say_the_same(text: str) -> None:
    sampler = PageSampler(text, seed=3)
    batch = sampler.batch(Grid(64, 32, "latin"), "tiny", 6, stretch=40)
    again = PageSampler(text, seed=3).batch(Grid(64, 32, "latin"), "tiny", 6, stretch=40)
    assert (batch.drawn == again.drawn).all() and (batch.stretches == again.stretches).all()
    target = AddressedTarget()
    for symbols, stretch, start in zip(batch.symbols, batch.stretches, batch.starts, strict=True):
        page = target.decode((symbols + FIRST_CELL).tolist())
        whole = target.encode(page, 64, 32, MODES["tiny"])
        piece = [int(i) for i in stretch if i >= 0]
        assert whole[start : start + len(piece)] == piece
    full = sampler.batch(Grid(64, 32, "latin"), "tiny", 3, stretch=0)
    for symbols, stretch in zip(full.symbols, full.stretches, strict=True):
        page = target.decode((symbols + FIRST_CELL).tolist())
        assert [int(i) for i in stretch if i >= 0] == target.encode(page, 64, 32, MODES["tiny"])


@pytest.mark.parametrize(("name", "mode"), [("64x32", "tiny"), ("80x40", "tiny"), ("112x56", "small"), ("128x64", "base")])
def test_pages_drawn_on_the_device_are_those_of_the_atlas(text: str, name: str, mode: str) -> None:
    grid = Grid.parse(name, "latin")
    batch = PageSampler(text, seed=4).batch(grid, mode, 3, stretch=8)
    codes = np.array([*SYMBOLS, BLANK], np.uint32)[batch.drawn]
    expected = atlas(grid, MODES[mode].px).render(codes)
    drawn = Painter(grid, MODES[mode].px, "cpu")(torch.from_numpy(batch.drawn)).numpy()
    assert (drawn == expected).all() and (drawn < 255).any()


def test_workers_make_the_same_batches_again(text: str) -> None:
    blends = [Blend(grid="64x32", mode="tiny", weight=1.0, pages=2), Blend(grid="80x40", mode="small", weight=1.0, pages=1)]
    first, again = (batches(text, 5, blends, stretch=16, workers=1) for _ in range(2))
    for _ in range(4):
        (blend, batch), (other, twin) = next(first), next(again)
        assert blend == other and (batch.drawn == twin.drawn).all() and (batch.stretches == twin.stretches).all()


def test_tokens_are_trained_on_as_they_are_stored() -> None:
    tokens = torch.randn(2, 64, 32, dtype=torch.bfloat16)
    stored = unpack("int8", pack("int8", tokens), 64, 32)
    wanting = tokens.float().requires_grad_()
    seen = Trainee.stored(wanting)
    assert (seen.bfloat16() - stored).abs().max() <= 2e-2 and not torch.equal(seen.bfloat16(), tokens)
    seen.sum().backward()
    assert torch.equal(wanting.grad, torch.ones_like(wanting))


def test_a_missing_text_class_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "x", "text_class": "prose"}))
    with pytest.raises(ValueError, match="code, latin"):
        PageSampler(str(path), 0)


def test_the_cell_reader_begins_as_the_inverse_of_the_compressor() -> None:
    """With an untouched compressor, unpacking a token gives back the patches that went into it, in their places."""
    trainee = Trainee(0)
    sam = trainee.model.model.vision_tower.sam_encoder
    reader = CellReader(TOKEN_DIM)
    for conv in (sam.proj.conv1, sam.proj.conv2):
        with torch.no_grad():
            conv.weight[conv.weight.abs() < 0.5] = 0.0
            conv.weight[conv.weight.abs() >= 0.5] = 1.0
    patches = torch.randn(2, PATCH_CHANNELS, 8, 8)
    tokens = sam.proj(patches).flatten(2).transpose(1, 2)
    unpacked = reader.unpacked(tokens)
    torch.testing.assert_close(unpacked, patches.flatten(2).transpose(1, 2))


def test_cells_lie_in_the_patch_that_holds_their_centre() -> None:
    index, waves = cell_places(Grid(80, 40), 8)
    assert index.shape == (3200, 4) and waves.shape == (3200, WAVES + PITCH)
    patch = index // len(DIRECTIONS)
    assert patch[0, 0] == 0 and patch[-1, 0] == 32 * 32 - 1
    assert int(patch[79, 0]) == 31  # the last cell of the first row
    assert int(patch[40 * 80 // 2, 0]) // 32 == 16  # the first cell of the lower half
    third_row = patch[2 * 80]  # its centre lies on the border of the second and the third row of patches
    assert third_row[0] // 32 == 2 and third_row[1] // 32 == 1
    assert DIRECTIONS[int(index[2 * 80, 1]) % len(DIRECTIONS)] == (-1, 0)


def test_the_projection_keeps_what_a_head_looks_at() -> None:
    torch.manual_seed(0)
    head, features = CellHead(256, 24), torch.randn(3000, 256) * torch.linspace(0.1, 3, 256)
    torch.nn.init.normal_(head.what.weight)
    down, up = principal_projection(head, features, 24)
    seen, kept = features @ head.what.weight.T, features @ (head.what.weight @ up @ down).T
    torch.testing.assert_close(kept, seen, rtol=1e-3, atol=2e-2)
    fewer, back = principal_projection(head, features, 4)
    assert (features @ (head.what.weight @ back @ fewer).T - seen).norm() > 0.3 * seen.norm()


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = TrainConfig().replace(steps=1000, warmup=100, learning_rate=1.0, final_learning_rate=0.1)
    assert learning_rate(config, 0) < learning_rate(config, 50) < learning_rate(config, 99) == 1.0
    assert learning_rate(config, 1000) == pytest.approx(0.1)
    timed = config.replace(steps=1_000_000, seconds=60.0)
    assert learning_rate(timed, 200, 0.0) > learning_rate(timed, 200, 30.0) > learning_rate(timed, 200, 60.0)
    assert learning_rate(timed, 200, 60.0) == pytest.approx(0.1)
    lessons = config.replace(copy_cells=1, stretches_from=400)
    assert learning_rate(lessons, 399) == pytest.approx(0.1, abs=0.01)
    assert learning_rate(lessons, 400) < learning_rate(lessons, 499) == 1.0 and learning_rate(lessons, 1000) == pytest.approx(0.1)


def test_packed_weights_keep_what_rounding_would_lose(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, nothing = torch.randn(64, 48), torch.zeros(64, 48)
    direction = torch.nn.functional.normalize(torch.randn(1024), dim=0)
    all_but_one = torch.eye(1024) - torch.outer(direction, direction)  # its small numbers are below a step of its diagonal
    coarse = torch.randn(64, 512) * 0.01 + torch.eye(64, 512)  # large and small, and no product of a column and a row
    weights = {"plain": plain, "nothing": nothing, "all_but_one": all_but_one, "coarse": coarse, "norm": torch.ones(64)}
    packed = pack_weights(weights)
    assert packed["plain"].dtype == packed["all_but_one"].dtype == torch.int8 and packed["coarse"].dtype == torch.bfloat16
    assert "nothing" not in packed and sum(value.nbytes for value in packed.values()) < 1_200_000
    save_file(packed, tmp_path / "model.safetensors")
    read = read_weights(tmp_path / "model.safetensors")
    assert read.keys() == weights.keys() and torch.equal(read["nothing"], nothing)
    for name, bound in (("plain", 0.01), ("all_but_one", 0.005), ("coarse", 0.005)):
        assert float((read[name].float() - weights[name]).norm() / weights[name].norm()) < bound, name
    rounded = (all_but_one * 127).round() / 127
    assert (read["all_but_one"] @ direction).norm() < 0.05 < 0.5 < (rounded @ direction).norm()
    again = pack_weights({"plain": read["plain"]})
    assert torch.equal(again["plain"], packed["plain"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["copy_cells=10", "stretches_from=0"], "stretches_from must be larger"),
        (["mark_places=10", "copy_cells=0", "begin_decoder=false"], "mark_places .* needs begin_decoder"),
    ],
)
def test_lessons_that_cannot_be_taught_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("codec-decoder", settings)
