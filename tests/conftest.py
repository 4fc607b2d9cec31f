"""What every test may ask for, and the rule that nothing is skipped quietly.

=================  ========================================================================================
``server``         a Valkey 9, shared by the session: do not stop, freeze or fill it
``every_server``   the test runs once on each flavour: Valkey 9, Redis 8, Redis 6.2; shared like ``server``
``fresh_server``   a Valkey 9 for this test alone: kill it, freeze it, restart it
``namespace``      a text no other test uses; keys that contain it are removed from the shared servers afterwards
``proxy``          a proxy in front of ``server`` that cuts, holds and delays
``browser``        a Chromium; its pages are closed after the test
=================  ========================================================================================

With ``CI=true`` a run in which a test was skipped, or failed as expected, ends in failure.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from support.browser import Browser
from support.proxy import Proxy
from support.servers import EXTRA_SERVER, Server, Servers, flavours

# The benchmarks are a package of the tree. Last on the path, so that cachesync itself comes from where it is installed.
sys.path.append(str(Path(__file__).parents[1]))

# A run that was begun in the background ignores Ctrl-C, and so would every process that it starts: tests send it to some.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test fails on a clock. In CI every run draws the same examples: a red run is red again.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

QUIET_OUTCOMES = ("skipped", "xfailed", "xpassed")

_kept_logs: list[Path] = []


def pytest_report_header() -> str:
    return f"servers: {', '.join(flavours())}{f' ({EXTRA_SERVER})' if EXTRA_SERVER else ''}"


def pytest_collection_finish() -> None:
    """The garbage collector leaves alone what was collected: thousands of tests, which live as long as the session. Without this each
    test that has it look, and each that forks, pays for all of them.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """The shared servers by flavour. Their logs are kept when a test of the session has failed."""
    shared = Servers()
    yield shared
    _kept_logs.extend(shared.stop(keep_logs=request.session.testsfailed > 0))


@pytest.fixture(scope="session")
def server(servers: Servers) -> Server:
    """A Valkey 9 that all tests share."""
    return servers["valkey9"]


@pytest.fixture(scope="session", params=flavours())
def every_server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Each flavour in turn, shared by all tests."""
    return servers[request.param]


@pytest.fixture
def fresh_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A Valkey 9 that this test may harm."""
    failed = request.session.testsfailed
    with Server() as own:
        yield own
        own.keep_log = request.session.testsfailed > failed
        if own.keep_log:
            _kept_logs.append(own.log)


@pytest.fixture
def namespace(servers: Servers) -> Iterator[str]:
    """A text of letters and digits that no other test, run or process uses."""
    text = f"test{secrets.token_hex(6)}"
    yield text
    servers.flush(text)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of ``server``, for this test alone."""
    with Proxy("127.0.0.1", server.port) as own:
        yield own


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A Chromium that all tests share."""
    with Browser() as shared:
        yield shared


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The Chromium, for pages of this test: they are closed afterwards, and what their visitors had is forgotten."""
    yield chromium
    chromium.forget()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Where tests run side by side, each process tells the one that reports which logs it has kept."""
    _kept_logs.extend(map(Path, getattr(node, "workeroutput", {}).get("kept_logs", ())))


def _quiet(config: pytest.Config) -> dict[str, int]:
    """How many tests were skipped, or failed as expected: what a green summary hides."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return {name: len(reporter.stats[name]) for name in QUIET_OUTCOMES if reporter and reporter.stats.get(name)}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, turn a run that hid something into a failure."""
    told: dict[str, Any] = getattr(session.config, "workeroutput", {})
    told["kept_logs"] = [str(log) for log in _kept_logs]
    if os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK and _quiet(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what was skipped, and where the servers' logs are."""
    hidden = _quiet(config)
    if hidden:
        told = ", ".join(f"{count} {name}" for name, count in hidden.items())
        terminalreporter.section(f"not tested: {told}" + (": this fails in CI" if os.environ.get("CI") else ""), red=True)
        for name in hidden:
            for report in terminalreporter.stats[name]:
                terminalreporter.line(f"{name}: {report.nodeid}: {getattr(report, 'wasxfail', '') or report.longreprtext}")
    for log in _kept_logs:
        terminalreporter.line(f"a server's log was kept: {log}")
