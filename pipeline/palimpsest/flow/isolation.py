"""Isolation of records that killed a worker: a child process tries them one by one, and those that kill it are quarantined.

A record can end its worker without an exception, by a fault in native code or by exhausting memory. A retry would end the next
worker too. So the record is tried in a child process, which has half of the free memory and may die. A document that kills two
children is quarantined with the reason `worker_killed`. All other documents give the same output as without isolation.

    Child            a process that runs one stage and answers calls
    isolate          a table through a stage, document by document
    read_isolated    the records of a unit, in ever finer slices around the one that kills its reader
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from palimpsest.config import SourceConfig
from palimpsest.schemas import QUARANTINE_BYTES, RowKind, conform
from palimpsest.sources.documents import Document, Reason, Rejected
from palimpsest.sources.formats import format_of
from palimpsest.sources.units import Unit

DEATHS = 2  # children that a document must kill before it is quarantined
PATIENCE = 600.0  # seconds for one answer of a child, and for its start
_SLICES = 8


class ChildDied(Exception):
    """A child process ended in the middle of a call; the message says how."""


class Child:
    """A process that applies a callable to arguments. It starts at the first call, and again after it died.

    Args:
        payload: a pickled pair: a callable and None, or a class and its arguments. It must be importable, or pickled by value.
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def call(self, argument: Any) -> Iterator[Any]:
        """The results of the callable for `argument`: the items of an iterator, or a single value.

        Raises:
            ChildDied: the process ended, ran out of memory or did not answer for PATIENCE seconds.
            Exception: the exception that the callable raised.
        """
        answered = False
        try:
            self._send(argument)
            while True:
                kind, value = self._answer()
                answered = kind != "item"
                if kind == "item":
                    yield value
                elif kind == "end":
                    return
                else:
                    raise ChildDied(value) if kind == "memory" else value
        finally:
            if not answered or kind == "memory":  # nobody reads the rest, and the next call must not take it for its own answer
                self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process and self._connection:
            self._process.kill()
            self._process.wait()
            self._connection.close()
        self._process = self._connection = None

    def _started(self) -> Connection:
        if self._connection is None:
            self._connection, theirs = Pipe()
            # -c and not -m: the module must be the one that the parent imports, or its exceptions are other classes
            command = [sys.executable, "-c", f"from palimpsest.flow.isolation import serve; serve({theirs.fileno()})"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            with theirs:
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2, env=environment
                )
            self._connection.send_bytes(self.payload)
        return self._connection

    def _send(self, argument: Any) -> None:
        try:
            self._started().send(argument)
        except OSError:
            raise ChildDied(self._ended()) from None

    def _answer(self) -> tuple[str, Any]:
        connection = self._started()
        try:
            if not connection.poll(PATIENCE):
                raise ChildDied(f"gave no answer for {PATIENCE:.0f} s")
            answer: tuple[str, Any] = connection.recv()
        except (OSError, EOFError):
            raise ChildDied(self._ended()) from None
        return answer

    def _ended(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self.close()
        if code >= 0:
            return f"ended with exit code {code}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"


def isolate(child: Child, table: pa.Table, stage: str, schema: pa.Schema, *, whole: bool) -> Iterator[pa.Table]:
    """Run `table` through the stage in `child`, without the documents that kill it.

    Args:
        schema: schema of the stage's output.
        whole: true for a stage that yields several tables for one. Documents are tried one by one, then all that survive are
            processed together, so the tables before the poison equal those of a worker. Ray relies on this: from a retried task
            it takes only the blocks that it has not seen. A poisoned document is quarantined at once.
            If false, the stage returns one table for one. A row of the kind "poisoned" then asks for the unit to be processed
            again without the document, because other pages of the document may have passed.
    """
    outputs: list[pa.Table] = []
    sound: list[pa.Table] = []
    poison: list[pa.Table] = []
    for rows in _documents(table):
        results, how = _tried(child, rows)
        if how is None:
            sound.append(rows)
            outputs += [] if whole else results
        else:
            kind = RowKind.QUARANTINED if whole else RowKind.POISONED
            poison.append(_set_apart(rows, kind, f"{stage}: the process {how}, {DEATHS} times", schema))
    if whole:
        yield from child.call(pa.concat_tables(sound)) if sound else ()
        yield from poison
    else:
        yield pa.concat_tables([*outputs, *poison])


def quarantined(document: pa.Table, detail: str, schema: pa.Schema) -> pa.Table:
    """The row that replaces a document whose pages killed a worker. `document` is one row of DOCUMENTS."""
    return _set_apart(document, RowKind.QUARANTINED, detail, schema)


def _tried(child: Child, rows: pa.Table) -> tuple[list[pa.Table], str | None]:
    """The stage's output for one document, or how it ended its last process if it ended one each time."""
    how = None
    for _ in range(DEATHS):
        try:
            return list(child.call(rows)), None
        except ChildDied as died:
            how = str(died)
    return [], how


def _documents(table: pa.Table) -> Iterator[pa.Table]:
    """Runs of neighbouring rows of one document; rows that are neither a document nor a page are runs of their own."""
    names = table.schema.names
    columns = [table[name].to_pylist() for name in ("unit_id", "kind", "doc_id") if name in names]
    keys = list(zip(*columns, strict=True))
    start = 0
    for index in range(1, len(keys) + 1):
        if index == len(keys) or keys[index] != keys[start]:
            yield table.slice(start, index - start)
            start = index


def _set_apart(rows: pa.Table, kind: RowKind, detail: str, schema: pa.Schema) -> pa.Table:
    row = rows.slice(0, 1).select(["unit_id", "doc_id", "source_id", "source_uri", "source_version", "text"]).to_pylist()[0]
    text = row.pop("text") or ""
    record = text[:QUARANTINE_BYTES].encode("utf-8", "replace")[:QUARANTINE_BYTES]
    row |= {"kind": kind, "reason": str(Reason.WORKER_KILLED), "detail": detail, "record": record}
    columns = {name: pa.array([value], schema.field(name).type) for name, value in row.items()}
    return conform(pa.table(columns), schema, "isolation")


def read_isolated(unit: Unit, config: SourceConfig, reader: bytes) -> Iterator[Document | Rejected]:
    """The records of a unit, in order, read by a child process.

    If the child dies, the unit is cut into ever finer slices until a slice cannot be cut (one line, one row group, a whole
    compressed file). The records of that slice before the poison are kept; the rest of it becomes one rejected record.

    Args:
        reader: payload of the child; it maps a unit to its records as `read_unit` does.
    """
    child = Child(reader)
    pieces, skip = [unit], 0
    try:
        while pieces:
            piece = pieces.pop(0)
            taken, how = 0, ""
            for record in _until_death(child, piece):
                if isinstance(record, ChildDied):
                    how = str(record)
                elif skip:
                    skip -= 1
                    taken += 1
                else:
                    yield record
                    taken += 1
            if not how:
                continue
            finer = slices(piece, config)
            if finer:
                pieces[:0], skip = finer, taken
            else:
                again, how = _rest(child, piece, taken)
                yield from again
                if how:
                    yield _unreadable(piece, taken + len(again), how)
    finally:
        child.close()


def _until_death(child: Child, argument: Any) -> Iterator[Any]:
    try:
        yield from child.call(argument)
    except ChildDied as died:
        yield died


def _rest(child: Child, piece: Unit, taken: int) -> tuple[list[Document | Rejected], str]:
    """The records of a second try after the first `taken`, and how its process ended ("" if it did not)."""
    records: list[Document | Rejected] = []
    for index, record in enumerate(_until_death(child, piece)):
        if isinstance(record, ChildDied):
            return records, str(record)
        if index >= taken:
            records.append(record)
    return records, ""


def _unreadable(piece: Unit, before: int, how: str) -> Rejected:
    where = f"slice {piece.slice}" if piece.slice else "the object"
    return Rejected(
        source_uri=piece.object.uri,
        source_version=piece.object.version,
        source_id=None,
        reason=Reason.WORKER_KILLED,
        detail=f"read: {where}: the process {how} after {before} records of it, {DEATHS} times; the rest of it is not read",
        record=b"",
    )


def slices(unit: Unit, config: SourceConfig) -> list[Unit]:
    """The unit in up to 8 slices, in order; none if its format or its size allows no cut."""
    source = format_of(unit.object.uri, config)
    if unit.span is None:
        finer = source.plan(unit.object, config.replace(unit_bytes=max(1, unit.object.size // _SLICES))) if source else []
        return finer if len(finer) > 1 else []
    first, stop = unit.span
    step = -(-(stop - first) // _SLICES)
    if stop - first < 2:
        return []
    return [Unit(object=unit.object, span=(at, min(at + step, stop))) for at in range(first, stop, step)]


# The child's side


def serve(descriptor: int) -> None:
    """Answer calls from the parent's connection until it ends."""
    _die_with_parent()
    connection = Connection(descriptor)
    bound = _bound_memory()
    parts = pickle.loads(connection.recv_bytes())
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            argument = connection.recv()
        except EOFError:
            return
        try:
            if work is None:
                target, arguments = parts
                work = target if arguments is None else target(*arguments)
            results = work(argument)
            for item in [results] if isinstance(results, pa.Table) else results:
                connection.send(("item", item))
            connection.send(("end", None))
        except MemoryError:
            connection.send(("memory", f"asked for more than {bound >> 20} MiB of memory"))
            return
        except Exception as error:
            connection.send(("error", _portable(error)))


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception that cannot be pickled may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with_parent() -> None:
    import ctypes

    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _bound_memory() -> int:
    """Limit this process to half of the free memory, so that it runs out before its neighbours; returns the limit in bytes."""
    bound = max(1 << 30, _free_memory() // 2)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # the first victim of the kernel's OOM killer
    return bound


def _free_memory() -> int:
    """Free bytes of the machine, or of the container if that is less."""
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError), open("/proc/meminfo") as lines:
        free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")] or free
    group = "/sys/fs/cgroup/memory."
    with suppress(OSError, ValueError), open(group + "max") as most, open(group + "current") as now:  # "max": no bound
        free.append(int(most.read()) - int(now.read()))
    return max(0, min(free))
