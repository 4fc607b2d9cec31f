"""Check all Markdown of the repository: ``python docs/check.py``. Exit code 1, with ``file:line: what``, when something is wrong.

* A relative link leads to a file or folder that exists, and its anchor to a heading (as GitHub names them) or an ``id``.
* A ``console`` block whose first line is ``$ cachesync ... --help`` shows today's text. A line ``...`` stands for any lines.
* A test that is named, ``test_races.py`` or ``test_races.py::test_...``, exists. (Nothing is promised that a test does not show.)
* A picture is what its description says (``draw.py``).
* A Python block is opened by ```` ```python ````, the one spelling that tests/test_docs.py executes: no example is left out
  because it is called ``py`` or ``pycon``.

Nothing is fetched: links to other hosts are not followed.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
PASSED_BY = {"node_modules", "build", "dist", "__pycache__"}
OTHER_PYTHONS = {"py", "python3", "py3", "pycon", "python-console", "python-repl", "pytb", "ipython", "Python", "PYTHON"}

FENCE = re.compile(r"^(?P<indent>[ >]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(?P<text>.*?)(?:[ \t]+#+)?[ \t]*$")
UNDERLINE = re.compile(r"^ {0,3}(=+|-+)[ \t]*$")
NAMED = re.compile(r"""<\w+[^>]*?\b(?:id|name)=["'](?P<name>[^"']+)["']""")
CODE_SPAN = re.compile(r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)")
INLINE_LINK = re.compile(r"\]\(\s*(?P<to><[^>]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+(?:\"[^\"]*\"|'[^']*'|\([^)]*\)))?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[(?P<label>[^\]^][^\]]*)\]:\s*(?P<to><[^>]*>|\S+)")
FULL_REFERENCE = re.compile(r"\[(?P<text>[^\[\]]+)\]\[(?P<label>[^\[\]]*)\]")
HTML_LINK = re.compile(r"""<(?:a|img)\b[^>]*?\b(?:href|src)=["'](?P<to>[^"']+)["']""")
NAMED_TEST = re.compile(r"`(?P<file>test_\w+\.py)(?:::(?P<test>test_\w+))?`")
ELSEWHERE = re.compile(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//)")


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block: the line of its opening fence, what stands after the marks, and its lines."""

    line: int
    info: str
    lines: tuple[str, ...]

    @property
    def language(self) -> str:
        """The first word after the marks, or nothing."""
        return re.split(r"[\s{,]", self.info, maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class Page:
    """A Markdown file taken apart."""

    path: Path
    links: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    anchors: set[str] = field(default_factory=set[str])
    fences: list[Fence] = field(default_factory=list[Fence])
    tests: list[tuple[int, str, str | None]] = field(default_factory=list[tuple[int, str, str | None]])
    problems: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def pages() -> list[Path]:
    """Every Markdown file that is not in a hidden or generated folder."""
    found: list[Path] = []
    for folder, inner, files in os.walk(ROOT):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in PASSED_BY)
        found += [Path(folder) / name for name in sorted(files) if name.endswith(".md")]
    return found


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading: letters, digits, hyphens and underscores stay, spaces become hyphens."""
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    plain = re.sub(r"<[^>]+>", "", plain)
    plain = re.sub(r"(?<!\w)(\*\*|\*|__|_)(\S.*?\S|\S)\1(?!\w)", r"\2", plain)
    kept = (sign for sign in plain.strip().lower() if sign in "-_ " or unicodedata.category(sign)[0] in "LNM")
    return "".join(kept).replace(" ", "-")


@cache
def read(path: Path) -> Page:
    """Take a file apart: fenced blocks first, then headings and links of the rest."""
    page = Page(path)
    text = list(outside_fences(page, path.read_text(encoding="utf-8").splitlines()))
    seen: Counter[str] = Counter()
    labels: set[str] = set()
    before = ""
    for number, line in text:
        heading = HEADING.match(line)
        title = heading["text"] if heading else before if UNDERLINE.match(line) and before.strip() else None
        if title is not None:
            name = slug(title)
            page.anchors.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
        page.anchors.update(found["name"] for found in NAMED.finditer(line))
        page.tests.extend((number, found["file"], found["test"]) for found in NAMED_TEST.finditer(line))
        bare = CODE_SPAN.sub("``", line)
        if definition := DEFINITION.match(bare):
            labels.add(definition["label"].casefold())
            page.links.append((number, definition["to"]))
        page.links.extend((number, found["to"]) for found in INLINE_LINK.finditer(bare))
        page.links.extend((number, found["to"]) for found in HTML_LINK.finditer(bare))
        before = "" if heading or line.startswith((" ", "-", ">", "|")) else line
    for number, line in text:
        for found in FULL_REFERENCE.finditer(CODE_SPAN.sub("``", line)):
            if (label := found["label"] or found["text"]).casefold() not in labels:
                page.problems.append((number, f"[{label}] is defined nowhere on this page"))
    return page


def outside_fences(page: Page, lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines that stand in no fenced block, and put the blocks into ``page``."""
    opened: re.Match[str] | None = None
    began = 0
    inner: list[str] = []
    for number, line in enumerate(lines, start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened, began, inner = fence, number, []
            else:
                yield number, line
        elif fence and fence["mark"].startswith(opened["mark"]) and not fence["info"].strip():
            page.fences.append(Fence(began, opened["info"].strip(), tuple(inner)))
            opened = None
        else:
            inner.append(line.removeprefix(opened["indent"]))
    if opened is not None:
        page.problems.append((began, "this fence is never closed"))


def link_problem(page: Page, target: str) -> str | None:
    """What is wrong with a link on ``page``, or None."""
    target = unquote(target.removeprefix("<").removesuffix(">"))
    if ELSEWHERE.match(target):
        return None
    if not target:
        return "this link leads nowhere"
    name, _, anchor = target.partition("#")
    if name.startswith("/"):
        return f"{target}: write it relative to this file"
    path = (page.path.parent / name).resolve() if name else page.path
    if not path.is_relative_to(ROOT):
        return f"{target}: leaves the repository"
    if not path.exists():
        return f"{target}: there is no {path.relative_to(ROOT)}"
    if anchor and path.suffix == ".md" and anchor not in read(path).anchors:
        return f"{target}: {path.relative_to(ROOT)} has no heading for #{anchor}"
    return None


@cache
def tests_of(name: str) -> frozenset[str] | None:
    """The tests in a file of tests, ``None`` where there is no such file."""
    path = ROOT / "tests" / name
    return frozenset(re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))) if path.exists() else None


def test_problem(page: Page, name: str, test: str | None) -> str | None:
    """What is wrong with a test that ``page`` names, or None."""
    if not page.path.is_relative_to(ROOT / "docs"):
        return None
    tests = tests_of(name)
    if tests is None:
        return f"{name}: there is no tests/{name}"
    return None if test is None or test in tests else f"{name}::{test}: there is no such test"


def drawing_problems() -> list[str]:
    """Pictures that are not what their descriptions say."""
    run = subprocess.run([sys.executable, str(ROOT / "docs" / "draw.py"), "--check"], capture_output=True, text=True, check=False)
    return (run.stdout + run.stderr).splitlines()


@cache
def help_text(command: str) -> str:
    """What ``cachesync ... --help`` prints, 80 columns wide and without colours."""
    from cachesync.cli import main as called

    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
        called(shlex.split(command)[1:])
    return said.getvalue()


def shows(excerpt: Iterable[str], whole: str) -> bool:
    """Whether ``excerpt`` is ``whole``, where a line ``...`` of the excerpt stands for any lines, even none."""
    parts = "\n".join(line.rstrip() for line in excerpt).strip("\n").split("\n")
    pattern = "".join(r"(?:.*\n)*?" if part.strip() == "..." else re.escape(part) + r"\n" for part in parts)
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in whole.strip("\n").split("\n")) + "\n") is not None


def fence_problem(fence: Fence) -> str | None:
    """What is wrong with a fenced block, or None."""
    if fence.language in OTHER_PYTHONS:
        return f"a block of Python is opened by ```python, not ```{fence.language}: else no test runs it"
    first = fence.lines[0].strip() if fence.lines else ""
    if re.fullmatch(r"\$ cachesync( .*)? --help", first):
        told = help_text(first.removeprefix("$ "))
        if not shows(fence.lines[1:], told):
            return f"`{first[2:]}` now says:\n{told}"
    return None


def problems() -> Iterator[str]:
    """Everything that is wrong, as ``file:line: what``."""
    for path in pages():
        page = read(path)
        found = list(page.problems)
        found += [(number, said) for number, target in page.links if (said := link_problem(page, target))]
        found += [(fence.line, said) for fence in page.fences if (said := fence_problem(fence))]
        found += [(number, said) for number, name, test in page.tests if (said := test_problem(page, name, test))]
        yield from (f"{path.relative_to(ROOT)}:{number}: {said}" for number, said in sorted(found))
    yield from drawing_problems()


def main() -> int:
    """Print what is wrong. Returns 1 when anything is."""
    found = list(problems())
    for line in found:
        print(line)
    links = sum(len(read(path).links) for path in pages())
    print(f"{len(pages())} pages, {links} links: {len(found) or 'no'} problem{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
