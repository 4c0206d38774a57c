"""The consumer's vocabulary: text to ids, and the ids that stand where visual tokens go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from palimpsest.errors import UsageError

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec


class Consumer(Protocol):
    """What packing and budgets need to know of a decoder.

    Attributes:
        eos_id: ends every sample. bos_id: begins a memory sample; None where there is none.
        pad_id: fills the rest of a sequence.
        image_id: stands where a visual token goes.
    """

    @property
    def eos_id(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def image_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special ids."""
        ...

    def image(self, num_vision_tokens: int, num_context_tokens: int) -> list[int]:
        """Ids of the visual tokens of a page, with those around them."""
        ...


@dataclass(frozen=True)
class TextConsumer:
    """A decoder with a tokenizer of its own, which gets visual tokens through a projector: one id for each."""

    tokenizer: Any
    eos_id: int
    pad_id: int
    image_id: int
    bos_id: int | None = None

    def encode(self, text: str) -> list[int]:
        found = self.tokenizer.encode(text, add_special_tokens=False)
        return list(getattr(found, "ids", found))

    def image(self, num_vision_tokens: int, num_context_tokens: int) -> list[int]:
        return [self.image_id] * num_vision_tokens


class CodecConsumer:
    """The decoder of a codec: newline and separator rows have ids too, and the architecture's brackets stand around an image."""

    def __init__(self, codec: Codec) -> None:
        from palimpsest.codecs.families import image_brackets
        from palimpsest.codecs.target import PlainTarget

        self.before, self.after = image_brackets(codec.config)
        self._rows = {mode.num_vision_tokens: mode.num_context_tokens for mode in codec.modes}
        self.image_id = codec.image_token_id
        self.eos_id = min(codec.eos_ids)
        text = codec.config.get_text_config()
        self.bos_id = text.bos_token_id if text.bos_token_id is not None and codec.preset.bos else None
        self.pad_id = self.eos_id if text.pad_token_id in (None, self.image_id) else text.pad_token_id
        self._tokenizer = codec.target.tokenizer if isinstance(codec.target, PlainTarget) else None

    def encode(self, text: str) -> list[int]:
        """Ids by the codec's tokenizer; the embedded codec, which has none, writes one id for each cell."""
        if self._tokenizer is not None:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        from palimpsest.codecs.embedded.target import ALPHABET
        from palimpsest.codecs.embedded.vocabulary import cell_ids
        from palimpsest.pages.characters import BLANK, END
        from palimpsest.pages.layouts.grid import Grid, lay_out

        ids: list[int] = []
        for page in lay_out(text, Grid(64, 32, ALPHABET)):
            ids += cell_ids(page.cells[(page.cells != BLANK) & (page.cells != END)]).tolist()
        return ids

    def image(self, num_vision_tokens: int, num_context_tokens: int) -> list[int]:
        rows = self._rows.get(num_vision_tokens, num_context_tokens)  # a page's context tokens may include its errata
        return [*self.before, *[self.image_id] * rows, *self.after]


_NAMES = {
    "eos": ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "[SEP]"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "[CLS]"),
    "pad": ("<pad>", "<|pad|>", "[PAD]", "<｜▁pad▁｜>"),
    "image": ("<image>", "<|image|>", "<|image_pad|>", "<image_soft_token>", "<|▁pad▁|>"),
}


def consumer(tokenizer: Any, **ids: int) -> Consumer:
    """The consumer behind a tokenizer.

    Args:
        tokenizer: a `Codec`, a `Consumer`, a `tokenizers.Tokenizer`, a tokenizer of transformers, or the path of a
            tokenizer.json.
        ids: `eos_id`, `bos_id`, `pad_id`, `image_id`, where the tokenizer does not name them. Without `pad_id` and `image_id`,
            the end id stands for both; where visual tokens go is also in a mask.

    Raises:
        UsageError: it has no id that ends a text, or is none of these.
    """
    if isinstance(tokenizer, TextConsumer | CodecConsumer):
        return tokenizer
    if isinstance(tokenizer, str | Path):
        from tokenizers import Tokenizer

        if not Path(tokenizer).is_file():
            raise UsageError(f"tokenizer = {str(tokenizer)!r}: there is no such tokenizer.json")
        tokenizer = Tokenizer.from_file(str(tokenizer))
    if hasattr(tokenizer, "image_token_id") and hasattr(tokenizer, "preset"):
        return CodecConsumer(tokenizer)
    if all(hasattr(tokenizer, name) for name in ("encode", "image", "eos_id", "bos_id", "pad_id", "image_id")):
        own: Consumer = tokenizer
        return own
    if not hasattr(tokenizer, "encode"):
        raise UsageError(
            f"tokenizer = {tokenizer!r}: give a Codec, a tokenizer of tokenizers or transformers, or a tokenizer.json"
        )
    found = {f"{name}_id": _id_of(tokenizer, name, names) for name, names in _NAMES.items()} | ids
    eos = found["eos_id"]
    if eos is None:
        raise UsageError(
            f"the tokenizer {type(tokenizer).__name__} names no id that ends a text (tried {', '.join(_NAMES['eos'])}): pass "
            "consumer(tokenizer, eos_id=…)"
        )
    pad = found["pad_id"] if found["pad_id"] is not None else eos
    image = found["image_id"] if found["image_id"] is not None else pad
    return TextConsumer(tokenizer, eos_id=eos, pad_id=pad, image_id=image, bos_id=found["bos_id"])


def _id_of(tokenizer: Any, name: str, names: Sequence[str]) -> int | None:
    own = getattr(tokenizer, f"{name}_token_id", None)
    if own is not None:
        return int(own)
    if hasattr(tokenizer, "token_to_id"):
        return next((found for text in names if (found := tokenizer.token_to_id(text)) is not None), None)
    return None
