"""How a decoder is asked: prompt, chat template, system text and BOS, as the ids around an image.

A preset says how its checkpoint was trained to be asked; a job may set each of it (`[codec] prompt`, `chat_template`, `system`,
`bos`, `max_new_tokens`, `dialect`). A chat template is Jinja and runs in transformers' sandbox: it computes text, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest.codecs.presets import CHECKPOINT, CodecPreset
from palimpsest.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARK = "<image>"


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How a job asks its decoder; None takes the preset's. The fields are those of `CodecPreset`."""

    prompt: str | None = None
    chat_template: str | None = None
    system: str | None = None
    bos: bool | None = None
    max_new_tokens: int | None = None
    dialect: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that are set."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def of(self, preset: CodecPreset) -> CodecPreset:
        """The preset, asked so.

        Raises:
            ValueError: for a prompt without `<image>`, or an unknown dialect; naming the setting.
        """
        return replace(preset, **self.given)

    def differing(self, preset: CodecPreset) -> dict[str, Any]:
        """The fields that are set and differ from the preset: the part that changes what is read."""
        return {name: value for name, value in self.given.items() if value != getattr(preset, name)}


@dataclass(frozen=True)
class Brackets:
    """Ids of an architecture around an image: `start`, the id of one visual token as often as there are, `end`."""

    start: Sequence[int]
    image: int
    end: Sequence[int]


def prompt_around(
    tokenizer: Tokenizer, directory: Path, preset: CodecPreset, brackets: Brackets, bos_id: int | None
) -> tuple[list[int], list[int]]:
    """Ids before and behind the visual tokens.

    Raises:
        ValueError: for a chat template that cannot be rendered here, or that drops the image; naming the setting.
    """
    template = read_template(directory, preset.chat_template)
    if not template:
        head, tail = (f"{preset.system}{preset.prompt}").split(MARK)
        before = [*_ids(tokenizer, head), *brackets.start]
        after = [*brackets.end, *_ids(tokenizer, tail)]
    else:
        before, after = _rendered(tokenizer, directory, template, preset, brackets)
    if preset.bos and bos_id is not None and before[:1] != [bos_id]:
        before = [bos_id, *before]
    return before, after


def read_template(directory: Path, setting: str) -> str:
    """The Jinja text of a chat template; "" for none.

    Args:
        setting: "", "checkpoint" (the checkpoint's own; none where it has none), or a template.

    Raises:
        ValueError: for a checkpoint that holds a template which is no text.
    """
    if setting != CHECKPOINT:
        return setting
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = directory / name
        template = json.loads(path.read_text("utf-8")).get("chat_template") if path.is_file() else None
        if isinstance(template, list):  # several by name
            template = next((one["template"] for one in template if one.get("name") == "default"), None)
        if template is not None and not isinstance(template, str):
            raise UsageError(f"codec.chat_template = {setting!r}: {path} holds no text; set the template itself")
        if template:
            return template
    return ""


def _rendered(
    tokenizer: Tokenizer, directory: Path, template: str, preset: CodecPreset, brackets: Brackets
) -> tuple[list[int], list[int]]:
    head, tail = preset.prompt.split(MARK)
    parts = [{"type": "image"}]
    if head.strip():
        parts.insert(0, {"type": "text", "text": head})
    if tail.strip():
        parts.append({"type": "text", "text": tail.lstrip("\n")})
    for content in (parts, preset.prompt):  # templates that know no parts take text with the mark
        system = [{"type": "text", "text": preset.system}] if content is parts else preset.system
        messages = [{"role": "system", "content": system}] if preset.system else []
        try:
            text = _render(directory, template, [*messages, {"role": "user", "content": content}])
        except TypeError as error:
            if content is preset.prompt:
                raise UsageError(f"codec.chat_template: it cannot be rendered: {error}") from error
            continue
        found = _split(_ids(tokenizer, text), text, tokenizer, brackets)
        if found:
            return found
    raise UsageError(
        "codec.chat_template: the rendered prompt has no place for the image; set codec.chat_template or codec.prompt"
    )


def _split(ids: list[int], text: str, tokenizer: Tokenizer, brackets: Brackets) -> tuple[list[int], list[int]] | None:
    """Ids before and behind the visual tokens in a rendered prompt, with the brackets that it lacks; None without an image."""
    if brackets.image in ids:
        first = ids.index(brackets.image)
        last = len(ids) - ids[::-1].index(brackets.image)
        before, after = ids[:first], ids[last:]
        start = [] if list(brackets.start) == before[len(before) - len(brackets.start) :] else brackets.start
        end = [] if list(brackets.end) == after[: len(brackets.end)] else brackets.end
        return [*before, *start], [*end, *after]
    if brackets.start and ids.count(brackets.start[0]) == 1:  # the processor would put the rest behind it
        at = ids.index(brackets.start[0])
        return [*ids[:at], *brackets.start], [*brackets.end, *ids[at + 1 :]]
    if text.count(MARK) == 1:
        head, tail = text.split(MARK)
        return [*_ids(tokenizer, head), *brackets.start], [*brackets.end, *_ids(tokenizer, tail)]
    return None


def _render(directory: Path, template: str, messages: list[dict[str, Any]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        from jinja2 import TemplateError
    except ImportError as error:
        raise UsageError("codec.chat_template needs jinja2: pip install jinja2, or set codec.chat_template = ''") from error
    special = _special_tokens(directory)
    try:
        rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **special)
    except (TemplateError, ImportError, ValueError, AttributeError, KeyError) as error:
        raise UsageError(
            f"codec.chat_template: it cannot be rendered here ({type(error).__name__}: {error}); set your own "
            "template, or '' for the plain prompt"
        ) from error
    return str(rendered[0])


def _special_tokens(directory: Path) -> dict[str, str]:
    """The texts of special tokens that templates may use, such as `bos_token`."""
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    named = {name: value for name, value in settings.items() if name.endswith("_token")}
    texts = {name: value["content"] if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which special tokens are written out."""
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = False
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids
    finally:
        tokenizer.encode_special_tokens = before
