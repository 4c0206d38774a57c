"""Ray's job submission client, connected: the one part of `palimpsest submit` that imports Ray."""

from __future__ import annotations

from typing import Any


class CannotConnect(RuntimeError):
    """The dashboard does not answer, or refuses the token."""


def job_client(address: str) -> Any:
    """Ray's `JobSubmissionClient` for the dashboard at `address` (http:// or https://). Raises CannotConnect."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, OSError, AuthenticationError) as error:
        raise CannotConnect(str(error)) from error
