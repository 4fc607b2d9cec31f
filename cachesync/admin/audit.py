"""The audit trail: who has changed what by the admin app, as an event and as a line of the logger ``cachesync.audit``.

Nothing is in it that policies mask, and no token: who somebody is, is what the application's authoriser says.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from cachesync.coordination.events import Events, attributes_of

logger: Final = logging.getLogger("cachesync.audit")
LONGEST_NAME: Final = 200


class Audit:
    """Tells of changes. ``events`` are the cache's."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def tell(self, who: str, action: str, outcome: str, **about: Any) -> None:
        """``who`` has asked for ``action``, and this came of it. ``about`` are fields of events, which are masked as those are."""
        who = "".join(character if character.isprintable() else "?" for character in who[:LONGEST_NAME])
        fields = {"who": who, "action": action, "outcome": outcome, **self._events.shown(about)}
        text = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        logger.info("%s", text, extra={"event.name": "cachesync.administered", **attributes_of(fields)})
        self._events.send("administered", who=who, action=action, outcome=outcome, **about)
