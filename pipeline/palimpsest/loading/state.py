"""Loader states: integers that are the same on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palimpsest.errors import UsageError

FORMAT = 1


def merge_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One state of what each rank knows of its own streams.

    Raises:
        UsageError: no states, states of different loaders, or streams that none or two of them know.
    """
    if not states:
        raise UsageError("merge_states([]): at least one state")
    first = states[0]
    for state in states:
        if any(state[name] != first[name] for name in ("format", "world", "sources", "streams")):
            raise UsageError("the ranks have different sources, streams or world sizes: give all of them the same arguments")
    merged = {name: first[name] for name in ("format", "sources", "streams")}
    for name in ("cursors", "delivered"):
        known = [[state[name][c] for state in states if state[name][c] is not None] for c in range(first["streams"])]
        if any(len(values) != 1 for values in known):
            raise UsageError(f"{len(states)} states of a world of {first['world']}: give the state of each rank once")
        merged[name] = [values[0] for values in known]
    return merged


def gathered(own: dict[str, Any], world: int) -> list[dict[str, Any]]:
    """The own states of all ranks, through torch.distributed.

    Raises:
        UsageError: it is not initialised, or with another number of ranks.
    """
    if world == 1:
        return [own]
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() != world:
        size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else "none"
        raise UsageError(
            f"state_dict() of a world of {world} needs torch.distributed with as many ranks (now: {size}); initialise it, or "
            "call state_dict(gather=False) on each rank and merge_states() on what they give"
        )
    states: list[Any] = [None] * world
    dist.all_gather_object(states, own)
    return states


def check_state(state: Any, streams: int) -> None:
    """Raises UsageError for anything that is no whole state of a loader with so many streams."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UsageError(f"this is no loader state of format {FORMAT}: {str(state)[:80]!r}")
    if state["streams"] != streams:
        raise UsageError(f"the state was saved with streams = {state['streams']}, this source has streams = {streams}")
    if len(state["cursors"]) != streams or any(cursor is None for cursor in state["cursors"]):
        raise UsageError("the state is of one rank only: merge_states() joins those of all ranks")
