"""The command line: what it says, with which exit code, and that nothing it is given makes it fall over."""

from __future__ import annotations

import importlib.resources
import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import cachesync
from cachesync.core.keys import check_key
from support.commands import Printed, Run, call, forget_settings

COMMANDS = (
    *("check", "explain", "schema", "export", "key", "tail", "stats", "top", "invalidate", "sweep", "switch", "warm", "doctor", "serve"),
    "demo",
)
GOOD = """\
namespace = "dashboard"

[redis]
url = "redis://somebody:hunter2@localhost:6379/0"

[ttl]
short = "1m"

[policy.stores]
match = "stores:*"
ttl = "short"
local_ttl = "30s"
tags = ["stores"]
compress_over = "16KiB"

[policy.stats]
match = "stores:*:stats"
ttl = "dynamic"
min_ttl = "10s"
max_ttl = "1h"

[policy.stats.http]
vary = ["Accept"]
"""
BAD = """\
[policy.stores]
match = "stores:*"
ttl = "5 mins"
loca_ttl = "30s"
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that runs the tests matters, and the working directory is empty."""
    forget_settings(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls ``main`` and returns the exit code, the output and the errors."""

    def called(*argv: str) -> Printed:
        return call(capsys, *argv)

    return called


@pytest.fixture
def good(tmp_path: Path) -> str:
    """A policy file without mistakes, under the name that is looked for when none is given."""
    path = tmp_path / "cachesync.toml"
    path.write_text(GOOD)
    return str(path)


def command(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m cachesync`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cachesync", *argv],
        env=_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


def _environment() -> dict[str, str]:
    """The package is found from any working directory, also where it is not installed."""
    return dict(os.environ) | {"PYTHONPATH": str(Path(cachesync.__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}


# --- the whole ------------------------------------------------------------------------------------------------------------------


def test_version_is_that_of_the_package(run: Run) -> None:
    """``cachesync --version`` says the name and the version, also as ``python -m cachesync``."""
    assert run("--version") == (0, f"cachesync {cachesync.__version__}\n", "")
    process = command("--version")
    assert (process.returncode, process.stdout, process.stderr) == (0, f"cachesync {cachesync.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples_and_exit_codes(run: Run, name: str) -> None:
    """``--help`` of each command shows how it is called, and what its exit codes mean, within 80 columns."""
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert f"\n  cachesync {name}" in out.partition("examples:")[2]
    assert "exit codes:" in out
    assert max(map(len, out.splitlines())) <= 80
    assert name in run("--help")[1]


def test_no_command_is_misuse(run: Run) -> None:
    """Without a command the help goes to standard error, and the exit code is 2."""
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "commands:" in err


@pytest.mark.parametrize(
    "argv",
    [
        ("chekc",),
        ("check", "a", "b"),
        ("explain",),
        ("check", "--jsn"),
        ("schema", "x"),
        ("demo", "--requests"),
        ("tail", "x"),
        ("sweep", "x"),
    ],
)
def test_misuse_is_told_from_a_no(run: Run, argv: tuple[str, ...]) -> None:
    """What is not understood ends with exit code 2 and says how it is used. Abbreviated options are not guessed."""
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("usage: cachesync")


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many", "10000000", "9" * 5000, "٣"])
def test_a_number_of_requests_is_a_whole_number(run: Run, number: str) -> None:
    """``--requests`` takes whole numbers from 1 on; anything else is misuse, before a process is started."""
    code, _, err = run("demo", f"--requests={number}")
    assert code == 2
    assert "is not a number of requests" in err


# --- check ----------------------------------------------------------------------------------------------------------------------


def test_check_shows_the_policies_of_a_good_file(run: Run, good: str) -> None:
    """A file without mistakes is 0; its policies are listed."""
    code, out, err = run("check", good)
    assert (code, err) == (0, "")
    assert "no mistakes, 2 policies" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["stores", "stores:*", "1m", "30s", "stores", "compress_over", "16KiB"] in rows
    assert ["stats", "stores:*:stats", "dynamic,", "10s", "to", "1h", "-", "-", "private,", "vary", "Accept"] in rows


def test_check_never_shows_a_password(run: Run, good: str) -> None:
    """The address of Redis is shown without user and password, in text and as JSON."""
    for argv in (("check", good), ("check", good, "--json"), ("explain", "stores:JKT", "--file", good)):
        _, out, _ = run(*argv)
        assert "hunter2" not in out and "somebody" not in out
    assert "redis://localhost:6379/0" in run("check", good)[1]


def test_check_as_json_has_every_setting_of_every_policy(run: Run, good: str) -> None:
    """``--json`` gives durations in seconds, sizes in bytes, and the same facts as the table."""
    code, out, _ = run("check", good, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["ok"], found["problems"], found["namespace"], found["ttl"]) == (True, [], "dashboard", {"short": 60.0})
    stores, stats = found["policies"]
    assert (stores["name"], stores["ttl"], stores["local_ttl"], stores["compress_over"]) == ("stores", 60.0, 30.0, 16384)
    assert (stats["ttl"], stats["min_ttl"], stats["max_ttl"], stats["http"]["vary"]) == ("dynamic", 10.0, 3600.0, ["Accept"])


def test_check_tells_all_mistakes_at_once(run: Run, tmp_path: Path) -> None:
    """Each mistake is a line on standard error, ``file:line: name: what``, and the exit code is 1."""
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    code, out, err = run("check", str(path))
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith(f'{path}:3: policy.stores.ttl: "5 mins" is not a duration; write "5m"')
    assert lines[1].startswith(f"{path}:4: policy.stores.loca_ttl: ")
    assert '"local_ttl"' in lines[1]
    assert lines[2:] == ["2 mistakes"]

    code, out, err = run("check", str(path), "--json")
    found = json.loads(out)
    assert (code, err, found["ok"], found["file"], found["problems"]) == (1, "", False, str(path), lines[:2])


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(10 * 1024 * 1024))


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": Path.touch,
    "a directory": Path.mkdir,
    "10 MB of garbage": _garbage,
    "10 MB of text": lambda path: path.write_text("a = 1\n" * 1_800_000),
    "a pipe that nobody writes to": os.mkfifo,
    "no TOML": lambda path: path.write_text("[policy.stores\n"),
    "another type": lambda path: path.write_text("policy = 3\n"),
    "no UTF-8": lambda path: path.write_bytes(b"# \xff\xfe\n"),
    "a NUL": lambda path: path.write_bytes(b"a = \x00"),
    "half a character": lambda path: path.write_text('namespace = "\\ud800"\n'),
    "brackets": lambda path: path.write_text("a = " + "[" * 100_000),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("argv", [("check",), ("check", "--json"), ("explain", "stores:JKT"), ("explain", "stores:JKT", "--json")])
def test_a_bad_file_is_told_in_our_words(run: Run, tmp_path: Path, kind: str, argv: tuple[str, ...]) -> None:
    """Whatever the file is, the answer is 1, names the file and carries no traceback; ``--json`` stays JSON."""
    path = tmp_path / "policies.toml"
    BAD_FILES[kind](path)
    name, *rest = argv
    code, out, err = run(name, *rest, *([str(path)] if name == "check" else ["--file", str(path)]))
    assert code == 1
    if "--json" in argv:
        problems = json.loads(out)["problems"]
    else:
        assert out == ""
        problems = err.splitlines()[:-1]
    assert problems
    assert all(problem.startswith(f"{path}:") for problem in problems)
    assert len(out) + len(err) < 10_000


def test_a_pipe_that_somebody_writes_to_is_a_file(good: str) -> None:
    """As in ``cachesync check <(make-policies)``: what comes is waited for."""
    reading, writing = os.pipe()
    arguments = [sys.executable, "-m", "cachesync", "check", f"/dev/fd/{reading}"]
    with subprocess.Popen(arguments, env=_environment(), pass_fds=[reading], stdout=subprocess.PIPE) as process:
        os.close(reading)
        with open(writing, "w") as file:
            file.write(GOOD)
        assert b"no mistakes" in process.communicate(timeout=60)[0]


@pytest.mark.parametrize("name", ["", "\0", "x" * 5000, "missing/cachesync.toml", "/dev/null/x"])
def test_a_path_that_is_none_is_told_in_our_words(run: Run, name: str) -> None:
    """An impossible path is a file that can not be read."""
    code, _, err = run("check", name)
    assert code == 1
    assert "can not be read" in err


def test_the_file_is_looked_for_in_three_places(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is named wins over CACHESYNC_FILE, which wins over cachesync.toml in the working directory."""
    for name in ("cachesync", "elsewhere", "named"):
        (tmp_path / f"{name}.toml").write_text(f'namespace = "{name}"\n[policy.all]\nmatch = "*"\nttl = "5m"\n')

    def namespace(*argv: str) -> str:
        return str(json.loads(run("check", "--json", *argv)[1])["namespace"])

    assert namespace() == "cachesync"
    monkeypatch.setenv("CACHESYNC_FILE", str(tmp_path / "elsewhere.toml"))
    assert namespace() == "elsewhere"
    assert namespace("named.toml") == "named"
    assert run("explain", "x", "--json")[1].count("elsewhere") >= 1


def test_without_a_file_the_way_out_is_said(run: Run) -> None:
    """Where no file was named and none is there, the message says how to name one."""
    code, _, err = run("check")
    assert code == 1
    assert "cachesync.toml: the policy file can not be read" in err
    assert "set CACHESYNC_FILE" in err


def test_check_reads_the_environment_as_an_application_does(run: Run, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong CACHESYNC_REDIS_URL would stop the application, so the check fails; a right one is shown instead of the file's."""
    monkeypatch.setenv("CACHESYNC_REDIS_URL", "http://cache")
    code, _, err = run("check", good)
    assert code == 1
    assert "CACHESYNC_REDIS_URL" in err
    monkeypatch.setenv("CACHESYNC_REDIS_URL", "rediss://user:secret@[::1]:7000/2?ssl_ca_certs=x")
    code, out, _ = run("check", good, "--json")
    assert (code, json.loads(out)["redis"]) == (0, "rediss://[::1]:7000/2")
    monkeypatch.setenv("CACHESYNC_REDIS_ENABLED", "false")
    assert "no Redis: one process" in run("check", good)[1]


# --- explain --------------------------------------------------------------------------------------------------------------------


def test_explain_says_which_policy_wins_and_why(run: Run, good: str) -> None:
    """All patterns that match are listed with their literal characters, the winner first, and the key's names in Redis."""
    code, out, err = run("explain", "stores:JKT:stats")
    assert (code, err) == (0, "")
    assert out.startswith(f'"stores:JKT:stats" gets the policy stats of {Path(good).name}.')
    rows = [line.split() for line in out.splitlines()]
    assert rows.index(["stats", "stores:*:stats", "13"]) < rows.index(["stores", "stores:*", "7"])
    assert ["entry", "dashboard:e:{stores:JKT:stats}"] in rows
    assert ["lease", "dashboard:l:{stores:JKT:stats}"] in rows


def test_what_a_policy_says_of_http_is_shown(run: Run, tmp_path: Path) -> None:
    """Who may keep an answer, also where the table is empty, and every setting that is not its default."""
    file = tmp_path / "cachesync.toml"
    table = '[policy.{0}]\nmatch = "{0}:*"\nttl = "5m"\n'
    file.write_text(
        table.format("a")
        + "[policy.a.http]\n"
        + table.format("b")
        + '[policy.b.http]\nvisibility = "public"\nmax_age = 0\n'
        + table.format("c")
    )
    rows = [line.split() for line in run("check", str(file))[1].splitlines()]
    assert [row[5:] for row in rows[-3:]] == [["private"], ["public,", "max_age", "0s"], []]
    found = [line.split() for line in run("explain", "b:1", "--file", str(file))[1].splitlines()]
    assert ["http.visibility", "public"] in found and ["http.max_age", "0s"] in found
    assert "http" not in run("explain", "c:1", "--file", str(file))[1]


def test_explain_as_json(run: Run, good: str) -> None:
    """The same as JSON: policy, all matches, near misses, names in Redis."""
    code, out, _ = run("explain", "stores:JKT", "--json", "--file", good)
    found = json.loads(out)
    assert (code, found["ok"], found["key"], found["policy"]["name"]) == (0, True, "stores:JKT", "stores")
    assert found["matching"] == [{"name": "stores", "match": "stores:*", "literals": 7}]
    assert found["near_misses"] == [{"name": "stats", "match": "stores:*:stats"}]
    assert found["redis"] == {"entry": "dashboard:e:{stores:JKT}", "lease": "dashboard:l:{stores:JKT}"}


def test_explain_says_no_and_what_is_similar(run: Run, good: str) -> None:
    """A key without a policy is 1, with the patterns that look like it."""
    code, out, err = run("explain", "store:JKT")
    assert (code, err) == (1, "")
    assert 'matches "store:JKT"' in out
    assert "similar, but no match" in out and "stores:*" in out
    code, out, _ = run("explain", "store:JKT", "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["policy"], found["matching"]) == (1, False, None, [])
    assert "stores" in [near["name"] for near in found["near_misses"]]
    assert run("explain", "entirely-different")[0] == 1


def test_a_pattern_is_no_key(run: Run, good: str) -> None:
    """``explain 'stores:*'`` is misuse: the message says that this is a pattern, and how to write the star in a key."""
    code, out, err = run("explain", "stores:*")
    assert (code, out) == (2, "")
    assert "is a pattern, not a key" in err and "%2A" in err


@pytest.mark.parametrize(
    "key", ["", "stores:a b", "stores:{}", "stores:%", "stores:\udcff", "stores:ÄÖ☃🙂", "stores:" + "x" * 60_000, "stores:\x1b[31m", "-"]
)
def test_any_text_can_be_explained(run: Run, good: str, key: str) -> None:
    """Keys may hold what they like: the answer is a yes or a no, and control characters are never printed as they are."""
    code, out, err = run("explain", "--file", good, "--", key)
    assert code == (0 if key.startswith("stores:") else 1)
    assert "\x1b" not in out + err
    code, out, _ = run("explain", "--json", "--file", good, "--", key)
    assert json.loads(out)["key"] == check_key(key)


def test_a_key_that_is_too_long_is_misuse(run: Run, good: str) -> None:
    """A key of more than 65,536 characters is none."""
    code, _, err = run("explain", "stores:" + "x" * 70_000)
    assert code == 2
    assert "at most 65,536" in err


# --- schema ---------------------------------------------------------------------------------------------------------------------


def test_schema_prints_the_schema_that_is_shipped(run: Run) -> None:
    """``cachesync schema`` is the file in the package, byte for byte."""
    code, out, _ = run("schema")
    assert code == 0
    assert out == importlib.resources.files("cachesync").joinpath("policy.schema.json").read_text(encoding="utf-8")
    assert json.loads(out)["title"] == "cachesync policy file"


# --- terminals, pipes, encodings ------------------------------------------------------------------------------------------------


def on_terminal(*argv: str, **environment: str) -> str:
    """What ``python -m cachesync`` writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cachesync", *argv],
        env=_environment() | {"TERM": "xterm"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(ours)
    process.wait(30)
    return written.decode()


def test_colours_are_for_terminals_that_want_them(good: str) -> None:
    """A terminal is shown colours; a pipe, NO_COLOR, a dumb terminal and ``--json`` are not."""
    assert "\x1b[" in on_terminal("check", good)
    assert "\x1b[" not in on_terminal("check", good, NO_COLOR="1")
    assert "\x1b[" not in on_terminal("check", good, TERM="dumb")
    assert "\x1b[" not in on_terminal("check", good, "--json")
    assert "\x1b[" not in command("check", good).stdout


@pytest.mark.parametrize("argv", [("schema",), ("check",), ("check", "--json"), ("explain", "stores:JKT")])
def test_a_reader_that_stops_reading_is_no_accident(good: str, argv: tuple[str, ...]) -> None:
    """When the other end of a pipe is closed, the command ends quietly with 141."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "cachesync", *argv], env=_environment(), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [("schema",), ("check",)])
def test_a_full_disk_is_told_in_our_words(good: str, argv: tuple[str, ...], unbuffered: str) -> None:
    """What can not be written is 74 and one line, not a traceback; where that line can not be written either, 74 alone."""
    environment = _environment() | {"PYTHONUNBUFFERED": unbuffered}
    line = b"cachesync: the output can not be written: No space left on device\n"
    with open("/dev/full", "w") as full:
        for errors, said in ((subprocess.PIPE, line), (full, None)):
            process = subprocess.run(
                [sys.executable, "-m", "cachesync", *argv], env=environment, stdout=full, stderr=errors, check=False, timeout=60
            )
            assert (process.returncode, process.stderr) == (74, said)


def test_mistakes_that_can_not_be_written_are_no_accident(tmp_path: Path) -> None:
    """Also standard error may be a full disk."""
    with open("/dev/full", "w") as full:
        for argv in (("check", "missing.toml"), ("nothing",)):
            process = subprocess.run(
                [sys.executable, "-m", "cachesync", *argv], env=_environment(), stdout=subprocess.PIPE, stderr=full, check=False, timeout=60
            )
            assert process.stdout == b""
            assert process.returncode in (2, 74)


def _close_all(descriptors: tuple[int, ...]) -> None:
    """In a child, before it becomes another program."""
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_a_closed_output_is_no_accident(good: str, closed: tuple[int, ...]) -> None:
    """``>&-`` says that nobody wants to read it: the exit code is the answer."""
    for argv, code in ((("check",), 0), (("check", "missing.toml"), 1), (("nothing",), 2)):
        process = subprocess.run(
            [sys.executable, "-m", "cachesync", *argv],
            env=_environment(),
            stdout=None if 1 in closed else subprocess.PIPE,
            stderr=None if 2 in closed else subprocess.PIPE,
            preexec_fn=partial(_close_all, closed),
            check=False,
            timeout=60,
        )
        assert process.returncode == code
        assert b"Traceback" not in (process.stderr or b"")


def test_a_terminal_without_unicode_is_no_accident(good: str) -> None:
    """What the output's encoding can not show is written as its code."""
    process = command("explain", "stores:☃", PYTHONIOENCODING="ascii")
    assert (process.returncode, process.stderr) == (0, "")
    assert "stores:\\u2603" in process.stdout


def test_the_command_is_installed() -> None:
    """``cachesync`` leads to ``cachesync.cli:main``, and ``python -m cachesync`` to the same."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"cachesync": "cachesync.cli:main"}
    for argv in (("schema",), ("check",), ("check", "--json"), ("nothing",)):
        script = "import sys; from cachesync.cli import main; sys.exit(main())"
        direct = subprocess.run([sys.executable, "-c", script, *argv], env=_environment(), capture_output=True, text=True, check=False)
        module = command(*argv)
        assert (direct.returncode, direct.stdout, direct.stderr) == (module.returncode, module.stdout, module.stderr)
