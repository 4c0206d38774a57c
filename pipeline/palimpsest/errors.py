"""The errors that Palimpsest raises for its users.

PalimpsestError         exit code 1: failed
UsageError              exit code 2: a setting, source or corpus that cannot be used; also a ValueError
"""

from __future__ import annotations


class PalimpsestError(Exception):
    """Base class of every error that a user can act on; `exit_code` is what the command ends with."""

    exit_code = 1


class UsageError(PalimpsestError, ValueError):
    """A setting, a source or a corpus cannot be used; the message names it, its value and the choices."""

    exit_code = 2
