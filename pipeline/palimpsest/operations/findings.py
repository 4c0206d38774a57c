"""Findings about sources: objects that are mostly bad, metadata that could not be used, fields that never occur.

A finding does not stop the rest: the command ends with exit code 3, or fails under `limits.strict`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from palimpsest.config import SourceConfig
from palimpsest.corpus.units import CommitRecord, Counts
from palimpsest.errors import UsageError
from palimpsest.sources.columns import doubled_column, missing_column
from palimpsest.sources.documents import Unusable
from palimpsest.sources.fields import partitions, text_fields
from palimpsest.sources.formats import COLUMNS, format_name
from palimpsest.sources.objects import SourceObject

_LOOKED_AT = 8  # objects, before the fields of a job are called wrong
_OPTIONAL = ("id_field", "timestamp_field", "importance_field", "class_field")


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """An object of which more than half of the records are quarantined: one finding, whatever their number. It is read again when
    its version changes; its good records are published."""

    source_uri: str
    quarantined: int
    documents: int

    def __str__(self) -> str:
        return (
            f"{self.source_uri}: {self.quarantined:,} of {self.documents:,} records are quarantined; read again when it changes"
        )


def judge(records: Iterable[CommitRecord]) -> tuple[Counts, tuple[SetAside, ...]]:
    """Counts for the limit of the quarantine, and the objects that are mostly bad: each counts as one quarantined document."""
    by_source: dict[str, Counts] = {}
    for record in records:
        by_source[record.source_uri] = by_source.get(record.source_uri, Counts()) + record.counts
    bad = {uri: counts for uri, counts in by_source.items() if 2 * counts.documents_quarantined > counts.documents_in}
    total = sum((counts for uri, counts in by_source.items() if uri not in bad), Counts())
    total += Counts(documents_in=len(bad), documents_quarantined=len(bad))
    found = (
        SetAside(source_uri=uri, quarantined=counts.documents_quarantined, documents=counts.documents_in)
        for uri, counts in bad.items()
    )
    return total, tuple(found)


@dataclass
class Metadata:
    """Counts of the optional metadata that was read.

    Attributes:
        documents: that were read.
        nulled: values that could not be used, by reason.
        present: documents that have a field, by field.
    """

    documents: int = 0
    nulled: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)

    def add(self, read: Mapping[str, object]) -> None:
        """Take in the counts of a unit's end."""
        self.documents += sum(cast(int, read.get(name) or 0) for name in ("documents", "duplicates"))
        for name, counter in (("nulled", self.nulled), ("present", self.present)):
            counter.update(dict(cast(Iterable[tuple[str, int]], read.get(name) or ())))

    def add_all(self, other: Metadata) -> None:
        self.documents += other.documents
        self.nulled.update(other.nulled)
        self.present.update(other.present)


def absent_fields(config: SourceConfig, metadata: Metadata) -> tuple[str, ...]:
    """A message for every optional field that was set explicitly and occurs in no document that was read."""
    if not metadata.documents:
        return ()
    default = SourceConfig()
    chosen = {f"source.{name}": getattr(config, name) for name in _OPTIONAL if getattr(config, name) != getattr(default, name)}
    named = [*chosen.items(), *(("source.carry", name) for name in config.carry)]
    return tuple(
        f"{setting} = {value!r} occurs in none of {metadata.documents:,} documents"
        for setting, value in named
        if not metadata.present[value]
    )


def check_fields(objects: Iterable[SourceObject], config: SourceConfig) -> None:
    """Refuse a job whose text field is in none of the first objects that have fields, before any work is done.

    Raises:
        ValueError: naming the first object, its real columns and the setting.
    """
    problem = ""
    for looked_at, item in enumerate(objects):
        name = format_name(item.uri, config)
        if looked_at == _LOOKED_AT:
            break
        if name not in COLUMNS:
            return  # a text file has no fields: there is something to read
        try:
            columns = COLUMNS[name](item, config)
        except Unusable:
            continue  # reading it will say what is wrong with it, in a row
        known = {*columns, *partitions(item.key)}
        doubled = doubled_column(columns, item.uri, config)
        if not doubled and any(field in known or field.partition(".")[0] in known for field in text_fields(config)):
            return
        problem = problem or doubled or missing_column(columns, item.uri, config)
    if problem:
        raise UsageError(f"{problem.removesuffix('.')}. Nothing was done")
