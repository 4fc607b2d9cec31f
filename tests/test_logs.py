"""Structured logs: each record is one line of JSON, and what an event says has fields of its own."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cachesync import Cache, MemoryShared, Policy
from cachesync.coordination.events import FIELDS, attributes_of
from cachesync.logs import JsonFormatter


class Lines:
    """What a logger writes."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(JsonFormatter())

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture(params=["cachesync", "application"])
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    logger, lines = logging.getLogger(request.param), Lines()
    level = logger.level
    logger.addHandler(lines.handler)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(lines.handler)
    logger.setLevel(level)


@pytest.mark.parametrize("lines", ["cachesync"], indirect=True)
def test_an_event_is_a_line_of_json(lines: Lines) -> None:
    """With the envelope of ECS, the name of the event, and each of its fields."""
    shared = MemoryShared()
    cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=shared, listen=False)
    stamp = cache.invalidate("stores:*", tags=["region:java"])
    with shared.outage():
        cache.get("stores:x")
    told, failed = (line for line in lines.read() if line["event.name"] in {"cachesync.invalidated", "cachesync.layer_failed"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["@timestamp"])
    assert (told["log.level"], told["log.logger"], told["ecs.version"]) == ("debug", "cachesync", "8.11")
    assert told["event.name"] == "cachesync.invalidated"
    assert told["message"].startswith("invalidated: ")
    assert (told["cachesync.patterns"], told["cachesync.tags"]) == (["stores:*"], ["region:java"])
    assert told["cachesync.stamp"] == str(stamp)
    assert (failed["log.level"], failed["cachesync.step"]) == ("warning", "Fetch")
    assert failed["error.message"].endswith("it is down")


@pytest.mark.parametrize("lines", ["application"], indirect=True)
def test_any_record_is_a_line_of_json(lines: Lines) -> None:
    """Arguments are filled in, what was given as ``extra`` is kept, an exception has its fields; strange values become texts."""
    logger = logging.getLogger("application")
    logger.info("%s came\nand went", "somebody", extra={"user.id": 7, "seen": {1}})
    try:
        raise ValueError("too late")
    except ValueError:
        logger.exception("it failed")
    first, second = lines.read()
    assert first["message"] == "somebody came\nand went"
    assert (first["user.id"], first["seen"]) == (7, "{1}")
    assert (second["error.type"], second["error.message"]) == ("builtins.ValueError", "too late")
    assert second["error.stack_trace"].startswith("Traceback") and second["error.stack_trace"].endswith("ValueError: too late\n")
    assert not {"args", "msg", "exc_info", "levelno"} & set(first) | (set(second) & {"exc_text"})


def test_fields_of_events_never_take_the_place_of_a_records_own() -> None:
    """``logging`` refuses extra fields by the names that a record has already."""
    taken = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    assert not taken & {"event.name", *attributes_of(dict.fromkeys(FIELDS))}


def test_nothing_is_made_of_an_event_that_nobody_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the logger's level an event costs neither a text nor fields."""
    logger = logging.getLogger("cachesync")
    monkeypatch.setattr(logger, "disabled", True)
    monkeypatch.setattr("cachesync.coordination.events.attributes_of", None)
    Cache(policies=[Policy(name="all", match="*", ttl="1h")]).invalidate("a")
