"""The configuration of a job: strict TOML into frozen dataclasses, and the fingerprint of what changes the bytes.

    [source] [layout] [codec] [tiers] [verification] [storage]     what is made: part of the fingerprint
    [limits] [placement] [ingest]                                  how it runs: not part of it

so that a bigger cluster resumes the same run, and a changed layout never mixes with an old one.
"""

from __future__ import annotations

import codecs
import copy
import difflib
import hashlib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

DATE = "date"  # in a field's metadata: a text that TOML may give as a date, without quotation marks


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names it, its value and the choices."""


def build(cls: type, table: Mapping[str, Any], path: str = "") -> Any:
    """The dataclass that `table` describes, sections within sections.

    Args:
        path: of the section, with a dot behind it, for messages.

    Raises:
        ConfigError: naming the setting, the value and the choices.
    """
    known = typing.get_type_hints(cls)
    dated = {field.name for field in fields(cls) if DATE in field.metadata}
    values: dict[str, Any] = {}
    for name, value in table.items():
        where = f"{path}{name}"
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {path}{near[0]}?" if near else f"choose one of {', '.join(path + k for k in known)}"
            raise ConfigError(f"unknown setting {where} = {value!r}; {hint}")
        if name in dated and isinstance(value, date):  # a datetime is one too
            value = value.isoformat()
        values[name] = _convert(known[name], value, where)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:  # of a section that checks itself; it does not know what it is called here
        raise ConfigError(f"{path}{error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} = {value!r}: expected a section with {', '.join(f.name for f in fields(kind))}")
        return build(typing.cast(type, kind), value, f"{where}.")
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        if is_dataclass(item_kind):
            if not isinstance(value, list):
                raise ConfigError(f"{where} = {value!r}: expected a list of tables")
            return tuple(_convert(item_kind, item, f"{where}[{place}]") for place, item in enumerate(value))
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{where} = {value!r}: expected a list of strings")
        return tuple(value)
    if isinstance(kind, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return value if value is None else _convert(kinds[0], value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} = {value!r}: expected {kind.__name__}, not {type(value).__name__}")
    return value


MIB = 1 << 20
FORMATS = ("auto", "text", "jsonl", "parquet")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which fields of a record mean what, and the bounds.

    The text field is required. The others are optional: absent or null is null; present and unusable quarantines the record.

    Attributes:
        format: "auto" goes by the file name; any other treats every object as that format.
        encoding: of text files and JSON lines; one in which a line feed is the byte 0x0A.
        unit_bytes: size of the slices of a big object, in its stored bytes.
        max_document_chars: a longer document is quarantined as "too_large", without being held.

    Raises:
        ValueError: naming the setting, its value and the choices.
    """

    text_field: str = "text"
    id_field: str = "id"
    timestamp_field: str = "timestamp"
    importance_field: str = "importance"
    class_field: str = "text_class"
    encoding: str = "utf-8"
    format: str = "auto"
    unit_bytes: int = 64 * MIB
    max_document_chars: int = 256 * MIB

    def __post_init__(self) -> None:
        names = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name.endswith("_field")]
        for name, value in names:
            if not value:
                raise ValueError(f"{name} is empty; it must name a field of the records")
            if [other for _, other in names].count(value) > 1:
                raise ValueError(f"{name}={value!r} is the field of another setting too; each field can mean one thing")
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r} is unknown; choose one of {', '.join(FORMATS)}")
        for name in ("unit_bytes", "max_document_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        try:
            line_feed = "\n".encode(self.encoding)  # refuses codecs that are no text encodings, such as base64
        except LookupError:
            raise ValueError(f"encoding={self.encoding!r} is unknown; use a name such as utf-8 or latin-1") from None
        if line_feed != b"\n":
            raise ValueError(f"encoding={self.encoding!r} does not contain ASCII; UTF-16 text is known by its byte-order mark")

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name == "utf-8"


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """How text is laid out.

    Attributes:
        grid: COLUMNSxROWS, the density of the corpus.
        alphabet: which characters are drawn; others are written as escapes. "codec" takes what the codec reads.
        max_escaped_share: a page on which more characters than this need an escape goes to tier text.
    """

    grid: str = "64x32"
    alphabet: str = "codec"
    max_escaped_share: float = 0.05


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Which codec encodes and decodes.

    Attributes:
        name: a preset of `palimpsest.codecs.presets`.
        path: folder with the checkpoint, instead of the package's or the hub cache's.
        revision, content_hash: what the checkpoint must be.
        dtype: of the computation, bfloat16 or float32.
        device: "auto" (cuda where there is one), "cpu" or "cuda".
        trust_remote_code: run Python code that the checkpoint brings.
        fast: the fast encoder: "auto" where the architecture fits, "on" (else an error) or "off".
    """

    name: str = "embedded"
    path: str | None = None
    revision: str | None = None
    content_hash: str | None = None
    dtype: str = "bfloat16"
    device: str = "auto"
    trust_remote_code: bool = False
    fast: str = "auto"


@dataclass(frozen=True, kw_only=True)
class TierConfig:
    """Which tier a page gets: a mode, or plain text.

    Attributes:
        policy: fixed, age, importance, fidelity or forget, or several joined by "+" (see `palimpsest.tiers`).
        mode: of policy fixed.
        modes: that a page may get; where none is named, those that were measured to be worth it (see `predictor`), or else all.
        as_of: what time it is, for policies that look at the age: a date or time in ISO 8601.
        ages: of policy age, as "AGE TIER", for example "1w base"; DeepSeek-OCR's figure where none is named.
        undated: tier of a page without a timestamp.
        hold_importance, hold_steps: documents at least this important are held back by so many tiers.
        pin_importance: documents at least this important stay text.
        forget_after: age from which policy forget drops the text.
        predictor: rungs file: which modes are worth giving to a page, and what predicts verdicts for policy fidelity; "none" for
            none, "" for the one that comes with the codec.
        cheap_text: with policy fidelity, a page whose text costs no more than its tokens would is kept as text.
    """

    policy: str = "fixed"
    mode: str = "tiny"
    modes: tuple[str, ...] = ()
    as_of: str = field(default="", metadata={DATE: True})
    ages: tuple[str, ...] = ()
    undated: str = "text"
    hold_importance: float = 0.5
    hold_steps: int = 1
    pin_importance: float = 0.9
    forget_after: str = "10y"
    predictor: str = ""
    cheap_text: bool = True


@dataclass(frozen=True, kw_only=True)
class VerificationConfig:
    """What is read back and what is demanded of it.

    Attributes:
        reader: the decoder that reads back: "generative", or "cells" for a codec that has a cell reader.
        share: share of the pages that is decoded, chosen by page id; the others are "unverified".
        control_share: share of the verified pages whose blank-page control is decoded too.
        target_precision: pages below it get the status "below_target"; 0 asks for nothing.
        early_stop: stop decoding a page once it provably cannot reach the target; its precision is then an upper bound.
    """

    reader: str = "generative"
    share: float = 1.0
    control_share: float = 0.02
    target_precision: float = 0.9
    early_stop: bool = False


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How rows are stored.

    Attributes:
        tokens: token storage, int8 or bf16.
        row_group_bytes: size of a Parquet row group before compression.
    """

    tokens: str = "int8"
    row_group_bytes: int = 32 << 20


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """When a run fails.

    Attributes:
        quarantine_share: largest share of the documents that may be quarantined.
    """

    quarantine_share: float = 0.01


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How `palimpsest ingest` deals with what changed; none of it changes a byte of the result.

    Attributes:
        vanished: objects that are published but no longer listed: "keep" their pages, or "drop" them.
        drop_share: largest share of the published objects below the sources that one pass may drop.
        other_settings: objects that are published as they are, but under another fingerprint: "keep", or "replace".
        tries: passes that try an object that cannot be read, before it is given up in this version.
        batch_units, batch_bytes: units and stored bytes that are processed and published together, about.
        quarantine_documents: quarantined documents that a pass may have whatever `limits.quarantine_share` says.
    """

    vanished: str = "keep"
    drop_share: float = 0.1
    other_settings: str = "keep"
    tries: int = 3
    batch_units: int = 1000
    batch_bytes: int = 1 << 30
    quarantine_documents: int = 10

    def __post_init__(self) -> None:
        for name, choices in (("vanished", ("keep", "drop")), ("other_settings", ("keep", "replace"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"ingest.{name} = {getattr(self, name)!r}: choose {' or '.join(choices)}")
        for name in ("tries", "batch_units", "batch_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ingest.{name} = {getattr(self, name)}: at least 1")
        if self.quarantine_documents < 0:
            raise ConfigError(f"ingest.quarantine_documents = {self.quarantine_documents}: at least 0")
        if not 0 <= self.drop_share <= 1:
            raise ConfigError(f"ingest.drop_share = {self.drop_share}: a share lies between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """How the work is spread; none of it changes a byte of the result.

    Attributes:
        address: of a running Ray cluster ("auto" or ray://…); "local" starts one for this job.
        read_tasks, render_tasks: most tasks at a time.
        encode_workers, verify_workers: actors.
        gpus_per_worker: GPUs of each model actor (0 for none).
        cpus_per_worker: CPUs that Ray reserves for each model actor.
        threads_per_worker: threads of each model actor; 0 leaves it to Ray, which gives one per reserved CPU.
        encode_batch, verify_batch: pages per call of the model on a GPU at most; a probe finds how many. A CPU takes one by one.
        render_batch: pages per image block.
        shard_batch: pages that a shard gathers at most.
        object_store_bytes: size of a local Ray's object store; 0 leaves it to Ray.
        stall_seconds: a run in which nothing moves for this long fails, instead of waiting for machines that never come.
    """

    address: str = "local"
    read_tasks: int = 2
    render_tasks: int = 2
    encode_workers: int = 1
    verify_workers: int = 1
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 0.5
    threads_per_worker: int = 0
    encode_batch: int = 8
    verify_batch: int = 16
    render_batch: int = 32
    shard_batch: int = 512
    object_store_bytes: int = 0
    stall_seconds: float = 1800.0


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """A whole job. `sources` and `out` may stand in the preset or on the command line."""

    sources: tuple[str, ...] = ()
    out: str = ""
    source: SourceConfig = field(default_factory=SourceConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    tiers: TierConfig = field(default_factory=TierConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)

    def __post_init__(self) -> None:
        shares = {
            "layout.max_escaped_share": self.layout.max_escaped_share,
            "verification.share": self.verification.share,
            "verification.control_share": self.verification.control_share,
            "verification.target_precision": self.verification.target_precision,
            "limits.quarantine_share": self.limits.quarantine_share,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} = {value}: a share lies between 0 and 1")
        for setting in fields(PlacementConfig):
            value = getattr(self.placement, setting.name)
            least = 1 if setting.name.endswith(("_tasks", "_workers", "_batch")) else 0
            if isinstance(value, int | float) and value < least:
                raise ConfigError(f"placement.{setting.name} = {value}: at least {least}")
        if self.storage.row_group_bytes < 1:
            raise ConfigError(f"storage.row_group_bytes = {self.storage.row_group_bytes}: at least 1")
        if self.codec.dtype not in ("bfloat16", "float32"):
            raise ConfigError(f"codec.dtype = {self.codec.dtype!r}: choose bfloat16 or float32")
        if self.verification.reader not in ("generative", "cells"):
            raise ConfigError(f"verification.reader = {self.verification.reader!r}: choose generative or cells")
        if self.codec.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"codec.device = {self.codec.device!r}: choose auto, cpu or cuda")


Settings = TypeVar("Settings")


def parse(
    settings: Mapping[str, Any],
    overrides: Iterable[str] = (),
    kind: type[Settings] = JobConfig,  # type: ignore[assignment]
) -> Settings:
    """A configuration from parsed TOML and `key=value` overrides.

    An override's value is TOML where it parses as TOML, else the text itself: `tiers.mode=small`, `verification.share=0.1`.

    Args:
        kind: the dataclass to build.

    Raises:
        ConfigError: naming the setting, the value and the choices.
    """
    merged = copy.deepcopy(dict(settings))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r}: expected key=value, for example tiers.mode=small")
        *sections, name = key.strip().split(".")
        table = merged
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {override!r}: {section!r} is a setting, not a section")
        try:
            table[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            table[name] = text
    return build(kind, merged)


def load(preset: str, overrides: Sequence[str] = (), kind: type[Settings] = JobConfig) -> Settings:  # type: ignore[assignment]
    """The configuration of a preset: a path to a TOML file, or the name of one that comes with Palimpsest.

    Raises:
        ConfigError: for an unknown preset, with the choices; for bad TOML, with the place.
    """
    path = Path(preset) if preset.endswith(".toml") else presets_folder() / f"{preset}.toml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in presets_folder().glob("*.toml")))
        raise ConfigError(f"preset {preset!r}: no such file; presets that come with Palimpsest: {names}")
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset {path}: {error}") from error
    return parse(settings, overrides, kind)


def presets_folder() -> Path:
    """Where the presets that come with Palimpsest lie."""
    return Path(__file__).parent / "presets"


def to_json(config: JobConfig) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    return json.loads(json.dumps(asdict(config)))


def to_toml(config: JobConfig) -> str:
    """The configuration as TOML that `parse` reads back, for the run record.

    Bytes of a file name that are not UTF-8 cannot stand in TOML; they are written as what Python shows for them.
    """

    def line(name: str, value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        text = re.sub("[\ud800-\udfff]", lambda lone: f"\\\\u{ord(lone[0]):04x}", text)
        return f"{name} = {text}\n"

    settings = to_json(config)
    top = "".join(line(k, v) for k, v in settings.items() if not isinstance(v, dict))
    sections = (
        f"\n[{name}]\n" + "".join(line(k, v) for k, v in table.items() if v is not None)
        for name, table in settings.items()
        if isinstance(table, dict)
    )
    return top + "".join(sections)


def fingerprint(config: JobConfig, layout: str, codec: str, revision: str) -> str:
    """16 hexadecimal digits over everything that changes the bytes of a shard.

    Args:
        layout: fingerprint of the layout (rules, versions, fonts, grid).
        codec, revision: of the loaded checkpoint.
    """
    what = to_json(replace(config, sources=(), out=""))
    for how in ("limits", "placement", "ingest"):
        del what[how]
    for how in ("unit_bytes", "max_document_chars"):
        del what["source"][how]
    what["codec"] = {"id": codec, "revision": revision, "dtype": config.codec.dtype, "fast": config.codec.fast}
    what["layout"] = {"fingerprint": layout, "max_escaped_share": config.layout.max_escaped_share}
    del what["storage"]["row_group_bytes"]
    what["tiers"] = tier_identity(config.tiers)
    canonical = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


_TIER_SETTINGS = {
    "fixed": ("mode",),
    "age": ("as_of", "ages", "undated"),
    "forget": ("as_of", "forget_after"),
    "importance": ("hold_importance", "hold_steps", "pin_importance"),
    "fidelity": ("predictor", "cheap_text"),
}


def tier_identity(tiers: TierConfig) -> dict[str, Any]:
    """The settings that change what the policy does with a page; of policy "fixed" only the mode, as it always was."""
    if tiers.policy == "fixed":
        return {"mode": tiers.mode}
    names = {name.strip() for name in tiers.policy.split("+")}
    if not names & {"age", "fixed"} and names != {"fidelity"}:
        names.add("fixed")
    settings = sorted({setting for name in names for setting in _TIER_SETTINGS.get(name, ())} | {"modes"})
    return {"policy": sorted(names), **{setting: getattr(tiers, setting) for setting in settings}}
