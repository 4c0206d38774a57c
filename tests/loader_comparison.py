"""What killed and resumed loaders delivered, compared with what an undisturbed one gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def in_turn(expected: list[list[str]], begun: list[int], rank: int, world: int) -> Iterator[str]:
    """The samples of a rank, from where each stream was when its life began: in turn of the stream that gave fewest."""
    places = {stream: begun[stream] for stream in range(rank, len(expected), world)}
    while places:
        stream = min(places, key=lambda number: (places[number], number))
        if places[stream] == len(expected[stream]):
            del places[stream]
            continue
        yield expected[stream][places[stream]]
        places[stream] += 1


def delivered_by(log: Path, steps: int) -> list[str]:
    """The ids of the first `steps` steps of a rank."""
    found: list[str] = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            step, ids = json.loads(line)
        except ValueError:
            continue  # the line that was being written
        if step < steps:
            found += ids
    return found


def compare(kind: str, expected: list[list[str]], found: list[str], final: list[int]) -> Counter[str]:
    """How many samples are lost and repeated, and how many streams are out of order.

    Args:
        final: samples that each stream has given by the last saved state; a mix, which has no end, is compared up to it.
    """
    mixed = kind == "mixed"
    must = [ids[:count] for ids, count in zip(expected, final, strict=True)] if mixed else expected
    wanted, got = Counter(i for ids in must for i in ids), Counter(found)
    differs = Counter(lost=(wanted - got).total(), repeated=(got - wanted).total(), out_of_order=0)
    if not mixed:
        owner = {i: number for number, ids in enumerate(expected) for i in ids}
        streams: list[list[str]] = [[] for _ in expected]
        for one in found:
            if one in owner:
                streams[owner[one]].append(one)
        differs["out_of_order"] += sum(ours != theirs for ours, theirs in zip(streams, expected, strict=True))
    return differs
