"""A small cluster, and what happens in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from cachesync.core.entry import Dependency
from cachesync.core.flows import Ask
from cachesync.core.policy import Policy
from cachesync.core.records import HARD, TAG, Kind, Mode, Targets
from cachesync.core.settings import CoordinationSettings, Settings
from cachesync.core.steps import Extend
from model.layer import Do, Layer
from model.process import Process
from model.stories import FOREVER, Asks, Recipe, Story, Teller, Ways, befall, once

PLAIN: Final = Policy(name="items", match="*", ttl=3600)
STALE: Final = Policy(name="items", match="*", ttl=3600, stale_while_revalidate=600)
MAX_LAG: Final = 2.0


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who acts: ``tell`` begins the story anew each time. A daemon's story begins again when it has ended."""

    name: str
    process: int
    tell: Callable[[], Story]
    daemon: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """A cached function without parameters: made of a ``row``, or of another item. ``late`` tags are taken from its result."""

    key: str
    row: int = 0
    tags: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    of: Item | None = None

    def tags_of(self, _result: object) -> tuple[str, ...]:
        """The tags that are taken from a result."""
        return self.late


@dataclass(slots=True, kw_only=True)
class World:
    """``warm`` stories are told first, one after the other; then ``actors`` act in every order.

    ``bans`` of a kind are kept by the layer, ``ledger_bans`` by each process. ``thrifty``: more computations than that
    break a promise.
    """

    processes: int = 2
    rows: int = 1
    bans: int = 1_000
    ledger_bans: int = 1_000
    policy: Policy = PLAIN
    ways: Ways = Ways()  # noqa: RUF009 - it is frozen
    thrifty: int | None = None
    eventful: bool = False
    warm: list[Actor] = field(default_factory=list[Actor])
    actors: list[Actor] = field(default_factory=list[Actor])
    asks: dict[tuple[int, str], Ask] = field(default_factory=dict[tuple[int, str], Ask])
    layer: Layer = field(init=False)
    members: list[Process] = field(init=False)

    def __post_init__(self) -> None:
        settings = Settings(coordination=CoordinationSettings(max_lag=MAX_LAG, lease=3600.0))
        self.layer = Layer(self.processes, self.bans, eventful=self.eventful)
        self.members = [Process(index, settings, self.ledger_bans) for index in range(self.processes)]

    def ask(self, process: int, item: Item) -> Ask:
        """The question for an item, as it is asked in one process."""
        known = self.asks.get((process, item.key))
        if known is None:
            site = self.members[process].site(self.policy, tags_from=item.tags_of if item.late else None)
            recipe = Recipe(item.row, None if item.of is None else self.ask(process, item.of))
            tags = tuple(Dependency(TAG, text) for text in item.tags)
            known = Ask(item.key, self.policy, tags, site, item.key, cast("Any", recipe), (), FOREVER, 0.25, 3_600_000)
            self.asks[process, item.key] = known
        return known

    def act(self, name: str, process: int, story: Callable[[Teller], Story], *, daemon: bool = False, warm: bool = False) -> None:
        """Somebody acts. Where it is done to warm up, it is done before all others."""
        actor = Actor(name, process, lambda: story(Teller(name, self.ways)), daemon)
        (self.warm if warm else self.actors).append(actor)

    # --- what actors do -------------------------------------------------------------------------------------------------------------

    def listen(self, *processes: int) -> None:
        """These processes hear the log, from the beginning on."""
        for process in processes:
            self.act(f"log{process}", process, _listener(process), daemon=True)

    def read(self, name: str, process: int, item: Item, *, asks: Asks = "", warm: bool = False) -> None:
        """Read an item once."""
        self.act(name, process, lambda teller: teller.read(self.ask(process, item), asks), warm=warm)

    def change(
        self, name: str, process: int, kind: Kind, text: str, *, row: int = 0, mode: Mode = HARD, times: int = 1, warm: bool = False
    ) -> None:
        """Change a row and invalidate."""

        def story(teller: Teller) -> Story:
            for _ in range(times):
                yield from teller.change(row, (Targets(kind, (text,), mode),))

        self.act(name, process, story, warm=warm)

    def change_all(self, name: str, process: int, *changes: tuple[int, Targets], warm: bool = False) -> None:
        """Change rows and invalidate, one after the other."""

        def story(teller: Teller) -> Story:
            for row, targets in changes:
                yield from teller.change(row, (targets,))

        self.act(name, process, story, warm=warm)

    def set(self, name: str, process: int, item: Item, *, late: bool = False, warm: bool = False) -> None:
        """Change a row and set its new value."""
        self.act(name, process, lambda teller: teller.set(self.ask(process, item), late=late), warm=warm)

    def renew(self, name: str, process: int, item: Item) -> None:
        """Compute an item anew and set it."""
        self.act(name, process, lambda teller: teller.renew(self.ask(process, item)))

    def leave_lease(self, name: str, process: int, item: Item) -> None:
        """Take a lease and be gone, before all others act."""
        self.act(name, process, lambda teller: teller.leave_lease(self.ask(process, item)), warm=True)

    def extend(self, name: str, key: str, token: str) -> None:
        """Extend a lease once, at any time."""
        self.act(name, 0, lambda _: once(Extend(key, token, 3_600_000)))

    def befall(self, name: str, *events: Do, warm: bool = False) -> None:
        """Something may happen to the layer."""
        self.act(name, 0, lambda _: befall(*events), warm=warm)


def _listener(process: int) -> Callable[[Teller], Story]:
    return lambda teller: teller.listen(process)


TRIM: Final = Do("trim", Layer.trim)
FOLLOW: Final = Do("follow", Layer.follow)
PROMOTE: Final = Do("promote", Layer.promote)
FLUSH: Final = Do("flush", Layer.flush)
LOSE_META: Final = Do("lose meta", Layer.lose_meta)
DOWN: Final = Do("go down", Layer.go_down)
UP: Final = Do("come up", Layer.come_up)
LATER: Final = Do("time passes", Layer.pass_time)


BURY: Final = Do("copy the entries", Layer.bury)
RISE: Final = Do("bring the copied entries back", Layer.rise)


def cut(process: int) -> Do:
    """The connection on which a process hears the log breaks."""

    def event(layer: Layer) -> None:
        layer.cut(process)

    return Do(f"cut {process}", event)


def lose(process: int) -> Do:
    """What is on its way to a process is lost, and the connection seems well."""

    def event(layer: Layer) -> None:
        layer.lose(process)

    def can_happen(layer: Layer) -> bool:
        return bool(layer.lines[process])

    return Do(f"lose {process}", event, can_happen)


def lapse(key: str) -> Do:
    """A lease is not extended in time."""

    def event(layer: Layer) -> None:
        layer.lapse(key)

    return Do(f"lapse {key}", event)
