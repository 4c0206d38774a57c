"""The recipe of a job's pages: one value that is passed whole to plan, executor and operations."""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.config import JobConfig
from palimpsest.pages.layout import Layout
from palimpsest.tiers.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A resolved configuration.

    Attributes:
        config: the configuration, with its alphabet, rungs and predictor resolved.
        codec, revision: id and revision of the checkpoint that it names.
        fingerprint: hash of every setting that changes the bytes of a shard.
    """

    config: JobConfig
    layout: Layout
    policy: Policy
    codec: str
    revision: str
    fingerprint: str
