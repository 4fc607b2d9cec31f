"""What goes wrong inside of a worker, on purpose and by the seed: in its layers, its codec and its origin, all at once.

=============  =========
shared layer   a `ChaosLayer` around Redis: steps fail, throw, hang, are late, lost or done twice; what is published
               is lost, doubled or out of order
local layer    copies go before their time, and now and then one can not be taken
codec          values can not be written, or not be read
origin         computations fail often, and some take longer than a lease lives or a caller waits
=============  ==============================================================================

Faults of processes, lines and the server come on top.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from cachesync import CodecError, LocalMemory, OverdueError, Policy, RedisShared, RestingError
from cachesync.core.entry import Held
from cachesync.core.steps import Hear
from cachesync.layers.codecs import codec_for
from cachesync.layers.redis_wire import Bounds
from cachesync.protocols import Codec, Shelf, Usage
from cachesync.testing import ChaosLayer
from cachesync.testing.chaos import ITEMS, KINDS, STEPS, Fault
from soak.history import Shown
from soak.origin import OriginError
from soak.world import STALE_WINDOW

STEP: Final = 0.0005
"""The rate of what makes a step fail. A layer that failed is left alone for a second and longer, so more of it would try less."""
HEARING: Final = 0.005
ITEM: Final = 0.1
"""Of what is published so much is lost, so much doubled, and so much out of order."""
FORGETS: Final = 0.02
REFUSES: Final = 0.01
UNWRITTEN: Final = 0.01
UNREAD: Final = 0.01
FAILS: Final = 0.03
"""The share of computations that raise `OriginError`."""
HANGS: Final = 0.005
LONGEST_HANG: Final = 3.0
"""Seconds: longer than a lease lives."""


def _rates(fault: Fault, step: float) -> dict[type, float]:
    """Rates of a fault: ``step`` for each step, others for hearing and for what is heard."""
    return {kind: step if kind in STEPS else HEARING if kind is Hear else ITEM for kind in KINDS[fault]}


def policies_in_chaos(policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    """The same with everything that is there for trouble. Windows are those that the checker knows."""
    for_trouble: dict[str, dict[str, Any]] = {
        "items": {"stale_if_error": STALE_WINDOW, "soft_timeout": 0.02, "hard_timeout": 2.0, "errors": 0.2},
        "short": {"stale_if_error": STALE_WINDOW, "early_refresh": 0.5, "errors": 0.05},
        "reports": {"hard_timeout": 1.0},
        "pages": {"errors": 0.1},
    }
    return tuple(replace(policy, **for_trouble.get(policy.name, {})) for policy in policies)


def excuses(error: Exception, what: str) -> bool:
    """Whether a call may end so in the midst of all this. That a value can not be written is told to nobody but who sets it."""
    if isinstance(error, CodecError):
        return what.partition(" ")[0] in {"set", "update"}
    return isinstance(error, OriginError | OverdueError | RestingError)


class Chaos:
    """For one process. ``shared``, ``local`` and ``codec`` are for its cache."""

    def __init__(self, url: str, *, namespace: str, seed: str, max_entries: int) -> None:
        number = zlib.crc32(seed.encode())
        self.shared = ChaosLayer(
            RedisShared(url, namespace=namespace, bounds=Bounds()),
            seed=number,
            fail=_rates("fail", STEP),
            throw=_rates("throw", STEP),
            hang=_rates("hang", STEP),
            lose=_rates("lose", STEP),
            delay=_rates("delay", 0.05),
            duplicate=_rates("duplicate", 0.02),
            reorder=_rates("reorder", 0.0),
            seconds=(0.001, 0.03),
        )
        self.draw = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.is_calm = False
        self.local = ForgetfulMemory(self, LocalMemory(max_entries=max_entries))
        self.codec = FlakyCodec(self, codec_for(list[Shown]))
        self._calm = ExitStack()

    def strikes(self, what: str, rate: float) -> bool:
        """Whether it happens this time. It is counted."""
        if self.is_calm or self.draw.random() >= rate:
            return False
        self.counts[what] += 1
        return True

    def pause(self) -> float:
        """Seconds that a computation takes longer; or it fails."""
        if self.strikes("origin fails", FAILS):
            raise OriginError
        return self.draw.random() * LONGEST_HANG if self.strikes("origin hangs", HANGS) else 0.0

    def end(self) -> None:
        """From now on nothing goes wrong."""
        self.is_calm = True
        self._calm.enter_context(self.shared.calm())

    def told(self) -> dict[str, int]:
        """How often what happened, in few words."""
        heard = {kind.__name__ for kind in ITEMS}
        counts = Counter({f"chaos, {what}": count for what, count in self.counts.items()})
        for said, count in self.shared.counts.items():
            fault, kind = said.split()
            counts[f"chaos, {fault} {'what is heard' if kind in heard else 'hearing' if kind == Hear.__name__ else 'step'}"] += count
        return dict(counts)


class ForgetfulMemory:
    """Local memory that loses copies, and can not take some."""

    def __init__(self, chaos: Chaos, inner: LocalMemory) -> None:
        self._chaos = chaos
        self._inner = inner

    def shelf(self) -> Shelf:
        return _ForgetfulShelf(self._chaos, self._inner.shelf())

    def clear(self) -> None:
        self._inner.clear()

    def usage(self) -> Usage:
        return self._inner.usage()


class _ForgetfulShelf:
    def __init__(self, chaos: Chaos, inner: Shelf) -> None:
        self._chaos = chaos
        self._inner = inner

    @property
    def copies(self) -> Mapping[Hashable, Held]:
        return self._inner.copies

    @property
    def hits(self) -> int:
        return self._inner.hits

    def put(self, raw: Hashable, held: Held) -> Held:
        if self._chaos.strikes("local copy refused", REFUSES):
            raise MemoryError("no room for it")
        kept = self._inner.put(raw, held)
        if self._chaos.strikes("local copies forgotten", FORGETS):
            for other in list(self._inner):
                if other.raw is not None and self._chaos.draw.random() < 0.5:
                    self._inner.drop(other.raw)
        return kept

    def drop(self, raw: Hashable) -> bool:
        return self._inner.drop(raw)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)


class FlakyCodec:
    """A codec that can not write or read some values."""

    def __init__(self, chaos: Chaos, inner: Codec) -> None:
        self._chaos = chaos
        self._inner = inner
        self.name = "flaky"

    def encode(self, value: object, /) -> bytes:
        if self._chaos.strikes("value not written", UNWRITTEN):
            raise CodecError("it can not be written, as it was told to")
        return self._inner.encode(value)

    def decode(self, payload: bytes | memoryview, /) -> Any:
        if self._chaos.strikes("value not read", UNREAD):
            raise CodecError("it can not be read, as it was told to")
        return self._inner.decode(payload)
