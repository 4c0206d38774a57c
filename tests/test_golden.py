"""Today's behaviour, pinned: fingerprints, ids, rows, pixels, schemas, help texts, exit codes, metrics.

What is recorded in tests/golden is the same on every machine with a CPU: what a model computes is pinned by its shape only. Help
texts and Parquet bytes are those of one version of the libraries that write them, and are compared with that version only; what
they say is pinned apart from it. Where a change is meant, record it and read the diff:

    pytest tests/test_golden.py --update-golden
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
import typer.rich_utils
from typer.testing import CliRunner

# All that this test takes from the package; the rest of the file names no module of it.
from palimpsest.cli.app import app
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.token_storage import STORAGES
from palimpsest.config import ConfigError, JobConfig, SourceConfig, load, to_json
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.manifest import SCHEMA as MANIFEST
from palimpsest.corpus.shards import read_shard, write_quarantine, write_shards
from palimpsest.corpus.snapshots import Snapshot, latest
from palimpsest.corpus.units import unit_id
from palimpsest.flow.plan import document_ids, make_plan
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.conversations.build import sample_fingerprint
from palimpsest.operations.conversations.settings import MemoryConfig, with_clock
from palimpsest.operations.resolving import identify
from palimpsest.operations.run import run
from palimpsest.pages.grid import Grid
from palimpsest.pages.layout import page_id
from palimpsest.pages.normalise import normalise
from palimpsest.schemas import DOCUMENTS, IMAGES, PAGES, QUARANTINE, SHARD, TOKENS, VERDICTS
from palimpsest.settings import presets_folder
from palimpsest.sources.documents import Reason, document_id
from palimpsest.sources.listing import expand
from palimpsest.storage.local_store import LocalStore
from palimpsest.telemetry import METRICS
from tests.mixed_sources import ARABIC, CHINESE, LONG, TABLE, write_mixed_sources

GOLDEN = Path(__file__).parent / "golden"
HELP = GOLDEN / "help"
WIDTH = 100
Pin = Callable[[str, Any], None]

SCHEMAS = {
    "documents": DOCUMENTS,
    "pages": PAGES,
    "images": IMAGES,
    "tokens": TOKENS,
    "verdicts": VERDICTS,
    "shard": SHARD,
    "quarantine": QUARANTINE,
    "manifest": MANIFEST,
}
GRIDS = ("16x8", "40x20", "64x32", "80x40", "96x48", "100x37", "112x56", "128x64", "256x128")
PRESETS = ("conversations", "cpu-cluster", "demo", "gpu-cluster", "local")  # of jobs; the others train the codec
OVERRIDES = (
    ("layout.grid=80x40",),
    ("layout.alphabet=unicode",),
    ("layout.max_escaped_share=0.5",),
    ("tiers.mode=small",),
    ("tiers.policy=age", "tiers.as_of=2026-01-31"),
    ("tiers.policy=age", "tiers.as_of=2026-01-31", 'tiers.ages=["1h small", "1w tiny"]', "layout.grid=80x40"),
    ("tiers.policy=importance", "tiers.pin_importance=0.8"),
    ("tiers.policy=fidelity", "layout.grid=80x40"),
    ("tiers.policy=age+importance+fidelity", "tiers.as_of=2026-01-31", "layout.grid=80x40"),
    ("tiers.policy=fidelity", "tiers.predictor=none"),
    ("verification.share=0.1",),
    ("verification.reader=generative",),
    ("verification.early_stop=true",),
    ("storage.tokens=bf16",),
    ("codec.dtype=float32",),
    ("codec.fast=off",),
    ("source.format=text",),
    ("storage.row_group_bytes=1000",),
    ("limits.quarantine_share=0.5", "placement.encode_workers=9", "ingest.tries=1", "source.unit_bytes=1000000"),
)
TEXTS = {
    "prose": LONG,
    "table": TABLE,
    "spaces and tabs": "def f(x):\n\treturn x" + " " * 70 + "# done\n\n    end  \n",
    "chinese": CHINESE,
    "arabic": ARABIC,
    "escapes": "caf\u00e9 \U0001f600 na\u00efve \u2603 \u0416",
}
MEASURED = (
    *("tokens", "token_scales", "tokens_sha256", "precision", "folded_precision", "set_precision", "misread", "word_precision"),
    *("decoder_passes", "blank_precision"),
)
"""Columns that depend on what a model computed, whose last bits differ from one kind of CPU to another; so do `exact`,
`decoded_text` and, where there is a target, `status`."""


@pytest.fixture
def pin(request: pytest.FixtureRequest) -> Pin:
    """`pin(name, value)`: the value is the one recorded in golden/<name>.json, or is recorded there."""

    def compare(name: str, value: Any) -> None:
        path = GOLDEN / f"{name}.json"
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        assert json.loads(text) == json.loads(path.read_text("utf-8")), f"another {name} than recorded in {path}"

    return compare


def digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


# settings and fingerprints


def fingerprints(preset: str, *overrides: str) -> dict[str, str]:
    """What identifies a job: its fingerprint, its codec and what is drawn; or why there is no such job."""
    memory = preset == "conversations"
    config: Any = load(preset, overrides, MemoryConfig) if memory else load(preset, overrides)
    try:
        prepared: Recipe = identify(with_clock(config) if memory else config)
    except ConfigError as error:
        return {"refused": str(error)}
    found = {
        "fingerprint": prepared.fingerprint,
        "codec": f"{prepared.codec} {prepared.revision}",
        "layout": f"{prepared.layout} {prepared.layout.described}",
        "tiers": prepared.policy.described,
    }
    return found | ({"samples": sample_fingerprint(config, prepared)} if memory else {})


def test_the_presets_have_their_names_settings_and_fingerprints(pin: Pin) -> None:
    pin("preset_names", sorted(path.stem for path in presets_folder().glob("*.toml")))
    kinds: dict[str, Any] = {"conversations": {"kind": MemoryConfig}}
    settings = json.dumps({name: to_json(load(name, **kinds.get(name, {}))) for name in PRESETS})
    pin("preset_settings", json.loads(settings.replace(f"{presets_folder()}/", "")))
    pin("preset_fingerprints", {name: fingerprints(name) for name in PRESETS})


def test_overrides_change_the_fingerprint_as_they_did(pin: Pin) -> None:
    pin("override_fingerprints", {" ".join(overrides): fingerprints("local", *overrides) for overrides in OVERRIDES})


def test_layouts_have_their_fingerprints(pin: Pin) -> None:
    found = {f"{grid} {alphabet}": Grid.parse(grid, alphabet).identity for grid in GRIDS for alphabet in ("unicode", "latin")}
    pin("layout_fingerprints", found)


# pages


def test_texts_have_their_ids_pages_and_pixels(pin: Pin) -> None:
    found: dict[str, Any] = {"documents": {name: document_id(text) for name, text in TEXTS.items()}, "pages": {}}
    for grid in (Grid(64, 32, "latin"), Grid(64, 32), Grid(80, 40, "latin"), Grid(128, 64)):
        for name, text in TEXTS.items():
            pages = list(grid.paginate(normalise(text), "prose"))
            ids = (page_id(document_id(text), number, grid.identity) for number in range(len(pages)))
            layout = [
                [key, page.char_start, page.char_end, page.escaped, digest(page.drawing)]
                for key, page in zip(ids, pages, strict=True)
            ]
            pixels = {
                mode: digest(grid.render([""] * len(pages), [page.drawing for page in pages], MODES[mode].px).tobytes())
                for mode in MODES
            }
            found["pages"][f"{grid} {grid.alphabet}: {name}"] = {"layout": layout, "pixels": pixels}
    pin("pages", found)


def test_units_have_their_ids(pin: Pin) -> None:
    version_, left_out = "sha256:" + "0" * 64, ("d1 u1", "d0 u1")
    found = {
        "whole": unit_id("/data/a.txt", version_, "", "f" * 16),
        "slice": unit_id("/data/a.jsonl", version_, "0-1000", "f" * 16),
        "bucket": unit_id("s3://bucket/a.txt", "etag:1", "", "f" * 16),
        "duplicates": unit_id("/data/\u00e4.txt", version_, "", "f" * 16, left_out),
    }
    pin("unit_ids", found)


# a corpus


class Corpus:
    """The mixed sources, run once in this process with the codec that ships. The job is in `preset`, for the commands."""

    def __init__(self, base: Path) -> None:
        self.base, self.out, self.preset = base, base / "corpus", base / "job.toml"
        (base / "sources").mkdir()
        write_mixed_sources(base / "sources")
        settings = f'sources = ["sources"]\nout = {json.dumps(str(self.out))}\n[limits]\nquarantine_share = 0.9\n'
        verification = '[verification]\nreader = "cells"\nshare = 0.5\ncontrol_share = 0.5\ntarget_precision = 0.0\n'
        self.preset.write_text(settings + verification + '[placement]\nexecutor = "local"\nthreads_per_worker = 1\n', "utf-8")
        self.config: JobConfig = load(str(self.preset))
        self.result = run(self.config)
        self.prepared = identify(self.config)

    @property
    def snapshot(self) -> Snapshot:
        found = latest(LocalStore(self.out))
        assert found is not None
        return found

    def shards(self) -> Iterator[tuple[str, pa.Table]]:
        """Key and rows of every shard, by source and tier."""
        for unit in sorted(self.snapshot.units, key=lambda unit: unit.source_uri):
            yield from ((shard.key, read_shard(LocalStore(self.out), shard)) for shard in unit.shards)

    def quarantines(self) -> Iterator[pa.Table]:
        for unit in sorted(self.snapshot.units, key=lambda unit: unit.source_uri):
            if unit.quarantine:
                yield read_shard(LocalStore(self.out), unit.quarantine)

    def version(self, uri: str, found: str) -> str:
        """The version of a source, or, where a library made its bytes, that they have one."""
        if not uri.endswith((".gz", ".parquet")):
            return found
        assert found == f"sha256:{digest((self.base / uri).read_bytes())}"
        return "sha256 of the file"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    base = tmp_path_factory.mktemp("golden")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        yield Corpus(base)


def steady(table: pa.Table, corpus: Corpus) -> pa.Table:
    """Rows with all that a model computed replaced by something of its shape, and versions as `Corpus.version` has them."""
    rows = table.to_pylist()
    for row in rows:
        row["source_version"] = corpus.version(row["source_uri"], row["source_version"])
        for name in MEASURED:
            if isinstance(row[name], bytes):
                row[name] = bytes(number % 256 for number in range(len(row[name])))
            elif isinstance(row[name], float):
                row[name] = 0.5
            elif isinstance(row[name], list):
                row[name] = []
        if row["tokens"] is not None:
            row["tokens_sha256"] = digest(row["tokens"])
            row["decoder_passes"] = row["decoder_passes"] and 1
            row["exact"], row["decoded_text"] = row["exact"] and None, None
    return pa.Table.from_pylist(rows, SHARD)


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON: bytes by their size, long text by its hash too."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, bytes):
            found[name] = f"{len(value)} bytes {digest(value)[:16]}"
        elif name == "text":
            found[name] = f"{len(value)} characters {digest(value)}"
        else:
            found[name] = value.isoformat() if hasattr(value, "isoformat") else value
    return found


def test_a_corpus_has_its_counts_and_no_fault(corpus: Corpus, pin: Pin) -> None:
    counts = {name: value for name, value in asdict(corpus.result.counts).items() if name != "bytes"}
    counts |= {
        "units": corpus.result.units_new,
        "snapshot": corpus.result.snapshot,
        "reasons": dict(sorted(corpus.result.reasons.items())),
    }
    pin("corpus_counts", counts)
    assert fsck(LocalStore(corpus.out)) == []


def test_rows_of_a_corpus_are_the_recorded_ones(corpus: Corpus, pin: Pin) -> None:
    """Ids, spans, text, tiers, tokens' shapes, exactly; what is computed has its type, and tokens have the hash that they say."""
    found = []
    for key, table in corpus.shards():
        assert key.startswith("data/") and key.endswith(".parquet")
        for row in table.to_pylist():
            assert row["tokens"] is None or row["tokens_sha256"] == digest(row["tokens"])
            assert row["precision"] is None or (0 <= row["precision"] <= 1 and row["decoder_passes"] >= 1)
            assert row["fingerprint"] == corpus.prepared.fingerprint
        found += [{"folder": key.split("/")[1], **shown(row)} for row in steady(table, corpus).to_pylist()]
    pin("corpus_rows", found)


def test_the_quarantine_of_a_corpus_is_the_recorded_one(corpus: Corpus, pin: Pin) -> None:
    found = []
    for table in corpus.quarantines():
        for row in table.to_pylist():
            row["source_version"] = corpus.version(row["source_uri"], row["source_version"])
            found.append(shown({name: value for name, value in row.items() if name != "unit_id"}))
    pin("corpus_quarantine", found)


def test_a_plan_gives_units_their_ids_and_duplicates_their_owners(corpus: Corpus, pin: Pin) -> None:
    """With the keys that the sources would have in /data; the ids of the run itself are made of where they lay."""
    config, fingerprint, store = SourceConfig(), corpus.prepared.fingerprint, LocalStore(corpus.base / "nothing")
    real = {item.uri: item for item in expand(["sources"], config)}
    ours = make_plan(
        store,
        None,
        real.values(),
        config,
        fingerprint,
        lambda units, config: iter([document_ids(unit, config) for unit in units]),
    )
    assert {planned.unit_id for planned in ours.todo} == {unit.unit_id for unit in corpus.snapshot.units}
    items = [replace(item, key=f"/data/{item.uri}", version=corpus.version(item.uri, item.version)) for item in real.values()]
    plan = make_plan(
        store, None, items, config, fingerprint,
        lambda units, config: iter([document_ids(replace(unit, object=real[unit.object.uri]), config) for unit in units]),
    )  # fmt: skip
    found = {
        planned.unit.object.uri: {"id": planned.unit_id, "left_out": planned.left_out, "defers_to": planned.defers_to}
        for planned in plan.todo
    }
    pin("planned_units", found)


def test_shards_have_their_bytes(corpus: Corpus, pin: Pin) -> None:
    """Steady rows written as shards; their sizes and hashes are those of one version of the library that writes Parquet."""
    store, unit, attempt = LocalStore(corpus.base / "steady"), "0" * 24, "1" * 12
    rows = pa.concat_tables(steady(table, corpus) for _, table in corpus.shards())
    shards = write_shards(store, rows, unit_id=unit, attempt=attempt, row_group_bytes=20_000)
    bad = pa.concat_tables(corpus.quarantines()).to_pylist()
    bad = [{**row, "unit_id": unit, "source_version": corpus.version(row["source_uri"], row["source_version"])} for row in bad]
    quarantine = write_quarantine(store, pa.Table.from_pylist(bad, QUARANTINE), unit_id=unit, attempt=attempt)
    assert quarantine is not None
    records = [asdict(shard) for shard in (*shards, quarantine)]
    pin("shard_records", [{name: record[name] for name in ("key", "tier", "rows")} for record in records])
    same_versions(pin, "shard_bytes", ("pyarrow",), records)


def same_versions(pin: Pin, name: str, libraries: tuple[str, ...], value: Any) -> None:
    """Pin what only the same versions of some libraries make; with others there is nothing to compare."""
    versions = {library: version(library) for library in libraries}
    path = GOLDEN / f"{name}.json"
    recorded = json.loads(path.read_text("utf-8"))["versions"] if path.is_file() else versions
    try:
        pin(name, {"versions": versions, "value": value})
    except AssertionError:
        if recorded == versions:
            raise
        pytest.skip(f"{name}: recorded with {recorded}, here are {versions}")


# contracts


def test_schemas_are_the_recorded_ones(pin: Pin) -> None:
    found = {name: [[field.name, str(field.type), field.nullable] for field in schema] for name, schema in SCHEMAS.items()}
    pin("schemas", found)


def test_names_that_people_and_machines_rely_on_are_the_recorded_ones(pin: Pin) -> None:
    pin("names", {"reasons": list(Reason), "modes": {n: asdict(m) for n, m in MODES.items()}, "storages": sorted(STORAGES)})


def test_metrics_are_the_recorded_ones(pin: Pin) -> None:
    pin("metrics", {name: {**asdict(metric), "exported": metric.exported(name)} for name, metric in METRICS.items()})


# commands


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with the words that call it."""
    yield path, command
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        yield from commands(sub, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def invoke(*arguments: str) -> Any:
    """Run a command as on a plain terminal of a fixed width; a bug comes out as the exception that it is."""
    environment = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb", "FORCE_COLOR": None, "TERMINAL_WIDTH": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.rich_utils, "MAX_WIDTH", WIDTH)
        patch.setattr(typer.rich_utils, "FORCE_TERMINAL", False)
        done = CliRunner().invoke(app, list(arguments), prog_name="palimpsest", env=environment)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_commands_have_their_parameters(pin: Pin) -> None:
    """Whatever the help looks like: names, options, defaults and what they say."""
    found = {}
    for path, command in COMMANDS.items():
        parameters = [
            {
                "options": [*parameter.opts, *parameter.secondary_opts],
                "required": parameter.required,
                "repeated": parameter.nargs == -1 or bool(getattr(parameter, "multiple", False)),
                "default": str(parameter.default),
                "help": getattr(parameter, "help", None),
            }
            for parameter in command.params
        ]
        found[" ".join(("palimpsest", *path))] = {"help": command.help, "parameters": parameters}
    pin("commands", found)


def test_help_texts_are_the_recorded_ones(request: pytest.FixtureRequest, pin: Pin) -> None:
    texts = {}
    for path in COMMANDS:
        done = invoke(*path, "--help")
        assert done.exit_code == 0
        texts["-".join(("palimpsest", *path)) + ".txt"] = "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"
    if request.config.getoption("--update-golden"):
        shutil.rmtree(HELP, ignore_errors=True)
        HELP.mkdir(parents=True)
        for name, text in texts.items():
            (HELP / name).write_text(text, "utf-8")
    recorded = {path.name: path.read_text("utf-8") for path in HELP.glob("*.txt")}
    assert sorted(recorded) == sorted(texts)
    same_versions(pin, "help_versions", ("typer", "rich"), sorted(texts))
    for name, text in texts.items():
        assert text == recorded[name], f"another {name} than recorded"


def test_commands_end_with_their_exit_codes(corpus: Corpus, tmp_path: Path, pin: Pin) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "never clo\n' * 3, "utf-8")
    shutil.copytree(corpus.out, tmp_path / "damaged")
    next((tmp_path / "damaged" / "data" / "tiny").glob("*.parquet")).unlink()
    job, fresh = str(corpus.preset), str(tmp_path / "fresh")
    cases: dict[str, tuple[str, ...]] = {
        "nothing to do": ("run", job),
        "presets": ("presets", "--json"),
        "fsck of a sound corpus": ("fsck", str(corpus.out)),
        "inspect": ("inspect", str(corpus.out), "--json"),
        "gc, dry": ("gc", str(corpus.out)),
        "snapshots": ("snapshots", str(corpus.out), "--json"),
        "unknown command": ("nosuch",),
        "unknown option": ("run", "local", "--nosuch"),
        "missing argument": ("fsck",),
        "value out of range": ("gc", str(corpus.out), "--unused-days", "-1"),
        "unknown preset": ("run", "nosuch"),
        "unknown setting": ("run", job, "--set", "tiers.mod=small"),
        "override without a value": ("run", job, "--set", "tiers.mode"),
        "wrong value": ("run", job, "--set", "tiers.mode=smal"),
        "wrong grid": ("run", job, "--set", "layout.grid=1x1"),
        "missing source": ("run", job, "--source", "no/such/file.txt", "--out", fresh),
        "no source": ("run", "local", "--out", fresh),
        "no output": ("run", "local", "--source", str(tmp_path)),
        "missing checkpoint": ("run", job, "--set", "codec.path=no/such/folder"),
        "missing corpus": ("fsck", str(tmp_path / "nosuch")),
        "no corpus": ("inspect", str(tmp_path)),
        "unknown page": ("inspect", str(corpus.out), "nosuch"),
        "failed run": ("run", job, "--source", str(tmp_path / "bad.jsonl"), "--out", fresh, "--set", "limits.quarantine_share=0"),
        "fsck of a damaged corpus": ("fsck", str(tmp_path / "damaged")),
    }
    found = {}
    for name, arguments in cases.items():
        done = invoke(*arguments)
        said = done.stdout if done.exit_code in (0, 3) else done.stderr
        assert "Traceback" not in said and said.strip(), name
        found[name] = done.exit_code
        if name == "nothing to do":
            assert said.startswith("Nothing to do")
    pin("exit_codes", found)
