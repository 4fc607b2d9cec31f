"""Messages of an event stream, and how they are written: as server-sent events (WHATWG HTML, 9.2) or as JSON for a WebSocket.

========= ==========================================================================================================
event     data
========= ==========================================================================================================
``hello`` the stream begins. ``v`` of the format, ``epoch`` and ``number`` up to which nothing is left to tell, ``schema``
          (changes with the ``version`` of a policy), ``reset`` (what was missed is gone), ``jitter``, ``live``
``inv``   answers with one of the groups ``tags`` are out of date. ``mode`` is ``hard`` or ``soft``, ``prev`` the id before
``reset`` everything may be out of date: what happened can not be told. ``prev``
``hb``    a sign of life. ``jitter``, ``live`` (whether this process hears the log), ``prev``
``bye``   the stream ends; come back after ``retry``
========= ==========================================================================================================

The id of a message is the position in the log, ``epoch:number``, and ``prev`` is the id of the message before it on the same stream:
ids are not dense, because nobody is told of what they may not see. Durations are seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

FORMAT: Final = 1
"""The version of the format."""

EventKind = Literal["hello", "inv", "reset", "hb", "bye"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message. ``id`` is ``None`` where the position is not known, or has not changed."""

    event: EventKind
    data: Mapping[str, Any]
    id: str | None = None

    def as_sse(self) -> bytes:
        """As a server-sent event. A JSON text has no line breaks, so each field is one line.

        A browser waits as long before it comes back as the last ``retry`` field said, in milliseconds.
        """
        retry = f"retry: {round(1000 * self.data['retry'])}\n" if self.event == "bye" else ""
        position = "" if self.id is None else f"id: {self.id}\n"
        return f"{retry}{position}event: {self.event}\ndata: {_json(self.data)}\n\n".encode()

    def as_json(self) -> str:
        """As one frame of a WebSocket: ``{"event": ..., "id": ..., "data": ...}``."""
        return _json({"event": self.event, "id": self.id, "data": dict(self.data)})


_json: Final[Callable[[Mapping[str, Any]], str]] = json.JSONEncoder(separators=(",", ":")).encode
