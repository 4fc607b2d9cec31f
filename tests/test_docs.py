"""README and docs say what is true: each example runs, each policy parses, each table shows what the code has.

How a page is run, in a folder of its own:

* A block whose first line is a comment with a file's name, ``# shop.py`` or ``# cachesync.toml``, is written to that file.
  JSON has no comments: there it is the file that the text named last.
* The other ``python`` blocks of a page are one program, from top to bottom.
* After that, ``$ cachesync ...`` and ``$ python ...`` in ``console`` blocks are run. Output that a page shows has to come; ``...`` stands
  for anything. A command that ends in ``&`` goes on beside the next ones, from its first line of output on. What should fail is followed by
  ``$ echo $?`` and the exit code.
* A page that says ``<!-- runs with: Redis -->`` finds one at ``CACHESYNC_REDIS_URL``.
"""

from __future__ import annotations

import doctest
import importlib
import io
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args
from unittest import mock

import pytest

import cachesync
from cachesync import FunctionStats, Stats, errors
from cachesync.cli import main
from cachesync.coordination.events import CATALOGUE, FIELDS, SPANS
from cachesync.coordination.health import REASONS, STATUSES
from cachesync.coordination.metrics import DURATIONS, METRICS
from cachesync.coordination.policy_file import parse_settings
from cachesync.core.auditing import Question
from cachesync.core.names import Names
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.records import Targets
from cachesync.core.section import Section
from cachesync.core.settings import CoordinationSettings, LocalSettings, RedisSettings, WarmingSettings
from cachesync.core.stamps import Stamp
from cachesync.core.steps import (
    Announce,
    Collect,
    Confirm,
    Discard,
    Extend,
    Fetch,
    Heads,
    Inquire,
    Lease,
    ReadBans,
    ReadLog,
    Release,
    Scan,
    Seize,
    SharedStep,
    Snapshot,
    Store,
    Throw,
    Together,
)
from cachesync.core.steps import (
    Testify as Answer,  # pytest takes a name that begins with Test for a test
)
from cachesync.core.units import format_duration, format_size
from cachesync.layers import scripts
from cachesync.layers.redis_wire import Bounds
from cachesync.layers.redis_wire import commands_of as commands_of_step
from support.servers import Server

ROOT = Path(__file__).parents[1]
PATIENT = str(ROOT / "tests" / "support" / "patience")
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PATIENCE = 60.0
"""Seconds after which an example is taken for hung."""

OPENING = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# ([\w.-]+\.(?:py|toml))$")
JSON_NAME = re.compile(r"`([\w-]+\.json)`")
NEEDS_REDIS = "<!-- runs with: Redis -->"
EXPORTED = {
    *("CACHESYNC_REDIS_URL", "CACHESYNC_REDIS_ENABLED", "CACHESYNC_ENABLED"),
    *("CACHESYNC_FILE", "CACHESYNC_ENCRYPTION_KEYS", "CACHESYNC_SWITCH", "CACHESYNC_SECRET"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, the line of the page on which it begins, and the file that it is, if it is one."""

    language: str
    text: str
    line: int
    file_name: str | None


@dataclass(frozen=True, slots=True)
class Command:
    """A line after ``$``, with the output that is shown under it and the exit code it should have."""

    line: str
    shown: str
    code: int = 0


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 2, file_name(found[1], found[2], text[: found.start()]))
        for found in OPENING.finditer(text)
    ]


def file_name(language: str, inside: str, before: str) -> str | None:
    """The file that a block is, by its first line or, for JSON, by the text before it."""
    if language == "json":
        named = JSON_NAME.findall(before)
        return named[-1] if named else None
    found = FILE_NAME.match(inside.partition("\n")[0]) if language in {"python", "toml"} else None
    return found[1] if found else None


def commands_of(text: str) -> Iterator[Command]:
    """The commands of a ``console`` block."""
    parts = [part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    for index, (line, _, shown) in enumerate(parts):
        after = parts[index + 1] if index + 1 < len(parts) else ("", "", "0")
        if line != "echo $?":
            yield Command(line, shown, int(after[2]) if after[0] == "echo $?" else 0)


def is_shown(shown: str, output: str) -> bool:
    """Whether the output is what the page shows, where ``...`` stands for anything."""
    pattern = "".join(r"[\s\S]*?" if part == "..." else re.escape(part) for part in re.split(r"(\.\.\.)", shown.strip()))
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in output.strip().splitlines())) is not None


class Terminal:
    """Runs what a page says in one folder, as a reader would."""

    def __init__(self, folder: Path, stack: ExitStack, environment: Mapping[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in EXPORTED | {"PYTHONPATH", "PYTHONSAFEPATH"}}
        paths = [PATIENT] if os.environ.get("CACHESYNC_TEST_WHEEL") == "1" else [PATIENT, str(ROOT)]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
        alone = {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # plugins that are here by chance take seconds to load
        self.environment = {**kept, **alone, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", **environment}
        self.folder = folder
        self.stack = stack
        self.beside: list[tuple[Command, subprocess.Popen[str], str]] = []

    def run_program(self, source: str, title: str) -> None:
        """Run the text of a program. Warnings are errors."""
        (self.folder / title).write_text(source, encoding="utf-8")
        told = self._run([sys.executable, "-W", "error", title], self.environment)
        assert told.returncode == 0 and "Exception ignored" not in told.stdout, f"{title}:\n{told.stdout}"

    def run_command(self, command: Command) -> None:
        """Run one line of a ``console`` block, if it is one of those that can be run here."""
        words = shlex.split(command.line, comments=True)
        if words == ["wait"]:
            self.wait()
            return
        is_beside = words[-1:] == ["&"]
        variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        arguments = self._arguments([word for word in words[: -1 if is_beside else None] if not re.match(r"[A-Z_]+=", word)])
        if arguments is None:
            return
        environment = {**self.environment, **variables}
        if arguments[0] == "cachesync" and not is_beside:
            self._check(command, *self._called(arguments[1:], environment))
            return
        if is_beside:
            process = subprocess.Popen(
                arguments, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            self.stack.callback(self._end, process)
            assert process.stdout is not None
            self.beside.append((command, process, process.stdout.readline()))
            return
        told = self._run(arguments, environment)
        self._check(command, told.returncode, told.stdout)

    def wait(self) -> None:
        """Wait for what runs beside, and look at what it said."""
        for command, process, first in self.beside:
            rest, _ = process.communicate(timeout=PATIENCE)
            self._check(command, process.returncode, first + rest)
        self.beside.clear()

    @staticmethod
    def _arguments(words: list[str]) -> list[str] | None:
        match words:
            case ["cachesync", ("check" | "explain" | "schema" | "key" | "--version"), *_] if not {"|", ">"} & set(words):
                return words
            case ["python", *rest]:
                return [sys.executable, *rest]
            case _:
                return None

    def _called(self, arguments: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
        """The exit code and the output of a command of ours, in this process: what only reads files needs none of its own."""
        said = io.StringIO()
        here = Path.cwd()
        with mock.patch.dict(os.environ, environment, clear=True), redirect_stdout(said), redirect_stderr(said):
            os.chdir(self.folder)
            try:
                code = main(arguments)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            finally:
                os.chdir(here)
        return code, said.getvalue()

    def _run(self, arguments: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    @staticmethod
    def _check(command: Command, code: int, output: str) -> None:
        assert code == command.code, f"$ {command.line}\n{output}exit code {code}"
        if command.shown.strip():
            assert is_shown(command.shown, output), f"$ {command.line}\nsays:\n{output}and the page shows:\n{command.shown}"

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_example_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """What a page shows is what happens: programs run without a warning, files are as shown, commands print what stands under them."""
    blocks = blocks_of(page)
    with ExitStack() as stack:
        environment: dict[str, str] = {}
        if NEEDS_REDIS in page.read_text(encoding="utf-8"):
            environment["CACHESYNC_REDIS_URL"] = stack.enter_context(Server()).url
        terminal = Terminal(tmp_path, stack, environment)
        program = ""
        for block in blocks:
            if block.file_name:
                (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")
            elif block.language == "python":  # empty lines before it, so that a traceback names the line of the page
                program += "\n" * (block.line - 1 - program.count("\n")) + block.text
        if program:
            terminal.run_program(program, f"{page.stem}_md.py")
        for block in blocks:
            for command in commands_of(block.text) if block.language == "console" else ():
                terminal.run_command(command)
        terminal.wait()


@pytest.mark.parametrize(
    ("page", "block"),
    [
        pytest.param(page, block, id=f"{page.relative_to(ROOT).as_posix()}:{block.line}")
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "toml" and "[policy." in block.text
    ],
)
def test_every_policy_of_a_page_is_right(page: Path, block: Block) -> None:
    """A policy file that the docs show has no mistakes, unless it is called ``wrong.toml``."""
    if block.file_name == "wrong.toml":
        with pytest.raises(errors.PolicyError):
            parse_settings(block.text, page.name, "toml")
    else:
        assert len(parse_settings(block.text, f"{page.name}:{block.line}", "toml").policies)


def test_every_link_and_help_text_of_the_docs_is_right() -> None:
    """``make docs`` finds nothing: links lead somewhere, and what ``--help`` prints stands in the docs as it is."""
    told = subprocess.run(
        [sys.executable, str(DOCS / "check.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


def modules() -> list[str]:
    """Every module of the package that can be imported without running something."""
    found = [info.name for info in pkgutil.walk_packages(cachesync.__path__, "cachesync.")]
    return ["cachesync", *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_run(name: str) -> None:
    """What a docstring shows behind ``>>>`` is what happens."""
    module: ModuleType = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


# --- tables that show what the code has ---------------------------------------------------------------------------------------------


def rows_of(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head; ``|`` in code is written ``\\|``."""
    _, found, rest = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading!r}"
    rows: list[list[str]] = []
    for line in rest.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace(r"\|", "|") for cell in cells])
        elif rows or line.startswith("#"):
            break
    return rows[2:]


def code(text: str) -> str:
    """What stands between backticks."""
    found = re.match(r"`+ ?(.+?) ?`+", text)
    return found[1] if found else ""


def usual(section: type[Section], name: str) -> str:
    """The default of a setting, as a policy file would spell it; empty where there is none."""
    value = section.defaults().get(name)
    rule = section.rules[name]
    if value is None:
        return ""
    if rule.is_duration:
        return f'"{format_duration(float(str(value)))}"'
    if "16KiB" in str(rule.schema.get("examples")):
        return f'"{format_size(int(str(value)))}"'
    if isinstance(value, tuple):
        return "[]"
    return json.dumps(value)


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("## `[redis]`", RedisSettings),
        ("## `[coordination]`", CoordinationSettings),
        ("## `[local]`", LocalSettings),
        ("## `[warming]`", WarmingSettings),
        ("## `[policy.<name>]`", Policy),
        ("## `[policy.<name>.http]`", HttpPolicy),
    ],
)
def test_the_reference_shows_every_setting(heading: str, section: type[Section]) -> None:
    """Each setting stands in the reference in the order of the code, with its default."""
    rows = rows_of(DOCS / "reference" / "policy-file.md", heading)
    shown = [(code(row[0]), code(row[2])) for row in rows]
    assert shown == [(name, usual(section, name)) for name in section.rules if name not in {"name", "http"}]


def test_the_reference_shows_every_event() -> None:
    """Each event stands in the reference with its level and its fields."""
    rows = rows_of(DOCS / "reference" / "errors-and-events.md", "## Events")
    shown = {code(row[0]): (row[1], [code(field) for field in row[3].split(", ")]) for row in rows}
    levels = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR"}
    assert shown == {name: (levels[level], about.rpartition(". ")[2].split(", ")) for name, (level, about) in CATALOGUE.items()}


OBSERVED = DOCS / "reference" / "observability.md"


def listed(labels: Iterable[str]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


def test_the_reference_shows_every_metric() -> None:
    """Each metric stands in the reference under both its names, with kind, unit, labels and what it is: no name changes unseen."""
    shown = rows_of(OBSERVED, "## Metrics")
    assert shown == [[f"`{m.prometheus}`", f"`{m.name}`", m.kind, f"`{m.unit}`", listed(m.labels), m.about] for m in METRICS]
    shown = rows_of(OBSERVED, "### Durations")
    assert shown == [[f"`{d.prometheus}`", f"`{d.name}`", listed(d.labels), d.about] for d in DURATIONS]


def test_every_rule_of_the_how_to_asks_for_metrics_that_exist() -> None:
    """An alert on a name that nobody tells would never fire."""
    told = {one.prometheus for one in (*METRICS, *DURATIONS)}
    _, _, rules = (DOCS / "how-to" / "observe.md").read_text(encoding="utf-8").partition("# rules.yml")
    asked = set(re.findall(r"(?<![:\w])cachesync_\w+", rules.partition("```")[0]))
    assert asked and asked <= told


def test_the_reference_shows_every_span_and_every_field() -> None:
    """Each with what it is, and its unit."""
    spans = {code(row[0]): (row[1], row[2]) for row in rows_of(OBSERVED, "## Spans")}
    assert spans == {name: (about.rpartition(". ")[0], listed(about.rpartition(". ")[2].split(", "))) for name, about in SPANS.items()}
    fields = {code(row[0]): row[1] for row in rows_of(DOCS / "reference" / "errors-and-events.md", "### Fields")}
    assert fields == FIELDS


def test_the_reference_shows_every_reason_that_a_cache_is_not_well() -> None:
    """And every status; and every count of `stats()`."""
    page = OBSERVED.read_text(encoding="utf-8")
    for name, text in REASONS.items():
        assert f"| `{name}` | {text} |" in page
    assert [code(row[0]) for row in rows_of(OBSERVED, "## `health()`")] == list(STATUSES)
    counts = {name for name in FunctionStats.__dataclass_fields__ if name != "policy"} | {"hits", "calls", "hit_rate"}
    assert all(f"`{name}`" in page for name in (*counts, *Stats.__dataclass_fields__))


def test_the_reference_shows_every_error() -> None:
    """Each error of ours stands in the reference, and nothing else does."""
    rows = rows_of(DOCS / "reference" / "errors-and-events.md", "## Errors")
    ours = {name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__}
    assert {code(row[0]) for row in rows} == ours


def test_every_decision_is_listed() -> None:
    """The index of decisions links each record, and records are numbered without a gap."""
    folder = DOCS / "explanation" / "decisions"
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(([0-9][^)]*)\)", index) == records
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))


def test_every_page_can_be_reached_from_the_index() -> None:
    """Each page of the docs is linked from their index, or from the index of the decisions."""
    for page in DOCS.rglob("*.md"):
        index = page.parent / "README.md" if page.parent.name == "decisions" and page.name != "README.md" else DOCS / "README.md"
        if page != index:
            assert f"]({page.relative_to(index.parent).as_posix()}" in index.read_text(encoding="utf-8"), page


def test_every_test_file_is_in_their_index() -> None:
    """``tests/README.md`` names each file of tests, and none that is not there."""
    tests = ROOT / "tests"
    named = set(re.findall(r"`((?:support/|typing/)?\w+\.(?:py|toml))`", (tests / "README.md").read_text(encoding="utf-8")))
    assert {name for name in named if not (tests / name).exists()} <= {"pyproject.toml", "__init__.py"}
    assert {path.name for path in tests.glob("test_*.py")} <= named


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        ("4\n", "4\n", True),
        ("took ... ms\n", "took 1.5 ms\n", True),
        ("4\n...\n7\n", "4\n5\n6\n7\n", True),
        ("4\n", "5\n", False),
        ("4\n", "4\n5\n", False),
    ],
)
def test_output_is_compared(shown: str, output: str, same: bool) -> None:
    """An example whose output has changed is found."""
    assert is_shown(shown, output) is same


def test_a_command_is_told_from_its_output() -> None:
    """A console block is commands, their output, and the exit code where one is shown."""
    text = "$ cachesync check\n2 mistakes\n$ echo $?\n1\n$ python a.py &\n"
    assert list(commands_of(text)) == [Command("cachesync check", "2 mistakes\n", 1), Command("python a.py &", "")]


def test_the_reference_shows_every_command_that_redis_is_asked() -> None:
    """An ACL that allows the listed commands allows everything that is sent, and nothing is listed for no reason."""
    _, _, rest = (DOCS / "reference" / "redis.md").read_text(encoding="utf-8").partition("## Rights")
    rows = [line.split("|")[2] for line in rest.splitlines() if line.startswith("| ")][1:]
    listed = {command for row in rows for command in re.findall(r"`([A-Z]+)", row)}
    names = Names.of("ns")
    at, question = Stamp("e", 0), Question("q", Targets("k", ("k",)), Stamp("e", 1))
    steps: list[SharedStep] = [
        Fetch(("k",)),
        Fetch(("k",), strict=True),
        Lease("k", "t", at, 1, None),
        Seize("k", "t", at, 1, unlink=True),
        Extend("k", "t", 1),
        Release("k", "t"),
        Store("k", "t", b"", 1),
        Announce((Targets("k", ("k",)),), ("c",), "o", ("k",)),
        ReadLog(at),
        Confirm(),
        Snapshot(),
        ReadBans(0, 1),
        Scan(0, 1),
        Heads((b"n",)),
        Discard(((b"n", b"i"),)),
        Inquire(question),
        Answer(question, "o", 1),
        Collect(question),
        Throw((("all", "off"),)),
        Together((Fetch(("k",)), Extend("k", "t", 1))),
    ]
    assert {type(step) for step in steps} == set(get_args(SharedStep))
    asked = [command for step in steps for command in commands_of_step(step, names, Bounds(durable=1))]
    sent = {str(command[0], "ascii") for command in asked if isinstance(command[0], bytes)}
    calls = re.compile(rb"(?:redis\.p?call\(|read\(|and |or )'([A-Z]+)'")
    inside = {str(name, "ascii") for script in scripts.ALL for name in calls.findall(script.text)}
    heard = {"SUBSCRIBE", "UNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE"}
    assert listed == sent | inside | heard | {"SCRIPT", "SELECT", "CLUSTER", "ASKING"} | {
        "STRLEN",
        "XLEN",
    }  # the last two by `cachesync stats`
