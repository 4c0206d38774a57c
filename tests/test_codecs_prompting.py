"""How decoders are asked: prompts, chat templates, system texts and limits, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from palimpsest.codecs.adapter import load_codec
from palimpsest.codecs.presets import find_preset
from palimpsest.codecs.prompting import Prompting
from palimpsest.config import JobConfig, parse
from palimpsest.flow.recipe import fingerprint
from tests.codec_zoo import IMAGE, MERGED, ZOO, zoo

__all__ = ["zoo"]  # the fixture

GRID = (64, 32)
PARTS = (
    "{% for message in messages %}{{ '<start>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<end>{% endif %}"
)
TEXTS = "{% for message in messages %}{{ message['role'] + '. ' + message['content'] + '\n' }}{% endfor %}"


@pytest.fixture
def checkpoint(zoo, tmp_path: Path) -> Path:
    return Path(shutil.copytree(zoo("lighton"), tmp_path / "copy"))


def asked(directory: Path, **settings: object) -> str:
    """The whole prompt as text, special tokens included."""
    codec = load_codec(replace(find_preset("auto"), modes=MERGED), directory, prompting=Prompting(**settings), parts="decoder")
    ids = codec.prompt_ids(MERGED[0], GRID)
    assert ids.count(IMAGE) == MERGED[0].num_context_tokens
    return codec.target.tokenizer.decode(ids, skip_special_tokens=False)


def test_the_checkpoints_own_template_is_the_default_of_auto(checkpoint: Path) -> None:
    assert asked(checkpoint) == "<image>" * 4 + "\nFree OCR."
    (checkpoint / "chat_template.jinja").write_text(PARTS)
    images = "<image>" * 4
    assert asked(checkpoint) == f"<start>user\n{images}Free OCR.<end>"
    assert (
        asked(checkpoint, prompt="read <image>", system="be brief") == f"<start>system\nbe brief<start>user\nread {images}<end>"
    )
    assert asked(checkpoint, chat_template="", bos=True) == f"<bos>{images}\nFree OCR."
    assert asked(checkpoint, chat_template="", system="be brief. ") == f"be brief. {images}\nFree OCR."
    (checkpoint / "chat_template.jinja").unlink()
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": PARTS, "bos_token": {"content": "<bos>"}}))
    assert asked(checkpoint) == f"<start>user\n{images}Free OCR.<end>"
    assert asked(checkpoint, chat_template="{{ bos_token }}" + PARTS, bos=True) == f"<bos><start>user\n{images}Free OCR.<end>"


def test_templates_that_know_no_parts_take_text(checkpoint: Path) -> None:
    assert asked(checkpoint, chat_template=TEXTS) == "user. " + "<image>" * 4 + "\nFree OCR.\n"


def test_brackets_of_the_architecture_are_added_once(zoo) -> None:
    preset, mode = ZOO["qwen"][1], MERGED[0]
    for template in (PARTS, PARTS.replace("<image>", "<start><image><end>").replace("'<start>' + ", "")):
        codec = load_codec(preset, zoo("qwen"), prompting=Prompting(chat_template=template), parts="decoder")
        ids = codec.prompt_ids(mode, GRID)
        first = ids.index(IMAGE)
        assert ids[first - 1] == 5 and ids[first + 4] == 6 and ids[first - 2] != 5 and ids[first + 5] != 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "Free OCR."}, r"codec.prompt = 'Free OCR.': it must hold \"<image>\" exactly once"),
        ({"prompt": "<image><image>"}, "exactly once"),
        ({"max_new_tokens": 0}, "codec.max_new_tokens = 0: at least 1"),
        ({"dialect": "french"}, "codec.dialect = 'french': choose one of plain, document"),
        ({"chat_template": "{% for x in %}"}, "codec.chat_template: it cannot be rendered here .*TemplateSyntaxError"),
        ({"chat_template": "{{ messages | markdown }}"}, "codec.chat_template: it cannot be rendered here .*markdown"),
        ({"chat_template": "{{ raise_exception('needs pillow') }}"}, "codec.chat_template: .*needs pillow"),
        ({"chat_template": "{{ ''.__class__.__mro__ }}"}, "codec.chat_template: .*unsafe"),
        ({"chat_template": "hello"}, "codec.chat_template: the rendered prompt has no place for the image"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_setting(checkpoint: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(checkpoint, **settings)


def test_only_what_differs_from_the_preset_is_in_the_fingerprint() -> None:
    preset = find_preset("deepseek-ocr")
    assert Prompting(prompt=preset.prompt, bos=True).differing(preset) == {}
    assert Prompting(prompt="<image>read", bos=True).differing(preset) == {"prompt": "<image>read"}

    def of(*overrides: str) -> str:
        return fingerprint(parse({}, overrides, kind=JobConfig), "layout", "deepseek-ocr", "revision")

    plain = of()
    changed = {
        of(setting) for setting in ("codec.prompt=<image>read", "codec.bos=false", "codec.max_new_tokens=50", "codec.system=x")
    }
    assert len(changed) == 4 and plain not in changed
    assert of("codec.device=cpu") == plain
