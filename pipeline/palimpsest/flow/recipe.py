"""The recipe of a job's pages: one value that is passed whole to plan, executor and operations; and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from palimpsest.config import JobConfig, TierConfig, to_json
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.tiers.policies.protocol import Policy


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


ASKED = ("prompt", "chat_template", "system", "bos", "max_new_tokens", "dialect")
"""Settings of `[codec]` that change how a decoder is asked; part of the fingerprint where they are set."""


def fingerprint(config: JobConfig, layout: str, codec: str, revision: str) -> str:
    """16 hexadecimal digits over everything that changes the bytes of a shard.

    Args:
        layout: fingerprint of the layout (rules, versions, fonts, grid).
        codec, revision: of the loaded checkpoint.
    """
    what = to_json(config.replace(sources=(), out=""))
    for how in ("limits", "placement", "ingest"):
        del what[how]
    for how in ("unit_bytes", "max_document_chars", "max_metadata_chars", *_UNFOLDING):
        del what["source"][how]
    for later, default in (("text_template", ""), ("carry", []), ("bad_metadata", "null")):  # settings younger than corpora
        if what["source"][later] == default:
            del what["source"][later]
    asked = {name: value for name in ASKED if (value := getattr(config.codec, name)) is not None}
    what["codec"] = {"id": codec, "revision": revision, "dtype": config.codec.dtype, "fast": config.codec.fast, **asked}
    what["layout"] = {"fingerprint": layout, "max_escaped_share": config.layout.max_escaped_share}
    del what["storage"]["row_group_bytes"], what["storage"]["pq_bits"]  # the codebook says how many bits it has
    if not config.storage.codebook:
        del what["storage"]["codebook"]
    what["tiers"] = tier_identity(config.tiers)
    if config.verification.score == "auto":
        del what["verification"]["score"]
    canonical = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


_UNFOLDING = ("unfold_bytes", "unfold_factor", "unfold_rows", "zstd_window", "follow_symlinks")
_TIER_SETTINGS = {
    "fixed": ("mode",),
    "age": ("as_of", "ages", "undated"),
    "forget": ("as_of", "forget_after"),
    "importance": ("hold_importance", "hold_steps", "pin_importance"),
    "fidelity": ("predictor", "cheap_text"),
}


def tier_identity(tiers: TierConfig) -> dict[str, Any]:
    """The settings that change what the policy does with a page; of policy "fixed" the mode."""
    more: dict[str, Any] = {"exact": tiers.exact} if tiers.exact != "none" else {}
    if tiers.cheap_text:  # without it, the identity that corpora had before short pages were kept as text
        more["cheap_text"] = True
    if tiers.policy == "fixed":
        return {"mode": tiers.mode, **more}
    names = {name.strip() for name in tiers.policy.split("+")}
    if not names & {"age", "fixed"} and names != {"fidelity"}:
        names.add("fixed")
    settings = sorted({setting for name in names for setting in _TIER_SETTINGS.get(name, ())} | {"modes"})
    return {"policy": sorted(names), **more, **{setting: getattr(tiers, setting) for setting in settings}}
