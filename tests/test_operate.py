"""The commands that speak to a running system: ``cachesync tail``, ``invalidate`` and ``sweep``, on real servers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast, get_args

import pytest

import cachesync
from cachesync import Cache, Policy, Settings, Stamp
from cachesync.command_line.invalidate import TEXTS_OF_A_CALL
from cachesync.command_line.tail import KINDS, MODES, JsonLines, Lines, Page, Stream, Tail
from cachesync.core.names import Names
from cachesync.core.records import Kind, Mode, Record, RecordError, Targets
from cachesync.core.settings import CoordinationSettings
from support.commands import Printed, Run, call, name_policies
from support.nodes import LONG, read_log, until
from support.proxy import Proxy
from support.servers import Server


@pytest.fixture(autouse=True)
def policy_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: str) -> Path:
    """The working directory is of this test alone, and a policy file without Redis lies elsewhere."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return name_policies(monkeypatch, tmp_path, namespace)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls ``main`` and returns the exit code, the output and the errors. ``url`` is where Redis is, ``lines`` what it is given."""

    def called(*argv: str, url: str | None = None, lines: str = "") -> Printed:
        if url is not None:
            monkeypatch.setenv("CACHESYNC_REDIS_URL", url)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return call(capsys, *argv)

    return called


def cache_at(url: str, namespace: str) -> Cache:
    """A process of the system that the commands speak to. It reads the log when told."""
    policies = [Policy(name="stores", match="stores:*", ttl="10m")]
    patient = Settings(coordination=CoordinationSettings(budget=20.0))  # a busy machine is no outage
    return Cache(patient, policies=policies, namespace=namespace, redis=url, listen=False)


class Command:
    """``python -m cachesync`` as a process of its own. What it prints is read line by line."""

    def __init__(self, *argv: str, url: str, **streams: Any) -> None:
        environment = os.environ | {"CACHESYNC_REDIS_URL": url, "PYTHONPATH": str(Path(cachesync.__file__).parents[1])}
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-m", "cachesync", *argv], env=environment, text=True, **(given | streams))
        self.lines: queue.Queue[str] = queue.Queue()
        self.errors: queue.Queue[str] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
            if stream is not None
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(stream: Any, lines: queue.Queue[str]) -> None:
        for line in stream:
            lines.put(line.rstrip("\n"))
        stream.close()

    def line(self) -> str:
        """The next line of its output."""
        return self.lines.get(timeout=LONG)

    def error(self) -> str:
        """The next line of its errors."""
        return self.errors.get(timeout=LONG)

    def told(self, event: str | None = None) -> dict[str, Any]:
        """The next object of a ``--json``, or the next of an event."""
        while True:
            found: dict[str, Any] = json.loads(self.line())
            if event is None or found["event"] == event:
                return found

    def end(self, how: signal.Signals | None = None) -> tuple[int, list[str], list[str]]:
        """Wait for its end, after a signal if one is given: the exit code, and what was not read of output and errors."""
        if how is not None:
            self.process.send_signal(how)
        code = self.process.wait(LONG)
        for thread in self._threads:
            thread.join(LONG)
        return code, list(self.lines.queue), list(self.errors.queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()


def numbers(told: Sequence[dict[str, Any]]) -> list[int]:
    return [Stamp.parse(one["stamp"]).number for one in told if one["event"] == "record"]


# --- all three --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("tail",), ("invalidate", "stores:JKT"), ("sweep",)])
def test_without_redis_there_is_nothing_to_speak_to(run: Run, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]) -> None:
    """The message says how to name a Redis; it is misuse, 2. A policy file with a mistake is 1, as in ``check``."""
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"cachesync {argv[0]}: ") and "CACHESYNC_REDIS_URL" in err and "[redis]" in err
    monkeypatch.setenv("CACHESYNC_REDIS_ENABLED", "false")
    code, _, err = run(*argv, url="redis://localhost:1/0")
    assert code == 2
    assert "CACHESYNC_REDIS_ENABLED is false" in err
    assert run(*argv, "--file", "missing.toml")[0] == 1


@pytest.mark.parametrize("argv", [("tail", "--no-follow"), ("invalidate", "stores:JKT", "--timeout", "100ms"), ("sweep",)])
def test_a_redis_that_is_away_is_said_in_our_words(run: Run, argv: tuple[str, ...]) -> None:
    """Where nobody listens the answer is 1, with the address but not the password, and without a traceback."""
    with Proxy("127.0.0.1", 1) as nobody:
        nobody.refuse()
        code, out, err = run(*argv, url=f"redis://somebody:hunter2@127.0.0.1:{nobody.port}/0")
    assert (code, out) == (1, "")
    assert f"redis://127.0.0.1:{nobody.port}/0" in err and "refused" in err
    assert "hunter2" not in err and "Traceback" not in err


@pytest.mark.parametrize("argv", [("tail", "--no-follow"), ("invalidate", "stores:JKT"), ("sweep",)])
def test_an_option_of_the_url_that_nobody_knows_is_a_mistake(run: Run, server: Server, argv: tuple[str, ...]) -> None:
    """It is told as a mistake of the policy file is."""
    code, out, err = run(*argv, url=f"{server.url}?colour=red")
    assert (code, out) == (1, "")
    assert "redis.url" in err and err.endswith("1 mistake\n")


# --- invalidate -------------------------------------------------------------------------------------------------------------------


def test_what_is_invalidated_is_out_of_date_in_other_processes(run: Run, every_server: Server, namespace: str) -> None:
    """Keys, prefixes, globs, tags: one call, whose stamp is the only output, so that a script may take it."""
    url = every_server.url
    with cache_at(url, namespace) as cache:

        @cache.cached("stores:{code}", tags=["region:{code}"])
        def store(code: str) -> str:
            return code

        for name in "ABCDE":
            cache.set(f"stores:{name}", "old")
        assert read_log(cache)
        assert [cache.get(f"stores:{name}") for name in "ABCDE"] == ["old"] * 5
        for pattern, gone in ("stores:A", "A"), ("stores:B*", "B"), ("*:C", "C"), ("--everything", "D"):
            code, out, err = run("invalidate", pattern, url=url)
            assert (code, err) == (0, "")
            assert cache.get(f"stores:{gone}", None, at_least=Stamp.parse(out.strip())) is None
            assert cache.stamp() == Stamp.parse(out.strip())
        assert store("F") == "F"
        assert run("invalidate", "--tag", "region:F", "--tag", "region:G", url=url)[0] == 0
        assert read_log(cache)
        assert store.peek("F") is None


def test_a_soft_invalidation_leaves_what_may_be_served_stale(run: Run, server: Server, namespace: str) -> None:
    """``--soft`` is ``soft=True``: the log's record says so."""
    code, out, _ = run("invalidate", "stores:*", "--soft", "--json", url=server.url)
    told = json.loads(out)
    assert (code, told["ok"], told["soft"], told["named"], told["done"]) == (0, True, True, 1, 1)
    assert json.loads(run("tail", "--no-follow", "--json")[1])["mode"] == "soft"
    assert Stamp.parse(told["stamp"]).number == 1


@pytest.mark.parametrize("argv", [("*",), ("**", "--tag", "a"), ("stores:A", "*"), ("-",)])
def test_everything_has_to_be_meant(run: Run, server: Server, argv: tuple[str, ...]) -> None:
    """A lone ``*`` is what is left of ``"$PREFIX*"``: it is refused, by name of the option that means it. Nothing has happened."""
    code, out, err = run("invalidate", *argv, url=server.url, lines="stores:A\n*\n")
    assert (code, out) == (2, "")
    assert "--everything" in err and "in quotes" in err
    assert run("tail", "--no-follow")[:2] == (0, "")


def test_names_of_files_are_no_keys(run: Run, server: Server) -> None:
    """A ``*`` without quotes becomes the names of all files: exactly these are refused. Some of them may be keys."""
    for name in ("b", "a", ".hidden"):
        Path(name).touch()
    code, out, err = run("invalidate", "a", "b", url=server.url)
    assert (code, out) == (2, "")
    assert "in quotes" in err
    assert run("invalidate", "a")[0] == 0
    assert run("invalidate", "-", lines="a\nb\n")[0] == 0


@pytest.mark.parametrize(
    "argv", [(), ("",), ("stores:A", ""), ("--tag", ""), ("--tag",), ("--timeout", "soon", "a"), ("--timeout", "-1s", "a")]
)
def test_what_names_nothing_is_misuse(run: Run, server: Server, argv: tuple[str, ...]) -> None:
    """No pattern, an empty one (the variable was not set), a time that is none: 2, and nothing has happened."""
    code, out, err = run("invalidate", *argv, url=server.url)
    assert (code, out) == (2, "")
    assert "invalidate" in err
    assert run("tail", "--no-follow")[:2] == (0, "")


def test_patterns_come_from_standard_input(run: Run, server: Server, namespace: str) -> None:
    """``-`` stands for its lines, empty ones left out; many are announced in parts, and the stamp is that of the last."""
    count = 2 * TEXTS_OF_A_CALL + 1
    lines = "".join(f"stores:{number}\r\n\n" for number in range(count - 2))
    code, out, err = run("invalidate", "stores:first", "-", "stores:last", "--json", url=server.url, lines=lines)
    told = json.loads(out)
    assert (code, err, told["named"], told["done"]) == (0, "", count, count)
    assert Stamp.parse(told["stamp"]).number == 3
    records = [json.loads(line) for line in run("tail", "--no-follow", "--json")[1].splitlines()]
    texts = [text for record in records for text in record["texts"]]
    assert (len(texts), texts[0], texts[1], texts[-1]) == (count, "stores:first", "stores:0", "stores:last")


def test_an_empty_standard_input_invalidates_nothing(run: Run, server: Server) -> None:
    """What a pipe finds may be nothing: that is no failure, but it is said."""
    code, out, err = run("invalidate", "-", url=server.url)
    assert (code, out) == (0, "")
    assert "nothing is invalidated" in err
    assert json.loads(run("invalidate", "-", "--json")[1])["stamp"] is None


def test_an_input_that_is_no_text_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that can not be decoded name no key, and a closed input names nothing: misuse, and nothing has happened."""
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    reading, writing = os.pipe()
    os.write(writing, b"stores:A\nstores:\xff\n")
    os.close(writing)
    with Command("invalidate", "-", url=server.url, stdin=reading) as command:
        os.close(reading)
        assert command.end() == (2, [], ["cachesync invalidate: standard input is not UTF-8"])
    with Command("invalidate", "-", url=server.url, stdin=None, preexec_fn=partial(os.close, 0)) as command:
        code, out, errors = command.end()
        assert (code, out) == (2, [])
        assert "standard input is closed" in errors[0]
    with Command("tail", "--no-follow", url=server.url) as command:
        assert command.end()[:2] == (0, [])


def test_a_key_of_no_policy_may_be_a_slip(run: Run, server: Server) -> None:
    """It is invalidated, because others may depend on it, and said aloud; patterns and tags are not looked at."""
    code, out, err = run("invalidate", "store:JKT", "store:*", "--tag", "x", url=server.url)
    assert code == 0 and out
    assert err.count("no policy") == 1 and '"store:JKT"' in err


def test_a_command_waits_for_redis(server: Server, proxy: Proxy) -> None:
    """A process that ends loses its queue: so it tries until the timeout, and whoever comes back in time is told."""
    proxy.hold()
    with Command("invalidate", "stores:JKT", "--timeout", "1h", url=proxy.url) as command:
        until(lambda: proxy.accepted > 1, "it has tried more than once")
        proxy.release()
        code, out, errors = command.end()
    assert (code, errors) == (0, [])
    assert Stamp.parse(out[0]).number >= 1


def test_what_could_not_be_announced_is_said_with_a_next_step(run: Run, proxy: Proxy) -> None:
    """After the timeout: 1, why, how far it came, and that to say it again is safe."""
    proxy.hold()
    code, out, err = run("invalidate", "stores:JKT", "--tag", "a", "--timeout", "300ms", "--json", url=proxy.url)
    told = json.loads(out)
    assert (code, told["ok"], told["stamp"], told["named"], told["done"]) == (1, False, None, 2, 0)
    assert "no answer in time" in told["error"]
    assert "within 300ms" in err and "0 of 2 texts announced" in err and "say it again" in err


def test_an_interrupted_invalidation_says_how_far_it_came(proxy: Proxy) -> None:
    """Ctrl-C ends it with 130, without a traceback."""
    proxy.hold()
    with Command("invalidate", "stores:JKT", "--timeout", "1h", url=proxy.url) as command:
        until(lambda: proxy.accepted > 0, "it has tried")
        code, out, errors = command.end(signal.SIGINT)
    assert (code, out) == (130, [])
    assert errors[0].startswith("cachesync invalidate: interrupted: 0 of 1 text announced")


def test_it_invalidates_also_where_caching_is_switched_off(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHESYNC_ENABLED=false is for applications: other processes may cache all the same."""
    monkeypatch.setenv("CACHESYNC_ENABLED", "false")
    assert run("invalidate", "stores:JKT", url=server.url)[0] == 0
    assert '"stores:JKT"' in run("tail", "--no-follow")[1]


# --- sweep ------------------------------------------------------------------------------------------------------------------------


def test_a_sweep_counts_what_it_deletes(run: Run, every_server: Server, namespace: str) -> None:
    """What was invalidated and lies there still is deleted and counted, exactly; what is alive stays."""
    with cache_at(every_server.url, namespace) as cache:
        for number in range(1200):
            cache.set(f"stores:{number % 2}:{number}", number)
        cache.invalidate("stores:1:*")
    assert run("sweep", url=every_server.url) == (0, "1,200 entries examined, 600 dead and deleted\n", "")
    found = json.loads(run("sweep", "--json")[1])
    assert found == {"ok": True, "examined": 600, "deleted": 0, "unjudged": 0}


def test_what_can_not_be_judged_is_counted_and_stays(run: Run, server: Server, namespace: str) -> None:
    """Bytes of somebody else, or of another version, under a name of ours."""
    server.client().set(Names.of(namespace).entry("stores:JKT"), b"what is this?")
    assert run("sweep", url=server.url) == (0, "1 entry examined, 0 dead and deleted; 1 could not be judged\n", "")
    assert server.client().exists(Names.of(namespace).entry("stores:JKT"))


@pytest.mark.parametrize("how", ["interrupted", "cut off"])
def test_a_sweep_shows_how_far_it_is_and_how_far_it_came(server: Server, proxy: Proxy, namespace: str, how: str) -> None:
    """On a terminal, one line that is written over. Ctrl-C ends it with 130, a Redis that goes away with 1: the count so far is told."""
    client = server.client()
    for first in range(0, 20_000, 1000):
        client.mset({Names.of(namespace).entry(f"stores:{number}"): b"x" for number in range(first, first + 1000)})
    proxy.delay(0.02)
    ours, theirs = pty.openpty()
    with Command("sweep", url=proxy.url, stderr=theirs) as command:
        os.close(theirs)
        shown = b""
        while b"examined" not in shown:
            shown += os.read(ours, 4096)
        if how == "cut off":
            proxy.refuse()
        code, out, _ = command.end(signal.SIGINT if how == "interrupted" else None)
        with contextlib.suppress(OSError):  # Linux says so when the other end is closed
            while piece := os.read(ours, 4096):
                shown += piece
        os.close(ours)
    assert code == (130 if how == "interrupted" else 1)
    assert b"\r" in shown and b"Traceback" not in shown
    assert (b"interrupted" if how == "interrupted" else b"can not be swept") in shown
    assert len(out) == 1 and "examined, 0 dead and deleted" in out[0] and not out[0].startswith(("0 ", "20,000"))


# --- tail: what it shows ------------------------------------------------------------------------------------------------------------


def test_every_record_is_shown_in_words(run: Run, every_server: Server, namespace: str) -> None:
    """When, its number, the mode, the kind, the texts as they were named, and who; the same as JSON."""
    with cache_at(every_server.url, namespace) as cache:
        cache.invalidate("stores:JKT")
        cache.invalidate("stores:*", soft=True)
        cache.invalidate("*:stats")
        cache.invalidate(tags=["region:java", "a b"])
        cache.invalidate("*")
        cache.set("stores:BDG", 1)
        epoch = cache.stamp().epoch
    code, out, err = run("tail", "--no-follow", url=every_server.url)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    shown = [line[23:].partition("  by ")[0].split(maxsplit=3) for line in lines]
    assert shown == [
        ["1", "hard", "key", '"stores:JKT"'],
        ["2", "soft", "prefix", '"stores:*"'],
        ["3", "hard", "glob", '"*:stats"'],
        ["4", "hard", "tag", '"region:java" "a b"'],
        ["5", "hard", "everything", '"*"'],
        ["6", "set", "key", '"stores:BDG"'],
    ]
    assert len({line.rpartition("  by ")[2] for line in lines}) == 1  # one process has said it all
    told = [json.loads(line) for line in run("tail", "--no-follow", "--json")[1].splitlines()]
    assert [one["stamp"] for one in told] == [f"{epoch}:{number}" for number in range(1, 7)]
    assert [one["texts"] for one in told] == [["stores:JKT"], ["stores:*"], ["*:stats"], ["region:java", "a b"], ["*"], ["stores:BDG"]]
    assert {tuple(sorted(one)) for one in told} == {("event", "kind", "mode", "origin", "stamp", "texts", "time")}
    assert [lines[0][:10], lines[0][10]] == [told[0]["time"][:10], " "] or lines[0][11:13] != told[0]["time"][11:13]  # local time
    assert lines[0][20:23] == told[0]["time"][20:23] and told[0]["time"].endswith("Z")


def test_there_is_a_word_for_every_kind_and_mode() -> None:
    """A new one needs one."""
    assert set(KINDS) == set(get_args(Kind))
    assert set(MODES) == set(get_args(Mode))


def test_the_last_ones_or_those_from_a_stamp_on(run: Run, server: Server, namespace: str) -> None:
    """``--last`` 10 unless it says otherwise; ``--from`` begins with the record of that stamp."""
    with cache_at(server.url, namespace) as cache:
        stamps = [cache.invalidate(f"stores:{number}") for number in range(12)]

    def shown(*argv: str) -> list[int]:
        return numbers([json.loads(line) for line in run("tail", "--no-follow", "--json", *argv, url=server.url)[1].splitlines()])

    assert shown() == list(range(3, 13))
    assert shown("--last", "2") == [11, 12]
    assert shown("--last", "0") == []
    assert shown("--last", "9999999") == list(range(1, 13))
    assert shown("--from", str(stamps[7])) == [8, 9, 10, 11, 12]
    assert shown("--from", f"{stamps[0].epoch}:0") == list(range(1, 13))
    assert shown("--from", str(stamps[11])) == [12]
    assert run("tail", "--from", "121")[0] == 2
    assert run("tail", "--from", str(stamps[0]), "--last", "3")[0] == 2
    assert run("tail", "--last", "-1")[0] == 2


def test_more_records_than_one_page(run: Run, server: Server, namespace: str) -> None:
    """All are shown, in order."""
    lines = "".join(f"stores:{number}\n" for number in range(20))
    with cache_at(server.url, namespace) as cache:
        for number in range(2100):
            cache.invalidate(f"stores:{number}")
    told = [
        json.loads(line) for line in run("tail", "--no-follow", "--json", "--last", "5000", url=server.url, lines=lines)[1].splitlines()
    ]
    assert numbers(told) == list(range(1, 2101))


def test_records_that_are_gone_are_said_to_be(run: Run, server: Server, namespace: str) -> None:
    """From a stamp on, those that the log has let go are counted. Who asks for the last ones gets those that are left."""
    with cache_at(server.url, namespace) as cache:
        for number in range(9):
            cache.invalidate(f"stores:{number}")
        epoch = cache.stamp().epoch
    server.client().xtrim(Names.of(namespace).log, maxlen=4, approximate=False)
    code, out, err = run("tail", "--no-follow", "--from", f"{epoch}:2", url=server.url)
    assert code == 0
    assert [line[23:].split()[0] for line in out.splitlines()] == ["6", "7", "8", "9"]
    assert "4 records are gone from the log: 2 to 5" in err
    assert run("tail", "--no-follow")[2] == ""
    server.client().delete(Names.of(namespace).log)
    assert "9 records are gone from the log: 1 to 9" in run("tail", "--no-follow", "--from", f"{epoch}:1")[2]
    assert run("tail", "--no-follow")[1:] == ("", "")


def test_a_stamp_of_another_log_is_said_to_be_lost(run: Run, server: Server, namespace: str) -> None:
    """Stamps of two logs can not be compared: everything there is follows. One that was not given out yet is said to be that."""
    with cache_at(server.url, namespace) as cache:
        stamp = cache.invalidate("stores:JKT")
    code, out, err = run("tail", "--no-follow", "--from", "00000000deadbeef:7", url=server.url)
    assert code == 0 and len(out.splitlines()) == 1
    assert "the log of epoch 00000000deadbeef is lost" in err and stamp.epoch in err
    code, out, err = run("tail", "--no-follow", "--from", f"{stamp.epoch}:500")
    assert (code, out) == (0, "")
    assert "the log ends at 1, before 499" in err


def test_a_tail_begins_no_log(run: Run, server: Server, namespace: str) -> None:
    """Looking changes nothing: where no process has begun a log there is none afterwards."""
    code, out, err = run("tail", "--no-follow", url=server.url)
    assert (code, out) == (0, "")
    assert "there is no log yet" in err
    with Command("tail", "--json", url=server.url) as command:
        assert command.told()["event"] == "none"
        assert command.told("following")["stamp"] is None
        names = Names.of(namespace)
        assert server.client().exists(names.log, names.meta, names.bans) == 0
        with cache_at(server.url, namespace) as cache:
            stamp = cache.invalidate("stores:JKT")
        assert command.told()["event"] == "begun"
        assert command.told("record")["stamp"] == str(stamp)


# --- tail: what it says of texts ----------------------------------------------------------------------------------------------------


def record(number: int, *texts: str, epoch: str = "e1", at: int = 0, origin: str = "a1", kind: Kind = "k") -> Record:
    return Record(epoch, number, f"{number:x}", f"{number - 1:x}", Targets(kind, texts or ("stores:JKT",)), origin, at)


def test_long_lists_and_long_texts_are_shortened() -> None:
    """A line is for eyes; ``--json`` has everything."""
    out, wide = io.StringIO(), record(1, *(f"stores:{number}" for number in range(5000)))
    Lines(out, io.StringIO()).record(wide)
    Lines(out, io.StringIO()).record(record(2, "x" * 60_000, "stores:JKT"))
    first, second = out.getvalue().splitlines()
    assert '"stores:0" "stores:1" ' in first and " and 4,99" in first and "more  by a1" in first
    assert '..." "stores:JKT"  by a1' in second
    assert max(len(first), len(second)) < 200
    out = io.StringIO()
    JsonLines(out).record(wide)
    assert len(json.loads(out.getvalue())["texts"]) == 5000


@pytest.mark.parametrize("text", ["\x1b[31m", "a\nb", "\u202e", "\ud800", "\x9b2J", '"', "☃", ""])
def test_no_text_harms_a_terminal(text: str) -> None:
    """Whoever writes to Redis writes what they like, also as the id of a process: one record is one printable line."""
    for as_json in (True, False):
        out = io.StringIO()
        printer = JsonLines(out) if as_json else Lines(out, out)
        printer.record(record(1, text, origin=text))
        assert out.getvalue().removesuffix("\n").isprintable()


@pytest.mark.parametrize("at", [0, -1, 10**30, 253402300800000])
def test_a_time_that_is_none_is_left_out(at: int) -> None:
    """The rest is shown all the same."""
    out = io.StringIO()
    Lines(out, out).record(record(1, at=at))
    assert out.getvalue().split() == ["-", "1", "hard", "key", '"stores:JKT"', "by", "a1"]
    out = io.StringIO()
    JsonLines(out).record(record(1, at=at))
    assert json.loads(out.getvalue())["time"] is None


def test_a_record_that_can_not_be_read_is_passed_over_aloud(run: Run, server: Server, namespace: str) -> None:
    """Somebody has written to the stream by hand, or a later version has: the others are shown."""
    with cache_at(server.url, namespace) as cache:
        cache.invalidate("stores:A")
        names, client = Names.of(namespace), server.client()
        client.xadd(names.log, {"k": "z", "x": "\x1b[31m"}, id="2-0")
        client.hset(names.meta.decode(), "n", "2")
        cache.invalidate("stores:B")
    code, out, err = run("tail", "--no-follow", url=server.url)
    assert code == 0 and [line[23:].split()[0] for line in out.splitlines()] == ["1", "3"]
    assert "record 2 can not be read" in err and "\x1b" not in err


def test_what_is_no_log_is_told(run: Run, server: Server, namespace: str) -> None:
    """Another program uses the name."""
    server.client().set(Names.of(namespace).meta, "mine")
    code, out, err = run("tail", "--no-follow", url=server.url)
    assert (code, out) == (1, "")
    assert "WRONGTYPE" in err
    server.client().delete(Names.of(namespace).meta)
    server.client().hset(Names.of(namespace).meta.decode(), mapping={"e": "e1", "n": "many"})
    assert run("tail", "--no-follow")[0] == 1


# --- tail: following ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def following(namespace: str) -> Iterator[Callable[..., Command]]:
    """Starts ``cachesync tail --json`` and returns when it follows."""
    with contextlib.ExitStack() as stack:

        def start(url: str, *argv: str) -> Command:
            command = stack.enter_context(Command("tail", "--json", *argv, url=url))
            command.told("following")
            return command

        yield start


def test_what_others_announce_is_shown_when_it_comes(every_server: Server, namespace: str, following: Callable[..., Command]) -> None:
    """From any process, one line at a time."""
    with cache_at(every_server.url, namespace) as one, cache_at(every_server.url, namespace) as other:
        one.invalidate("stores:before")
        command = following(every_server.url, "--last", "0")
        for number, cache in enumerate((one, other, one), start=2):
            stamp = cache.invalidate(f"stores:{number}")
            found = command.told()
            assert (found["stamp"], found["texts"]) == (str(stamp), [f"stores:{number}"])


def test_nothing_falls_between_reading_and_hearing(server: Server, namespace: str) -> None:
    """While a process invalidates as fast as it can, each record is shown once, from the first one on."""
    stop = threading.Event()

    def invalidate() -> None:
        with cache_at(server.url, namespace) as cache:
            while not stop.is_set():
                cache.invalidate("stores:JKT")

    thread = threading.Thread(target=invalidate)
    thread.start()
    try:
        with Command("tail", "--json", "--last", "9999999", url=server.url) as command:
            told = [command.told() for _ in range(200)]
            while told[-1]["event"] != "following":
                told.append(command.told())
            told += [command.told() for _ in range(200)]
    finally:
        stop.set()
        thread.join(LONG)
    assert {one["event"] for one in told} <= {"record", "following", "none", "begun"}
    assert numbers(told) == list(range(1, len(numbers(told)) + 1))


def test_what_came_while_it_was_cut_off_is_shown(server: Server, namespace: str, proxy: Proxy, following: Callable[..., Command]) -> None:
    """The stream is the memory: after a cut it goes on where it was."""
    with cache_at(server.url, namespace) as cache:
        cache.invalidate("stores:0")
        command = following(proxy.url, "--last", "0")
        proxy.refuse()
        assert command.told()["event"] == "away"
        for number in range(1, 4):
            cache.invalidate(f"stores:{number}")
        proxy.admit()
        assert [command.told()["texts"] for _ in range(3)] == [["stores:1"], ["stores:2"], ["stores:3"]]
        assert command.told()["event"] == "back"
        cache.invalidate("stores:4")
        assert command.told()["texts"] == ["stores:4"]


def test_a_black_hole_is_noticed(server: Server, namespace: str, proxy: Proxy, following: Callable[..., Command]) -> None:
    """The connection is open and nothing comes: a question without an answer tells silence from peace."""
    with cache_at(server.url, namespace) as cache:
        cache.invalidate("stores:0")
        command = following(proxy.url, "--last", "0")
        proxy.hold()
        cache.invalidate("stores:1")
        assert "no answer in time" in command.told("away")["says"]
        proxy.cut()
        proxy.release()
        assert command.told()["texts"] == ["stores:1"]
        assert command.told()["event"] == "back"


def test_a_restart_without_data_is_another_log(fresh_server: Server, namespace: str, following: Callable[..., Command]) -> None:
    """The old one is gone, a new one begins with number 1: both are said, and what was published then is shown."""
    with cache_at(fresh_server.url, namespace) as cache:
        before = cache.invalidate("stores:0")
    command = following(fresh_server.url, "--last", "0")
    fresh_server.restart()
    assert command.told()["event"] == "away"
    assert command.told()["event"] == "gone"
    assert command.told()["event"] == "back"
    with cache_at(fresh_server.url, namespace) as cache:
        after = cache.invalidate("stores:1")
        found = command.told()
        assert (found["event"], found["epoch"]) == ("begun", after.epoch)
        assert after.epoch != before.epoch and command.told()["stamp"] == str(after)
        fresh_server.client().flushall()
        last = cache.invalidate("stores:2")  # as quick as this, nobody sees that there was no log meanwhile
        events = [command.told()]
        while events[-1]["event"] != "record":
            events.append(command.told())
        assert [one["event"] for one in events[:-1]] in (["lost"], ["gone", "begun"])
        assert events[-1]["stamp"] == str(last)


def test_another_server_goes_on_with_the_log(fresh_server: Server, namespace: str, following: Callable[..., Command]) -> None:
    """As after a failover: the numbers go on in another epoch, which is said."""
    with cache_at(fresh_server.url, namespace) as cache:
        before = cache.invalidate("stores:0")
        command = following(fresh_server.url, "--last", "0")
        cast("Any", fresh_server.client()).execute_command("DEBUG", "CHANGE-REPL-ID")
        after = cache.invalidate("stores:1")
        assert (after.epoch != before.epoch, after.number) == (True, 2)
        found = command.told()
        assert (found["event"], found["before"], found["epoch"], found["cut"]) == ("continued", before.epoch, after.epoch, 1)
        assert command.told()["stamp"] == str(after)
    told = Command("tail", "--no-follow", "--json", url=fresh_server.url)
    with told as command:
        _, lines, _ = command.end()
    assert [json.loads(line)["stamp"] for line in lines] == [str(before), str(after)]


class Told(Stream):
    """A log that is what a test says: pages, one after the other."""

    def __init__(self, *pages: Page) -> None:
        self.pages = list(pages)
        self.asked: list[int] = []

    def page(self, after: int, most: int = 1000) -> Page:
        self.asked.append(after)
        return self.pages.pop(0)

    def close(self) -> None:
        pass


def page(number: int, *rows: int, epoch: str = "e1", cuts: dict[str, int] | None = None) -> Page:
    return Page(Stamp(epoch, number), cuts or {}, [(row, record(row, epoch=epoch)) for row in rows])


def shown_by(*pages: Page, start: Stamp | None, last: int = 10) -> tuple[list[dict[str, Any]], Tail, Told]:
    """What a tail prints of these pages; the first is looked at for the oldest record."""
    out, stream = io.StringIO(), Told(*pages)
    tail = Tail(lambda: stream, JsonLines(out), last=last, start=start)
    tail.read()
    return [json.loads(line) for line in out.getvalue().splitlines()], tail, stream


def test_records_that_a_new_server_lacks_are_counted() -> None:
    """They were applied somewhere, and their numbers are given out again: the tail goes back to the cut."""
    rows = [(number, record(number, epoch="e2")) for number in (4, 5)]
    head = Stamp("e2", 5)
    told, tail, stream = shown_by(Page(head, {"e1": 3}, []), Page(head, {"e1": 3}, []), Page(head, {"e1": 3}, rows), start=Stamp("e1", 8))
    assert (told[0]["event"], told[0]["cut"], told[0]["lacking"]) == ("continued", 3, 4)
    assert "It lacks 4 records" in told[0]["says"]
    assert numbers(told) == [4, 5] and tail.at == head and stream.asked == [0, 7, 3]


def test_what_came_after_the_question_is_not_shown_twice() -> None:
    """A record behind the head that was answered is heard later; a record that was shown is passed over when it is heard."""
    told, tail, _ = shown_by(page(2, 1), page(2, 1, 2, 3), start=None)
    assert numbers(told) == [1, 2]
    tail.hear([record(1), record(2)])
    assert tail.at == Stamp("e1", 2)
    tail.hear([record(3)])
    assert tail.at == Stamp("e1", 3)


def test_a_record_that_does_not_follow_is_looked_up() -> None:
    """One was lost on its way: the stream has it."""
    _, tail, stream = shown_by(page(2, 1), page(2, 1, 2), start=None)
    stream.pages = [page(5, 3, 4, 5)]
    tail.hear([record(5)])
    assert (tail.at, stream.asked[-1]) == (Stamp("e1", 5), 2)


def test_a_torn_message_and_an_unreadable_record() -> None:
    """The number of one that can not be read is said, and reading goes on behind it."""
    told, tail, _ = shown_by(page(3, 1), Page(Stamp("e1", 3), {}, [(1, record(1)), (2, RecordError("odd")), (3, record(3))]), start=None)
    assert [one["event"] for one in told] == ["record", "unreadable", "record"]
    assert tail.at == Stamp("e1", 3)


# --- tail: its end ------------------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_tail(server: Server, following: Callable[..., Command]) -> None:
    """130, and not a word more."""
    assert following(server.url).end(signal.SIGINT) == (130, [], [])


def test_ctrl_c_ends_a_tail_that_waits(proxy: Proxy) -> None:
    """Also while Redis is away."""
    proxy.refuse()
    with Command("tail", url=proxy.url) as command:
        assert "can not be heard" in command.error()
        assert command.end(signal.SIGINT) == (130, [], [])


def test_a_tail_ends_when_nobody_reads_it(server: Server, namespace: str) -> None:
    """As before ``| head -1``: with 141, also while no record comes that could fail to be written."""
    with cache_at(server.url, namespace) as cache:
        cache.invalidate("stores:JKT")
    reading, writing = os.pipe()
    with Command("tail", url=server.url, stdout=writing) as command:
        os.close(writing)
        with open(reading, encoding="utf-8") as lines:
            assert '"stores:JKT"' in lines.readline()
        code, _, errors = command.end()
    assert code == 141
    assert len(errors) == 1 and "following" in errors[0]


def test_a_terminal_is_shown_colours(server: Server, namespace: str) -> None:
    """A pipe and ``--json`` are not."""
    with cache_at(server.url, namespace) as cache:
        cache.invalidate("stores:JKT")

    def printed(*argv: str, **environment: str) -> bytes:
        ours, theirs = pty.openpty()
        with Command("tail", "--no-follow", *argv, url=server.url, stdout=theirs) as command:
            os.close(theirs)
            written = b""
            with contextlib.suppress(OSError):  # Linux says so when the other end is closed
                while piece := os.read(ours, 4096):
                    written += piece
            os.close(ours)
            assert command.end()[0] == 0
        return written

    os.environ["TERM"] = "xterm"
    assert b"\x1b[" in printed()
    assert b"\x1b[" not in printed("--json")
    with Command("tail", "--no-follow", url=server.url) as command:
        assert "\x1b[" not in command.line()
