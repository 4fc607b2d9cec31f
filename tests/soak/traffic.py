"""What a worker does: reads and cuts, written once for ``def`` and ``async def``.

An *act* is a generator: it yields a `Do`, whoever drives it calls or awaits that, and sends the result back. So both colours do the
same, and each waits in its own way.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cachesync import LayerError, Stamp
from soak.application import Application
from soak.history import Cut, Shown
from soak.world import ITEMS, THINGS, WHOLES, Plan, Thing, plan
from support.nodes import Colour

CUTS: Final = 0.06
"""The share of acts that make older values invalid."""
BURSTS: Final = (1, 1, 1, 3, 20)
"""A reader asks so many times in a row: the later ones are local hits."""
PACE: Final = 0.02
"""Up to so many seconds pass between two acts of one actor."""


class Do(NamedTuple):
    """Call this, or await what it returns. ``what`` names it for those who watch."""

    what: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}  # noqa: RUF012 - it is only read


Act = Generator[Do, Any, None]


def proceed(act: Act, result: Any) -> Do | None:
    """Hand in a result. Returns what is to be done next, ``None`` at the end."""
    try:
        return act.send(result)
    except StopIteration:
        return None


@dataclass(slots=True)
class Place:
    """Where an actor stands: which process, and how many there are."""

    slot: int
    life: int
    slots: int


class Actor:
    """One thread, or one task, that reads and cuts."""

    def __init__(self, application: Application, place: Place, *, colour: Colour, draw: random.Random) -> None:
        self._application = application
        self._cache: Any = application.cache
        self._functions = application.functions[colour]
        self._diary = application.diary
        self._origin = application.origin
        self._place = place
        self._colour: Colour = colour
        self._draw = draw
        self._last: Stamp | None = None
        self.pace = PACE

    def method(self, name: str) -> Any:
        """A method of the cache in this actor's colour."""
        return getattr(self._cache, name if self._colour == "def" else f"a{name}")

    # --- what is done -------------------------------------------------------------------------------------------------------------

    def act(self) -> Act:
        """What to do next."""
        roll = self._draw.random()
        thing = self._draw.choice(WHOLES if self._draw.random() < 0.5 else WHOLES[::5])
        if roll < CUTS:
            cut = self._draw.choices((self.invalidate, self.set, self.refresh, self.update, self.sweep), weights=(80, 8, 6, 6, 1))[0]
            return cut(thing)
        read = self._draw.choices(
            (self.call, self.many, self.get, self.peek, self.get_or_compute, self.at_least, self.cancelled), weights=(70, 5, 6, 6, 4, 8, 4)
        )[0]
        return read(thing)

    def pause(self) -> float:
        return self._draw.random() * self.pace

    # --- reads --------------------------------------------------------------------------------------------------------------------

    def _show(self, how: str, thing: Thing, shown: Sequence[Shown], began: float, **said: Any) -> None:
        if how == "call" and thing.is_strict:
            how = "strict"
        assert shown[0].thing == thing.number, f"{thing.text} was answered with the value of {THINGS[shown[0].thing].text}"
        self._diary.read(how, thing.number, shown, began=began, ended=time.monotonic(), **said)

    def call(self, thing: Thing, *, is_final: bool = False) -> Act:
        for _ in range(1 if is_final else self._draw.choice(BURSTS)):
            began = time.monotonic()
            shown = yield Do(f"call {thing.text}", self._functions[thing.family], thing.args)
            self._show("call", thing, shown, began, is_final=is_final)

    def many(self, thing: Thing) -> Act:
        del thing
        things = self._draw.sample(ITEMS, 4)
        began = time.monotonic()
        values = yield Do("many items", self._functions["items"].many, ([thing.args for thing in things],))
        for thing, shown in zip(things, values, strict=True):
            self._show("many", thing, shown, began)

    def get(self, thing: Thing, *, is_final: bool = False) -> Act:
        began = time.monotonic()
        shown = yield Do(f"get {thing.text}", self.method("get"), (thing.text, None))
        if shown is not None:
            self._show("get", thing, shown, began, is_final=is_final)

    def peek(self, thing: Thing, *, is_final: bool = False) -> Act:
        began = time.monotonic()
        entry = yield Do(f"peek {thing.text}", self._functions[thing.family].peek, thing.args)
        if entry is not None:
            self._show("peek", thing, entry.value, began, is_stale=entry.is_stale, is_final=is_final)

    def get_or_compute(self, thing: Thing) -> Act:
        if parts := self._parts_needed(thing):
            thing = parts
        compute = self._application.read if self._colour == "def" else self._application.aread
        began = time.monotonic()
        shown = yield Do(f"get_or_compute {thing.text}", self.method("get_or_compute"), (thing.text, lambda: compute(thing)))
        self._show("get_or_compute", thing, shown, began)

    def _parts_needed(self, thing: Thing) -> Thing | None:
        """Another thing, where this one is made of others: to compute it takes its function."""
        return None if thing.family in {"items", "exact", "short"} else self._draw.choice(ITEMS)

    def at_least(self, thing: Thing) -> Act:
        stamp = self._stamp_at_hand()
        if stamp is None:
            return
        wanted = None if stamp.pending else stamp
        began = time.monotonic()
        if self._draw.random() < 0.7:
            shown = yield Do(f"at_least {thing.text}", self._functions[thing.family].at_least, (stamp, *thing.args))
        else:
            shown = yield Do(f"get {thing.text}", self.method("get"), (thing.text, None), {"at_least": stamp})
        if shown is not None:
            self._show("at_least", thing, shown, began, at_least=wanted)

    def _stamp_at_hand(self) -> Stamp | None:
        """The stamp of this actor's last cut, or what another process was told of its own."""
        if self._draw.random() < 0.5:
            return self._last
        return self._origin.pinned(self._draw.randrange(self._place.slots))

    def cancelled(self, thing: Thing) -> Act:
        """A caller that gives up soon. In ``def`` nobody can."""
        began = time.monotonic()
        function = self._functions[thing.family]
        if self._colour == "def":
            shown = yield Do(f"call {thing.text}", function, thing.args)
        else:
            shown = yield Do(f"cancelled {thing.text}", _given_up, (function, thing.args, self._draw.random() * 0.02))
        if shown is not None:
            self._show("cancelled", thing, shown, began)

    # --- cuts ---------------------------------------------------------------------------------------------------------------------

    def _note(self, what: Plan, began: float, stamp: Stamp | None, *, versions: Sequence[int], is_soft: bool = False, own: int = 0) -> None:
        ended = time.monotonic()
        cut = Cut(
            slot=self._place.slot,
            life=self._place.life,
            how=what.how,
            patterns=what.patterns,
            tags=what.tags,
            began=began,
            ended=ended,
            stamp=None if stamp is None else str(stamp),
            is_pending=stamp is None or stamp.pending,
            is_soft=is_soft,
            own=own,
            versions=tuple(versions),
        )
        self._diary.cut(cut)
        if stamp is not None:
            self._last = stamp
            if not stamp.pending:
                self._origin.pin(self._place.slot, stamp)

    def invalidate(self, thing: Thing) -> Act:
        self._origin.raise_version(thing.cell)
        what = plan(self._draw, thing)
        soft = {"soft": True} if self._draw.random() < 0.15 else {}
        versions = self._origin.versions()
        began = time.monotonic()
        if what.how == "key of the function" and not soft:
            stamp = yield Do(f"invalidate {thing.text}", self._functions[thing.family].invalidate, thing.args)
        else:
            stamp = yield Do(f"invalidate {thing.text}", self.method("invalidate"), what.patterns, {"tags": what.tags, **soft})
        if soft:
            what = Plan(f"soft, {what.how.removesuffix(' of the function')}", what.patterns, what.tags)
        self._note(what, began, stamp, versions=versions, is_soft=bool(soft))
        if self._draw.random() < 0.5:  # whoever has changed something looks at it
            yield from self.call(thing)

    def set(self, thing: Thing) -> Act:
        thing = self._parts_needed(thing) or thing
        self._origin.raise_version(thing.cell)
        versions, value = self._origin.versions(), self._application.give(thing)
        began = time.monotonic()
        if self._draw.random() < 0.5:
            stamp = yield Do(f"set {thing.text}", self._functions[thing.family].set, (value, *thing.args))
        else:
            stamp = yield Do(f"set {thing.text}", self.method("set"), (thing.text, value))
        self._note(Plan("set", (thing.text,)), began, stamp, versions=versions, own=value[0].maker)

    def refresh(self, thing: Thing) -> Act:
        self._origin.raise_version(thing.cell)
        versions = self._origin.versions()
        began = time.monotonic()
        shown = yield Do(f"refresh {thing.text}", self._functions[thing.family].refresh, thing.args)
        self._show("refresh", thing, shown, began)
        self._note(Plan("refresh", (thing.text,)), began, None, versions=versions)

    def update(self, thing: Thing) -> Act:
        thing = self._parts_needed(thing) or thing
        updating = self._update if self._colour == "def" else self._aupdate
        versions, began, value, stamp = yield Do(f"update {thing.text}", updating, (thing,))
        self._note(Plan("update", (thing.text,)), began, stamp, versions=versions, own=value[0].maker)

    def sweep(self, thing: Thing) -> Act:
        """Delete what is dead: nobody may notice."""
        del thing
        self._application.swept += yield Do("sweep", self._swept if self._colour == "def" else self._aswept)

    def _swept(self) -> int:
        with suppress(LayerError):
            return self._application.cache.sweep().deleted
        return 0

    async def _aswept(self) -> int:
        with suppress(LayerError):
            return (await self._application.cache.asweep()).deleted
        return 0

    def _update(self, thing: Thing) -> tuple[list[int], float, list[Shown], Stamp]:
        with self._cache.update(thing.text) as updating:
            self._origin.raise_version(thing.cell)
            value = self._application.give(thing)
            versions, began = self._origin.versions(), time.monotonic()
            stamp = updating.set(value)
        return versions, began, value, stamp

    async def _aupdate(self, thing: Thing) -> tuple[list[int], float, list[Shown], Stamp]:
        async with self._cache.aupdate(thing.text) as updating:
            self._origin.raise_version(thing.cell)
            value = self._application.give(thing)
            versions, began = self._origin.versions(), time.monotonic()
            stamp = await updating.set(value)
        return versions, began, value, stamp


async def _given_up(function: Callable[..., Any], args: tuple[Any, ...], seconds: float) -> Any:
    with suppress(TimeoutError):
        return await asyncio.wait_for(function(*args), seconds)
    return None
