import random

import pytest

from palimpsest.lab.bench.render import MODES_PX, bench_render
from palimpsest.pages.text_class import TEXT_CLASSES, classify

_DRAW = random.Random(3)
SAMPLES = {
    "prose": "The committee met on the first of May and agreed, after some debate, that the bridge should stay open. " * 5,
    "code": "def area(shape):\n    if shape.sides == 4:\n        return shape.width ** 2\n    raise ValueError(shape)\n" * 5,
    "tables": "\n".join(f"| {i} | {i * 7.25:.2f} | 2024-01-{i:02d} | {i % 9}.5% |" for i in range(10, 30)),
    "random": " ".join("".join(_DRAW.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP0123456789", k=8)) for _ in range(90)),
    "latin": "Die Bürger hörten, daß die Brücke über den Fluß für längere Zeit geschlossen würde. " * 5,
    "other_scripts": "Комитет собрался первого мая и решил, что мост останется открытым. " * 5,
}


@pytest.mark.parametrize("name", TEXT_CLASSES)
def test_each_class_is_told_from_the_others(name: str) -> None:
    assert classify(SAMPLES[name]) == name


@pytest.mark.parametrize(
    "text", ["ɛ gbɔ amesiwo katã ɖe ablɔɖe me ", "Ọmọ ènìyàn ni a bí ní òmìnira ", "ŋutinya aɖe ʋuʋu ƒe dɔ "]
)
def test_letters_of_the_phonetic_alphabet_are_latin(text: str) -> None:
    assert classify(text * 20) == "latin"


def test_degenerate_texts_have_a_class() -> None:
    assert classify("") == "prose" and classify("\n \t") == "prose" and classify("\ud800\x00") in TEXT_CLASSES


def test_the_benchmark_compares_every_script_and_says_whether_the_bars_are_reached() -> None:
    result = bench_render(seconds=0.01, pages=1)
    by_name = {(row["layout"], row["script"], row["mode"]): row for row in result["rows"]}
    assert {mode for layout, script, mode in by_name if layout == "document" and script == "latin"} == {*MODES_PX}
    assert by_name["grid", "latin", "base"]["bar"] == 100 and by_name["document", "arabic", "base"]["bar"] == 100
    assert by_name["document", "latin", "base"]["least"] == 500
    assert all(row["ours"] > 0 and row["pillow"] > 0 for row in result["rows"])  # how fast is for the command, not for a test
    reached = [row["ratio"] >= (row["bar"] or 0) and row["ours"] >= (row["least"] or 0) for row in result["rows"]]
    assert result["passed"] == all(reached)
