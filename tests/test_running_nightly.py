"""docs/running.md, tried: its nightly and object-storage commands as they stand, and its recoveries, on a real S3 server.

Only the places are replaced (and the codec, by one that takes a second); Ray is left out.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from palimpsest.cli.app import app
from palimpsest.corpus.snapshots import latest
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from tests.test_docs_commands import PROGRAM

RUNNING = (Path(__file__).parent.parent / "docs" / "running.md").read_text("utf-8")
PREPARED = ("run", "ingest")


def section(name: str) -> list[str]:
    """The commands of a section's first code block."""
    (text,) = re.findall(rf"^## {name}$(.*?)(?=^## )", RUNNING, re.M | re.S)
    block = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)[0]
    return [match[1] for line in block.splitlines() if (match := PROGRAM.match(line))]


@pytest.fixture
def place(seaweedfs_place: str, monkeypatch: pytest.MonkeyPatch) -> str:
    source = open_store(f"{seaweedfs_place}/texts")
    for name in ("a", "b", "c"):
        put(source, name, f"the text of {name}", f"another text of {name}")
    return seaweedfs_place


def put(source: ObjectStore, name: str, *texts: str) -> None:
    source.put(f"{name}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())


@pytest.fixture
def command(place: str, tiny_codec: Path):
    """`command(line, code)`: a line of the document, its places on the server."""

    def run(line: str, code: int = 0) -> Result:
        for shown, there in (("s3://texts/books", "texts/"), ("s3://corpora/books", "corpora/books")):
            line = line.replace(shown, there)
        line = line.replace("corpora/books", f"{place}/corpus").replace("texts/", f"{place}/texts/")
        words = shlex.split(line.replace("CORPUS", f"{place}/corpus"))
        if words[0] in PREPARED:
            quick = (
                "verification.share=0",
                "verification.reader=generative",
                "placement.threads_per_worker=1",
                "placement.executor=local",
            )
            words += [word for setting in (f"codec.path={tiny_codec}", *quick) for word in ("--set", setting)]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, (line, result.output, result.stderr, result.exception)
        return result

    return run


def said(result: Result) -> str:
    return " ".join((result.output + result.stderr).split())


def test_the_nightly_commands(command, place: str) -> None:
    lines = section("Nightly ingestion")
    assert [line.split()[0] for line in lines] == ["ingest", "ingest", "snapshots", "status"]
    corpus = open_store(f"{place}/corpus")
    told = said(command(lines[0]))
    assert "3 new" in told and "nothing was written" in told and not list(corpus.list())
    assert "published now: 1" in said(command(lines[1]))
    (version,) = json.loads(command(f"{lines[2]} --json").output)
    assert version["number"] == 1
    command(lines[2])
    command(lines[3])
    put(open_store(f"{place}/texts"), "d", "a text of the next day")
    assert "1 new" in said(command(lines[1]))
    assert "(as before)" in said(command(lines[1]))
    command(lines[3])
    command(lines[3].replace("26h", "0s"), code=3)


def test_the_commands_on_object_storage(command, place: str) -> None:
    lines = section("Object storage")
    assert [line.split()[0] for line in lines] == ["run", "fsck", "gc"]
    for line in lines:
        command(line)
    assert said(command(lines[0])).startswith("Nothing to do")


@pytest.mark.parametrize("harm", ["damaged", "lost"])
def test_a_shard_that_is_damaged_or_lost_is_made_anew(command, place: str, harm: str) -> None:
    """The two recoveries of “When something goes wrong” that need more than running again."""
    run, fsck, gc = section("Object storage")
    command(run)
    corpus = open_store(f"{place}/corpus")
    snapshot = latest(corpus)
    assert snapshot is not None
    key = next(iter(snapshot.units)).shards[0].key
    if harm == "damaged":
        body = bytearray(corpus.read(key))
        body[len(body) // 2] ^= 1
        corpus.put(key, bytes(body))
        assert re.search(r"has sha256 \S+, not", said(command(fsck, code=3)))
    corpus.delete(key)
    command(fsck, code=3)
    command(run)
    command(fsck, code=3)  # “The error stays for the old snapshot until gc removes that”
    command("gc CORPUS --unused-days 0 --delete")
    assert "0 errors" in said(command(fsck))


def test_a_bad_object_is_quarantined_and_a_prefix_that_shrank_is_refused(command, place: str) -> None:
    ingest = section("Nightly ingestion")[1]
    command(ingest)
    source = open_store(f"{place}/texts")
    source.put("cut.parquet", b"PAR1")
    assert "corrupt_parquet" in said(command(ingest, code=3))  # published, with a finding
    for name in ("b", "c"):
        source.delete(f"{name}.jsonl")
    told = said(command(f"{ingest} --set ingest.vanished=drop", code=1))
    assert "no longer listed, more than ingest.drop_share" in told and "Nothing was changed" in told
    command(f"{ingest} --set ingest.vanished=drop --set ingest.drop_share=0.6")
