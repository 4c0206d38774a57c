"""The settings of a job.

    [source] [layout] [codec] [tiers] [verification] [storage]     the corpus: part of the fingerprint (flow/recipe.py)
    [limits] [placement] [ingest]                                  how it is made: not part of it

so that a bigger cluster resumes the same run, and a changed layout never mixes with an old one. docs/settings.md lists them all.
"""

from __future__ import annotations

import codecs
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, overload

from pydantic import Field, ValidationInfo, field_validator, model_validator

from palimpsest import settings as base
from palimpsest.settings import (
    Amount,
    ConfigError,
    Count,
    Date,
    Number,
    Settings,
    Share,
    Size,
    SizeOrNone,
    Texts,
    to_json,
    to_toml,
)
from palimpsest.settings import Path as FileName
from palimpsest.settings import Paths as FileNames

__all__ = ["ConfigError", "JobConfig", "load", "parse", "to_json", "to_toml"]

MIB = 1 << 20
Format = Literal["auto", "text", "jsonl", "parquet", "csv", "arrow"]


class SourceConfig(Settings):
    """Where the fields of a record are, and the limits.

    A record must have its text. The other fields are optional: absent, null, "" or NaN is null, and `bad_metadata` says what
    happens to a value that cannot be used. A field `doc.text` is the field `text` of the object `doc`, and a folder
    `dt=2024-01-01/` gives the records below it a field `dt`.
    """

    text_field: str = "text"
    """Field with the text."""
    id_field: str = "id"
    """Field with the corpus's own id of a document."""
    timestamp_field: str = "timestamp"
    """Field with the time of a document."""
    importance_field: str = "importance"
    """Field with the importance of a document, from 0 to 1."""
    class_field: str = "text_class"
    """Field with the text class, which reports are split by."""
    text_template: str = ""
    """Text of several fields, instead of `text_field`: "{title}\\n\\n{doc.body}". A missing field is empty."""
    carry: Texts = ()
    """Fields that go through to the column `extra`, for example ["licence", "language", "url"]."""
    bad_metadata: Literal["null", "quarantine"] = "null"
    """What becomes of a record with optional metadata that cannot be used: published with null there, or quarantined."""
    max_metadata_chars: Count = 4096
    """A longer id, class or carried value cannot be used, in characters."""
    encoding: str = "utf-8"
    """Encoding of text files, JSON and CSV; one in which a line feed is the byte 0x0A."""
    format: Format = "auto"
    """"auto" goes by the file name; any other treats every object as that format."""
    unit_bytes: Size = 64 * MIB
    """Size of the slices of a big object, in its stored bytes."""
    max_document_chars: Count = 8 * MIB
    """A longer document is quarantined as "too_large" without being read into memory, in characters: 8Mi are two Bibles."""
    unfold_bytes: Size = 256 * MIB
    """Bytes that every object may unfold to when it is decompressed or decoded, and `unfold_factor` times its own size more."""
    unfold_factor: Count = 200
    """Times its stored bytes that an object may unfold to, besides `unfold_bytes`."""
    unfold_rows: Count = 1_000_000
    """Records that every object may hold, and one more for each of its bytes."""
    zstd_window: Annotated[Size, Field(le=1 << 31)] = 256 * MIB
    """Largest window of a zstd stream, which a reader holds in memory; `zstd --long=31` needs 2GiB."""
    follow_symlinks: bool = False
    """Read also what symbolic links below a folder or in a glob lead to; a link that a source names is always followed."""

    @field_validator("encoding")
    @classmethod
    def _contains_ascii(cls, encoding: str) -> str:
        try:
            line_feed = "\n".encode(encoding)  # refuses codecs that are no text encodings, such as base64
        except LookupError:
            raise ValueError("unknown encoding; use a name such as utf-8 or latin-1") from None
        if line_feed not in (b"\n", codecs.BOM_UTF8 + b"\n"):
            raise ValueError("the encoding does not contain ASCII; UTF-16 text is recognised by its byte-order mark")
        return encoding

    @model_validator(mode="after")
    def _fields_differ(self) -> SourceConfig:
        names = [(name, getattr(self, name)) for name in type(self).model_fields if name.endswith("_field")]
        for name, value in names:
            if not value:
                raise ValueError(f"{name} = '': name a field of the records")
            if other := next((other for other, used in names if used == value and other != name), None):
                raise ValueError(f"{name} = {value!r}: {other} names the same field; a field can mean one thing only")
        return self

    @field_validator("text_template")
    @classmethod
    def _names_fields(cls, template: str) -> str:
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"{error}; write fields in braces, and a brace itself twice") from None
        if any(form or conversion for _, _, form, conversion in parts) or any(name == "" for _, name, _, _ in parts):
            raise ValueError("expected names of fields in braces and nothing else there, for example {title}: {body}")
        if template and not any(name for _, name, _, _ in parts):
            raise ValueError("it names no field; write fields in braces, for example {title}: {body}")
        return template

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")

    @property
    def charset(self) -> str:
        """Name of the encoding without a byte-order mark, which readers drop themselves."""
        return "utf-8" if self.is_utf8 else self.encoding


class LayoutConfig(Settings):
    """How text is laid out on a page.

    Sizes of layout document are in 1/900 of the page's width; the defaults are the layout of the public DeepSeek-OCR readings.
    """

    name: Literal["codec", "grid", "document"] = "codec"
    """`grid` is for codecs trained on its cells, `document` for models that read documents; "codec" takes the codec's."""
    grid: str = "64x32"
    """Density of layout grid: COLUMNSxROWS of cells on a page. With "96x48+112x56" a document that is one page only on a denser
    grid takes that one; longer ones take the first."""
    alphabet: str = "codec"
    """Characters that are drawn; others are written as escapes. "codec" takes what the codec reads."""
    font_size: Annotated[float, Field(ge=6, le=200)] = 16.0
    """Of layout document: size of the em."""
    padding: Annotated[float, Field(ge=0, le=200)] = 20.0
    """Of layout document: white border on each side; at least half of font_size."""
    line_spacing: Annotated[float, Field(ge=0, le=200)] = 4.0
    """Of layout document: space between two lines of Latin text; scripts with taller letters get more."""
    newline: Literal["break", "glyph"] = "break"
    """Of layout document: a newline ends the line, or is drawn as a pilcrow and text flows on."""
    font: Literal["class", "sans", "mono"] = "class"
    """Of layout document: "class" is monospaced for code and tables, else proportional."""
    cjk_font: str = "auto"
    """Of layout document: "auto" finds the font of palimpsest[cjk] or Debian's fonts-noto-cjk; a path; or "none"."""
    max_escaped_share: Share = 0.05
    """A page on which more characters than this need an escape gets tier text."""

    @field_validator("grid", mode="before")
    @classmethod
    def _columns_and_rows(cls, grid: Any) -> Any:
        if not isinstance(grid, str) or not re.fullmatch(r"\d+x\d+(\+\d+x\d+)*", grid):
            raise ValueError("expected COLUMNSxROWS, for example 64x32 or 96x48+112x56")
        return grid

    @field_validator("padding")
    @classmethod
    def _room_for_accents(cls, padding: float, info: ValidationInfo) -> float:
        if padding < 0.5 * info.data.get("font_size", 0):
            raise ValueError("must be at least half of layout.font_size, so that no accent is cut")
        return padding


class CodecConfig(Settings):
    """The codec that encodes and decodes."""

    name: str = "embedded"
    """A preset of `palimpsest.codecs.presets`, or "auto" for any checkpoint that the adapter knows."""
    path: FileName | None = None
    """Folder with the checkpoint, instead of the package's or the hub cache's."""
    revision: str | None = None
    """Revision that the checkpoint must have."""
    content_hash: str | None = None
    """Content hash that the checkpoint must have."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of the computation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; "auto" is cuda where there is one."""
    trust_remote_code: bool = False
    """Run Python code that the checkpoint brings."""
    fast: Literal["auto", "on", "off"] = "auto"
    """The fast encoder: "auto" where the architecture fits, "on" (else an error) or "off"."""
    prompt: str | None = None
    """Text that asks the decoder, with one "<image>" in it. None: the codec preset's, like the settings that follow."""
    chat_template: str | None = None
    """Jinja text into which the prompt goes as a user's message; "checkpoint" for the checkpoint's own, "" for none."""
    system: str | None = None
    """Text of a system message; without a chat template it goes before the prompt."""
    bos: bool | None = None
    """Whether the beginning-of-sequence id comes first."""
    max_new_tokens: Count | None = None
    """Most tokens that the decoder may write for a page; a page that it has not ended then has the status "unfinished"."""
    dialect: str | None = None
    """What the decoder writes around the text, undone before scoring: plain or document."""


class TierConfig(Settings):
    """Which tier a page gets: a mode, or plain text."""

    policy: str = "fixed"
    """fixed, age, importance, fidelity or forget, or several joined by "+" (see `palimpsest.tiers`)."""
    mode: str = "tiny"
    """Mode that policy fixed gives to every page."""
    modes: Texts = ()
    """Modes that a page may get. Empty: those that were measured to be worth it (see `predictor`), or else all."""
    as_of: Date = ""
    """The current time for policies that look at the age: a date or time in ISO 8601."""
    ages: Texts = ()
    """Steps of policy age, as "AGE TIER", for example "1w base". Empty: the figure of the DeepSeek-OCR paper."""
    undated: str = "text"
    """Tier of a page without a timestamp."""
    hold_importance: float = 0.5
    """Documents at least this important stay `hold_steps` tiers above their age's."""
    hold_steps: int = 1
    """Number of tiers by which important documents are held back."""
    pin_importance: float = 0.9
    """Documents at least this important stay text."""
    forget_after: str = "10y"
    """Age from which policy forget drops the text."""
    predictor: str = ""
    """Rungs file: which modes are worth giving to a page, and what predicts verdicts for policy fidelity. "none" for none, "" for
    the one that comes with the codec."""
    cheap_text: bool = True
    """Keep a page as text if its text costs no more than its tokens would, whatever the policy."""
    exact: Literal["none", "identifiers", "all"] = "none"
    """Misread words that are kept as a short text with the page, counted in its context tokens: none, identifiers (words with
    digits, signs or mixed case), or all."""


class VerificationConfig(Settings):
    """What is read back, and how well it must read."""

    reader: Literal["generative", "cells"] = "generative"
    """Decoder that reads back; "cells" only for a codec that has a cell reader."""
    share: Share = 1.0
    """Share of the pages that is decoded, chosen by page id; the others are "unverified"."""
    control_share: Share = 0.02
    """Share of the verified pages whose blank-page control is decoded too."""
    target_precision: Share = 0.9
    """Pages below this precision get the status "below_target"; 0 asks for nothing."""
    score: Literal["auto", "raw", "folded", "set"] = "auto"
    """Precision that is compared with the target: of the output as it was written (raw), under the codec's dialect (folded), or
    of its distinct words (set). "auto" is what the codec was made for: raw for the embedded one, folded for pretrained ones."""
    early_stop: bool = False
    """Stop decoding a page once it provably cannot reach the target; its precision is then an upper bound. Score raw only."""


class StorageConfig(Settings):
    """How rows are stored."""

    tokens: str = "int8"
    """Token storage: int8, bf16, int4 (half of int8), pq (a codebook that is fitted to the corpus, `pq_bits` for each channel),
    or none (text and layout alone; who needs the tokens encodes the page again)."""
    pq_bits: Annotated[float, Field(ge=0.5, le=6)] = 3.0
    """Bits of a channel under pq, on average, when a codebook is fitted."""
    codebook: str = ""
    """sha256 of the codebook of the corpus under pq; empty: the one of this codec and layout, which the first run fits."""
    row_group_bytes: Size = 2 * MIB
    """Size of a Parquet row group before compression."""


class LimitsConfig(Settings):
    """When a run fails."""

    quarantine_share: Share = 0.01
    """Largest share of the documents that may be quarantined; an object that is mostly bad counts as one document."""
    strict: bool = False
    """Fail where a field that was set explicitly occurs in no document, instead of ending with findings."""


class IngestConfig(Settings):
    """What `palimpsest ingest` does about changes; none of it changes a byte of the result."""

    vanished: Literal["keep", "drop"] = "keep"
    """What happens to the pages of objects that are published but no longer listed."""
    drop_share: Share = 0.1
    """Largest share of the published objects below the sources that one pass may drop."""
    other_settings: Literal["keep", "replace"] = "keep"
    """What happens to unchanged objects that are published under another fingerprint."""
    tries: Count = 3
    """Passes that try an object that cannot be read, before this version of it is given up."""
    batch_units: Count = 1000
    """Units that are processed and published together, about."""
    batch_bytes: Size = 1 << 30
    """Stored bytes that are processed and published together, about."""
    quarantine_documents: Number = 10
    """Quarantined documents that a pass may have whatever `limits.quarantine_share` is."""


class PlacementConfig(Settings):
    """Where and how wide the work runs; none of it changes a byte of the result."""

    executor: Literal["ray", "local"] = "ray"
    """What runs the stages: Ray, or this process alone ("local": no Ray, no isolation of documents that end a process)."""
    address: str = "local"
    """Address of a running Ray cluster ("auto" or ray://…); "local" starts one for this job."""
    read_tasks: Count = 2
    """Read tasks at a time, at most."""
    render_tasks: Count = 2
    """Render tasks at a time, at most."""
    encode_workers: Count = 1
    """Actors that encode."""
    verify_workers: Count = 1
    """Actors that verify."""
    gpus_per_worker: Amount = 0.0
    """GPUs of each model actor; 0 for none."""
    cpus_per_worker: Amount = 0.5
    """CPUs that Ray reserves for each model actor."""
    threads_per_worker: Number = 0
    """Threads of each model actor; 0 leaves it to Ray, which gives one per reserved CPU."""
    encode_batch: Count = 8
    """Pages per call of the encoder on a GPU, at most; a probe finds how many. A CPU takes one by one."""
    verify_batch: Count = 16
    """Pages per call of the decoder on a GPU, at most; a probe finds how many. A CPU takes one by one."""
    render_batch: Count = 32
    """Pages per block of images."""
    shard_batch: Count = 512
    """Pages that a shard gathers, at most."""
    object_store_bytes: SizeOrNone = 0
    """Size of a local Ray's object store; 0 leaves it to Ray."""
    stall_seconds: Amount = 1800.0
    """A run without progress for this long fails, instead of waiting for machines that never come."""


class JobConfig(Settings):
    """A whole job. `sources` and `out` can be given in the preset or on the command line."""

    sources: FileNames = ()
    """Files, folders, globs or URIs to read."""
    out: FileName = ""
    """The corpus to write: a folder or an s3:// URI."""
    source: SourceConfig = SourceConfig()
    layout: LayoutConfig = LayoutConfig()
    codec: CodecConfig = CodecConfig()
    tiers: TierConfig = TierConfig()
    verification: VerificationConfig = VerificationConfig()
    storage: StorageConfig = StorageConfig()
    limits: LimitsConfig = LimitsConfig()
    placement: PlacementConfig = PlacementConfig()
    ingest: IngestConfig = IngestConfig()


@overload
def parse(settings: Mapping[str, Any], overrides: Iterable[str] = ()) -> JobConfig: ...
@overload
def parse(settings: Mapping[str, Any], overrides: Iterable[str] = (), *, kind: type[base.Kind]) -> base.Kind: ...
@overload
def parse(settings: Mapping[str, Any], overrides: Iterable[str], kind: type[base.Kind]) -> base.Kind: ...
def parse(settings: Mapping[str, Any], overrides: Iterable[str] = (), kind: type[Any] = JobConfig) -> Any:
    """Settings from parsed TOML and `key=value` overrides (`settings.parse`), of a job where no other kind is named."""
    return base.parse(settings, overrides, kind)


@overload
def load(preset: str, overrides: Sequence[str] = ()) -> JobConfig: ...
@overload
def load(preset: str, overrides: Sequence[str], kind: type[base.Kind]) -> base.Kind: ...
def load(preset: str, overrides: Sequence[str] = (), kind: type[Any] = JobConfig) -> Any:
    """The configuration of a preset: a path to a TOML file, or the name of one that comes with Palimpsest.

    Raises:
        ConfigError: for an unknown preset, with the choices; for bad TOML, with line and column.
    """
    return parse(base.read_preset(preset)[0], overrides, kind)
