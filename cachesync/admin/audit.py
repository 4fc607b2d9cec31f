"""The audit trail: who has changed what by the admin app, as an event and as a line of the logger ``cachesync.audit``.

Nothing is in it that policies mask, and no token: who somebody is, is what the application's authoriser says.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from cachesync.coordination.events import Events, attributes_of, in_short

logger: Final = logging.getLogger("cachesync.audit")
LONGEST_NAME: Final = 200


class Audit:
    """Tells of changes. ``events`` are the cache's."""

    def __init__(self, events: Events) -> None:
        self._events = events

    @contextmanager
    def watch(self, who: str, action: str, about: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """A block that changes something. It is told when it is over, however that comes: ``about``, and what the block has added to the
        fields that it is given, are the arguments of `tell`.
        """
        fields: dict[str, Any] = {"outcome": "done", **about}
        try:
            yield fields
        except BaseException as error:
            raised = type(error).__name__
            fields["outcome"] = f"{fields['outcome']}, then {raised}" if "stamp" in fields else raised
            raise
        finally:
            self.tell(who, action, **fields)

    def tell(
        self,
        who: str,
        action: str,
        outcome: str,
        *,
        patterns: Sequence[str] = (),
        tags: Sequence[str] = (),
        switched: Sequence[str] = (),
        stamp: str = "",
    ) -> None:
        """``who`` has asked for ``action``, and this came of it. What was named is masked here as in every event."""
        who = "".join(character if character.isprintable() else "?" for character in who[:LONGEST_NAME])
        named = {"patterns": list(patterns), "tags": list(tags), "switched": list(switched), "stamp": stamp}
        fields = {"who": who, "action": action, "outcome": outcome, **self._events.shown(named)}
        text = ", ".join(f"{name}={in_short(value)}" for name, value in fields.items() if value)
        logger.info("%s", text, extra={"event.name": "cachesync.administered", **attributes_of(fields)})
        self._events.send(
            "administered", who=who, action=action, outcome=outcome, patterns=patterns, tags=tags, switched=switched, stamp=stamp
        )
