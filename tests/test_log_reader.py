"""The log's reader: what it does when something goes wrong that nobody thought of."""

from __future__ import annotations

import logging
import threading

import pytest

from cachesync import Cache, Event, Policy
from cachesync.coordination.log_reader import LogReader
from cachesync.layers.memory import MemoryShared
from support.nodes import engine_of, operations_of, read_log, until


class Stumble:
    """A mistake of ours in the log's reader, as often as ``times`` says. ``turns`` counts the turns after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.times = times
        self.turns = 0
        turn = LogReader.turn

        def stumbling(reader: LogReader) -> bool:
            if self.times > 0:
                self.times -= 1
                raise AssertionError("nobody thought of this")
            self.turns += 1
            return turn(reader)

        monkeypatch.setattr(LogReader, "turn", stumbling)


def test_a_mistake_of_the_reader_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not as trouble with a layer that is well: calls go on asking it. An error in the log once, until the reader is well again."""
    events: list[Event] = []
    policy = Policy(name="items", match="item:*", ttl="1h")
    with Cache(policies=[policy], shared=MemoryShared(), listen=False, on_event=events.append) as cache:
        assert read_log(cache)
        reader = operations_of(cache).reader
        mistake = Stumble(monkeypatch, times=2)
        with caplog.at_level(logging.DEBUG, "cachesync"):
            assert not reader.try_turn()
            assert not reader.try_turn()
            assert engine_of(cache).uses_shared()
            assert [event.name for event in events] == ["reader_failed", "reader_failed"]
            assert events[0].fields["error"] == "AssertionError('nobody thought of this')"
            assert "in stumbling" in events[0].fields["traceback"]
            assert reader.try_turn()
            mistake.times = 1
            assert not reader.try_turn()
        assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.DEBUG, logging.ERROR]


def test_a_mistake_ends_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again a moment later, and what others announce goes on arriving."""
    told = threading.Event()

    def listener(event: Event) -> None:
        if event.name == "reader_failed":
            told.set()

    shared = MemoryShared()
    mistake = Stumble(monkeypatch, times=1)
    policies = [Policy(name="items", match="item:*", ttl="1h")]
    with Cache(policies=policies, shared=shared, on_event=listener) as cache, Cache(policies=policies, shared=shared) as other:
        cache.set("item:1", 1)
        until(told.is_set, "the mistake is told")
        until(lambda: mistake.turns > 0, "the reader goes on")
        other.set("item:1", 2)
        until(lambda: cache.get("item:1") == 2, "the invalidation arrives")


def test_a_mistake_while_the_cache_is_closed_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are being closed under the reader's feet: whatever it meets then is no news."""
    events: list[Event] = []
    cache = Cache(policies=[Policy(name="items", match="item:*", ttl="1h")], shared=MemoryShared(), listen=False, on_event=events.append)
    reader = operations_of(cache).reader
    cache.close()
    Stumble(monkeypatch, times=1)
    assert not reader.try_turn()
    assert events == []
