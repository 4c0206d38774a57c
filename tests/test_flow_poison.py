"""Records that end the process of whoever takes them up: they are found, quarantined once, and everything else comes out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.cloudpickle

from palimpsest.config import JobConfig, SourceConfig
from palimpsest.corpus.fsck import fsck
from palimpsest.flow import local_executor, stages
from palimpsest.flow import ray_executor as flow
from palimpsest.flow.batching import Batches
from palimpsest.flow.isolation import Child, ChildDied, slices
from palimpsest.flow.stages.tables import table_of
from palimpsest.operations.run import run
from palimpsest.schemas import TOKENS, RowKind
from palimpsest.sources.documents import Document, Rejected, document_id
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.units import Unit
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.mixed_sources import prose
from tests.test_flow import content

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not have the tests


def die(how: str) -> None:
    """End this process without an exception, or ask for more memory than there is."""
    if how == "memory":
        bytearray(1 << 46)
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, how))


def meet(table: pa.Table, word: str, how: str) -> None:
    if any(word in (text or "") for text in table["text"].to_pylist()):
        die(how)


class Read(stages.Read):
    def records(self, unit: Unit) -> Iterator[Document | Rejected]:
        for record in super().records(unit):
            if isinstance(record, Document) and "kills-read" in record.text:
                die("SIGSEGV")
            yield record


class Paginate(stages.Paginate):
    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for at in range(table.num_rows):  # a good deal comes out before the poison
            meet(table.slice(at, 1), "kills-paginate", "exit")
            yield from super().__call__(table.slice(at, 1))


class Render(stages.Render):
    def __call__(self, table: pa.Table) -> pa.Table:
        meet(table, "kills-render", "SIGSEGV")
        return super().__call__(table)


class Encode:
    """Tokens without a model, so that what replaces a dead process starts soon."""

    def __init__(self, config: JobConfig, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def __call__(self, table: pa.Table) -> pa.Table:
        meet(table, "kills-encode", "SIGKILL")
        rows = table.drop_columns(["image"]).to_pylist()
        for row in rows:
            if row["mode"]:
                tokens = hashlib.sha256(row["text"].encode()).digest()
                row |= {"num_vision_tokens": 1, "num_context_tokens": 1, "tokens": tokens, "token_dim": 16, "token_dtype": "bf16"}
                row |= {"tokens_sha256": hashlib.sha256(tokens).hexdigest(), "codec": "none", "codec_revision": "none"}
            if row["kind"] == RowKind.PAGE:
                row["fingerprint"] = self.fingerprint
        return table_of(rows, TOKENS, "encode")


class Verify(stages.Verify):
    def __init__(self, config: JobConfig, fingerprint: str) -> None:
        self.config, self.batched = config, Batches("verify", 1, grows=False)  # no model: no page is verified

    def __call__(self, table: pa.Table) -> pa.Table:
        meet(table, "kills-verify", "memory")
        return super().__call__(table)


class EncodeWithModel(stages.Encode):
    def __call__(self, table: pa.Table) -> pa.Table:
        meet(table, "kills-encode", "SIGKILL")
        return super().__call__(table)


STAGES = {"read": Read, "paginate": Paginate, "render": Render, "encode": Encode, "verify": Verify}
POISON = {name: f"{prose(1800, 90)} kills-{name} {prose(900, 91)}" for name in STAGES}


SPREAD = ("placement.render_batch=4", "placement.shard_batch=4", "verification.share=0")


@pytest.fixture
def spread(job: JobFactory, tmp_path: Path, ray_session: None) -> Callable[[dict[str, Any]], Any]:
    """`spread(stages)`: run the job over `in` through Ray with these stages, into `out`."""

    def make(stages: dict[str, Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name, stage in stages.items():
                patch.setattr(flow, name.capitalize(), stage)
            return run(job(tmp_path / "in", tmp_path / "out", "placement.executor=ray", *SPREAD))

    return make


def write_sources(folder: Path, texts: dict[str, list[str]]) -> None:
    folder.mkdir()
    for name, documents in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def assert_only_lost(killers: set[str], out: Path, sound: Path) -> list[dict[str, Any]]:
    """`out` is `sound` without these documents; returns its quarantined records."""
    rows, quarantined, units = content(out)
    all_rows, nothing, same_units = content(sound)
    assert (rows, units) == ([row for row in all_rows if row["doc_id"] not in killers], same_units) and nothing == []
    assert [finding for finding in fsck(LocalStore(out)) if finding.severity == "error"] == []
    return [row for unit in quarantined for row in unit]


@pytest.mark.cluster
@pytest.mark.slow
def test_what_kills_a_worker_of_any_stage_is_quarantined_and_nothing_else_is_lost(
    job: JobFactory, spread: Callable[[dict[str, Any]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [prose(500, 70), POISON["render"] + " x", POISON["verify"] + " x", prose(700, 71), POISON["encode"] + " x"]
    alone = {
        name: [prose(2500, 10 * number), prose(300, 10 * number + 1), poison, prose(4000, 10 * number + 2)]
        for number, (name, poison) in enumerate(POISON.items())
    }
    write_sources(tmp_path / "in", alone | {"several": mixed})
    killers = {document_id(text) for text in [*POISON.values(), *(text for text in mixed if "kills" in text)]}
    result = spread(STAGES)
    monkeypatch.setattr(sys.modules[__name__], "die", lambda how: None)
    for name in ("encode", "verify"):
        monkeypatch.setattr(local_executor, name.capitalize(), STAGES[name])
    run(job(tmp_path / "in", tmp_path / "sound", *SPREAD))

    counts = result.counts
    assert result.reasons == {"worker_killed": len(killers)}
    assert (counts.documents_in, counts.documents_quarantined, counts.documents_committed) == (25, 8, 17)
    found = assert_only_lost(killers, tmp_path / "out", tmp_path / "sound")
    assert {row["doc_id"] for row in found if row["doc_id"]} == killers - {document_id(POISON["read"])}
    details = " | ".join(row["detail"] for row in found)
    for said in (
        "read: slice", "paginate: the process ended with exit code 7", "render: the process was ended by SIGSEGV",
        "encode: the process was ended by SIGKILL", "verify: the process asked for more than",
    ):  # fmt: skip
        assert said in details
    assert all(row["record"] for row in found if row["doc_id"])


@pytest.mark.cluster
@pytest.mark.slow
def test_a_model_whose_process_dies_is_loaded_again(
    job: JobFactory, spread: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    write_sources(tmp_path / "in", {"a": [prose(2500, 1), POISON["encode"], prose(300, 2)]})
    result = spread({"encode": EncodeWithModel})
    run(job(tmp_path / "in", tmp_path / "sound", *SPREAD))
    assert result.reasons == {"worker_killed": 1}
    (found,) = assert_only_lost({document_id(POISON["encode"])}, tmp_path / "out", tmp_path / "sound")
    assert found["detail"].startswith("encode: the process was ended by SIGKILL")


# The child process, without Ray


def payload(function: Any) -> bytes:
    return bytes(ray.cloudpickle.dumps((function, None)))


def test_a_child_answers_raises_and_says_how_it_died() -> None:
    def work(argument: Any) -> Iterator[Any]:
        print("what a stage prints does not disturb the answers")
        if isinstance(argument, str):
            die(argument)
        if argument < 0:
            raise ValueError(f"{argument} is negative")
        yield from range(argument)

    child = Child(payload(work))
    try:
        assert list(child.call(3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="-1 is negative"):
            list(child.call(-1))
        for how, said in {"exit": "exit code 7", "SIGSEGV": "SIGSEGV", "memory": "MiB of memory"}.items():
            with pytest.raises(ChildDied, match=said):
                list(child.call(how))
        unfinished = child.call(1000)
        assert next(unfinished) == 0
        unfinished.close()
        assert list(child.call(2)) == [0, 1]
    finally:
        child.close()


def test_a_child_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(argument: float) -> list[float]:
        import time

        time.sleep(argument)
        return [argument]

    child = Child(payload(work))
    assert list(child.call(0.0)) == [0.0]
    monkeypatch.setattr("palimpsest.flow.isolation.PATIENCE", 0.3)
    with pytest.raises(ChildDied, match="no answer"):
        list(child.call(3600.0))
    child.close()


def test_units_are_cut_into_slices_that_cover_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"line {number} " + "x" * (number % 17)}) + "\n" for number in range(100)]
    path.write_text("".join(lines))
    item = SourceObject(uri=str(path), key=str(path), version="v", size=path.stat().st_size)
    config, pieces = SourceConfig(), [Unit(object=item)]
    while finer := [part for piece in pieces for part in slices(piece, config)]:
        assert len(finer) > len(pieces)
        assert finer[0].span and finer[-1].span and (finer[0].span[0], finer[-1].span[1]) == (0, item.size)
        assert all(a.span and b.span and a.span[1] == b.span[0] for a, b in zip(finer, finer[1:], strict=False))
        pieces = finer
        if len(pieces) > 60:
            break
    whole, parts = stages.Read(config), stages.Read(config)
    texts = [record.text for piece in pieces for record in parts.records(piece) if isinstance(record, Document)]
    assert texts == [record.text for record in whole.records(Unit(object=item)) if isinstance(record, Document)]
    packed = SourceObject(uri=str(path) + ".gz", key="k", version="v", size=1000)
    assert slices(Unit(object=packed), config) == []
