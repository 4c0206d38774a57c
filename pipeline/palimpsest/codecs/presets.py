"""The codecs that Palimpsest knows by name: which checkpoint, at which revision, asked with which prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from palimpsest.codecs.dialects import find_dialect
from palimpsest.codecs.modes import MODES, Mode
from palimpsest.errors import UsageError

HALF = (0.5, 0.5, 0.5)
CHECKPOINT = "checkpoint"  # as a chat template: the checkpoint's own


@dataclass(frozen=True, kw_only=True)
class CodecPreset:
    """Everything about a codec that its checkpoint does not say itself.

    Attributes:
        name: what people and shards call it.
        model_class: the class of transformers that loads it; empty: what config.json says.
        repo_id: the hub repository; None where weights come from a path only.
        revision: the pinned commit of that repository.
        content_hash: the pinned hash of the weights (`checkpoint.hash_weights`).
        bundled: folder inside the package that holds the weights, as "package/folder".
        model_type: replaces config.json's, where transformers would match no weights under the published one.
        full_attention: replaces the decoder's sliding windows, where the checkpoint was trained without them.
        lean: either half can be built without the other (the DeepSeek-OCR classes); else the unused one is dropped after loading.
        modes: the resolutions it was trained for; empty: derived from the checkpoint's configuration.
        prompt: text around the one "<image>"; special tokens may be written out.
        chat_template: Jinja text into which the prompt goes as a user's message; "checkpoint" for the checkpoint's own where it
            has one, "" for none.
        system: text of a system message; without a template it goes before the prompt.
        bos: whether the beginning-of-sequence id comes first.
        max_new_tokens: the most tokens that the decoder may write for a page; None: by the length of the page's text.
        image_mean, image_std: per channel, on pixels scaled to 0..1; None: as the checkpoint's image processor says.
        target: "module:Class" of a `TargetFormat` without arguments; empty: the text as the checkpoint's tokenizer.json cuts it.
        dialect: what its decoder writes around the text (`codecs.dialects`).
        score: the precision that the target is compared with unless `verification.score` says so: "raw" or "folded".
        alphabet: the characters it reads (`pages.characters.ALPHABETS`).
        layout: the layout that it was trained to read: "grid" or "document".
        reader: function that loads a second decoder, which reads all cells at once; "" where there is none.
        notes: why the fields above are what they are.
    """

    name: str
    model_class: str = ""
    repo_id: str | None = None
    revision: str | None = None
    content_hash: str | None = None
    bundled: str | None = None
    model_type: str | None = None
    full_attention: bool = False
    lean: bool = False
    modes: tuple[Mode, ...] = ()
    prompt: str = "<image>\nFree OCR."
    chat_template: str = ""
    system: str = ""
    bos: bool = True
    max_new_tokens: int | None = None
    image_mean: tuple[float, float, float] | None = HALF
    image_std: tuple[float, float, float] | None = HALF
    target: str = ""
    dialect: str = "document"
    score: Literal["raw", "folded"] = "folded"
    alphabet: str = "unicode"
    layout: str = "document"
    reader: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if self.prompt.count("<image>") != 1:
            raise UsageError(
                f'codec.prompt = {self.prompt!r}: it must hold "<image>" exactly once, for example "<image>\\nFree OCR."'
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UsageError(f"codec.max_new_tokens = {self.max_new_tokens}: at least 1")
        find_dialect(self.dialect)


_UNLIMITED = "UnlimitedOcrForConditionalGeneration"
_ALL = tuple(MODES.values())

PRESETS = {
    preset.name: preset
    for preset in (
        CodecPreset(
            name="embedded",
            model_class=_UNLIMITED,
            bundled="palimpsest.codecs.embedded/weights",
            lean=True,
            modes=_ALL,
            target="palimpsest.codecs.embedded.target:AddressedTarget",
            dialect="plain",
            score="raw",
            alphabet="latin",
            layout="grid",
            reader="palimpsest.codecs.embedded.cell_reader:load_reader",
            notes="Trained by this project on its own pages; runs on a CPU.",
        ),
        CodecPreset(
            name="deepseek-ocr",
            model_class=_UNLIMITED,
            repo_id="deepseek-ai/DeepSeek-OCR",
            revision="9f30c71f441d010e5429c532364a86705536c53a",
            model_type="unlimited_ocr",
            full_attention=True,
            lean=True,
            modes=_ALL,
            notes="DeepEncoder v1 is what UnlimitedOcr implements. Its config.json says deepseek_vl_v2: under that name no "
            "weight is renamed and all are silently drawn again. It names no window, and the class would set one of 128 tokens.",
        ),
        CodecPreset(
            name="unlimited-ocr",
            model_class=_UNLIMITED,
            repo_id="baidu/Unlimited-OCR",
            revision="f8ca26a64b41472f0701440ff2ffb78551c83092",
            model_type="unlimited_ocr",
            lean=True,
            modes=(MODES["base"],),
            prompt="<image>document parsing.",
            notes="Training went on in base and gundam only; the decoder sees the prompt and its last 128 tokens.",
        ),
        CodecPreset(
            name="deepseek-ocr-2",
            model_class="DeepseekOcr2ForConditionalGeneration",
            repo_id="deepseek-community/DeepSeek-OCR-2",
            lean=True,
            modes=(Mode("medium", 768, 12, 144, 145), Mode("base", 1024, 16, 256, 257)),
            notes="The deepseek-ai repository needs remote code, this one does not. Learned queries: two sizes and no newlines.",
        ),
        CodecPreset(
            name="auto",
            image_mean=None,
            image_std=None,
            bos=False,
            chat_template=CHECKPOINT,
            notes="Any vision-language checkpoint on disk whose class takes mm_encoder_outputs; set codec.path and codec.prompt.",
        ),
    )
}


def find_preset(name: str) -> CodecPreset:
    """The preset called `name`.

    Raises:
        ValueError: for an unknown name, with the choices.
    """
    if name not in PRESETS:
        raise UsageError(f"codec.name {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def image_statistics(directory: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the checkpoint's image processor; 0.5 where it says nothing."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = directory / name
        if path.is_file():
            processor = json.loads(path.read_text("utf-8"))
            processor = processor.get("image_processor", processor)
            return processor.get("image_mean", HALF), processor.get("image_std", HALF)
    return HALF, HALF
