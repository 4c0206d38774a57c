"""What the server of processes does before it forks a pass: imports, and the tokenizer, which alone takes a second to load."""

from pipeline import cli, ingest, stages  # noqa: F401
from pipeline.codecs import adapter, text_tokens  # noqa: F401
from tests import flow_in_process  # noqa: F401

text_tokens.tokenizer()
