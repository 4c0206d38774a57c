"""What the server of processes does before it forks a pass: imports, and the tokenizer, which alone takes a second to load."""

from palimpsest.cli import app as cli  # noqa: F401
from palimpsest.codecs import (
    adapter,  # noqa: F401
    text_tokens,  # noqa: F401
)
from palimpsest.flow import stages  # noqa: F401
from palimpsest.operations import ingest  # noqa: F401

text_tokens.tokenizer()
