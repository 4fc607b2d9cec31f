"""The shared layer: a real ``MemoryShared``, what is on its way from it to each process, and what may befall it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, NamedTuple

from cachesync.core.auditing import Question
from cachesync.core.bans import BanIndex
from cachesync.core.ledger import Mark
from cachesync.core.records import Record, Targets
from cachesync.core.steps import Beat, Failed, Torn, Woken
from cachesync.core.switches import Thrown
from cachesync.errors import LayerError
from cachesync.layers.memory import MemoryEar, MemoryShared
from model.state import clone, freeze

TICK: Final = 10.0
"""Seconds that pass at once, where time passes at all: longer than ``max_lag`` and than the rest after a failure."""
EVENT: Final = 0.001
"""Seconds from one change of the log to the next: what was asked before it was asked earlier."""
CUT: Final = Failed(LayerError("the connection was cut"))
AWAY: Final = Failed(LayerError("the layer is away"))

Heardable = Record | Woken | Question | Thrown | Beat | Torn
_CONSTANT: Final = frozenset({"changed", "clock", "ears", "sync", "limit", "eventful"})
_OF_THE_LOG: Final = ("_epoch", "_number", "_nonce", "_cuts", "_hard", "_soft", "_records", "_again")


class Subscribe(NamedTuple):
    """A process begins to hear."""

    process: int


class AskBeat(NamedTuple):
    """A process asks, on the connection on which it hears, where the log ends."""

    process: int


class Take(NamedTuple):
    """A process takes in the next thing it has heard."""

    process: int


class Do(NamedTuple):
    """Something befalls the layer: ``what`` changes it, when ``may`` says that it can. ``name`` is for the trace."""

    name: str
    what: Callable[[Layer], object]
    may: Callable[[Layer], bool] | None = None


LAYER_STEPS: Final = (Subscribe, AskBeat, Take, Do)


class _Line(MemoryEar):
    """What is published goes into the line of one process, if it listens."""

    def __init__(self, layer: Layer, process: int) -> None:
        super().__init__(layer)
        self._layer = layer
        self._process = process

    def tell(self, item: Record | Woken | Question | Thrown) -> None:
        line = self._layer.lines[self._process]
        if line is not None and not isinstance(item, Woken):
            line.append(item)


class Layer(MemoryShared):
    """Entries, leases and the log, and a line to each of some processes. ``limit`` bans of a kind are kept.

    ``eventful``: time passes with every change of the log. It matters only where a log may end.
    """

    def __init__(self, processes: int, limit: int = 1_000, *, eventful: bool = False) -> None:
        self.limit = limit
        self.eventful = eventful
        self.ticks = 0
        self.events = 0
        self.replica: Mapping[str, Any] | None = None
        self.buried: dict[str, tuple[bytes, int]] = {}
        self.lines: list[list[Heardable] | None] = [None] * processes
        super().__init__(self.time)
        self.ears = [_Line(self, process) for process in range(processes)]

    def time(self) -> float:
        """Seconds: the same for the layer and for all processes."""
        return self.time_of(self.ticks, self.events)

    def time_of(self, ticks: int, events: int) -> float:
        """The time after so many leaps and changes."""
        return 1_000.0 + ticks * TICK + (events * EVENT if self.eventful else 0.0)

    def head_or_none(self) -> tuple[str | None, int]:
        """Epoch and number of the last record."""
        return self._epoch, self._number

    def records(self) -> list[Record]:
        """What is kept of the log."""
        return self._records

    def save(self) -> dict[str, Any]:
        """All that may change."""
        return {name: value for name, value in vars(self).items() if name not in _CONSTANT}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` has said."""
        for name, value in saved.items():
            setattr(self, name, clone(value))

    @staticmethod
    def key(saved: Mapping[str, Any]) -> Hashable:
        return freeze(dict(saved), _NO_MARK)

    # --- what is asked --------------------------------------------------------------------------------------------------------------

    def may(self, step: Any) -> bool:
        """Whether a step of the model can happen now. Those of the package always can, if only to fail."""
        if isinstance(step, Subscribe):
            return not self.down
        if isinstance(step, Do):
            return step.may is None or step.may(self)
        return True

    def answer(self, step: Any) -> Any:
        """Perform a step."""
        if isinstance(step, Subscribe):
            self.lines[step.process] = []
            return None
        if isinstance(step, Do):
            return step.what(self)
        if isinstance(step, AskBeat | Take):
            line = self.lines[step.process]
            if line is None:
                return CUT
            if isinstance(step, Take):
                return line.pop(0)
            line.append(self.beat()._replace(asked=self.time()))
            return None
        return AWAY if self.down else self.perform(step)

    # --- what may befall it ---------------------------------------------------------------------------------------------------------

    def _append(self, targets: Targets, nonce: str, origin: str) -> None:
        self.events += 1
        super()._append(targets, nonce, origin)

    def flush(self) -> None:
        self.events += 1
        super().flush()
        self._hard, self._soft = BanIndex(self.limit), BanIndex(self.limit)

    def lose_meta(self) -> None:
        """The log and its epoch are gone, and the entries are still there."""
        entries, leases = self._entries, self._leases
        self.flush()
        self._entries, self._leases = entries, leases

    def cut(self, process: int) -> None:
        """A connection breaks: what was on its way is lost."""
        self.lines[process] = None

    def lose(self, process: int) -> None:
        """What is on its way to a process does not come, and nothing says so."""
        self.lines[process] = []

    def bury(self) -> None:
        """A replica of the entries has them as they stand now."""
        self.buried = dict(self._entries)

    def rise(self) -> None:
        """The replica of the entries takes over: what was unlinked meanwhile is back. The log is elsewhere, and well."""
        self._entries = {**self._entries, **self.buried}
        self._leases = {}

    def go_down(self) -> None:
        self.down = True
        self.lines = [None] * len(self.lines)

    def come_up(self) -> None:
        self.down = False

    def pass_time(self) -> None:
        self.ticks += 1

    def trim(self) -> None:
        """No record is kept."""
        self._records = []

    def lapse(self, key: str) -> None:
        """A lease was not extended in time."""
        self._leases.pop(key, None)

    def follow(self) -> None:
        """A replica has the log as it stands now, and nothing that comes later."""
        self.replica = {name: clone(getattr(self, name)) for name in _OF_THE_LOG}

    def promote(self) -> None:
        """The replica goes on with the log, under an epoch of its own. Entries are on other servers, which are well."""
        assert self.replica is not None
        self.events += 1
        for name, value in self.replica.items():
            setattr(self, name, clone(value))
        self.replica = None
        self.fail_over(0)
        self._hard, self._soft = _limited(self._hard, self.limit), _limited(self._soft, self.limit)
        self.lines = [None] * len(self.lines)


def _limited(index: BanIndex, limit: int) -> BanIndex:
    bounded = BanIndex(limit)
    for targets, number in sorted(index.numbered(), key=lambda found: found[1]):
        bounded.add_all(targets, number)
    bounded.raise_floors(index.floors)
    return bounded


_NO_MARK: Final = Mark()
