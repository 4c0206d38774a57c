"""What the server of processes imports before it forks a pass."""

from pipeline import cli, ingest, stages  # noqa: F401
from pipeline.codecs import adapter  # noqa: F401
from tests import flow_in_process  # noqa: F401
