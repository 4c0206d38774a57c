"""Re-tiering: a published corpus on a clock that moves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.config import CodecConfig, ConfigError, JobConfig
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.snapshots import iter_rows, latest, read_snapshot
from palimpsest.operations import retier as operation
from palimpsest.operations.run import run
from palimpsest.operations.status import list_versions
from palimpsest.storage.local_store import LocalStore
from tests import near_sighted
from tests.conftest import JobFactory
from tests.corpora import trusting
from tests.mixed_sources import prose


def retier(corpus: str, overrides: tuple[str, ...] = (), **options: Any) -> operation.RetierResult:
    return operation.retier(corpus, (*trusting(corpus), *overrides), **options)


NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGE = "tiers.policy=age"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def after(delta: timedelta) -> str:
    return (NOW + delta).isoformat()


def write_documents(folder: Path, documents: list[dict[str, Any]], name: str = "a.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"id": f"{name}-{n}", **d}) + "\n" for n, d in enumerate(documents)))
    return folder


def dated(pages: int, delta: timedelta = timedelta(0), seed: int = 0, **fields: Any) -> dict[str, Any]:
    """A document of so many pages on a grid of 64x32, written `delta` before NOW."""
    return {"text": prose(64 * 30 * pages, seed), "timestamp": (NOW - delta).isoformat(), **fields}


@pytest.fixture
def made(job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., JobConfig]:
    """`made(documents, "key=value", …)`: a corpus of these documents as of NOW, all pages verified."""

    def make(documents: list[dict[str, Any]] | Path, *overrides: str, shipped_codec: bool = False) -> JobConfig:
        folder = documents if isinstance(documents, Path) else write_documents(tmp_path / "in", documents)
        fresh = ("verification.share=1.0", "verification.control_share=0.0", AGE, f"tiers.as_of={NOW.isoformat()}")
        config = job(folder, tmp_path / "corpus", *fresh, *overrides)
        if shipped_codec:
            config = config.replace(codec=CodecConfig())
        run(config)
        return config

    return make


def rows(config: JobConfig, number: int | None = None) -> list[dict[str, Any]]:
    store = LocalStore(config.out)
    snapshot = latest(store) if number is None else read_snapshot(store, number)
    assert snapshot is not None
    return sorted(iter_rows(store, snapshot), key=lambda row: row["page_id"])


def tiers(config: JobConfig) -> dict[str, int]:
    return dict(Counter(row["tier"] for row in rows(config)))


def objects(config: JobConfig) -> dict[str, str]:
    """Hashes of all files of a corpus."""
    root = Path(config.out)
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def errors(config: JobConfig) -> list[Any]:
    return [finding for finding in fsck(LocalStore(config.out)) if finding.severity == "error"]


def test_a_corpus_fades_in_the_steps_of_the_figure(made: Callable[..., JobConfig]) -> None:
    """Just now, an hour, a day, a week, a month, a year, ten years."""
    config = made([dated(2), dated(1, seed=1)])
    fresh = rows(config)
    seen, context = [], []
    for delta in (MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY, 3650 * DAY):
        retier(config.out, (), as_of=after(delta))
        now = rows(config)
        seen.append({row["tier"] for row in now})
        context.append(sum(row["num_context_tokens"] or row["num_text_tokens"] for row in now) / len(now))
        for row, first in zip(now, fresh, strict=True):
            assert (row["page_id"], row["text"], row["char_start"]) == (first["page_id"], first["text"], first["char_start"])
            assert row["status"] in ("text", "verified", "below_target") and (row["tokens"] is None) == (row["tier"] == "text")
    assert seen == [{"text"}, {"text"}, {"large"}, {"base"}, {"small"}, {"tiny"}, {"tiny"}]  # gundam is not among its modes
    assert context[2:6] == [421, 273, 111, 73] and context[5] == context[6]
    assert errors(config) == []


def test_the_figure_with_the_codec_that_ships(made: Callable[..., JobConfig]) -> None:
    """On its own rungs, for which modes that are read no better than a cheaper one are none, and what is not readable is text."""
    asked = ("verification.reader=cells", "verification.target_precision=0.9", "tiers.policy=age+fidelity", "layout.grid=80x40")
    config = made(
        [dated(2), dated(1, seed=1), {"text": "船の絵。" * 80, "timestamp": NOW.isoformat()}], *asked, shipped_codec=True
    )
    seen, context, precision = [], [], []
    for delta in (MINUTE, HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY, 3650 * DAY):
        retier(config.out, (), as_of=after(delta))
        now = rows(config)
        assert {row["status"] for row in now} <= {"text", "verified"}
        assert all(row["tier"] == "text" for row in now if row["reason"] == "not_covered")
        seen.append(Counter(row["tier"] for row in now))
        context.append(sum(row["num_context_tokens"] or row["num_text_tokens"] for row in now))
        precision.append(sum(1.0 if row["tier"] == "text" else row["precision"] for row in now) / len(now))
    assert all(
        fewer < more if changed else fewer == more
        for more, fewer, changed in zip(context, context[1:], [a != b for a, b in pairwise(seen)], strict=False)
    )
    assert precision == sorted(precision, reverse=True) and precision[0] == 1.0
    assert seen[0].keys() == {"text"} != seen[-1].keys() and context[-1] < 0.5 * context[0]
    assert errors(config) == []


def test_precision_does_not_rise_as_pages_fade_and_what_cannot_be_read_is_text(
    made: Callable[..., JobConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the codec that ships, which really reads: on this grid it reads small; of a page in tiny it sees only half."""
    near_sighted.near_sighted(monkeypatch)
    config = made(
        [dated(8), {"text": "船の絵。" * 40, "timestamp": NOW.isoformat()}],
        *("verification.reader=cells", f"layout.grid={near_sighted.GRID}", "verification.target_precision=0.9"),
        'tiers.modes=["tiny", "small"]',
        shipped_codec=True,
    )
    precision: list[float] = []
    for delta in (MINUTE, 30 * DAY, 365 * DAY):
        retier(config.out, (), as_of=after(delta))
        latin = [row for row in rows(config) if row["reason"] != "not_covered"]
        precision.append(sum(1.0 if row["tier"] == "text" else row["precision"] for row in latin) / len(latin))
        assert [row["tier"] for row in rows(config) if row["reason"] == "not_covered"] == ["text"]
    assert precision == sorted(precision, reverse=True) and precision[1] > 0.9 > precision[2]
    unreadable = sum(row["status"] == "below_target" for row in latin)
    measured = retier(config.out, ("tiers.policy=age+fidelity", "tiers.cheap_text=false"), as_of=after(365 * DAY))
    assert measured.due == unreadable == len(latin)
    climbed = [row for row in rows(config) if row["reason"] != "not_covered"]
    assert all(row["status"] in ("verified", "text") for row in climbed)
    again = retier(config.out, ("tiers.policy=age+fidelity", "tiers.cheap_text=false"), as_of=after(366 * DAY))
    assert again.due == 0
    assert errors(config) == []


def test_only_shards_with_pages_that_change_are_written_and_the_others_are_shared(
    made: Callable[..., JobConfig], tmp_path: Path
) -> None:
    folder = write_documents(tmp_path / "in", [dated(2, 40 * DAY, seed=1), dated(2, 6 * DAY, seed=2)])
    write_documents(folder, [dated(1, 20 * DAY, seed=3)], "b.jsonl")
    config = made(folder)
    before, store = objects(config), LocalStore(config.out)
    base = latest(store)
    assert base is not None and set(tiers(config)) == {"small", "large", "base"}
    result = retier(config.out, (), as_of=after(2 * DAY))  # of one unit, what was large grows old; the other stays
    assert set(result.moves) == {"large → base"}
    now = latest(store)
    assert now is not None and now.number == base.number + 1 and result.units_replaced == 1
    assert {key: before[key] for key in before} == {key: value for key, value in objects(config).items() if key in before}
    old_keys = {shard.key for unit in base.units for shard in unit.shards}
    new_keys = {shard.key for unit in now.units for shard in unit.shards}
    assert {shard.tier for unit in now.units for shard in unit.shards if shard.key not in old_keys} == {"base"}
    assert {key.split("/")[1] for key in old_keys & new_keys} == {"small", "base"}
    assert {key.split("/")[1] for key in old_keys - new_keys} == {"large"}
    assert {row["tier"] for row in rows(config, base.number)} == {"small", "large", "base"}
    assert now.totals.context_tokens == sum(row["num_context_tokens"] or 0 for row in rows(config))
    assert errors(config) == []
    first, second = list_versions(config.out)
    assert (second.shards, second.shards_shared) == (len(new_keys), len(old_keys & new_keys))
    assert (second.added, second.dropped, second.pages) == (1, 1, first.pages)
    assert second.tiers == dict(Counter(row["tier"] for row in rows(config))) != first.tiers
    assert 0 < second.bytes_new < second.bytes < first.bytes == first.bytes_new  # type: ignore[operator]


def test_pages_that_stay_in_a_touched_shard_are_written_again_as_they_are(made: Callable[..., JobConfig]) -> None:
    config = made([dated(1, DAY / 2, seed=seed) for seed in range(3)] + [dated(1, seed=9)])
    before = {row["page_id"]: row for row in rows(config)}
    result = retier(config.out, (), as_of=after(DAY / 2 + MINUTE))
    now = {row["page_id"]: row for row in rows(config)}
    assert now.keys() == before.keys() and 0 < result.due < len(now)
    assert sum(now[name] != before[name] for name in now) == result.due
    assert all(row["reason"] == "policy" for row in before.values())


def test_a_second_run_does_nothing_and_loads_nothing(made: Callable[..., JobConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = made([dated(1)])
    retier(config.out, (), as_of=after(40 * DAY))
    before = objects(config)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a second run must not get here")

    for executor in ("local", "ray"):
        monkeypatch.setattr(f"palimpsest.flow.{executor}_executor.connected", never)
    monkeypatch.setattr("palimpsest.codecs.adapter.load_codec", never)
    again = retier(config.out, (), as_of=after(41 * DAY))
    assert (again.due, again.snapshot) == (0, again.before) and objects(config) == before


def test_a_dry_run_writes_nothing(made: Callable[..., JobConfig]) -> None:
    config = made([dated(1)])
    before = objects(config)
    result = retier(config.out, (), as_of=after(40 * DAY), dry_run=True)
    assert result.moves == {"text → small": result.pages} and objects(config) == before


def test_run_finds_its_sources_done_after_a_retier(made: Callable[..., JobConfig]) -> None:
    config = made([dated(1)])
    retier(config.out, (), as_of=after(40 * DAY))
    assert run(config).units_new == 0 and set(tiers(config)) == {"small"}


def test_a_corpus_from_before_short_pages_were_kept_as_text_is_recognised(made: Callable[..., JobConfig]) -> None:
    """Its recorded settings say cheap_text = true, which had no effect then."""
    config = made([{**dated(1), "text": prose(200, 1)}], "tiers.cheap_text=false", "tiers.undated=tiny")
    store = LocalStore(config.out)
    for record in [info.key for info in store.list("runs/") if info.key.endswith("config.toml")]:
        store.put(record, store.read(record).replace(b"cheap_text = false", b"cheap_text = true"))
    result = retier(config.out, (), as_of=after(400 * DAY))
    assert result.unknown == {} and tiers(config) == {"tiny": 1}
    retier(config.out, ("tiers.cheap_text=true",), as_of=after(400 * DAY), sharpen=True)
    assert [(row["tier"], row["reason"]) for row in rows(config)] == [("text", "text_is_cheaper")]


def test_pages_only_fade_unless_sharpening_is_asked_for(made: Callable[..., JobConfig]) -> None:
    config = made([dated(1)])
    retier(config.out, (), as_of=after(40 * DAY))
    back = retier(config.out, (), as_of=after(2 * DAY))
    assert (back.due, back.held) == (0, back.pages) and set(tiers(config)) == {"small"}
    retier(config.out, (), as_of=after(2 * DAY), sharpen=True)
    assert set(tiers(config)) == {"large"}


def test_future_clocks_missing_timestamps_and_pins(made: Callable[..., JobConfig]) -> None:
    config = made(
        [
            dated(1, -400 * DAY, seed=1, id="future"),
            {"text": prose(900, 2), "id": "undated"},
            dated(1, seed=3, importance=0.95, id="pinned"),
            dated(1, seed=4, importance=0.6, id="held back"),
            dated(1, seed=5, id="plain"),
        ],
        "tiers.policy=age+importance",
    )
    retier(config.out, (), as_of=after(366 * DAY))
    found = {row["source_id"]: row["tier"] for row in rows(config)}
    assert found == {"future": "text", "undated": "text", "pinned": "text", "held back": "small", "plain": "tiny"}


def test_a_text_is_forgotten_only_by_name_and_never_comes_back(made: Callable[..., JobConfig]) -> None:
    config = made([dated(1, seed=1, importance=0.95, id="pinned"), dated(1, seed=2, id="plain")])
    retier(config.out, (), as_of=after(50 * 365 * DAY))
    assert all(row["text"] for row in rows(config))
    forget = ("tiers.policy=age+importance+forget", "tiers.forget_after=20y")
    retier(config.out, forget, as_of=after(50 * 365 * DAY))
    for row in rows(config):
        gone = row["source_id"] == "plain"
        assert (row["text"] == "") == gone == (row["tokens"] is None and row["reason"] == "forgotten")
    assert errors(config) == []
    assert set(retier(config.out, (), as_of=after(DAY), sharpen=True).moves) == {"tiny → large"}  # the pinned one
    assert {row["source_id"]: bool(row["text"]) for row in rows(config)} == {"pinned": True, "plain": False}
    with pytest.raises(ConfigError, match="'forget' drops texts of a published corpus"):
        run(config.replace(tiers=config.tiers.replace(policy="age+forget")))


def test_units_that_rely_on_a_replaced_one_follow_it(made: Callable[..., JobConfig], tmp_path: Path) -> None:
    shared = dated(1, seed=1)
    folder = write_documents(tmp_path / "in", [shared, {"text": "", "timestamp": None}])
    write_documents(folder, [shared, dated(1, -500 * DAY, seed=2), {"text": None}], "b.jsonl")
    config = made(folder)
    store = LocalStore(config.out)
    result = retier(config.out, (), as_of=after(40 * DAY))
    now = latest(store)
    assert now is not None and result.units_replaced == 2 and result.shards_touched == 1
    ids = {unit.unit_id for unit in now.units}
    assert all(name in ids for unit in now.units for name in unit.defers_to) and any(unit.defers_to for unit in now.units)
    assert errors(config) == []
    assert now.totals.documents_quarantined == 2


def test_gc_keeps_what_the_new_snapshot_shares_with_the_old(made: Callable[..., JobConfig]) -> None:
    config = made([dated(1, 40 * DAY, seed=1), dated(1, 6 * DAY, seed=2)])
    fresh = rows(config)
    retier(config.out, (), as_of=after(2 * DAY))
    before = rows(config)
    gc(LocalStore(config.out), unused_for=timedelta(days=40), now=datetime.now(UTC) + timedelta(days=30), delete=True)
    assert rows(config, 1) == fresh != before
    gc(LocalStore(config.out), unused_for=timedelta(days=1), now=datetime.now(UTC) + timedelta(days=30), delete=True)
    assert rows(config) == before and fsck(LocalStore(config.out)) == []
    assert [version.number for version in list_versions(config.out)] == [2]


def test_settings_that_cannot_be_are_named(made: Callable[..., JobConfig], tmp_path: Path) -> None:
    config = made([dated(1)])
    for overrides, as_of, message in (
        (("layout.grid=80x40",), None, "re-tiering changes no other settings than tiers"),
        (
            ('tiers.ages=["1d gundam"]',),
            after(DAY),
            "tiers.ages = 'gundam': the codec has no such mode .*tiny, small, base, large",
        ),
        (("tiers.policy=age+fixed",), after(DAY), "choose one"),
        (("tiers.policy=old",), after(DAY), "'old' is no policy; join some of fixed, age"),
        ((), "yesterday", "tiers.as_of = 'yesterday'"),
    ):
        with pytest.raises(ConfigError, match=message):
            retier(config.out, overrides, as_of=as_of)
    with pytest.raises(ValueError, match="not a corpus"):
        retier(str(tmp_path / "nowhere"), (), as_of=after(DAY))


def test_tokens_of_another_codec_are_not_mixed_in(made: Callable[..., JobConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = made([dated(1)])
    before = objects(config)
    monkeypatch.setattr("palimpsest.codecs.checkpoint.hash_weights", lambda *_: "0" * 64)
    with pytest.raises(ValueError, match="install the version that made them"):
        retier(config.out, (), as_of=after(40 * DAY))
    assert objects(config) == before


def test_the_command_says_what_it_did(made: Callable[..., JobConfig]) -> None:
    config = made([dated(1)])
    asked = ["retier", config.out, "--as-of", "2026-02-15", "--set", *trusting(config.out)]
    shown = CliRunner().invoke(app, [*asked, "--dry-run"])
    assert shown.exit_code == 0 and "text → small" in shown.output
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["ended"] == {"small": len(rows(config))}
    assert "Nothing is due" in CliRunner().invoke(app, asked).output
    assert CliRunner().invoke(app, ["retier", config.out, "--as-of", "soon"]).exit_code == 2
