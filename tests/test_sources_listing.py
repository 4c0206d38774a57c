"""Which names are sources: on a disk and in a bucket, for a run and for an ingestion, the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palimpsest.config import SourceConfig
from palimpsest.errors import UsageError
from palimpsest.sources.inventory import Inventory, covers
from palimpsest.sources.listing import list_sources
from palimpsest.sources.names import PassedOver
from tests.s3_servers import S3Server

MARKER = json.dumps({"format": "palimpsest corpus", "version": 1})
Names = dict[str, str]


class Place:
    """A folder or a bucket's prefix with objects, listed by both listings, which must agree."""

    def __init__(self, root: str, write: Callable[[str, str], None]) -> None:
        self.root, self.write = root.rstrip("/"), write

    def list(self, *globs: str, out: str = "", **settings: Any) -> tuple[list[str], dict[str, dict[str, int]]]:
        """Names below the root that are sources, and (rule -> suffix -> number) of what was passed over."""
        uris = [f"{self.root}/{name}" if name else self.root for name in globs or ("",)]
        out = f"{self.root}/{out}" if out else ""
        config = SourceConfig(**settings)
        listing = list_sources(uris, config, out)
        with Inventory(uris, config, out) as inventory:
            names = sorted(listed.item.uri for listed in inventory)
            assert names == sorted(item.uri for item in listing.objects)
            assert inventory.passed_over.to_json() == listing.passed_over.to_json()
            assert all(any(covers(uri, name) for uri in uris) for name in names)
        passed = {rule: found["suffixes"] for rule, found in listing.passed_over.to_json().items()}
        return [item.uri.removeprefix(self.root + "/") for item in listing.objects], passed


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "disk":

        def write(name: str, content: str) -> None:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_text(content)

        yield Place(str(tmp_path / "in"), write)
        return
    server: S3Server = request.getfixturevalue("moto_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    root, client = server.new_place(), server.client()
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    yield Place(root, lambda name, content: client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content.encode()))


def fill(place: Place, *names: str) -> None:
    for name in names:
        place.write(name, MARKER if name.endswith(("corpus.json", "memory.json")) else '{"text": "a"}')


def test_globs_walk_the_folders_that_they_match(place: Place) -> None:
    fill(place, "star/top.jsonl", "star/en/a.jsonl", "star/de/a.jsonl", "star/de/deep/b.jsonl", "other/c.jsonl")
    below = ["star/de/a.jsonl", "star/de/deep/b.jsonl", "star/en/a.jsonl", "star/top.jsonl"]
    assert place.list("star/*")[0] == below
    assert place.list("star/**")[0] == below
    assert place.list("st*r")[0] == below
    assert place.list("star/*/")[0] == below[:3]
    assert place.list("*/d*")[0] == below[:2]
    assert place.list("star/*.jsonl")[0] == ["star/top.jsonl"]


def test_the_output_and_other_corpora_are_no_sources(place: Place) -> None:
    fill(
        place,
        "a.txt",
        "data/b.jsonl",
        "out/data/tiny/u.parquet",
        "out/quarantine/u.parquet",
        "old/corpus.json",
        "old/data/x.parquet",
    )
    fill(place, "old/runs/r/config.json", "deep/memory.json", "deep/samples/s.parquet", "deep/notes.txt")
    sources = ["a.txt", "data/b.jsonl"]
    assert place.list(out="out") == (sources, {"corpus": {"": 3}})
    assert place.list(out="out/")[0] == sources
    assert place.list("*", out="out") == (sources, {"corpus": {"": 3}})
    for asked in ("out", "old", "old/data", "old/data/x.parquet", "old/data/*", "old/*/*.parquet"):
        with pytest.raises(UsageError, match="holds a corpus at .*: a corpus or the output is never a source"):
            place.list(asked, out="out")


def test_a_file_that_is_only_called_corpus_json_is_a_source(place: Place) -> None:
    place.write("corpus.json", '[{"text": "a"}]')
    place.write("data/a.jsonl", '{"text": "b"}')
    assert place.list(format="jsonl")[0] == ["corpus.json", "data/a.jsonl"]


def test_hidden_names(place: Place) -> None:
    fill(place, "_SUCCESS", "_posts/2024-01-01-hello.md", "_index.md", "vis.md", ".dot/a.md", ".a.md", "_temporary/0/b.md")
    fill(place, "_delta_log/0.json", "t/_committed_12", "t/._a.md", "t/_metadata")
    sources, passed = place.list()
    assert sources == ["_index.md", "_posts/2024-01-01-hello.md", "vis.md"]
    assert set(passed) == {"hidden"}
    assert place.list(".dot/*.md")[0] == [".dot/a.md"]
    assert place.list("_temporary")[0] == ["_temporary/0/b.md"]


def test_what_lies_beside_data_is_no_document(place: Place) -> None:
    fill(
        place,
        "README.md",
        "LICENSE",
        "dataset_infos.json",
        "img/logo.png",
        "data/train-0.parquet",
        "data/README.txt",
        "data/a.tar.gz",
    )
    fill(place, "docs/README.md", "docs/guide.md", "x.bin", "notes")
    sources, passed = place.list()
    assert sources == ["data/train-0.parquet", "docs/README.md", "docs/guide.md"]
    assert passed == {
        "sidecar": {".md": 1, "": 1, ".json": 1, ".txt": 1},
        "no_text": {".png": 1, ".tar.gz": 1},
        "unsupported": {".bin": 1, "": 1},
    }
    assert place.list("docs")[0] == ["docs/README.md", "docs/guide.md"]
    assert place.list("README.md", "data")[0] == ["README.md", "data/train-0.parquet"]  # asked for
    assert place.list("*.md")[0] == ["README.md"]
    assert place.list("docs", format="text")[0] == ["docs/README.md", "docs/guide.md"]


def test_what_was_passed_over_is_said_in_one_line(place: Place) -> None:
    fill(place, "a.txt", "b.png", "c.png", "d.bin", "_SUCCESS")
    passed = list_sources([place.root], SourceConfig()).passed_over
    assert str(passed) == (
        "4 names passed over: 1 hidden, 2 not text (.png 2), 1 of no supported format (source.format) (.bin 1)"
    )
    assert str(PassedOver()) == "" and len(passed) == 4


def test_a_uri_with_nothing_to_read_says_why(place: Place) -> None:
    fill(place, "x/_SUCCESS", "y/a.bin", "z.png")
    for name, said in (("x", "1 name passed over: 1 hidden"), ("y", "no supported format in .*a.bin"), ("z.png", "no supported")):
        with pytest.raises(UsageError, match=said):
            place.list(name)


def test_links_are_followed_only_if_asked_and_loops_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for folder in (root / "sub", elsewhere / "deep"):
        folder.mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (elsewhere / "deep" / "b.txt").write_text("b")
    (elsewhere / "back").symlink_to(root)
    (root / "sub" / "up").symlink_to(root)
    (root / "far").symlink_to(elsewhere)
    (root / "passwd.txt").symlink_to(elsewhere / "deep" / "b.txt")
    place = Place(str(root), lambda name, content: None)
    assert place.list() == (["a.txt"], {"link": {"": 2, ".txt": 1}})
    assert place.list("*") == (["a.txt"], {"link": {"": 2, ".txt": 1}})
    followed = ["a.txt", "far/deep/b.txt", "passwd.txt"]
    assert place.list(follow_symlinks=True)[0] == followed
    by_glob = place.list("*", follow_symlinks=True)[0]  # each match is walked for itself
    assert {(root / name).resolve() for name in by_glob} == {root / "a.txt", elsewhere / "deep" / "b.txt"}
    assert place.list("far")[0] == ["far/deep/b.txt"]  # named, so asked for


def test_an_output_behind_a_link_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "real" / "data").mkdir(parents=True)
    (tmp_path / "real" / "data" / "x.parquet").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    config = SourceConfig(follow_symlinks=True)
    listing = list_sources([str(tmp_path / "in")], config, str(tmp_path / "real"))
    assert [Path(item.uri).name for item in listing.objects] == ["a.txt"]
