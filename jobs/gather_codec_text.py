r"""Gather the text that the embedded codec is trained on from documentation that is installed on this machine.

    apt-get install python3.11-doc debian-reference-{en,de,fr,es,it,pt} aptitude-doc-{en,fr,es,it,nl,fi} \
        debian-edu-doc-{de,fr,es,it,nl,da} postgresql-doc-15 git-doc developers-reference{,-de,-fr} \
        installation-guide-amd64 bible-kjv-text debian-policy
    python jobs/gather_codec_text.py OUT.jsonl
    python jobs/gather_codec_text.py --held-out OUT.jsonl > sample.jsonl

One JSON line a file: text, text_class, source, licence. What is not installed is named and skipped; nothing of the evaluation
set's sources (Debian Administrator's Handbook, sympy) is read. The second command writes what training never sees, and tables and
random strings, for `palimpsest fit`: enough for five pages a class on every grid.
"""

from __future__ import annotations

import glob
import gzip
import json
import sys
import sysconfig
from html.parser import HTMLParser

STDLIB = sysconfig.get_paths()["stdlib"]
SOURCES = [
    ("prose", "Python documentation", "PSF-2.0", "/usr/share/doc/python3.11/html/_sources/**/*.txt"),
    ("prose", "Debian Reference", "GPL-2.0-or-later", "/usr/share/debian-reference/*.en.html"),
    ("prose", "Debian Policy", "GPL-2.0-or-later", "/usr/share/doc/debian-policy/*.txt*"),
    ("prose", "Debian Developer's Reference", "GPL-2.0-or-later", "/usr/share/developers-reference/*.html"),
    ("prose", "aptitude manual", "GPL-2.0-or-later", "/usr/share/doc/aptitude/html/en/*.html"),
    ("prose", "PostgreSQL documentation", "PostgreSQL", "/usr/share/doc/postgresql-doc-15/html/*.html"),
    ("prose", "Git documentation", "GPL-2.0-only", "/usr/share/doc/git-doc/**/*.txt"),
    ("prose", "Debian Installation Guide", "GPL-2.0-only", "/usr/share/doc/installation-guide-amd64/en/*.html"),
    ("prose", "King James Bible", "public domain", "/usr/share/doc/bible-kjv-text/*"),
    ("code", "Python standard library", "PSF-2.0", f"{STDLIB}/**/*.py"),
    *(
        ("latin", name, "GPL-2.0-or-later", pattern)
        for language in ("de", "fr", "es", "it", "pt", "nl", "fi", "da", "sv", "cs")
        for name, pattern in (
            (f"Debian Reference, {language}", f"/usr/share/debian-reference/*.{language}.html"),
            (f"aptitude manual, {language}", f"/usr/share/doc/aptitude/html/{language}/*.html"),
            (f"Debian Edu manual, {language}", f"/usr/share/doc/debian-edu-doc-{language}/*.html"),
            (f"Debian Developer's Reference, {language}", f"/usr/share/developers-reference/{language}/*.html"),
            (f"Debian Installation Guide, {language}", f"/usr/share/doc/installation-guide-amd64/{language}/*.html"),
        )
    ),
]


class _Text(HTMLParser):
    """The running text of an HTML page."""

    BLOCKS = {"p", "div", "li", "tr", "h1", "h2", "h3", "h4", "pre", "br", "dt", "dd"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = self.pre = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.hidden += tag in ("script", "style", "head")
        self.pre += tag == "pre"
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style", "head")
        self.pre -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data if self.pre else " ".join(data.split()) + " " if data.strip() else "")

    @property
    def text(self) -> str:
        lines = (line.rstrip() for line in "".join(self.parts).splitlines())
        return "\n".join(line for line in lines if line)


def held_out(path: str, length: int = 100_000) -> None:
    """Print texts by class that training does not see, of `length` characters each."""
    from palimpsest.lab.training.codec_pages import SHARES, PageSampler

    sampler = PageSampler(path, seed=5, held_out=True)
    for name in SHARES:
        text = ""
        while len(text) < length:
            text += sampler.text(name, 4000) + "\n\n"
        print(json.dumps({"text": text, "text_class": name}, ensure_ascii=False))


def main(out: str) -> None:
    totals: dict[tuple[str, str, str], int] = {}
    with open(out, "w") as file:
        for text_class, source, licence, pattern in SOURCES:
            paths = [p for p in sorted(glob.glob(pattern, recursive=True)) if "/test/" not in p and "site-packages" not in p]
            for path in paths:
                try:
                    raw = (gzip.open if path.endswith(".gz") else open)(path, "rb").read().decode("utf-8")
                except (UnicodeDecodeError, IsADirectoryError) as error:
                    print(f"skipped {path}: {error}", file=sys.stderr)
                    continue
                text = _Text(raw).text if path.endswith(".html") else raw
                file.write(json.dumps({"text": text, "text_class": text_class, "source": source, "licence": licence}) + "\n")
                totals[text_class, source, licence] = totals.get((text_class, source, licence), 0) + len(text)
            if not paths:
                print(f"not installed: {source} ({pattern})", file=sys.stderr)
    for (text_class, source, licence), characters in totals.items():
        print(f"| {text_class} | {source} | {licence} | {characters / 1e6:.2f} M characters |")


if __name__ == "__main__":
    held_out(sys.argv[2]) if sys.argv[1] == "--held-out" else main(sys.argv[1])
