"""`palimpsest bench public`: ours and recorded outputs in the same metrics; errata are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.codecs.dialects import find_dialect
from palimpsest.config import load
from palimpsest.lab.bench.public import bench_public
from palimpsest.lab.bench.recorded import scores

TEXT = "The file src/main_v2.py of run 7f3a9c was read at 12:30, and nobody minded. " * 12


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("public")
    (folder / "fox.jsonl").write_text(json.dumps({"id": "en_1", "text": TEXT}))
    recorded = {"id": "en_1", "reference": "one two three four", "tiny": "one two  three five", "raw": "one two three four"}
    (folder / "other_on_fox.jsonl").write_text(json.dumps(recorded))
    (folder / "gist_sessions.jsonl").write_text(json.dumps({"id": "s0", "text": TEXT}))
    probes = [{"session": 0, "gold": "src/main_v2.py"}, {"session": 0, "gold": "UNKNOWN"}]
    (folder / "gist_probes.json").write_text(json.dumps(probes))
    session = [{"speaker": name, "dia_id": f"D1:{n}", "text": f"We met {n} times!"} for n, name in enumerate(("Ann", "Bo"))]
    talk = {"sample_id": "c1", "conversation": {"session_1": session}, "qa": [{"evidence": ["D1:1", "D9:9"]}]}
    (folder / "locomo.json").write_text(json.dumps([talk]))
    return bench_public(load("local", ("verification.reader=cells",)), folder, [("64x32", "tiny")], replay=["fox"])


def test_recorded_outputs_and_ours_have_the_same_metrics(found: dict[str, Any]) -> None:
    tiny, raw, plain, corrected = found["rows"]
    assert tiny["system"] == "other tiny" and tiny["set_precision"] == tiny["set_recall"] == 0.75 and tiny["exact"] == 0
    assert raw["ratio"] is None and raw["exact"] == 1.0 == raw["folded"]
    assert plain["system"] == "palimpsest 64x32 tiny" and plain["characters"] > 0.97 and plain.keys() == tiny.keys()
    assert corrected["errata"] == "all" and corrected["exact"] == 1.0 and corrected["ratio"] <= plain["ratio"]


def test_facts_identifiers_and_evidence_are_counted_word_for_word(found: dict[str, Any]) -> None:
    gist, talk = found["gist"], found["locomo"]
    assert [row["errata"] for row in gist] == ["none", "identifiers", "all"] and gist[1]["facts"] == "1 of 1"
    assert gist[1]["identifiers"] == gist[2]["identifiers"] == 1.0 and gist[0]["of"] == 36
    assert talk[2]["evidence"] == 1.0 and talk[2]["of"] == 1 and talk[0]["set"] == "LoCoMo c1"


def test_recorded_outputs_are_replayed_and_their_passes_counted(found: dict[str, Any]) -> None:
    tiny, raw = found["recorded"]
    assert (tiny["letter_errors"], raw["letter_errors"]) == (3.0, 0.0) and tiny["unfinished"] == 0 < tiny["text_tokens"] < 10
    assert raw["passes"] == raw["most_passes"] == raw["bar_passes"] == 1 < tiny["passes"] <= tiny["bar_passes"] == 5.5


def test_only_recorded_outputs_are_scored_and_no_decoder_is_replayed_where_none_is_named(tmp_path: Path) -> None:
    line = {"reference": "one two three", "base": "# one two three", "note": 7}
    (tmp_path / "other_on_set.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({"reference": "four", "tiny": "f" * 300}))
    result = bench_public(load("local"), tmp_path, [])
    assert [row["system"] for row in result["rows"]] == ["other base", "other tiny"] and not result["gist"] + result["locomo"]
    assert result["rows"][0]["folded"] == 1.0 > result["rows"][0]["characters"]
    assert [row["unfinished"] for row in result["recorded"]] == [0, 1] and result["recorded"][0]["passes"] is None
    with pytest.raises(ValueError, match="--replay fox: .* on set"):
        bench_public(load("local"), tmp_path, [], replay=["fox"])
    (tmp_path / "other_on_set.jsonl").write_text('{"base": "no reference"}')
    with pytest.raises(ValueError, match="record 1 has no text 'reference'"):
        bench_public(load("local"), tmp_path, [])


def test_folding_forgives_whitespace_and_sets_forgive_order() -> None:
    plain, document = find_dialect("plain"), find_dialect("document")
    assert scores(["a b c"], ["c b\na"], plain)["set_precision"] == 1.0 and scores(["a b c"], ["a  b\nc"], plain)["folded"] == 1.0
    assert scores(["a b c"], ["**a b** c"], document)["folded"] == 1.0 > scores(["a b c"], ["**a b** c"], plain)["folded"]


def test_a_folder_without_any_of_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of fox\*\.jsonl"):
        bench_public(load("local"), tmp_path, [])
