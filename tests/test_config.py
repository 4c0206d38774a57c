"""Settings: what is refused and how it is said, and which of them make another corpus."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.cli.presets import commented, settings_page
from palimpsest.config import ConfigError, JobConfig, load, parse, to_json, to_toml
from palimpsest.flow.recipe import fingerprint
from palimpsest.operations.conversations.settings import MemoryConfig
from palimpsest.settings import Settings, preset_names, presets_folder, read_preset
from tests.paths import ROOT

CHANGED: dict[str, Any] = {
    "sources": ("elsewhere",),
    "out": "elsewhere",
    "source.text_field": "body",
    "source.id_field": "key",
    "source.timestamp_field": "when",
    "source.importance_field": "weight",
    "source.class_field": "kind",
    "source.encoding": "latin-1",
    "source.format": "jsonl",
    "source.bad_metadata": "quarantine",
    "source.carry": ("licence",),
    "source.follow_symlinks": True,
    "source.text_template": "{title} {body}",
    "source.unfold_bytes": 1000,
    "source.unfold_factor": 7,
    "source.unfold_rows": 1000,
    "source.zstd_window": 1 << 20,
    "source.unit_bytes": 1000,
    "source.max_metadata_chars": 1000,
    "source.max_document_chars": 1000,
    "layout.name": "grid",
    "layout.font": "mono",
    "layout.cjk_font": "none",
    "layout.font_size": 20.0,
    "layout.line_spacing": 7.0,
    "layout.newline": "glyph",
    "layout.padding": 17.0,
    "layout.grid": "80x40",
    "layout.alphabet": "unicode",
    "layout.max_escaped_share": 0.5,
    "codec.name": "auto",
    "codec.path": "folder",
    "codec.revision": "abc",
    "codec.content_hash": "abc",
    "codec.dtype": "float32",
    "codec.device": "cuda",
    "codec.trust_remote_code": True,
    "codec.fast": "off",
    "codec.bos": False,
    "codec.chat_template": "{prompt}",
    "codec.dialect": "qwen",
    "codec.max_new_tokens": 7,
    "codec.prompt": "Read it.",
    "codec.system": "You read.",
    "tiers.policy": "age",
    "tiers.mode": "small",
    "tiers.modes": ("tiny",),
    "tiers.as_of": "2026-01-01",
    "tiers.ages": ("1d tiny",),
    "tiers.undated": "tiny",
    "tiers.hold_importance": 0.1,
    "tiers.hold_steps": 7,
    "tiers.pin_importance": 0.95,
    "tiers.forget_after": "1y",
    "tiers.predictor": "none",
    "tiers.cheap_text": False,
    "tiers.exact": "all",
    "verification.reader": "cells",
    "verification.share": 0.5,
    "verification.control_share": 0.5,
    "verification.target_precision": 0.5,
    "verification.early_stop": True,
    "verification.score": "folded",
    "storage.tokens": "bf16",
    "storage.pq_bits": 2.0,
    "storage.codebook": "a" * 64,
    "storage.row_group_bytes": 1000,
    "limits.quarantine_share": 0.5,
    "limits.strict": True,
    "placement.executor": "local",
    "placement.address": "auto",
    "placement.read_tasks": 7,
    "placement.render_tasks": 7,
    "placement.encode_workers": 7,
    "placement.verify_workers": 7,
    "placement.gpus_per_worker": 0.5,
    "placement.cpus_per_worker": 2.0,
    "placement.threads_per_worker": 7,
    "placement.encode_batch": 7,
    "placement.verify_batch": 7,
    "placement.render_batch": 7,
    "placement.shard_batch": 7,
    "placement.object_store_bytes": 10**8,
    "placement.stall_seconds": 60.0,
    "ingest.vanished": "drop",
    "ingest.drop_share": 0.5,
    "ingest.other_settings": "replace",
    "ingest.tries": 7,
    "ingest.batch_units": 7,
    "ingest.batch_bytes": 10**8,
    "ingest.quarantine_documents": 7,
}
"""Every setting with a value that is not its default."""

BY_POLICY = {name for name in CHANGED if name.startswith("tiers.")} - {"tiers.policy", "tiers.mode", "tiers.exact"}
"""Settings that count only where the policy looks at them (test_tiers.py)."""

BY_LAYOUT = {name for name in CHANGED if name.startswith("layout.")} - {"layout.max_escaped_share"}

BY_ITS_EFFECT = BY_POLICY | BY_LAYOUT | {"codec.name", "codec.path", "codec.revision", "codec.content_hash", "storage.pq_bits"}
"""Settings whose effect is in the fingerprint under the name of what they lead to: the layout, the loaded checkpoint, or the
codebook."""

HOW = {"sources", "out", "codec.device", "codec.trust_remote_code", "storage.row_group_bytes"} | {
    f"source.{name}"
    for name in (
        *("unit_bytes", "max_document_chars", "max_metadata_chars", "follow_symlinks"),
        *("unfold_bytes", "unfold_factor", "unfold_rows", "zstd_window"),
    )
}
"""Settings that change how a corpus is made, and nothing of what is in it."""

UNSET = [name for name, field in JobConfig().codec.model_fields.items() if field.default is None]
"""Settings without a default value."""


def names(kind: type[Settings] = JobConfig, path: str = "") -> list[str]:
    """All settings, dotted."""
    found = []
    for name, field in kind.model_fields.items():
        default = field.default
        found += names(type(default), f"{path}{name}.") if isinstance(default, Settings) else [path + name]
    return found


def changed(name: str) -> JobConfig:
    section, _, setting = name.rpartition(".")
    config = JobConfig()
    return config.replace(**({section: {setting: CHANGED[name]}} if section else {setting: CHANGED[name]}))


def test_the_table_above_has_every_setting() -> None:
    assert sorted(CHANGED) == sorted(names())
    default = to_json(JobConfig())
    assert all(to_json(changed(name)) != default for name in CHANGED)


@pytest.mark.parametrize("name", sorted(set(CHANGED) - BY_ITS_EFFECT))
def test_the_fingerprint_changes_with_what_is_made_and_not_with_how(name: str) -> None:
    same = name in HOW or name.startswith(("limits.", "placement.", "ingest."))
    found = fingerprint(changed(name), "layout", "codec", "revision")
    assert (found == fingerprint(JobConfig(), "layout", "codec", "revision")) == same


def test_the_fingerprint_changes_with_the_layout_and_the_checkpoint() -> None:
    found = {
        fingerprint(JobConfig(), *parts)
        for parts in [("l", "c", "r"), ("L", "c", "r"), ("l", "C", "r"), ("l", "c", "R"), ("lc", "", "r")]
    }
    assert len(found) == 5 and all(len(print_) == 16 for print_ in found)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[tiers]\nmod = 'tiny'", "unknown setting tiers.mod = 'tiny'; did you mean tiers.mode?"),
        ("[tier]\nmode = 'tiny'", "did you mean tiers?"),
        ("[limits]\nzzz = 1", "unknown setting limits.zzz = 1; choose one of limits.quarantine_share"),
        ("tiers = 'tiny'", "tiers = 'tiny': expected a section with policy, mode"),
        ("sources = 'folder'", "sources = 'folder': expected a list of strings"),
        ("sources = [1]", r"sources = \[1\]: expected a list of strings"),
        ("[tiers]\nmode = 1", "tiers.mode = 1: expected str, not int"),
        ("[placement]\nread_tasks = 2.0", "placement.read_tasks = 2.0: expected int, not float"),
        ("[placement]\nread_tasks = true", "placement.read_tasks = True: expected int, not bool"),
        ("[verification]\nshare = true", "verification.share = True: expected float, not bool"),
        ("[verification]\nshare = 1.5", "verification.share = 1.5: a share lies between 0 and 1"),
        ("[verification]\nshare = nan", "verification.share = nan: a share lies between 0 and 1"),
        ("[limits]\nquarantine_share = -0.1", "limits.quarantine_share = -0.1: a share"),
        ("[placement]\nencode_workers = 0", "placement.encode_workers = 0: at least 1"),
        ("[placement]\nobject_store_bytes = -1", "placement.object_store_bytes = -1: at least 0"),
        ("[codec]\ndtype = 'float16'", "codec.dtype = 'float16': choose bfloat16 or float32"),
        ("[codec]\ndevice = 'tpu'", "codec.device = 'tpu': choose auto, cpu or cuda"),
        ("[verification]\nreader = 'eyes'", "verification.reader = 'eyes': choose generative or cells"),
        ("[codec]\npath = 1", "codec.path = 1: expected str, not int"),
        ("[storage]\nrow_group_bytes = 0", "storage.row_group_bytes = 0: at least 1"),
        ("[source]\nformat = 'xml'", "source.format = 'xml': choose auto, text, jsonl, parquet, csv or arrow"),
        ("[source]\nunit_bytes = '64XB'", "source.unit_bytes = '64XB': expected bytes, as a number or as text such as 64KB"),
        ("[source]\nunit_bytes = 'KB'", "source.unit_bytes = 'KB': expected bytes"),
        ("[source]\nunit_bytes = '-1KB'", "source.unit_bytes = '-1KB': expected bytes"),
        ("[source]\nunit_bytes = 0.5", "source.unit_bytes = 0.5: expected int, not float"),
        ("[source]\nid_field = 'text'", "source.text_field = 'text': id_field names the same field"),
        ("[source]\ntext_field = ''", "source.text_field = '': name a field of the records"),
        ("[source]\nencoding = 'utf-9'", "source.encoding = 'utf-9': unknown encoding; use a name such as utf-8"),
        ("[source]\nencoding = 'base64'", "source.encoding = 'base64': unknown encoding"),
        ("[source]\nencoding = 'utf-16'", "source.encoding = 'utf-16': the encoding does not contain ASCII"),
        ("[layout]\ngrid = 64", "layout.grid = 64: expected COLUMNSxROWS, for example 64x32"),
        ("[layout]\ngrid = '64'", "layout.grid = '64': expected COLUMNSxROWS, for example 64x32"),
        ("[codec]\nfast = 'no'", "codec.fast = 'no': choose auto, on or off"),
        ("[placement]\ngpus_per_worker = nan", "placement.gpus_per_worker = nan: at least 0"),
        ("[source]\nunit_bytes = 0", "source.unit_bytes = 0: at least 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(tomllib.loads(toml))


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as found:
        parse({"tiers": {"mode": 1, "mod": "tiny"}, "placement": {"read_tasks": 0}, "outt": "corpus"})
    lines = str(found.value).splitlines()
    assert [line.split(" = ")[0] for line in lines] == [
        "tiers.mode",
        "unknown setting tiers.mod",
        "placement.read_tasks",
        "unknown setting outt",
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KB", 64_000), ("64KiB", 65_536), ("1.5 GB", 1_500_000_000), ("2MiB", 2 << 20), ("7", 7), ("7b", 7), ("1TB", 10**12)],
)
def test_sizes_may_have_a_unit(text: str, size: int) -> None:
    assert parse({}, [f"source.unit_bytes={text}"]).source.unit_bytes == size
    assert parse({"placement": {"object_store_bytes": text}}).placement.object_store_bytes == size


def test_a_changed_copy_is_checked_too_and_keeps_the_rest() -> None:
    config = parse({"tiers": {"mode": "small", "undated": "base"}})
    changed_ = config.replace(tiers={"mode": "large"}, out="corpus")
    assert (changed_.tiers.mode, changed_.tiers.undated, changed_.out, config.out) == ("large", "base", "corpus", "")
    with pytest.raises(ConfigError, match="share = 2.0: a share lies between 0 and 1"):
        config.replace(verification={"share": 2.0})
    with pytest.raises(ConfigError, match="unknown setting mod = 'tiny'; did you mean mode?"):
        config.tiers.replace(mod="tiny")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tiers.mode", "--set 'tiers.mode': expected key=value"),
        ("tiers.mod=small", "unknown setting tiers.mod = 'small'; did you mean tiers.mode?"),
        ("tiers.mode.name=small", "'mode' is a setting, not a section"),
        ("=small", "unknown setting  = 'small'; choose one of sources"),
        ("verification.share=half", "verification.share = 'half': expected float, not str"),
        ("placement.read_tasks=", "placement.read_tasks = '': expected int, not str"),
        ("out=2026-01-01", "out = .*2026.*: expected str, not date"),
    ],
)
def test_a_bad_override_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"tiers": {"mode": "tiny"}}, [override])


def test_overrides_are_toml_where_they_can_be_and_later_ones_win() -> None:
    given_ = {"tiers": {"mode": "tiny"}}
    config = parse(given_, ["tiers.mode=small", "tiers.mode=base", 'sources=["a", "b"]', "verification.share=1", "out=a=b"])
    assert (config.tiers.mode, config.sources, config.verification.share, config.out) == ("base", ("a", "b"), 1.0, "a=b")
    assert isinstance(config.verification.share, float)
    assert given_ == {"tiers": {"mode": "tiny"}}


def test_an_unknown_preset_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preset 'locale': no such file; .*local"):
        load("locale")
    with pytest.raises(ConfigError, match=r"preset '.*mine\.toml': no such file"):
        load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[tiers]\nmode = tiny\n", r"mine\.toml: .*line 2"), (b"out = '\xff'", r"mine\.toml: .*utf-8.*position 7")],
)
def test_bad_toml_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(str(preset))


def test_the_presets_of_runs_that_ship_with_the_package_load() -> None:
    presets = [path.stem for path in presets_folder().glob("*.toml") if "[layout]" in path.read_text()]
    assert {"demo", "local"} <= set(presets)
    for preset in presets:
        assert isinstance(load(preset), JobConfig)


def test_every_setting_survives_being_written_as_toml() -> None:
    for name in CHANGED:
        assert parse(tomllib.loads(to_toml(changed(name)))) == changed(name)


@given(text=st.text(st.characters(exclude_categories=["Cs"])), share=st.floats(0, 1))
def test_any_text_and_share_survive_being_written_as_toml(text: str, share: float) -> None:
    config = parse({"out": text, "sources": [text, ""], "verification": {"share": share}, "codec": {"path": text}})
    assert parse(tomllib.loads(to_toml(config))) == config


def test_a_file_name_that_is_not_utf8_can_be_written_as_toml() -> None:
    toml = to_toml(JobConfig(sources=("a\udcffb",)))
    assert parse(tomllib.loads(toml.encode().decode())).sources == ("a\\udcffb",)


def test_the_settings_page_is_the_one_that_the_models_print() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert page == settings_page(), "palimpsest presets --reference > docs/settings.md"
    assert all(f"`{name.rpartition('.')[2]}`" in page for name in names(MemoryConfig))


@pytest.mark.parametrize("preset", [name for name in preset_names() if not name.startswith("codec-")])
def test_a_preset_with_comments_is_the_preset(preset: str) -> None:
    table, _ = read_preset(preset)
    kind = MemoryConfig if preset == "conversations" else JobConfig
    text = commented(table, kind)
    assert load(preset, (), kind) == parse(tomllib.loads(text), (), kind)
    settings_ = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    everything = parse(tomllib.loads(re.sub(rf'^({"|".join(UNSET)}) = ""$', "", settings_, flags=re.MULTILINE)), (), kind)
    assert everything == load(preset, (), kind), "the commented settings are the defaults"
    assert {name.rpartition(".")[2] for name in names(kind)} <= set(re.findall(r"^#?(\w+) = ", text, re.MULTILINE))
