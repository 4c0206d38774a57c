"""A decoder that writes recorded outputs, to count passes on what a real model did.

`ReplayedDecoder` is a `Decoder` whose choice after every prefix comes from a recorded text instead of weights. As long as the
output so far is the recording's, it continues the recording, token by token. After a prefix that the recording does not have (a
draft that the model would not have written) it does what a reader does: it finds its own last characters on the page and
continues from there. The cache, the masks and the batches are those of real decoding, so `greedy.decode` runs unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IMAGE, EOS, OTHER, FIRST = 0, 1, 2, 3  # ids of the replayed vocabulary; pages are FIRST + number, then the recorded tokens
NEAR = 80  # characters around the expected position in which a reader looks for its last words
LOOKED_UP = 12  # characters of its own that it looks for
LEAST = 3  # fewer than this are no evidence
AHEAD = 64  # characters that are tokenized to find the next token


@dataclass
class Recording:
    """One page's recorded output.

    Args:
        text: what the model wrote.
        ids: the same as the tokenizer cuts it.
    """

    text: str
    ids: list[int]

    def __post_init__(self) -> None:
        self.flat = "".join(" " if character.isspace() else character for character in self.text)


class Reader:
    """The choices of one page's decoder.

    Args:
        recording: of the page.
        tokenizer: that cuts texts.
    """

    def __init__(self, recording: Recording, tokenizer: Tokenizer) -> None:
        self.recording, self.tokenizer = recording, tokenizer
        self._next: dict[int, int | None] = {}
        self._texts: dict[int, str] = {}
        self._starts: list[int] = [0]
        for token in recording.ids:
            self._starts.append(self._starts[-1] + len(self._text(token)))
        exact = self._starts[-1] == len(recording.text)  # not so where a character is cut into several tokens
        self._whole = {start: index for index, start in enumerate(self._starts)} if exact else {}

    def choices(self, prefix: Sequence[int]) -> list[int | None]:
        """The next token after every prefix of `prefix`, the empty one included; None at the end of the page."""
        ids = self.recording.ids
        agreed = next(
            (n for n, (own, true) in enumerate(zip(prefix, ids, strict=False)) if own != true), min(len(prefix), len(ids))
        )
        chosen: list[int | None] = [ids[n] if n < len(ids) else None for n in range(agreed + 1)]
        position = self._starts[agreed]
        written = self.recording.flat[max(0, position - LOOKED_UP) : position]
        for token in prefix[agreed:]:
            text = self._text(token)
            written = (written + "".join(" " if character.isspace() else character for character in text))[-4 * LOOKED_UP :]
            position = self._found(written, position + len(text))
            chosen.append(self._token_at(position))
        return chosen

    def _found(self, written: str, expected: int) -> int:
        """Where on the page a reader is that wrote this last and expects to be at `expected`."""
        flat, core = self.recording.flat, written.rstrip()
        expected = min(expected, len(flat))
        spaces = len(written) > len(core)
        low = max(0, expected - NEAR)
        for size in range(min(LOOKED_UP, len(core)), LEAST - 1, -1):
            part, best, at = core[-size:], -1, flat.find(core[-size:], low)
            while 0 <= at <= expected + NEAR:
                if best < 0 or abs(at + size - expected) < abs(best - expected):
                    best = at + size
                at = flat.find(part, at + 1)
            if best >= 0:
                expected = best
                break
        while spaces and expected < len(flat) and flat[expected] == " ":
            expected += 1
        return expected

    def _token_at(self, position: int) -> int | None:
        if position in self._whole and self._whole[position] < len(self.recording.ids):
            return self.recording.ids[self._whole[position]]
        if position not in self._next:
            ahead = self.recording.text[position : position + AHEAD]
            ids = self.tokenizer.encode(ahead, add_special_tokens=False).ids if ahead else []
            self._next[position] = ids[0] if ids else None
        return self._next[position]

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token], skip_special_tokens=False)
        return self._texts[token]


class ReplayedDecoder:
    """A `greedy.Decoder` over recordings.

    Args:
        recordings: one per page.
        drafts: all ids that may be drafted, in the tokenizer's numbering.
        tokenizer: of the ids.
    """

    image_token_id, eos_ids, bidirectional_images = IMAGE, {EOS}, False

    def __init__(self, recordings: Sequence[Recording], drafts: Sequence[Sequence[int]], tokenizer: Tokenizer) -> None:
        self.readers = [Reader(recording, tokenizer) for recording in recordings]
        self.offset = FIRST + len(recordings)
        known = sorted({token for ids in (*drafts, *(recording.ids for recording in recordings)) for token in ids})
        self.known, self.numbers = known, {token: self.offset + number for number, token in enumerate(known)}
        self.model: Any = _Model(self)

    def image_inputs(self, features: list[Tensor]) -> dict[str, Any]:
        return {}

    def positions(self, prompt: Sequence[int]) -> Tensor | None:
        return None

    def prompt(self, page: int) -> list[int]:
        """The prompt of a page: one image id, and the id that tells the decoder which page it is."""
        return [IMAGE, FIRST + page]

    def numbered(self, ids: Sequence[int]) -> list[int]:
        """A text's ids in the decoder's numbering."""
        return [self.numbers[token] for token in ids]

    def text_ids(self, ids: Sequence[int]) -> list[int]:
        """The inverse of `numbered`, up to the end."""
        return [self.known[number - self.offset] for number in ids if number >= self.offset]

    def choose(self, page: int, prefix: Sequence[int]) -> list[int]:
        """The number chosen after every prefix of `prefix`."""
        ids = [self.known[number - self.offset] if number >= self.offset else -1 for number in prefix]
        end = ids.index(-1) if -1 in ids else len(ids)  # behind an end of sequence nothing is asked
        chosen = [EOS if token is None else self.numbers.get(token, OTHER) for token in self.readers[page].choices(ids[:end])]
        return chosen + [EOS] * (len(ids) - end)


class _Model:
    """The part of a transformers model that `greedy` uses: its only layer caches ids as keys, its hidden states are choices."""

    def __init__(self, decoder: ReplayedDecoder) -> None:
        self.decoder, self.device, self.dtype = decoder, torch.device("cpu"), torch.float32
        text = SimpleNamespace(layer_types=["full_attention"], sliding_window=None, _attn_implementation="sdpa")
        self.config = SimpleNamespace(get_text_config=lambda decoder=True: text, model_type="replayed")
        size = decoder.offset + len(decoder.known)
        bits = max(1, int(size - 1).bit_length())
        codes = (torch.arange(size)[:, None] >> torch.arange(bits)) & 1
        self.codes = codes.float() * 2 - 1

    def get_output_embeddings(self) -> Any:
        return _Head(self.codes)

    def base_model(
        self, input_ids: Tensor, attention_mask: Any, position_ids: Tensor, past_key_values: Any, use_cache: bool, **inputs: Any
    ) -> Any:
        keys = input_ids.float()[:, None, :, None]
        seen, _ = past_key_values.update(keys, keys, 0)
        history = seen[:, 0, :, 0].long().numpy()
        chosen = np.full(input_ids.shape, OTHER)
        for row, places in enumerate(position_ids.numpy()):
            inside = np.flatnonzero(places >= len(self.decoder.prompt(0)) - 1)
            if len(inside):
                first, last = int(places[inside[0]]), int(places[inside[-1]])
                page = int(history[row, 1]) - FIRST
                choices = self.decoder.choose(page, history[row, 2 : last + 1].tolist())
                chosen[row, inside] = choices[first - 1 : last]
        return SimpleNamespace(last_hidden_state=self.codes[torch.from_numpy(chosen)])


class _Head:
    """Scores of all ids for the code of one."""

    def __init__(self, codes: Tensor) -> None:
        self.weight = codes

    def __call__(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight.T
