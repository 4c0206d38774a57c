"""Repair: a run rebuilds units that lost objects.

Nothing is overwritten. A unit that lost a shard keeps its commit record. Its source is processed into a *successor*, a unit with
its own id that replaces it in the next snapshot. Every run finds the same successor, so an interrupted repair resumes, and the
first of two concurrent repairs wins, as with any unit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from palimpsest.corpus.units import CommitRecord, is_committed, read_unit
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.stable_json import Damaged

PREFIXES = ("data/", "quarantine/")


def lost_units(store: ObjectStore, records: Collection[CommitRecord]) -> frozenset[str]:
    """The ids of the units with a missing object or an object of another size, from one listing of all data.

    An object with damaged content is not detected here: `fsck` finds it, and once it is deleted, it counts as lost. Memory grows
    with the number of objects, about 200 bytes each.
    """
    missing = {shard.key: shard.bytes for record in records for shard in record.objects}
    for prefix in PREFIXES if missing else ():
        for info in store.list(prefix):
            if missing.get(info.key) == info.size:
                del missing[info.key]
    if not missing:
        return frozenset()
    return frozenset(record.unit_id for record in records if any(shard.key in missing for shard in record.objects))


def committed(store: ObjectStore, unit_id: str) -> tuple[str, CommitRecord | None]:
    """The current id of a unit, and its commit record if it is committed and whole.

    If the record is damaged or one of its objects is lost, this is the id of the first successor that is whole or not committed.
    """
    while is_committed(store, unit_id):
        try:
            record = read_unit(store, unit_id)
        except Damaged:
            unit_id = successor(unit_id)
            continue
        if _whole(store, record):
            return unit_id, record
        unit_id = successor(unit_id)
    return unit_id, None


def successor(unit_id: str) -> str:
    """The id of the unit that replaces one with a lost object."""
    return hashlib.sha256(f"successor of {unit_id}".encode("ascii")).hexdigest()[:24]


def _whole(store: ObjectStore, record: CommitRecord) -> bool:
    sizes: dict[str, int] = {}
    for prefix in {shard.key.rpartition("-")[0] for shard in record.objects}:  # all shards of one try and tier
        sizes.update((info.key, info.size) for info in store.list(prefix))
    return all(sizes.get(shard.key) == shard.bytes for shard in record.objects)
