"""The bench of other people's readers: its scores, its inputs, and what it says of a reader that is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from palimpsest.errors import UsageError
from palimpsest.lab.bench import readers
from palimpsest.lab.bench.coverage import bench_coverage
from palimpsest.lab.bench.readers import bench_readers
from palimpsest.pages.layouts.document import DocumentLayout

TEXT = "Everyone has the right to life, liberty and the security of person. " * 6


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"name": "prose", "text": TEXT, "language": "eng"}) + "\n", "utf-8")
    return path


def test_tesseract_reads_a_page_and_the_same_page_as_a_given_image(texts: Path, tmp_path: Path) -> None:
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract: install Debian's tesseract-ocr")
    from PIL import Image

    layout = DocumentLayout(font_size=32)
    page = next(layout.paginate(TEXT, "prose"))
    image = layout.render([TEXT], [page.drawing], 900)[0]
    Image.fromarray(image[: np.flatnonzero((image < 255).any(1))[-1] + 20]).save(tmp_path / "prose.png")
    result = bench_readers(texts, layout, ["base"], readers=["tesseract"], images=tmp_path)
    assert [row["source"] for row in result["rows"]] == ["rendered", "given image"]
    for row in result["rows"]:
        assert row["letters"] > 0.95 and row["folded"] > 0.95 and row["raw"] < 1


def test_what_cannot_be_measured_is_named(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'huge': choose one of tiny"):
        bench_readers(texts, DocumentLayout(), ["huge"], readers=[])
    with pytest.raises(UsageError, match="--reader 'nobody': choose one of tesseract, rapidocr"):
        bench_readers(texts, DocumentLayout(), ["tiny"], readers=["nobody"])
    (tmp_path / "bad.jsonl").write_text('{"name": "x"}\n', "utf-8")
    with pytest.raises(UsageError, match="JSON lines with a field 'text'"):
        bench_readers(tmp_path / "bad.jsonl", DocumentLayout(), ["tiny"], readers=[])
    monkeypatch.setattr(readers.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="not installed"):
        bench_readers(texts, DocumentLayout(), ["tiny"], readers=["tesseract"])


def test_pages_that_no_font_covers_are_counted_and_name_their_script(tmp_path: Path) -> None:
    page = "<!doctype html><head><title>name</title></head><body><h1>{}</h1>\n<p>{}</p></body>"
    (tmp_path / "egy.html").write_text(page.format("\U00013000" * 9, "\U00013001"), "utf-8")
    (tmp_path / "eng.html").write_text(page.format("Rights", TEXT), "utf-8")
    result = bench_coverage(tmp_path, DocumentLayout(), 0.01)
    assert (result["texts"], result["pages"], result["kept_as_text"], result["share"]) == (2, 2, 1, 0.5)
    assert result["rows"] == [{"name": "egy", "pages": 1, "kept_as_text": 1, "scripts": "EGYPTIAN"}]
    (tmp_path / "texts.jsonl").write_text(json.dumps({"name": "eng", "text": TEXT}) + "\n", "utf-8")
    assert bench_coverage(tmp_path / "texts.jsonl", DocumentLayout(), 0.01)["rows"] == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no HTML file there; expected a folder of HTML files, or JSON lines"):
        bench_coverage(tmp_path / "empty", DocumentLayout(), 0.01)
    with pytest.raises(UsageError, match="expected a folder of HTML files, or JSON lines"):
        bench_coverage(tmp_path / "eng.html", DocumentLayout(), 0.01)
