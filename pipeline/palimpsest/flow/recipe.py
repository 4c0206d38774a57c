"""How the pages of a job are made: one value that is passed whole to plan, executor and operations."""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.config import JobConfig
from palimpsest.pages.layout import Layout
from palimpsest.tiers.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration made concrete.

    Attributes:
        config: with the alphabet, rungs and predictor that it resolves to.
        codec, revision: of the checkpoint that it names.
        fingerprint: of all that changes the bytes of a shard.
    """

    config: JobConfig
    layout: Layout
    policy: Policy
    codec: str
    revision: str
    fingerprint: str
