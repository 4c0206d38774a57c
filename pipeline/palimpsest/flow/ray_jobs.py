"""Ray's job submission client, connected: the one part of `palimpsest submit` that imports Ray."""

from __future__ import annotations

from typing import Any

from palimpsest.errors import PalimpsestError


class SubmissionFailed(PalimpsestError, RuntimeError):
    """The cluster did not take the job, or could not be reached."""


def job_client(address: str) -> Any:
    """Ray's `JobSubmissionClient` for the dashboard at `address` (http:// or https://).

    Raises:
        SubmissionFailed: the dashboard does not answer, or refuses the token.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, OSError, AuthenticationError) as error:
        raise SubmissionFailed(f"{address}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where the message is empty."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
