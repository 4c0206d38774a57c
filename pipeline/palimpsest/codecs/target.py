"""The ids that a decoder is expected to write for a page.

A target format turns the text of a page into ids (the draft that verification checks) and ids into text. The big models write the
text as their tokenizer cuts it (`PlainTarget`); the embedded one has a format of its own, in its own folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from palimpsest.codecs.modes import Mode
from palimpsest.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TargetFormat(Protocol):
    """Text of a page <-> ids that the decoder writes."""

    def encode(self, text: str, columns: int, rows: int, mode: Mode) -> list[int]:
        """Ids for `text` on a grid of `columns x rows` cells, end-of-sequence included."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` spell; defined for every sequence, end-of-sequence or not."""

    def prompt(self, columns: int, rows: int, mode: Mode) -> list[int]:
        """Ids before the first written one, with exactly `mode.num_context_tokens` image ids."""


class PlainTarget:
    """The text itself, as the checkpoint's tokenizer cuts it; what looks like a special token in a page is cut like other text.

    Args:
        tokenizer: of the checkpoint.
        around: ids before and behind the visual tokens (`prompting.prompt_around`).
        image_token_id: stands for one visual token.
        eos_id: ends the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        around: tuple[Sequence[int], Sequence[int]],
        *,
        image_token_id: int,
        eos_id: int,
    ) -> None:
        self.tokenizer, self.image_token_id, self.eos_id = tokenizer, image_token_id, eos_id
        tokenizer.encode_special_tokens = True
        self.before, self.after = (list(ids) for ids in around)

    def encode(self, text: str, columns: int, rows: int, mode: Mode) -> list[int]:
        return [*self.tokenizer.encode(text, add_special_tokens=False).ids, self.eos_id]

    def decode(self, ids: Sequence[int]) -> str:
        ids = list(ids)
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompt(self, columns: int, rows: int, mode: Mode) -> list[int]:
        return [*self.before, *[self.image_token_id] * mode.num_context_tokens, *self.after]


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint, from its tokenizer.json (slow Python classes and their remote code are never used).

    Raises:
        ValueError: when there is none, naming the file.
    """
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise UsageError(f"{path} is missing: this checkpoint cannot read or write text; download the tokenizer with the weights")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def named_target(target: str) -> TargetFormat:
    """The format that a preset names as "module:Class"."""
    module, _, cls = target.partition(":")
    return getattr(import_module(module), cls)()
