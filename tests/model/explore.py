"""All interleavings of the stories of a world, and the judge."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Hashable, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, cast
from unittest.mock import patch

from cachesync.coordination import engine as engine_module
from cachesync.core.envelope import IDENTITY, unseal
from cachesync.core.flows import Ask
from cachesync.core.ledger import Ledger
from cachesync.core.records import EVERYTHING, Record, Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Beat, Called, Encode, Fetch, Outdated, Position, SharedStep, Ticket, Wake
from cachesync.layers import memory as memory_module
from model.frames import standing
from model.layer import LAYER_STEPS, AskBeat, Do, Layer, Take
from model.process import Counted, Judge, Land, Look, Note, Seen
from model.state import Interned
from model.stories import FOREVER, Check, Due, Held, Meant, Origin, Owe, Owed, Returned, Story, Teller, Write, row_of
from model.world import LATER, MAX_LAG, Actor, World

State = tuple[int, tuple[int, ...], tuple[int, ...], int]
"""Numbers of the layer's state, of each process's, of where each actor stands, and of what the judge knows."""

AT_ONCE: Final = frozenset({Encode, Wake, Note, Counted, Check, Meant, Returned})
"""Steps that change nothing that others see, or only tell the judge: they are taken together with the one before."""
QUICKLY: Final = AT_ONCE | {Position, Land}
"""The same for a quick look at a world: to ask for the position and to end a flight is part of the step before, too."""
WITH_NEXT: Final = frozenset({Owe, Due})
"""Steps that are taken together with the one that follows."""
BEAT: Final = 0.2 * MAX_LAG
"""Seconds after which the log's reader asks where the log ends."""


class BrokenError(Exception):
    """A promise was broken."""


class Told(NamedTuple):
    """A record of the log, as the judge knows it: whoever has applied it knows that ``row`` has ``version``."""

    epoch: str
    number: int
    row: int
    version: int
    is_soft: bool


class Meaning(NamedTuple):
    """What an invalidation is about, under the nonce of its record."""

    nonce: str
    row: int
    version: int
    targets: Targets


Rows = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What the judge knows. Versions by row: of the origin, of what has returned, and of what each process has applied."""

    origin: Rows
    returned: Rows
    hard: tuple[Rows, ...]
    any: tuple[Rows, ...]
    long_ago: Rows
    """What had returned when time last passed: longer ago than ``max_lag``, so every process owes it."""
    stamps: tuple[tuple[int, Stamp | None], ...]
    """What has returned last, with its stamp."""
    meant: tuple[Meaning, ...] = ()
    told: tuple[Told, ...] = ()
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an exploration has ended: how many states there are, how many of them are at rest, and how many reads were compared.

    ``broken`` is the promise that was broken, if one was, and ``trace`` the shortest story that does it; ``crashed``: it is an exception.
    """

    states: int
    rests: int
    reads: int
    broken: str | None = None
    trace: tuple[str, ...] = ()
    crashed: bool = False

    def __str__(self) -> str:
        return f"{self.states} states, {self.rests} at rest, {self.reads} reads" + (
            "" if self.broken is None else f", {self.broken}:\n  " + "\n  ".join(self.trace)
        )


class _Dice:
    """What is random in the package is a function of the state here."""

    seed = ""
    thrown = 0

    def urandom(self, size: int) -> bytes:
        self.thrown += 1
        return hashlib.blake2b(f"{self.seed}{self.thrown}".encode(), digest_size=size).digest()

    def begin(self, seed: str) -> None:
        self.seed, self.thrown = seed, 0


def _key(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return value.__class__, repr(value)
    return value.__class__, value


class Explorer:
    """Visits every state that a world can come to.

    What an actor does depends on few things: where its story stands, and the state of the layer or of its process. So each step is run
    once for each of these, and remembered; most of the exploration is looking up numbers.
    """

    def __init__(self, world: World, *, deep: bool = False, merge: bool = True) -> None:
        self.world = world
        self.ends: set[Hashable] = set()
        """What there was of layers and processes where all was quiet."""
        self._merge = merge
        self._at_once = AT_ONCE if deep else QUICKLY
        self.rests = self.seen = 0
        self.actors = [*world.warm, *world.actors]
        self._dice = _Dice()
        self._layers: Interned[Mapping[str, Any]] = Interned(Layer.key)
        self._members: list[Interned[Mapping[str, Any]]] = [Interned(member.key) for member in world.members]
        self._known: Interned[Known] = Interned(lambda known: known)
        self._steps: Interned[Any] = Interned(_key)
        self._replies: Interned[Any] = Interned(_key)
        # Where stories stand: one way to come there (the place before, what was answered) and the number of the next step (None: the end).
        self._nodes: list[tuple[int, int, int | None]] = []
        self._standing: dict[Hashable, int] = {}
        self._advances: dict[tuple[int, int], int] = {}
        self._roots: list[int] = []
        self._layer_moves: dict[tuple[int, int], tuple[int, int, tuple[Record, ...]] | None] = {}
        self._member_moves: list[dict[tuple[int, int, float], tuple[int, int] | None]] = [{} for _ in world.members]
        self._dues: dict[tuple[int, int, int], Any] = {}
        self._applied: dict[tuple[int, int, int], int] = {}
        self._quiet: dict[tuple[int, int, int, int], None] = {}

    # --- the search -------------------------------------------------------------------------------------------------------------------

    def run(self, limit: int) -> Outcome:
        """Visit all states, in the order of how soon they can be reached. Raises ``LookupError`` where there are more than ``limit``."""
        with self._without_chance():
            start = self._start()
            came: dict[State, tuple[State, int] | None] = {start: None}
            todo = deque([start])
            first = len(self.world.warm)
            while todo:
                state = todo.popleft()
                moved = False
                for index in range(first, len(self.actors)):
                    try:
                        after = self._fire(state, index)
                    except Exception as error:
                        return self._outcome(came, error, (*self._trace(came, state), *self._told(state, index)))
                    if after is None or after == state:
                        continue
                    moved = True
                    if after not in came:
                        came[after] = (state, index)
                        todo.append(after)
                if not moved:
                    self.rests += 1
                    self.ends.add(self._end(state))
                    try:
                        self._rest(state)
                    except Exception as error:
                        return self._outcome(came, error, tuple(self._trace(came, state)))
                if len(came) > limit:
                    raise LookupError(f"more than {limit} states")
            return Outcome(len(came), self.rests, self.seen)

    def _outcome(self, came: Sized, error: Exception, trace: tuple[str, ...]) -> Outcome:
        is_broken = isinstance(error, BrokenError)
        return Outcome(len(came), self.rests, self.seen, str(error) if is_broken else repr(error), trace, not is_broken)

    def _end(self, state: State) -> Hashable:
        layer, members, _, _ = state
        processes = zip(self.world.members, self._members, members, strict=True)
        return Layer.key(self._layers.values[layer]), tuple(one.key(known.values[member]) for one, known, member in processes)

    def _start(self) -> State:
        world = self.world
        nothing = (0,) * world.rows
        of_each = (nothing,) * world.processes
        for index in range(len(self.actors)):
            self._roots.append(self._node(index, -1, 0))
        state: State = (
            self._layers.number(world.layer.save()),
            tuple(members.number(member.save()) for members, member in zip(self._members, world.members, strict=True)),
            tuple(self._roots),
            self._known.number(Known(nothing, nothing, of_each, of_each, nothing, ((0, None),) * world.rows)),
        )
        state = self._hear_all(state)
        for index in range(len(world.warm)):
            while self._nodes[state[2][index]][2] is not None:
                after = self._fire(state, index)
                assert after is not None, f"{self.actors[index].name} can not act"
                state = after
            state = self._hear_all(state)
        return state

    def _hear_all(self, state: State) -> State:
        moved = True
        while moved:
            moved = False
            for index, actor in enumerate(self.actors):
                after = self._fire(state, index) if actor.daemon else None
                if after is not None and after != state:
                    state, moved = after, True
        return state

    def _trace(self, came: Mapping[State, tuple[State, int] | None], state: State) -> list[str]:
        steps: list[tuple[State, int]] = []
        at = came[state]
        while at is not None:
            steps.append(at)
            at = came[at[0]]
        return [line for before, index in reversed(steps) for line in self._told(before, index)]

    def _told(self, state: State, index: int) -> list[str]:
        said: list[str] = []
        try:
            self._fire(state, index, said)
        except Exception:
            said.append(f"{self.actors[index].name}: breaks here")
        return said

    # --- one move ---------------------------------------------------------------------------------------------------------------------

    def _fire(self, state: State, index: int, said: list[str] | None = None) -> State | None:
        """What is after the next step of an actor; ``None`` where it can not move."""
        layer, members, nodes, known = state
        node = nodes[index]
        number = self._nodes[node][2]
        if number is None:
            return None
        actor = self.actors[index]
        process = actor.process
        member = members[process]
        while True:
            assert number is not None
            step = self._steps.values[number]
            cls = step.__class__
            if cls in _OF_LAYER:
                move = self._layer_move(layer, number, step)
                if move is None:
                    return None
                layer, reply, records = move
                if step is LATER:
                    known = self._known.number(replace(knows := self._known.values[known], long_ago=knows.returned))
                if records:
                    known = self._record(known, records)
            elif cls in _OF_WORLD:
                answer = self._world_move(layer, member, known, process, step)
                if answer is None:
                    return None
                known, value = answer
                reply = self._replies.number(value)
            else:
                moved = self._member_move(layer, member, process, number, step)
                if moved is None:
                    return None
                reply = moved[1]
                if moved[0] != member:
                    member = moved[0]
                    known = self._apply(known, process, member)
            if said is not None and cls is not Note:
                said.append(f"{actor.name}: {_short(step)} -> {_short(self._replies.values[reply])}")
            node = self._advance(index, node, reply)
            number = self._nodes[node][2]
            if number is None:
                if actor.daemon:
                    node = self._roots[index]
                break
            if cls not in WITH_NEXT and self._steps.values[number].__class__ not in self._at_once:
                break
        if member != members[process]:
            members = (*members[:process], member, *members[process + 1 :])
        return layer, members, (*nodes[:index], node, *nodes[index + 1 :]), known

    def _advance(self, index: int, node: int, reply: int) -> int:
        after = self._advances.get((node, reply))
        if after is None:
            after = self._advances[node, reply] = self._node(index, node, reply)
        return after

    def _node(self, index: int, before: int, reply: int) -> int:
        """Where the story of an actor stands after a reply, or at its beginning (``before`` is -1)."""
        replies: list[int] = []
        at, last = before, reply
        while at >= 0:
            replies.append(last)
            at, last, _ = self._nodes[at]
        story = self.actors[index].tell()
        step: int | None = None
        stands: Hashable = None
        try:
            asked = next(story)
            for number in reversed(replies):
                asked = story.send(self._replies.values[number])
            step, stands = self._steps.number(asked), standing(story)
        except StopIteration:
            pass
        if not self._merge:
            stands = tuple(replies)
        node = self._standing.setdefault((index, step, stands), len(self._nodes))
        if node == len(self._nodes):
            self._nodes.append((before, reply, step))
        return node

    def _layer_move(self, layer: int, number: int, step: Any) -> tuple[int, int, tuple[Record, ...]] | None:
        try:
            return self._layer_moves[layer, number]
        except KeyError:
            pass
        real = self.world.layer
        real.restore(self._layers.values[layer])
        move = None
        if real.may(step):
            self._dice.begin(f"layer{real.events}")
            epoch, last = real.head_or_none()
            reply = real.answer(step)
            after = self._layers.number(real.save())
            records = tuple(one for one in real.records() if one.epoch != epoch or one.number > last)
            move = after, self._replies.number(reply), records
        self._layer_moves[layer, number] = move
        return move

    def _member_move(self, layer: int, member: int, process: int, number: int, step: Any) -> tuple[int, int] | None:
        now = self._time(layer)
        moves = self._member_moves[process]
        try:
            return moves[member, number, now]
        except KeyError:
            pass
        real = self.world.members[process]
        real.restore(self._members[process].values[member])
        move = None
        if real.may(step):
            self._dice.begin(f"process{process}:{real.engine.ledger.pends}")
            reply = real.answer(step, now)
            move = self._members[process].number(real.save()), self._replies.number(reply)
        moves[member, number, now] = move
        return move

    def _time(self, layer: int) -> float:
        saved = self._layers.values[layer]
        return self.world.layer.time_of(saved["ticks"], saved["events"])

    def _ledger(self, process: int, member: int) -> Ledger:
        ledger: Ledger = self._members[process].values[member]["ledger"]
        return ledger

    # --- the judge --------------------------------------------------------------------------------------------------------------------

    def _world_move(self, layer: int, member: int, known: int, process: int, step: Any) -> tuple[int, Any] | None:
        knows = self._known.values[known]
        match step:
            case Owe(row, asks):
                fresh, stale = max(knows.any[process][row], knows.long_ago[row]), knows.hard[process][row]
                if asks == "strict":
                    fresh = stale = max(fresh, knows.returned[row])
                elif asks:
                    version, least = knows.stamps[row]
                    fresh, stale = max(fresh, version), max(stale, version)
                    return known, Owed(fresh, stale, least)
                return known, Owed(fresh, stale)
            case Check(owed, called):
                _compare(owed, called)
                self.seen += 1
                return known, None
            case Origin(row):
                if self.world.thrifty is not None:
                    knows = replace(knows, calls=knows.calls + 1)
                    if knows.calls > self.world.thrifty:
                        raise BrokenError(f"{knows.calls} computations")
                return self._known.number(knows), knows.origin[row]
            case Write(row):
                version = knows.origin[row] + 1
                return self._known.number(replace(knows, origin=_with(knows.origin, row, version))), version
            case Meant(row, version, ticket):
                pairs = zip(ticket.nonces, ticket.targets, strict=True)
                meant = tuple(Meaning(nonce, row, version, targets) for nonce, targets in pairs)
                return self._known.number(replace(knows, meant=(*knows.meant, *meant))), None
            case Returned(row, version, stamp, is_soft):
                returned = knows.returned if stamp.pending or is_soft else _with(knows.returned, row, version)
                stamps = (*knows.stamps[:row], (version, stamp), *knows.stamps[row + 1 :])
                knows = replace(knows, returned=returned, stamps=stamps)
                return self._known.number(_has_applied(knows, process, row, version, is_soft=is_soft)), None
            case Due():
                due = self._due(layer, member, process)
                return None if due is None else (known, due)
            case Held():
                return (known, None) if self._may_look_again(layer, member, process, step) else None
            case _:
                raise TypeError(step)

    def _record(self, known: int, records: tuple[Record, ...]) -> int:
        """Records stand in the log: whoever comes to their position knows what they are about."""
        knows = self._known.values[known]
        told = list(knows.told)
        for record in records:
            named = [one for one in knows.meant if one.nonce == record.nonce]
            about = named or [one for one in knows.meant if _overlap(one.targets, record.targets)]
            told += [Told(record.epoch, record.number, one.row, one.version, record.targets.is_soft) for one in about]
        return self._known.number(replace(knows, told=tuple(told)))

    def _apply(self, known: int, process: int, member: int) -> int:
        """A process has moved: it owes its readers what it has applied."""
        try:
            return self._applied[known, process, member]
        except KeyError:
            pass
        knows, ledger = self._known.values[known], self._ledger(process, member)
        position = ledger.position
        if position is not None:
            for one in knows.told:
                number = ledger.lineage.number(Stamp(one.epoch, one.number))
                if number is not None and number <= position.number:
                    knows = _has_applied(knows, process, one.row, one.version, is_soft=one.is_soft)
        after = self._applied[known, process, member] = self._known.number(knows)
        return after

    def _due(self, layer: int, member: int, process: int) -> Any:
        """What the log's reader has to do, ``None`` for nothing."""
        try:
            return self._dues[layer, member, process]
        except KeyError:
            pass
        saved, own = self._layers.values[layer], self._members[process].values[member]
        line, down = saved["lines"][process], saved["down"]
        queued = own["ledger"].tickets.queued
        due: Any = None
        if line is None:
            due = None if down else "subscribe"
        elif own["forsaken"] and not down:
            due = "give back"
        elif queued and not down:
            due = queued[0]
        elif line:
            due = "take"
        elif not down and self._time(layer) - own["ledger"].contact >= BEAT:
            due = "beat"
        self._dues[layer, member, process] = due
        return due

    def _may_look_again(self, layer: int, member: int, process: int, step: Held) -> bool:
        """Whether somebody who waits for a lease would be told anything new."""
        ask, holder, dead = step
        saved = self._layers.values[layer]
        blob = saved["_entries"].get(ask.key, (None, 0))[0]
        if blob is not None and blob[:IDENTITY] != dead:
            return True
        held = saved["_leases"].get(ask.key, (None, 0))[0]
        if held is None or held != holder:
            return True
        outdated = Outdated(ask, held.stamp)
        move = self._member_move(layer, member, process, self._steps.number(outdated), outdated)
        assert move is not None
        return bool(self._replies.values[move[1]].done)

    # --- at rest ----------------------------------------------------------------------------------------------------------------------

    def _rest(self, state: State) -> None:
        """Nobody can move any more: everybody has come to the end, and no layer holds what must not be served."""
        layer, members, nodes, known = state
        for index, actor in enumerate(self.actors):
            number = self._nodes[nodes[index]][2]
            if not actor.daemon and number is not None and not isinstance(self._steps.values[number], Do):
                raise BrokenError(f"{actor.name} waits for ever: {_short(self._steps.values[number])}")
        for process in range(self.world.processes):
            key = layer, members[process], known, process
            if key not in self._quiet:
                self._served(state, process)
                self._quiet[key] = None

    def _served(self, state: State, process: int) -> None:
        """What a process serves; if it listens, after it has heard once more where the log ends."""
        layer, members, _, known = state
        saved = self._layers.values[layer]
        listens = not saved["down"] and saved["lines"][process] is not None
        if listens:
            layer, members, known = self._heard_once_more(state, process)
            position, epoch, last = self._ledger(process, members[process]).position, saved["_epoch"], saved["_number"]
            if epoch is not None and (position is None or (position.epoch, position.number) != (epoch, last)):
                raise BrokenError(f"process {process} stands at {position}, the log ends at {epoch}:{last}")
        knows = self._known.values[known]
        for (owner, _), ask in self.world.asks.items():
            if owner != process:
                continue
            row = row_of(ask)
            owed = Owed(knows.origin[row] if listens else knows.any[process][row], knows.hard[process][row])
            seen: Seen = self._ask_member(layer, members[process], process, Look(ask))
            if seen.called is not None:
                _compare(owed, seen.called, f"at rest process {process} holds {ask.key}")
            fetched = self._layer_move(layer, self._steps.number(fetch := Fetch((ask.key,), FOREVER)), fetch)
            assert fetched is not None
            reply = self._replies.values[fetched[1]]
            judged = self._ask_member(layer, members[process], process, Judge(ask, reply))
            if isinstance(judged, Called):
                _compare(owed, judged, f"at rest the layer holds {ask.key} for process {process}")

    def _ask_member(self, layer: int, member: int, process: int, step: Any) -> Any:
        move = self._member_move(layer, member, process, self._steps.number(step), step)
        assert move is not None
        return self._replies.values[move[1]]

    def _heard_once_more(self, state: State, process: int) -> tuple[int, tuple[int, ...], int]:
        def story() -> Story:
            teller = Teller("rest", self.world.ways)
            yield AskBeat(process)
            item = yield Take(process)
            yield from teller.hearing(item)

        self.actors.append(Actor("rest", process, story))
        index = len(self.actors) - 1
        layer, members, nodes, known = state
        state = layer, members, (*nodes, *(0 for _ in range(index - len(nodes))), self._node(index, -1, 0)), known
        while self._nodes[state[2][index]][2] is not None:
            after = self._fire(state, index)
            assert after is not None
            state = after
        self.actors.pop()
        return state[0], state[1], state[3]

    @contextmanager
    def _without_chance(self) -> Generator[None]:
        with patch.object(engine_module, "os", self._dice), patch.object(memory_module, "os", self._dice):
            yield


_OF_LAYER: Final = frozenset({*cast("Any", SharedStep).__args__, *LAYER_STEPS})
_OF_WORLD: Final = frozenset({Owe, Check, Origin, Write, Meant, Returned, Due, Held})


def _with(rows: Rows, row: int, version: int) -> Rows:
    return (*rows[:row], max(rows[row], version), *rows[row + 1 :])


def _has_applied(knows: Known, process: int, row: int, version: int, *, is_soft: bool) -> Known:
    def noted(of_each: tuple[Rows, ...]) -> tuple[Rows, ...]:
        return (*of_each[:process], _with(of_each[process], row, version), *of_each[process + 1 :])

    return replace(knows, any=noted(knows.any), hard=knows.hard if is_soft else noted(knows.hard))


def _overlap(one: Targets, other: Targets) -> bool:
    if EVERYTHING in {one.kind, other.kind}:
        return True
    return one.kind == other.kind and one.is_soft == other.is_soft and not set(one.texts).isdisjoint(other.texts)


def _compare(owed: Owed, called: Called, where: str = "a reader is given") -> None:
    least = owed.stale if called.is_stale else owed.fresh
    if called.value < least:
        raise BrokenError(f"{where}: version {called.value}{' as stale' if called.is_stale else ''}, owed {least}")


def _short(value: Any) -> str:
    """A value in a few words."""
    every = value
    match value:
        case Ask():
            return value.key
        case Beat():
            return f"Beat {_short(value.head)}"
        case Stamp():
            return f"{value.epoch[:2]}:{value.number}{'?' if value.pending else ''}"
        case Record():
            return f"Record {value.number} {_short(value.targets)}"
        case Targets():
            return f"{value.mode}{value.kind}:{','.join(value.texts)}"
        case Ticket():
            return f"Ticket {_short(value.targets)}"
        case Called():
            return f"Called {value.value} of {_short(value.stamp)}{' stale' if value.is_stale else ''}"
        case bytes():
            return f"<entry of {_short(unseal(value)[0].stamp)}>" if value[:2] == b"cS" else f"<{len(value)} bytes>"
        case tuple() if hasattr(every, "_fields"):
            inner = ", ".join(_short(one) for one in every if one not in (None, FOREVER, 0, "", ()))
            return f"{every.__class__.__name__}({inner})"
        case tuple():
            return f"({', '.join(map(_short, every))})"
        case _:
            return str(value)[:40]


def explore(world: World, *, deep: bool = False, limit: int = 5_000_000) -> Outcome:
    """Visit all states of a world; ``deep``: with every step apart."""
    return Explorer(world, deep=deep).run(limit)
