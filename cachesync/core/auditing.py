"""Questions of the auditor, as they travel on the log's channel beside the records.

A question is one JSON object: ``q`` its id (under which answers are collected), ``e`` and ``n`` the epoch and number of the invalidation
it is about, ``k`` its kind and ``x`` its texts, as in a record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from cachesync.core.records import KINDS, Targets
from cachesync.core.stamps import Stamp


@dataclass(frozen=True, slots=True)
class Question:
    """What would you serve of ``targets``, which were invalidated under ``stamp``?"""

    id: str
    targets: Targets
    stamp: Stamp

    def to_message(self) -> str:
        """The text to publish."""
        about, stamp = self.targets, self.stamp
        fields = {"q": self.id, "e": stamp.epoch, "n": stamp.number, "k": about.kind, "x": about.texts}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def is_question(message: str) -> bool:
    """Whether a message of the log's channel is a question, and no record."""
    return message.startswith('{"q":')


def read_question(message: str) -> Question:
    """Read a question. Raises ``ValueError`` for what is none."""
    try:
        return _read(message)
    except (TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"this is no question: {error!r}") from error


def _read(message: str) -> Question:
    fields = cast("dict[str, Any]", json.loads(message))
    kind, texts = fields["k"], fields["x"]
    if kind not in KINDS or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a question about {kind!r} is not known here")
    return Question(str(fields["q"]), Targets(kind, tuple(texts)), Stamp(str(fields["e"]), int(fields["n"])))
