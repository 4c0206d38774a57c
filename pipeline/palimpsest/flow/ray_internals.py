"""All uses of Ray's private API, in one file. `tests/test_ray_internals.py` runs it with the installed Ray.

on_message      what the cluster tells its driver, which Ray would print
KeyValues       the key-value store of a cluster's head: bytes by key, which outlive the processes that wrote them
task_attempt    the number of earlier tries of the current task
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.experimental import internal_kv

_NAMESPACE = b"palimpsest"


@contextmanager
def on_message(tell: Callable[[str], None]) -> Iterator[None]:
    """Give messages of the cluster to `tell`, such as that a worker died or ran out of memory; Ray prints them to stdout."""

    def print_worker_logs(data: Mapping[str, Any], print_file: Any, ignore_prefix: bool = False) -> None:
        tell(" ".join(data["lines"]))

    worker: Any = ray._private.worker  # type: ignore[attr-defined]
    printing, worker.print_worker_logs = worker.print_worker_logs, print_worker_logs
    try:
        yield
    finally:
        worker.print_worker_logs = printing


class KeyValues:
    """The keys of one run; they share a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def put(self, name: str, value: bytes) -> None:
        internal_kv._internal_kv_put(self._key(name), value, overwrite=True, namespace=_NAMESPACE)

    def get(self, name: str) -> bytes | None:
        stored: bytes | None = internal_kv._internal_kv_get(self._key(name), namespace=_NAMESPACE)
        return stored

    def values(self) -> Iterator[bytes]:
        """All values, in no order."""
        for key in internal_kv._internal_kv_list(self.prefix.encode(), namespace=_NAMESPACE):
            stored = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
            if stored:
                yield stored

    def clear(self) -> None:
        internal_kv._internal_kv_del(self.prefix.encode(), del_by_prefix=True, namespace=_NAMESPACE)

    def _key(self, name: str) -> bytes:
        return (self.prefix + name).encode()


def task_attempt() -> int:
    """The number of earlier tries of the current task; 0 in the first try."""
    return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())  # type: ignore[attr-defined]
