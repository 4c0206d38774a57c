"""The figures of the README are those of the results that it links to, and its links and pictures are there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from palimpsest.report.tables import share
from tests.paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")
COLUMNS = ("text", "setting", "ratio", "precision", "exact")
ROW = re.compile("^" + "".join(rf"\| (?P<{name}>[^|]+) " for name in COLUMNS) + r"\| \[[^]]+\]\((?P<result>[^)]+)\) \|$", re.M)


def rows() -> list[dict[str, str]]:
    return [match.groupdict() for match in ROW.finditer(README)]


def result(link: str) -> dict[str, Any]:
    return json.loads((ROOT / link).with_suffix(".json").read_text("utf-8"))


def test_the_first_row_is_the_default_on_full_pages_and_the_second_on_typical_documents() -> None:
    first, second = rows()[:2]
    assert first["setting"] == second["setting"] == "the default" and "full pages" in first["text"]
    assert "demo_" in second["result"] and "fidelity_" in first["result"] and len(rows()) >= 6


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['text']}, {row['setting']}")
def test_a_row_has_the_figures_of_its_result(row: dict[str, str]) -> None:
    found = result(row["result"])
    grid, mode = ("64x32", "tiny") if row["setting"] == "the default" else re.findall(r"(\d+x\d+), (\w+)", row["setting"])[0]
    kind = row["text"].rpartition(" of ")[2].split(",")[0]
    if row["text"].startswith("the demo corpus"):
        values = {**found, "ratio": found["ratio_all_pages"]}
    else:
        same = [r for r in found["rows"] if (r["text_class"], r.get("grid", grid), r["mode"]) == (kind, grid, mode)]
        (values,) = same
    assert row["ratio"] == f"{values['ratio']:.1f}×"
    rounded = values["precision"] == 1 and values["exact"] < 1  # results have four digits
    assert row["precision"] == (">99.99%" if rounded else share(values["precision"])) and row["exact"] == share(values["exact"])


def test_figures_in_the_text_are_those_of_the_results() -> None:
    (rate,) = re.findall(r"Two cores make (\d+) pages/s.*?\]\((docs/results/[^)]+)\)", README, re.S)
    assert int(rate[0]) == round(result(rate[1])["rows"][0]["pages_per_second"])
    (faults,) = re.findall(r"Over ([\d,]+) injected faults.*?\]\((docs/results/[^)]+)\)", README, re.S)
    assert faults[0] in json.dumps(result(faults[1])) or faults[0].replace(",", "") in json.dumps(result(faults[1]))
    (gpu,) = re.findall(r"one H200 encodes (\d+) pages/s.*?\]\((docs/results/[^)]+)\)", README, re.S)
    assert gpu[0] in (ROOT / gpu[1]).read_text("utf-8")


def test_every_link_and_picture_is_there_and_the_page_is_short() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link).exists()] == []
    assert any(Path(link).suffix == ".png" for link in links)
    assert len(README.splitlines()) <= 130
