"""Rules for names: which objects of a folder, prefix or glob are sources, and which are passed over.

    hidden       a name that begins with "."; a file that begins with "_" and has no format (`_SUCCESS`); a folder in which a
                 writer keeps its own state (`_temporary`, `_delta_log`). `_posts/` and `_index.md` are texts.
    link         a symbolic link, unless `source.follow_symlinks` is set
    corpus       the output of the job, and every folder or prefix that holds a corpus or a set of memory samples
    sidecar      a data card, a licence or the metadata of a dataset, in a folder with data in it or below it
    no_text      a suffix of images, audio, archives, programs, office documents
    unsupported  any other name that tells no format

A URI that names one object asks for it: only `corpus` is applied there. A step that a glob spells out is not hidden.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from palimpsest.config import SourceConfig
from palimpsest.sources.decompression import COMPRESSIONS
from palimpsest.sources.formats import SOURCES

HIDDEN, LINK, CORPUS, SIDECAR, NO_TEXT, UNSUPPORTED = "hidden", "link", "corpus", "sidecar", "no_text", "unsupported"
RULES = {
    HIDDEN: "hidden",
    LINK: "symbolic links (source.follow_symlinks)",
    CORPUS: "parts of a corpus",
    SIDECAR: "data cards, licences and metadata beside data",
    NO_TEXT: "not text",
    UNSUPPORTED: "of no supported format (source.format)",
}
MARKERS = ("corpus.json", "memory.json")  # what the root of a corpus and of a set of memory samples holds
MARKER_BYTES = 4096  # a marker is smaller
CORPUS_PARTS = frozenset(
    ("_snapshots", "_manifests", "_documents", "_units", "_sets", "_tries", "_ingest", "_codebooks", "_probe", "_running")
    + ("data", "quarantine", "runs", "pages", "samples", *MARKERS)
)  # first steps of the keys in a corpus: only where one occurs, a bucket is asked for a marker

_STATE_FOLDERS = frozenset(
    ("_temporary", "_delta_log", "_delta_index", "_change_data", "_spark_metadata", "_symlink_format_manifest", "_checkpoints")
    + ("__MACOSX", "__pycache__")
)
_SIDECARS = frozenset(
    ("readme", "license", "licence", "copying", "notice", "citation", "authors", "dataset_card", "datasetcard")
    + ("dataset_info", "dataset_infos", "dataset_dict", "state", "croissant", "datapackage", "sha256sums", "md5sums", "checksums")
)
_NO_TEXT = frozenset(
    f".{suffix}"
    for suffixes in (
        "png jpg jpeg gif webp bmp tif tiff ico svg heic psd eps mp3 wav flac ogg m4a mp4 mkv avi mov webm ttf otf woff woff2",
        "zip tar tgz 7z rar jar whl exe dll so dylib o a pyc class wasm iso dmg deb rpm crc md5 sha1 sha256 sha512",
        "pdf doc docx xls xlsx ppt pptx odt ods epub mobi db sqlite sqlite3",
        "pt pth ckpt safetensors gguf onnx npy npz h5 hdf5 pkl pickle",
    )
    for suffix in suffixes.split()
)
_TEXT = SOURCES["text"].extensions
_DATA = tuple(extension for name, source in SOURCES.items() if name != "text" for extension in source.extensions)


@dataclass
class PassedOver:
    """What a listing passed over: how many names, by rule and suffix, with one example each.

    Attributes:
        counts: (rule, suffix) -> names; of the rule `corpus`, folders.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, rule: str, uri: str) -> None:
        key = rule, "" if rule == CORPUS else suffix_of(uri)
        self.counts[key] += 1
        self.examples.setdefault(key, uri.encode("utf-8", "backslashreplace").decode())

    def add_all(self, other: PassedOver) -> None:
        self.counts.update(other.counts)
        self.examples = {**other.examples, **self.examples}

    def __len__(self) -> int:
        return self.counts.total()

    def of(self, rule: str) -> dict[str, int]:
        """Names by suffix, the commonest first; "" is no suffix."""
        return {suffix: number for (name, suffix), number in self.counts.most_common() if name == rule}

    def to_json(self) -> dict[str, Any]:
        """{rule: {"names": N, "suffixes": {suffix: N}, "example": URI}} of the rules that passed something over."""
        found: dict[str, Any] = {}
        for rule in RULES:
            if suffixes := self.of(rule):
                example = self.examples[rule, next(iter(suffixes))]
                found[rule] = {"names": sum(suffixes.values()), "suffixes": suffixes, "example": example}
        return found

    def __str__(self) -> str:
        return passed_over_line(self.to_json())


def passed_over_line(passed: Mapping[str, Any]) -> str:
    """`PassedOver.to_json()` for people: `5 names passed over: 2 hidden, 3 not text (.png 2, .pdf 1)`; "" for none."""
    parts, total = [], 0
    for rule, found in passed.items():
        kinds = ", ".join(f"{suffix or 'no suffix'} {number}" for suffix, number in list(found["suffixes"].items())[:8])
        parts.append(f"{found['names']} {RULES[rule]}" + (f" ({kinds})" if rule in (NO_TEXT, UNSUPPORTED) else ""))
        total += found["names"]
    return f"{total} {'name' if total == 1 else 'names'} passed over: {', '.join(parts)}" if parts else ""


def rule_of(name: str, asked: str, config: SourceConfig) -> str:
    """The rule that passes over the object `name` of a folder or glob; "" for a source, and SIDECAR for one beside data only.

    Args:
        name: path below the folder that was named; for a glob, the whole path.
        asked: the glob; "" for a folder.
    """
    last = name.rpartition("/")[2]
    if is_hidden(name, asked):
        return HIDDEN
    if os.path.splitext(stem_of(last))[1] in _NO_TEXT:
        return NO_TEXT
    if stem_of(last).partition(".")[0] in _SIDECARS and last not in asked.split("/"):
        return SIDECAR
    return rule_of_rest(last, config)


def rule_of_rest(name: str, config: SourceConfig) -> str:
    """The rule for a name to which no other applies: UNSUPPORTED, or "" for a source."""
    return UNSUPPORTED if config.format == "auto" and not _has_format(name) else ""


def is_hidden(name: str, asked: str = "") -> bool:
    """Whether a step of the path `name` is hidden by its name, unless `asked` spells it out."""
    spelled = {"", ".", "..", *asked.split("/")}
    *folders, last = name.split("/")
    if any(step not in spelled and (step.startswith(".") or step in _STATE_FOLDERS) for step in folders):
        return True
    return last not in spelled and (last.startswith(".") or (last.startswith("_") and not _has_format(last)))


def is_data(name: str) -> bool:
    """Whether the name is of a format for records, beside which a README is a data card."""
    return stem_of(name).endswith(_DATA)


def is_marker(content: bytes) -> bool:
    """Whether a file named as one of MARKERS is one: a JSON object whose format is Palimpsest's."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and str(record.get("format", "")).startswith("palimpsest ")


def suffix_of(uri: str) -> str:
    """The suffix of a name, with that of its compression: ".png", ".tar.gz", or "" for none."""
    last = uri.rpartition("/")[2].lower()
    stem, suffix = os.path.splitext(last)
    return os.path.splitext(stem)[1] + suffix if suffix in COMPRESSIONS else suffix


def stem_of(name: str) -> str:
    """The last step in lower case, without the suffix of its compression."""
    last = name.rpartition("/")[2].lower()
    stem, suffix = os.path.splitext(last)
    return stem if suffix in COMPRESSIONS else last


def _has_format(last: str) -> bool:
    return stem_of(last).endswith((*_TEXT, *_DATA))
