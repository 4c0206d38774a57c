"""A corpus that somebody else made, through every command: nothing in it is executed, nothing outside of it is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import palimpsest
from palimpsest.cli.app import app
from palimpsest.corpus import manifest
from palimpsest.corpus.run_records import UntrustedSetting
from palimpsest.corpus.shards import parquet_body
from palimpsest.corpus.snapshots import latest
from palimpsest.errors import PalimpsestError
from palimpsest.operations import verify
from palimpsest.schemas import SHARD
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.stable_json import to_bytes

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
class Evil: ...
"""
DEEP = b'{"a": ' * 10_000 + b"1" + b"}" * 10_000
ODD_STATS = json.dumps(
    {"codec": [], "codec_revision": {}, "snapshot": "x", "reasons": 5, "changes": 7, "reason": ["x"]}
    | dict.fromkeys(("seconds", "pages_per_second", "units_new"), "x")
)
TINY_LAYOUT = "document font_size=1e-9 padding=0 line_spacing=0 newline=break font=sans cjk=none"
CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


class Scene:
    """A copy of a good corpus, beside a folder that no command may touch."""

    def __init__(self, base: Path, good: Path) -> None:
        self.corpus, self.outside = base / "corpus", base / "outside"
        shutil.copytree(good, self.corpus)
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text("nobody reads or removes this")
        (self.outside / "modeling_evil.py").write_text(EVIL)
        described = {"model_type": "evil", "auto_map": {"AutoConfig": "modeling_evil.Evil", "AutoModel": "modeling_evil.Evil"}}
        (self.outside / "config.json").write_text(json.dumps(described))
        self.store = LocalStore(self.corpus)

    def files(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.outside)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.outside.rglob("*"))
            if path.is_file()
        }

    def configure(self, text: str) -> None:
        for path in self.corpus.glob("runs/*/config.toml"):
            path.write_text(text)

    def settings(self, section: str, name: str, value: str) -> None:
        """Set one setting in all recorded configurations."""
        for path in self.corpus.glob("runs/*/config.toml"):
            lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name} = ")]
            lines.insert(lines.index(f"[{section}]") + 1, f"{name} = {value}")
            path.write_text("\n".join(lines) + "\n")

    def newest(self) -> Path:
        return max((self.corpus / "_snapshots").iterdir())

    def units(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the records of all units in the newest manifest, and make the snapshot fit them again."""
        snapshot = latest(self.store)
        assert snapshot is not None
        described = json.loads(self.newest().read_text())
        described.pop("record_sha256")
        for segment in described["segments"]:
            path = self.corpus / segment["key"]
            records = manifest.pq.read_table(path).to_pylist()
            for record in records:
                change(record)
            body = bytes(manifest.parquet_bytes(pa.Table.from_pylist(records, manifest.SCHEMA), len(records)))
            path.write_bytes(body)
            segment |= {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        self.newest().write_bytes(to_bytes(described))

    def rows(self, column: str, value: object) -> None:
        """Give all stored pages this value, with hashes and sizes that fit it."""

        def change(record: dict[str, Any]) -> None:
            for shard in record["shards"]:
                path = self.corpus / shard["key"]
                table = manifest.pq.read_table(path, schema=SHARD)
                at = table.schema.get_field_index(column)
                table = table.set_column(at, SHARD.field(column), pa.array([value] * len(table), SHARD.field(column).type))
                body = bytes(parquet_body(table))
                path.write_bytes(body)
                record["counts"]["bytes"] += len(body) - shard["bytes"]
                shard |= {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}

        before = sum(unit.counts.bytes for unit in latest(self.store).units)  # type: ignore[union-attr]
        self.units(change)
        described = json.loads(self.newest().read_text())
        described.pop("record_sha256")
        now = sum(path.stat().st_size for path in (self.corpus / "data").rglob("*.parquet") if self._is_newest(path, described))
        for totals in (described["totals"], described["segments"][0]["totals"]):
            totals["bytes"] += now - before
        self.newest().write_bytes(to_bytes(described))

    def _is_newest(self, path: Path, described: dict[str, Any]) -> bool:
        keys = {
            shard["key"]
            for segment in described["segments"]
            for record in manifest.pq.read_table(self.corpus / segment["key"]).to_pylist()
            for shard in record["shards"]
        }
        return str(path.relative_to(self.corpus)) in keys


def linked(scene: Scene, name: str) -> None:
    """A folder of the corpus is moved outside, and a link put in its place."""
    shutil.move(scene.corpus / name, scene.outside / name)
    for path in (scene.outside / name).rglob("*"):
        os.utime(path, (0, 0))
    (scene.corpus / name).symlink_to(scene.outside / name, target_is_directory=True)


def linked_shard(scene: Scene) -> None:
    shard = next((scene.corpus / "data").rglob("*.parquet"))
    shard.unlink()
    shard.symlink_to(scene.outside / "secret.txt")


def traversal(scene: Scene, key: str) -> None:
    def change(record: dict[str, Any]) -> None:
        for shard in record["shards"]:
            shard["key"] = key

    scene.units(change)


def negative_counts(scene: Scene) -> None:
    scene.units(lambda record: record["counts"].update(documents_in=-(2**62), documents_committed=-(2**62)))


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"  # a sandbox of Jinja runs this for hours
ATTACKS: dict[str, tuple[Callable[[Scene], None], str]] = {
    "remote code": (
        lambda s: s.configure(f'[codec]\nname = "auto"\npath = "{s.outside}"\ntrust_remote_code = true\n'),
        r"runs/\S+ of the corpus sets codec.path .*--set codec.path=",
    ),
    "codec path": (lambda s: s.settings("codec", "path", f'"{s.outside}"'), "sets codec.path .*--set codec.path="),
    "template": (lambda s: s.settings("codec", "chat_template", f"'{LOOPS}'"), "sets codec.chat_template"),
    "predictor": (lambda s: s.settings("tiers", "predictor", '"/etc/passwd"'), "sets tiers.predictor = '/etc/passwd'"),
    "font": (lambda s: s.settings("layout", "cjk_font", '"/dev/zero"'), "sets layout.cjk_font = '/dev/zero'"),
    "cluster": (lambda s: s.settings("placement", "address", '"ray://127.0.0.1:9"'), "sets placement.address"),
    "unknown setting": (lambda s: s.configure('[codec]\nnmae = "x"\n'), "of the corpus: unknown setting codec.nmae"),
    "config nesting": (lambda s: s.configure("a = " + "[" * 10_000), r"runs/\S+config.toml is no TOML"),
    "snapshot nesting": (lambda s: s.newest().write_bytes(DEEP) and None, r"_snapshots/00000002.json"),
    "corpus nesting": (lambda s: (s.corpus / "corpus.json").write_bytes(DEEP) and None, r"corpus.json"),
    "stats nesting": (lambda s: [p.write_bytes(DEEP) for p in s.corpus.glob("runs/*/stats.json")] and None, r"stats.json"),
    "cut snapshot": (lambda s: s.newest().write_bytes(s.newest().read_bytes()[:99]) and None, r"_snapshots/00000002.json is not"),
    "snapshot of numbers": (lambda s: s.newest().write_text('{"number": 1e999, "format": 3}') and None, r"00000002.json"),
    "no snapshot": (lambda s: s.newest().write_text("[NaN]") and None, r"00000002.json holds a JSON list"),
    "name of a snapshot": (lambda s: (s.corpus / "_snapshots/evil.json").write_text("{}") and None, r"_snapshots/evil.json"),
    "odd stats": (lambda s: [p.write_text(ODD_STATS) for p in s.corpus.glob("runs/*/stats.json")] and None, ""),
    "traversal": (lambda s: traversal(s, "../outside/secret.txt"), r"_manifests/\S+ .*'../outside/secret.txt'"),
    "absolute key": (lambda s: traversal(s, "/etc/passwd"), r"_manifests/\S+ .*'/etc/passwd'"),
    "negative counts": (negative_counts, r""),
    "link to data": (lambda s: linked(s, "data"), r"data"),
    "link to runs": (lambda s: linked(s, "runs"), r""),
    "link to records": (lambda s: linked(s, "_units"), r""),
    "linked shard": (linked_shard, r"data/\S+"),
    "image size": (lambda s: s.rows("image_px", 1_000_000_000), r"image of 1,000,000,000 pixels a side"),
    "negative image": (lambda s: s.rows("image_px", -1), r"image of -1 pixels a side"),
    "grid": (lambda s: s.rows("grid_w", 2**31 - 1), r"columns must be 16..256"),
    "layout": (lambda s: s.rows("layout", TINY_LAYOUT), "font_size"),
    "no layout": (lambda s: s.rows("layout", None), "layout"),
    "token count": (lambda s: s.rows("num_vision_tokens", 2**31 - 1), r""),
    "token size": (lambda s: s.rows("token_dim", -1), r""),
    "token kind": (lambda s: s.rows("token_dtype", "../evil"), r""),
    "text tokens": (lambda s: s.rows("num_text_tokens", -(2**31)), r""),
    "codec name": (lambda s: s.rows("codec", "os.system"), r""),
    "terminal": (lambda s: s.rows("source_uri", ESCAPE), r""),
    "markup": (lambda s: s.rows("text_class", "[red]" + "<script>" + ESCAPE), r""),
}  # fmt: skip
"""An attack, and what a command that refuses it says; "" where only the general promises hold."""


def ask(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def read_all(scene: Scene) -> tuple[int, str]:
    """What a reader of the library does; its errors are the library's own."""
    said = []
    try:
        corpus = palimpsest.Corpus(str(scene.corpus))
        for page in corpus.pages():
            for use in (page.image, page.tokens):
                try:
                    use()
                except (PalimpsestError, ValueError) as error:
                    said.append(str(error))
        said += [document.text[:10] for document in corpus.documents()]
        corpus.quarantine()
    except PalimpsestError as error:
        said.append(str(error))
    return 0, " ".join(said)


def load_all(scene: Scene) -> tuple[int, str]:
    try:
        for give in ("tokens", "image", "text"):
            for _ in palimpsest.Pages(str(scene.corpus), give=give):
                pass
    except (PalimpsestError, ValueError) as error:
        return 0, str(error)
    return 0, ""


COMMANDS: dict[str, Callable[[Scene], tuple[int, str]]] = {
    "inspect": lambda s: ask("inspect", s.corpus),
    "picture": lambda s: ask("inspect", s.corpus, "--picture", s.corpus.parent / "page.png"),
    "report": lambda s: ask("report", s.corpus),
    "verify": lambda s: ask("verify", s.corpus, "--storage", "bf16"),
    "retier": lambda s: ask("retier", s.corpus, "--as-of", "2030-01-01", "--dry-run"),
    "erase": lambda s: ask("erase", s.corpus, "--where", "source_id = 'old'"),
    "snapshots": lambda s: ask("snapshots", s.corpus),
    "status": lambda s: ask("status", s.corpus),
    "quarantine": lambda s: ask("quarantine", s.corpus),
    "fsck": lambda s: ask("fsck", s.corpus),
    "gc": lambda s: ask("gc", s.corpus, "--unused-days", "0", "--delete"),
    "export": lambda s: ask("export", "hf", s.corpus, "--out", s.corpus.parent / "exported"),
    "run": lambda s: ask("run", "local", "-s", s.corpus.parent / "new.txt", "-o", s.corpus, "--dry-run"),
    "ingest": lambda s: ask("ingest", "local", "-s", s.corpus.parent / "new.txt", "-o", s.corpus, "--dry-run"),
    "conversations": lambda s: ask("conversations", "-s", s.corpus.parent / "chat.jsonl", "-o", s.corpus),
    "Corpus": read_all,
    "Pages": load_all,
}
READERS = ("inspect", "report", "verify", "retier", "erase", "snapshots", "status", "fsck", "gc", "export", "Corpus")
REFUSES = {
    **dict.fromkeys(("remote code", "codec path", "template", "predictor", "font", "cluster"), ("verify", "retier")),
    **dict.fromkeys(("unknown setting", "config nesting"), ("verify", "retier")),
    **dict.fromkeys(("snapshot nesting", "cut snapshot", "snapshot of numbers", "no snapshot", "name of a snapshot"), READERS),
    **dict.fromkeys(("traversal", "absolute key"), READERS),
    **dict.fromkeys(("image size", "negative image", "grid", "layout", "no layout"), ("picture", "report", "Corpus")),
    "corpus nesting": (*READERS, "Pages"),
    "link to data": ("inspect", "verify", "fsck", "Corpus"),
    "linked shard": ("fsck",),
}
"""Commands that cannot do their work, and name the attack."""


@pytest.fixture(scope="module")
def memory() -> Iterator[None]:
    """No attack makes the process grow: a page of a billion pixels a side would."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000, "KiB"


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.usefixtures("memory")
def test_no_command_is_harmed(attack: str, retiered_corpus: Path, tmp_path: Path) -> None:
    make, message = ATTACKS[attack]
    for command, use in COMMANDS.items():
        base = tmp_path / command
        base.mkdir()
        (base / "new.txt").write_text("a new document")
        (base / "chat.jsonl").write_text(
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
        )
        scene = Scene(base, retiered_corpus)
        make(scene)
        before = scene.files()
        code, said = use(scene)
        where = f"{attack} through {command}: {said[-2000:]}"
        assert scene.files() == before, where
        assert not (scene.outside / "executed").exists(), where
        assert code in (0, 1, 2, 3) and "Traceback" not in said and "\x1b" not in said and "\x07" not in said, where
        if command in REFUSES.get(attack, ()):
            assert command in ("Corpus", "Pages") or code != 0, where
            assert re.search(message, said), where
        shutil.rmtree(base)


# what a corpus may not name, and how its user may


def test_what_a_corpus_names_is_used_only_where_the_user_repeats_it(
    retiered_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path, retiered_corpus)
    scene.configure('[codec]\nname = "auto"\npath = "evil"\ntrust_remote_code = true\n')
    seen = []
    monkeypatch.setattr(verify, "reverify", lambda store, snapshot, config, *rest: seen.append(config))
    with pytest.raises(UntrustedSetting, match="codec.path = 'evil'. A path, an address or a template in a corpus is not used"):
        verify.open_and_reverify(str(scene.corpus))
    verify.open_and_reverify(str(scene.corpus), ("codec.path=mine",))
    verify.open_and_reverify(str(scene.corpus), ("codec.path=mine", "codec.trust_remote_code=true"))
    assert [(config.codec.path, config.codec.trust_remote_code) for config in seen] == [("mine", False), ("mine", True)]
    assert "sets codec.trust_remote_code, which a corpus may not" in caplog.text


def test_a_template_of_a_corpus_is_rendered_only_where_the_user_repeats_it(
    retiered_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, retiered_corpus)
    seen = []
    monkeypatch.setattr(verify, "reverify", lambda store, snapshot, config, *rest: seen.append(config.codec.chat_template))
    for harmless in ("", "checkpoint"):  # none, and that of a checkpoint which the user chose
        scene.configure(f'[codec]\nchat_template = "{harmless}"\n')
        verify.open_and_reverify(str(scene.corpus))
    scene.configure('[codec]\nchat_template = "{{ evil }}"\n')
    with pytest.raises(UntrustedSetting, match=r"codec.chat_template = '{{ evil }}'.*repeat it: --set codec.chat_template="):
        verify.open_and_reverify(str(scene.corpus))
    verify.open_and_reverify(str(scene.corpus), ("codec.chat_template={{ mine }}",))
    assert seen == ["", "checkpoint", "{{ mine }}"]
