"""Other people's readers on our pages: Tesseract and RapidOCR, which were never trained on them.

It shows that pixels are legible. It does not show how a vision-language model would read their tokens. Page images of the same
texts by somebody else, where a folder of them is given, are read in the same run for comparison.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from palimpsest.codecs.modes import MODES
from palimpsest.codecs.text_tokens import count_tokens
from palimpsest.errors import UsageError
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.pages.normalise import normalise
from palimpsest.pages.text_class import classify
from palimpsest.verification.fidelity import precision

READERS = ("tesseract", "rapidocr")
_READABLE = 1000  # px: a smaller page is enlarged to about twice its size before it is read


class Sample(NamedTuple):
    """A text to read; `language` is Tesseract's name of the language."""

    name: str
    text: str
    text_class: str
    language: str


def bench_readers(
    texts: Path,
    layout: Layout,
    modes: Sequence[str],
    pages: int = 5,
    readers: Sequence[str] = READERS,
    images: Path | None = None,
) -> dict[str, Any]:
    """Read pages of texts.

    Args:
        texts: JSON lines of `name`, `text`, and where they are known `text_class` and `language`; texts of one name are one row.
        pages: of each name, at most.
        images: a folder of page images called by the `name` of a text (`NAME.png`), which are resized to the modes' pixels.

    Returns:
        `{"layout", "rows": [...]}`; a row has `source`, `name`, `text_class`, `language`, `mode`, `reader`, `pages`, and the
        means of `raw`, `folded` (whitespace folded) and `letters` (whitespace removed, and NFKC: a reader may write the micro
        sign for the Greek letter mu, or a full-width comma for a narrow one, which look alike). `ratio` is text tokens over the
        context tokens of the mode, newline rows counted.

    Raises:
        UsageError: for texts that cannot be read, an unknown mode, or a reader that is not installed.
    """
    samples = _samples(texts)
    for mode in modes:
        if mode not in MODES:
            raise UsageError(f"--mode {mode!r}: choose one of {', '.join(MODES)}")
    read = {name: _reader(name) for name in readers}
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(sample.name for sample in samples):
        some = [sample for sample in samples if sample.name == name]
        for mode in modes:
            px = MODES[mode].px
            drawn = list(islice(_pages(some, layout, px), pages))
            rows += _rows("rendered", some[0], mode, drawn, read)
            if images is not None and (images / f"{name}.png").is_file():
                rows += _rows("given image", some[0], mode, [(some[0].text, _given(images / f"{name}.png", px))], read)
    return {"layout": getattr(layout, "described", str(layout)), "rows": rows}


def _samples(path: Path) -> list[Sample]:
    try:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        return [
            Sample(
                str(record.get("name", record.get("id", "text"))),
                normalise(record["text"]),
                record.get("text_class") or classify(normalise(record["text"])),
                record.get("language", "eng"),
            )
            for record in records
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{str(path)!r}: expected JSON lines with a field 'text' ({error})") from error


def _pages(samples: Iterable[Sample], layout: Layout, px: int) -> Iterable[tuple[str, np.ndarray]]:
    for sample in samples:
        for page in layout.paginate(sample.text, sample.text_class):
            own = sample.text[page.char_start : page.char_end]
            yield own, layout.render([own], [page.drawing], px)[0]


def _given(path: Path, px: int) -> np.ndarray:
    """A page image scaled to a square of `px` pixels: its longer side fills it."""
    from PIL import Image

    image = Image.open(path).convert("L")
    scale = px / max(image.size)
    return np.asarray(image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS))


def _rows(
    source: str, sample: Sample, mode: str, drawn: list[tuple[str, np.ndarray]], read: dict[str, Callable[[np.ndarray, str], str]]
) -> Iterable[dict[str, Any]]:
    for reader, function in read.items():
        found = [function(_enlarged(image), sample.language) for _, image in drawn]
        texts = [text for text, _ in drawn]
        scores = {
            "raw": precision(texts, found),
            "folded": precision([" ".join(text.split()) for text in texts], [" ".join(text.split()) for text in found]),
            "letters": precision([_letters(text) for text in texts], [_letters(text) for text in found]),
        }
        what = {"source": source, "name": sample.name, "text_class": sample.text_class, "language": sample.language}
        means = {name: round(float(score.mean()), 4) for name, score in scores.items()}
        ratio = round(sum(count_tokens(texts)) / (len(drawn) * MODES[mode].num_context_tokens), 2)
        size = {"pages": len(drawn), "characters": len("".join(texts)), "ratio": ratio}
        yield {**what, "mode": mode, "reader": reader, **size, **means}


def _letters(text: str) -> str:
    return unicodedata.normalize("NFKC", "".join(text.split()))


def _enlarged(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    if max(image.shape) >= 2 * _READABLE:
        return image
    size = (2 * image.shape[1], 2 * image.shape[0])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _reader(name: str) -> Callable[[np.ndarray, str], str]:
    if name == "tesseract":
        if shutil.which("tesseract") is None:
            raise UsageError("--reader tesseract: the program is not installed (Debian: tesseract-ocr and its languages)")
        return _tesseract
    if name == "rapidocr":
        try:
            import rapidocr  # noqa: F401
        except ImportError as error:
            raise UsageError("--reader rapidocr: install palimpsest[readers]") from error
        return _rapidocr
    raise UsageError(f"--reader {name!r}: choose one of {', '.join(READERS)}")


def _tesseract(image: np.ndarray, language: str) -> str:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    command = ["tesseract", "stdin", "stdout", "-l", language, "--psm", "6"]
    done = subprocess.run(command, input=buffer.getvalue(), capture_output=True)
    if done.returncode:
        raise UsageError(f"tesseract -l {language}: {done.stderr.decode(errors='replace').strip()}")
    return normalise(done.stdout.decode())


@cache
def _engine() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR()


def _rapidocr(image: np.ndarray, language: str) -> str:
    """Its own model is for Chinese, English and Japanese, whatever the language is."""
    found = _engine()(np.repeat(image[:, :, None], 3, 2))
    return normalise("\n".join(found.txts or ()))
