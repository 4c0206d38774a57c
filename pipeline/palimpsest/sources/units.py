"""A unit: one source object, or a fixed slice of a big one; and what a format must do with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from palimpsest.config import SourceConfig
from palimpsest.sources.documents import Document, Rejected
from palimpsest.sources.objects import SourceObject


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The smallest piece of work that is committed whole.

    Attributes:
        span: first and past the last of what the format slices by (bytes, row groups); None for the whole object.
    """

    object: SourceObject
    span: tuple[int, int] | None = None

    @property
    def slice(self) -> str:
        """The name of the slice in commit records and unit ids: "" for the whole object."""
        return "" if self.span is None else f"{self.span[0]}-{self.span[1]}"


class Source(Protocol):
    """A format. Its methods raise no exception for bad data: that becomes `Rejected` records."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """The ends of the file names, lower case, without compression."""
        ...

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        """The units of an object, in its order. A function of the object and `unit_bytes` alone."""
        ...

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        """The records of a unit, in order, streamed."""
        ...
