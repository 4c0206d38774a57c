"""The errors that Palimpsest raises for its users.

PalimpsestError         exit code 1: failed
    RunFailed           a run ended without a snapshot; its work is kept
    WorkerFailed        flow/ledger.py: a worker died or met a bug
    Stopped             the user or the machine's manager stopped the command; what was committed is kept
    AlreadyRunning      corpus/running.py: a run with other settings is at work on the corpus
    StoreError          storage/object_store.py: the store cannot be read or written
    InstallationError   a file of the package is missing or damaged
UsageError              exit code 2: a setting, argument, source or corpus that cannot be used; also a ValueError
"""

from __future__ import annotations


class PalimpsestError(Exception):
    """Base class of every error that a user can act on; `exit_code` is what the command ends with."""

    exit_code = 1


class UsageError(PalimpsestError, ValueError):
    """A setting, an argument, a source or a corpus cannot be used; the message names it, its value and the choices."""

    exit_code = 2


class RunFailed(PalimpsestError, RuntimeError):
    """The run ended without a snapshot; what was committed stays, and the next run continues from there."""


class InstallationError(PalimpsestError, RuntimeError):
    """A file that comes with the package is missing or damaged; installing it again helps."""


class Stopped(PalimpsestError):
    """SIGINT or SIGTERM ended the work; the message says what is kept and what the same command will repeat."""
