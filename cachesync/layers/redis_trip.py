"""A trip to Redis that carries several steps: what is common to them is said once, and each is answered for itself.

Clock and head of the log are asked once for all that are told them, all keys that are fetched are one ``MGET``, and equal questions about
the log are one: fifty tasks that join it at once cost as much as one does. The head may then be older than a lease that is granted in the
same trip; so is the position that its computation is stamped with, which is the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from redis.exceptions import ResponseError

from cachesync.core.names import Names
from cachesync.core.steps import Fetch, Fetched, Lease, Reply, SharedStep
from cachesync.core.together import question_of
from cachesync.core.tuples import make
from cachesync.layers.redis_line import failed, refused
from cachesync.layers.redis_wire import Bounds, Command, WireError, commands_of, pack_all, reply_of


class Trip:
    """The commands of several steps in RESP (``packed``), and how many replies they have (``count``)."""

    __slots__ = ("_fetch", "_names", "_places", "_spans", "_steps", "count", "packed")

    def __init__(self, steps: Sequence[SharedStep], names: Names, bounds: Bounds) -> None:
        known: dict[object, int] = {}
        self._places = [known.setdefault(question_of(step) or i, len(known)) for i, step in enumerate(steps)]
        first = dict(zip(reversed(self._places), reversed(steps), strict=True))
        self._steps = steps = [first[place] for place in range(len(known))]
        self._names = names
        keys = tuple([key for step in steps if isinstance(step, Fetch) and not step.strict for key in step.keys])
        is_fetching = any(_is_plain_fetch(step) for step in steps)
        self._fetch = Fetch(keys) if is_fetching else None
        commands: list[Command] = []
        if is_fetching or any(step.__class__ is Lease for step in steps):
            commands += commands_of(Fetch(keys), names, bounds)
        self._spans: list[tuple[int, int]] = []  # for a fetch: which of the keys; for the others: which of the replies
        at = 0
        for step in steps:
            if _is_plain_fetch(step):
                own = len(cast("Fetch", step).keys)
                self._spans.append((at, at + own))
                at += own
                continue
            said = commands_of(step, names, bounds)
            said = said[2:] if step.__class__ is Lease else said
            self._spans.append((len(commands), len(commands) + len(said)))
            commands += said
        self.packed, self.count = pack_all(commands), len(commands)

    def replies(self, replies: Sequence[Any]) -> list[Reply]:
        """What the replies mean, for each step. One that was refused, or whose reply can not be read, has failed alone."""
        fetched = None if self._fetch is None else self._reply(self._fetch, replies[: 3 if self._fetch.keys else 2])
        found: list[Reply] = []
        for step, (begin, end) in zip(self._steps, self._spans, strict=True):
            if not _is_plain_fetch(step):
                own = replies[begin:end]
                found.append(self._reply(step, [*replies[:2], *own] if step.__class__ is Lease else own))
            elif isinstance(fetched, Fetched):
                found.append(make(Fetched, (fetched.blobs[begin:end], fetched.head, fetched.now)))
            else:
                assert fetched is not None
                found.append(fetched)
        return [found[place] for place in self._places]

    def _reply(self, step: SharedStep, replies: Sequence[Any]) -> Reply:
        try:
            refused(replies)
            return reply_of(step, replies, self._names)
        except (ResponseError, WireError) as error:
            return failed(step, error)


def _is_plain_fetch(step: SharedStep) -> bool:
    return isinstance(step, Fetch) and not step.strict
