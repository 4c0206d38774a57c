"""A corpus that somebody else made: what it records about a run never executes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.run_records import read_run
from palimpsest.corpus.snapshots import latest, publish
from palimpsest.operations import verify
from palimpsest.operations.retier_plan import plan_retier
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.stable_json import Damaged
from tests.store_crash_child import rows, unit_pages, write_unit

HOSTILE = '[codec]\nname = "auto"\npath = "evil"\ntrust_remote_code = true\n[layout]\nname = "grid"\nalphabet = "latin"\n'


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "corpus")
    create_corpus(store)
    publish(store, "r", [write_unit(store, "in/0", rows(unit_pages(0)))])
    store.put("runs/r/config.toml", HOSTILE.encode())
    return store


def test_verify_trusts_no_code_that_a_corpus_names(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    monkeypatch.setattr(verify, "reverify", lambda store, snapshot, config, *rest: seen.append(config))
    verify.open_and_reverify(str(store.root))
    verify.open_and_reverify(str(store.root), ("codec.trust_remote_code=true",))
    assert [config.codec.trust_remote_code for config in seen] == [False, True]
    assert "runs/r/config.toml sets codec.trust_remote_code, which a corpus may not" in caplog.text


def test_retier_reads_the_same_configuration(store: LocalStore) -> None:
    assert read_run(store, "r").settings()["codec"] == {"name": "auto", "path": "evil"}
    snapshot = latest(store)
    assert snapshot is not None
    plan = plan_retier(store, snapshot, str(store.root), (), None)
    assert plan.recipes == {} and sum(plan.unknown.values()) == 1


@pytest.mark.parametrize("body", [b"a = " + b"[" * 10_000, b"not toml"])
def test_a_damaged_configuration_is_named(store: LocalStore, body: bytes) -> None:
    store.put("runs/r/config.toml", body)
    with pytest.raises(Damaged, match="runs/r/config.toml is no TOML"):
        verify.open_and_reverify(str(store.root))
