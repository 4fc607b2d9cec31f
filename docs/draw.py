"""Draw the sequence diagrams of the documentation: ``python docs/draw.py`` writes ``docs/images/*.svg`` from the ``*.seq`` beside them.

With ``--check`` nothing is written; the exit code is 1 where a picture is not what its description says. Lines of a description:

=================== ====================================================================================================
``title: ...``      the title; ``alt: ...`` is what a reader hears who can not see the picture
``A = worker A``    a lane, from left to right; ``/`` begins a new line of text, here and everywhere
``A: text``         something that lane A does; ``A!: text`` something bad, ``A+: text`` something good
``A -> B: text``    a message; ``A ~> B: text`` one of the log, ``A -x B: text`` one that does not arrive or is refused
``-- text``         a line across, with words
=================== ====================================================================================================
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

IMAGES = Path(__file__).resolve().parent / "images"

LANE = re.compile(r"(\w+) = (.+)")
NOTE = re.compile(r"(\w+)([!+]?): (.+)")
MESSAGE = re.compile(r"(\w+) ([-~])([>x]) (\w+): (.+)")
TONES = {"": "plain", "!": "bad", "+": "good"}

SPACING = 250
MARGIN = 118
TOP = 16
HEAD = 44
LINE = 16
LETTER = 6.5
"""About as wide as a letter of 12 pixels is on average."""

STYLE = """
    .head { fill: #eef2f7; stroke: #57606a; stroke-width: 1.5; }
    .lane { stroke: #8c96a3; stroke-width: 1; stroke-dasharray: 2 4; }
    text { fill: #1f2328; font-size: 12px; text-anchor: middle; }
    .who { font-weight: 600; font-size: 13px; }
    .plain { fill: #ffffff; stroke: #8c96a3; }
    .bad { fill: #ffebe9; stroke: #cf222e; }
    .good { fill: #dafbe1; stroke: #1a7f37; }
    .arrow { stroke: #57606a; stroke-width: 1.5; fill: none; }
    .tip { fill: #57606a; }
    .log { stroke: #b7791f; stroke-width: 2; stroke-dasharray: 6 4; fill: none; }
    .logtip { fill: #b7791f; }
    .lost { stroke: #cf222e; stroke-width: 1.5; fill: none; }
    .behind { fill: #ffffff; fill-opacity: 0.85; }
    .rule { stroke: #8c96a3; stroke-width: 1; }
    .said { fill: #57606a; font-style: italic; }
    @media (prefers-color-scheme: dark) {
      .head { fill: #21262d; stroke: #8b949e; }
      .lane { stroke: #6e7681; }
      text { fill: #e6edf3; }
      .plain { fill: #161b22; stroke: #6e7681; }
      .bad { fill: #3c1618; stroke: #f85149; }
      .good { fill: #12261e; stroke: #3fb950; }
      .arrow { stroke: #8b949e; }
      .tip { fill: #8b949e; }
      .log { stroke: #d29922; }
      .logtip { fill: #d29922; }
      .lost { stroke: #f85149; }
      .behind { fill: #0d1117; }
      .rule { stroke: #6e7681; }
      .said { fill: #9da7b3; }
    }
"""


@dataclass(slots=True)
class Picture:
    """A description, read: lanes with their places from left to right, and what happens, line by line."""

    title: str = ""
    alt: str = ""
    lanes: dict[str, str] = field(default_factory=dict[str, str])
    lines: list[str] = field(default_factory=list[str])

    def place(self, lane: str) -> float:
        """Where a lane stands, pixels from the left."""
        return MARGIN + SPACING * list(self.lanes).index(lane)

    @property
    def width(self) -> int:
        return 2 * MARGIN + SPACING * (len(self.lanes) - 1)


def read(path: Path) -> Picture:
    """Read a description. Raises ``ValueError`` for a line that means nothing."""
    picture = Picture()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        word, _, rest = line.partition(": ")
        if not line.strip() or line.startswith("#"):
            continue
        if word in {"title", "alt"}:
            setattr(picture, word, rest)
        elif lane := LANE.fullmatch(line):
            picture.lanes[lane[1]] = lane[2]
        elif line.startswith("-- ") or (MESSAGE.fullmatch(line) or NOTE.fullmatch(line)):
            picture.lines.append(line)
        else:
            raise ValueError(f"{path.name}:{number}: {line!r} means nothing")
    return picture


def draw(picture: Picture) -> str:
    """The picture as SVG, light on a light page and dark on a dark one."""
    body: list[str] = []
    y = TOP + HEAD + 14.0
    for line in picture.lines:
        if line.startswith("-- "):
            body += rule(picture, line[3:], y)
            y += 30
        elif message := MESSAGE.fullmatch(line):
            words = message[5].split(" / ")
            y += LINE * len(words)
            body += arrow(picture.place(message[1]), picture.place(message[4]), y, words, message[2] + message[3])
            y += 14
        elif note := NOTE.fullmatch(line):
            words = note[3].split(" / ")
            body += box(picture, picture.place(note[1]), y, words, TONES[note[2]])
            y += LINE * len(words) + 18
    bottom = y + 4
    lanes = [part for lane in picture.lanes for part in head(picture, lane, bottom)]
    label = f'  <title id="title">{escape(picture.title)}</title>\n  <desc id="desc">{escape(picture.alt)}</desc>\n'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {picture.width} {bottom + 8:g}" role="img" '
        'aria-labelledby="title desc" font-family="system-ui, -apple-system, \'Segoe UI\', sans-serif">\n'
    )
    return opening + label + f"  <style>{STYLE}  </style>\n" + "".join(f"  {part}\n" for part in (*lanes, *body)) + "</svg>\n"


def head(picture: Picture, lane: str, bottom: float) -> Iterator[str]:
    x, words = picture.place(lane), picture.lanes[lane].split(" / ")
    yield f'<path class="lane" d="M{x:g} {TOP + HEAD} V{bottom:g}"/>'
    yield f'<rect class="head" x="{x - 105:g}" y="{TOP}" width="210" height="{HEAD}" rx="7"/>'
    for row, word in enumerate(words):
        y = TOP + HEAD / 2 + 5 + (row - (len(words) - 1) / 2) * LINE
        yield f'<text class="{"said" if row else "who"}" x="{x:g}" y="{y:g}">{escape(word)}</text>'


def box(picture: Picture, x: float, y: float, words: list[str], tone: str) -> Iterator[str]:
    width = max(map(len, words)) * LETTER + 18
    x = max(width / 2 + 4, min(x, picture.width - width / 2 - 4))
    yield f'<rect class="{tone}" x="{x - width / 2:g}" y="{y:g}" width="{width:g}" height="{LINE * len(words) + 8}" rx="5"/>'
    for row, word in enumerate(words):
        yield f'<text x="{x:g}" y="{y + 16 + LINE * row:g}">{escape(word)}</text>'


def arrow(start: float, end: float, y: float, words: list[str], kind: str) -> Iterator[str]:
    way = 1 if end > start else -1
    middle = (start + end) / 2
    width = max(map(len, words)) * LETTER + 6
    top = y - LINE * len(words) - 1
    yield f'<rect class="behind" x="{middle - width / 2:g}" y="{top:g}" width="{width:g}" height="{LINE * len(words):g}"/>'
    for row, word in enumerate(words):
        yield f'<text x="{middle:g}" y="{top + 11 + LINE * row:g}">{escape(word)}</text>'
    if kind[1] == "x":
        stop = end - way * 14
        yield f'<path class="lost" d="M{start:g} {y:g} H{stop:g} M{stop - 5:g} {y - 5:g} l10 10 M{stop - 5:g} {y + 5:g} l10 -10"/>'
        return
    line, tip = ("log", "logtip") if kind[0] == "~" else ("arrow", "tip")
    yield f'<path class="{line}" d="M{start:g} {y:g} H{end - way * 8:g}"/>'
    yield f'<path class="{tip}" d="M{end - way * 9:g} {y - 5:g} v10 l{way * 9} -5 z"/>'


def rule(picture: Picture, words: str, y: float) -> Iterator[str]:
    width, middle = len(words) * LETTER + 16, picture.width / 2
    yield f'<path class="rule" d="M8 {y + 9:g} H{picture.width - 8}"/>'
    yield f'<rect class="behind" style="fill-opacity: 1" x="{middle - width / 2:g}" y="{y:g}" width="{width:g}" height="18"/>'
    yield f'<text class="said" x="{middle:g}" y="{y + 13:g}">{escape(words)}</text>'


def main() -> int:
    """Draw all pictures, or with ``--check`` say which are not as described."""
    only_check = sys.argv[1:] == ["--check"]
    wrong = 0
    for path in sorted(IMAGES.glob("*.seq")):
        drawn, target = draw(read(path)), path.with_suffix(".svg")
        if target.exists() and target.read_text(encoding="utf-8") == drawn:
            continue
        if only_check:
            wrong += 1
            print(f"docs/images/{target.name}: not what {path.name} says; run docs/draw.py")
        else:
            target.write_text(drawn, encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
