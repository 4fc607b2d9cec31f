"""The scripts inside Redis, on each kind of server: what becomes of a log that is lost in part, too old, too long, or elsewhere."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, Self, TypeVar, cast

import hiredis
import pytest
import redis

from cachesync import RedisShared
from cachesync.core.bans import Floors
from cachesync.core.envelope import Header, digest_of, seal
from cachesync.core.names import Names
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, SOFT, TAG, Kind, Record, Targets
from cachesync.core.stamps import NOWHERE, Lineage, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Bans,
    Beat,
    Confirm,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    Joined,
    Lease,
    Leased,
    Log,
    ReadBans,
    ReadLog,
    Release,
    Seize,
    SharedStep,
    Snapshot,
    Store,
)
from cachesync.layers.redis_wire import Bounds
from cachesync.testing import SharedTalk
from support.nodes import LONG, until
from support.proxy import Proxy
from support.servers import Server, flavours

R = TypeVar("R")


class Line:
    """Talks to the log of one namespace on one server."""

    def __init__(self, server: Server, namespace: str, **bounds: Any) -> None:
        self.names = Names.of(namespace)
        self.server = server
        self.client: redis.Redis = server.client(decode_responses=True)
        self.talk = SharedTalk(RedisShared(server.url, namespace=namespace, bounds=Bounds(**bounds)), "def")

    def ask(self, step: SharedStep, kind: type[R]) -> R:
        return self.talk.ask(step, kind)

    def refuses(self, step: SharedStep) -> str:
        """Why a step fails."""
        reply = self.talk.shared.sync.perform(step)
        assert isinstance(reply, Failed), reply
        return str(reply.error)

    def announce(self, *targets: Targets, again: bool = False, origin: str = "test") -> Stamp:
        nonces = tuple(os.urandom(8).hex() for _ in targets)
        return self.ask(Announce(targets, nonces, origin, (), again), Announced).last

    def tag(self, *texts: str) -> Stamp:
        """One record for each tag."""
        return self.announce(*(Targets(TAG, (text,)) for text in texts))

    def join(self) -> Joined:
        return self.ask(Snapshot(), Joined)

    def beat(self) -> Beat:
        return self.ask(Confirm(), Beat)

    def read(self, after: Stamp) -> Log:
        return self.ask(ReadLog(after), Log)

    def records(self, after: Stamp) -> tuple[Record, ...]:
        log = self.read(after)
        assert not log.gap
        return log.records

    def bans(self) -> tuple[dict[tuple[str, str], int], Bans]:
        """The bans with their numbers, soft ones with a capital letter, and the page they stand on."""
        page = self.ask(ReadBans(0, 100_000), Bans)
        assert not page.more
        kinds = ((one.kind.upper() if one.is_soft else one.kind, text, number) for one, number in page.found for text in one.texts)
        return {(kind, text): number for kind, text, number in kinds}, page

    def meta(self, field: str) -> str | None:
        return cast("str | None", self.client.hget(self.name("meta"), field))

    def name(self, which: str) -> str:
        names: dict[str, bytes] = {"meta": self.names.meta, "log": self.names.log, "bans": self.names.bans, "again": self.names.again}
        return names[which].decode()

    def length(self) -> int:
        return self.client.xlen(self.name("log"))

    def now(self) -> float:
        """The server's time, seconds."""
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    def pass_time(self, seconds: float) -> None:
        end = self.now() + seconds
        until(lambda: self.now() > end, "the server's clock goes on")

    def close(self) -> None:
        self.talk.shared.close()


@pytest.fixture
def line(every_server: Server, namespace: str) -> Iterator[Line]:
    with closing(Line(every_server, namespace)) as own:
        yield own


def free_port() -> str:
    """For the bus of a cluster, which is 10,000 above the server's port otherwise, and there may be no such port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def say(server: Server, *command: bytes | int | str) -> Any:
    """A command for which redis-py has no words."""
    return cast("Any", server.client()).execute_command(*command)


# --- what is published ----------------------------------------------------------------------------------------------------------------


class Listener:
    """A connection as another language may open it: RESP 2, with nothing of ours."""

    def __init__(self, server: Server) -> None:
        self._sock = socket.create_connection(("127.0.0.1", server.port), timeout=LONG)
        self._reader = hiredis.Reader()
        self._kind = b"SUBSCRIBE" if server.flavour == "redis6" else b"SSUBSCRIBE"

    def subscribe(self, channel: bytes) -> None:
        self._sock.sendall(b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(self._kind), self._kind, len(channel), channel))
        assert self.hear()[0] == self._kind.lower()

    def hear(self) -> list[Any]:
        while (found := self._reader.gets()) is False:
            self._reader.feed(self._sock.recv(65536))
        return cast("list[Any]", found)

    def close(self) -> None:
        self._sock.close()


def test_what_is_published_is_pinned(line: Line, every_server: Server) -> None:
    """Other languages hear it: one JSON object for each record, on a channel of the stream's name, in this order and spelling; and an empty
    message on the channel of a lease that has ended.
    """
    with closing(Listener(every_server)) as listener:
        listener.subscribe(line.names.log)
        listener.subscribe(line.names.lease("a"))
        targets = (Targets(KEY, ("a", 'é"\\')), Targets(TAG, ("t",), SOFT), Targets(EVERYTHING, ("*",)))
        last = line.ask(Announce(targets, ("c1", "c2", "c3"), "me", ()), Announced).last
        at = [record.at for record in line.records(Stamp(last.epoch, 0))]
        begin = '{"e":"' + last.epoch + '","n":'
        assert [listener.hear()[1:] for _ in targets] == [
            [line.names.log, f'{begin}1,"c":"c1","p":"","t":{at[0]},"m":"h","k":"k","x":["a","é\\"\\\\"],"o":"me"}}'.encode()],
            [line.names.log, f'{begin}2,"c":"c2","p":"c1","t":{at[1]},"m":"s","k":"t","x":["t"],"o":"me"}}'.encode()],
            [line.names.log, f'{begin}3,"c":"c3","p":"c2","t":{at[2]},"m":"h","k":"*","x":["*"],"o":"me"}}'.encode()],
        ]
        for ending in (Release("a", "mine"), Store("a", "mine", blob_of(last), 1_000)):
            assert line.ask(Lease("a", "mine", NOWHERE, 1_000, None), Leased).granted
            assert line.ask(ending, Done).done
            assert listener.hear()[1:] == [line.names.lease("a"), b""]


# --- one of our own keys is lost --------------------------------------------------------------------------------------------------


def test_a_lost_position_begins_another_log(line: Line) -> None:
    """Without its number the old log is worth nothing: records and bans of before are gone with it, and the first number is free again."""
    line.tag("old")
    before = line.announce(Targets(EVERYTHING, ("*",)))
    line.client.delete(line.name("meta"))
    assert line.ask(Fetch(("a",)), Fetched).head is None
    assert line.beat().head is None
    assert line.read(before).gap
    joined = line.join()
    assert joined.head.epoch != before.epoch
    assert joined[:3] == (Stamp(joined.head.epoch, 0), "", Lineage(joined.head.epoch, {}))
    assert line.bans() == ({}, Bans((), False, joined.head.epoch, Floors(), 0))
    assert line.tag("new") == Stamp(joined.head.epoch, 1)
    [record] = line.records(joined.head)
    assert (record.number, record.previous, record.targets.texts) == (1, "", ("new",))
    assert line.length() == 1


def test_lost_records_are_a_gap_and_numbers_go_on(line: Line) -> None:
    """Who had not read them rejoins; who had goes on. The chain of nonces does not break."""
    start = line.join().head
    head = line.tag("a", "b")
    nonce = line.beat().nonce
    line.client.delete(line.name("log"))
    assert line.read(start) == Log((), head, gap=True)
    assert line.read(head) == Log((), head, gap=False)
    assert line.tag("c") == Stamp(head.epoch, 3)
    assert line.read(start).gap
    [record] = line.records(head)
    assert (record.number, record.previous) == (3, nonce)
    assert set(line.bans()[0]) == {(TAG, "a"), (TAG, "b"), (TAG, "c")}


@pytest.mark.parametrize("first", ["somebody joins", "somebody announces"])
def test_lost_bans_raise_the_floor(line: Line, first: str) -> None:
    """Nobody knows what they were, so everything stamped before is dead to a process that starts: misses, never hits. Soft ones are
    unknown too, and nothing of before may be served stale. Whoever comes first notices.
    """
    line.tag("a")
    head = line.announce(Targets(PREFIX, ("b:",)))
    assert line.bans()[1].hard == Floors()
    line.client.delete(line.name("bans"))
    assert line.ask(ReadBans(0, 10), Bans).epoch is None, "who is reading them now begins anew"
    if first == "somebody joins":
        assert line.join().head == head
        assert line.bans() == ({}, Bans((), False, head.epoch, Floors(all=2), 2))
    assert line.tag("c") == Stamp(head.epoch, 3)
    found, page = line.bans()
    assert found == {(TAG, "c"): 3}
    assert (page.hard.all, page.soft) == (2, 2)


def test_a_lost_floor_of_lost_bans_does_not_come_back_lower(line: Line) -> None:
    """Bans that are lost again and again leave the floor at the newest head."""
    for number in range(1, 6):
        line.tag(f"tag{number}")
        line.client.delete(line.name("bans"))
        line.join()
        assert line.bans()[1].hard.all == number


def test_what_was_announced_again_may_be_forgotten(line: Line) -> None:
    """It is remembered for ten minutes at most, and appended once more afterwards, which harms nobody."""
    line.announce(Targets(TAG, ("t",)), again=True)
    left = line.client.pttl(line.name("again"))
    assert 0 < left <= 600_000
    line.client.delete(line.name("again"))
    assert line.announce(Targets(TAG, ("t",)), again=True).number == 2
    assert line.announce(Targets(TAG, ("t",)), again=True).number == 2


def as_text(client: redis.Redis, name: str) -> None:
    client.set(name, "not ours")


def as_list(client: redis.Redis, name: str) -> None:
    client.rpush(name, "not", "ours")


def as_hash(client: redis.Redis, name: str) -> None:
    client.hset(name, "not", "ours")


@pytest.mark.parametrize("spoil", [as_text, as_list, as_hash])
@pytest.mark.parametrize("which", ["meta", "log", "bans", "again"])
@pytest.mark.parametrize("first", ["somebody joins", "somebody announces", "somebody announces again"])
def test_a_key_of_another_type_is_mended_and_nothing_comes_back_to_life(
    line: Line, which: str, spoil: Callable[[redis.Redis, str], None], first: str
) -> None:
    """Another program has written there. What was banned stays dead: by its ban, by a floor, or by another epoch."""
    if (which, spoil) == ("meta", as_hash):
        return  # that is what it is
    before = line.tag("dead")
    line.client.delete(line.name(which))
    spoil(line.client, line.name(which))
    if first != "somebody joins":
        line.announce(Targets(TAG, ("new",)), again=first == "somebody announces again")
    joined = line.join()
    found, page = line.bans()
    assert page.epoch == joined.head.epoch
    dead_by = joined.lineage.number(before)
    assert dead_by is None or found.get((TAG, "dead")) == 1 or page.hard.all >= 1
    for text in ("x", "y"):
        last = line.announce(Targets(TAG, (text,)), again=True)
        assert line.bans()[0][TAG, text] == last.number
    assert line.join().head == last
    assert line.records(Stamp(last.epoch, last.number - 1))[0].targets.texts == ("y",)


@pytest.mark.parametrize("field", ["e", "n", "c", "r", "x", "w", "l"])
def test_a_field_that_is_lost_stops_nobody(line: Line, field: str) -> None:
    """And no number is given out twice under one epoch."""
    acknowledged = [line.tag("a"), line.tag("b")]
    line.client.hdel(line.name("meta"), field)
    acknowledged += [line.tag("c"), line.tag("d")]
    assert len(set(acknowledged)) == 4
    assert line.join().head == acknowledged[-1]


@pytest.mark.parametrize("number", ["", "x", "many"])
def test_a_number_that_is_none_begins_another_log(line: Line, number: str) -> None:
    """Nobody can go on from there."""
    before = line.tag("a")
    line.client.hset(line.name("meta"), "n", number)
    after = line.tag("b")
    assert after.epoch != before.epoch
    assert after.number == 1


@pytest.mark.parametrize("how", ["the number was set back", "the stream was filled by somebody"])
def test_a_stream_that_is_ahead_begins_another_log(line: Line, how: str) -> None:
    """The next id is refused, and would be for ever. All of a call is in the new log, and nothing of the old one is left."""
    before = line.tag("a", "b", "c")
    if how == "the number was set back":
        line.client.hset(line.name("meta"), "n", "1")
    else:
        line.client.xadd(line.name("log"), {"not": "ours"}, id="1000-0")
    after = line.tag("d", "e")
    assert after.epoch != before.epoch
    assert after.number == 2
    records = line.records(Stamp(after.epoch, 0))
    assert [(record.number, record.targets.texts) for record in records] == [(1, ("d",)), (2, ("e",))]
    assert [record.previous for record in records] == ["", records[0].nonce]
    assert line.bans()[0] == {(TAG, "d"): 1, (TAG, "e"): 2}
    assert line.length() == 2


def test_an_unreadable_record_is_a_gap(line: Line) -> None:
    """Somebody has put something between ours: whoever meets it rejoins."""
    head = line.tag("a")
    line.client.xadd(line.name("log"), {"not": "ours"}, id="2-0")
    assert line.read(Stamp(head.epoch, 0)).gap
    assert line.read(head).gap


@pytest.mark.parametrize("seed", range(3))
def test_no_stamp_is_given_out_twice(line: Line, seed: int) -> None:
    """Whatever is lost, spoilt or taken over in between."""
    chance = random.Random(seed)
    acknowledged: list[Stamp] = []
    for step in range(60):
        which = line.name(chance.choice(["meta", "log", "bans", "again"]))
        match chance.randrange(8):
            case 0:
                line.client.delete(which)
            case 1:
                line.client.delete(which)
                chance.choice([as_text, as_list])(line.client, which)
            case 2 if line.client.type(line.name("meta")) == "hash":
                line.client.hset(line.name("meta"), "r", os.urandom(20).hex())
            case 3 if line.client.type(line.name("meta")) == "hash":
                line.client.hset(line.name("meta"), "n", str(chance.randrange(5)))
            case 4:
                line.join()
            case _:
                acknowledged.append(line.announce(Targets(TAG, (f"tag{chance.randrange(3)}",)), again=chance.random() < 0.3))
                if chance.random() < 0.5:
                    acknowledged.append(line.tag(f"tag{step}"))
    appended = [stamp for at, stamp in enumerate(acknowledged) if at == 0 or stamp != acknowledged[at - 1]]  # announced again: not appended
    assert len(set(appended)) == len(appended)
    assert len(appended) > 10


# --- the bounds of the log ----------------------------------------------------------------------------------------------------------

TURN = 64
"""What is kept is bounded where a number passes a multiple of this, because that costs more than the rest of an announcement."""


def test_records_are_kept_for_a_while_and_then_trimmed(every_server: Server, namespace: str) -> None:
    """By the server's clock, a few hundred at a time, so that no announcement is slow. Numbers and bans are not concerned."""
    with closing(Line(every_server, namespace, log_keep=0.001)) as line:
        start = line.join().head
        line.announce(*(Targets(TAG, (f"tag:{number}",)) for number in range(1_000)))
        lengths = [line.length()]
        for _ in range(12):
            line.pass_time(0.005)
            head = line.announce(*(Targets(TAG, ("new",)) for _ in range(TURN)))
            lengths.append(line.length())
            assert lengths[-1] >= lengths[-2] - 4 * TURN
            assert line.read(start) == Log((), head, gap=True)
            assert line.records(Stamp(head.epoch, head.number - 1))[0].number == head.number
        assert line.join().head == Stamp(start.epoch, 1_000 + 12 * TURN)
        assert lengths[0] == 1_000
        assert lengths[-1] <= 2 * TURN, "none of the old ones is left"
        assert len(line.bans()[0]) == 1_001


def test_what_is_young_is_not_trimmed(every_server: Server, namespace: str) -> None:
    """A process that was cut off for less than that goes on where it was."""
    with closing(Line(every_server, namespace, log_keep=600.0)) as line:
        start = line.join().head
        line.announce(*(Targets(TAG, (f"tag{number}",)) for number in range(300)))
        line.pass_time(0.005)
        line.tag("new")
        assert len(line.records(start)) == 301


def test_a_log_of_no_time_holds_its_newest_record(every_server: Server, namespace: str) -> None:
    """Whoever was told of it can read it."""
    with closing(Line(every_server, namespace, log_keep=0.0)) as line:
        for _ in range(3 * TURN):
            line.pass_time(0.001)
            last = line.tag("t")
            assert line.length() <= TURN + 1
            assert line.records(Stamp(last.epoch, last.number - 1))[0].number == last.number


def test_the_number_of_records_is_bounded(every_server: Server, namespace: str) -> None:
    """About so many, whatever their age: a stream drops them by nodes of a hundred."""
    with closing(Line(every_server, namespace, log_records=200)) as line:
        start = line.join().head
        for _ in range(10):
            line.announce(*(Targets(TAG, ("t",)) for _ in range(100)))
            assert line.length() <= 200 + 100 + TURN
        assert line.length() >= 200
        assert line.read(start).gap
        assert len(line.records(Stamp(start.epoch, 800))) == 200


# --- the bounds of the bans ---------------------------------------------------------------------------------------------------------

FLOORS: dict[tuple[Kind, bool], tuple[Floors, int]] = {
    (KEY, False): (Floors(keys=1), 0),
    (TAG, False): (Floors(tags=1), 0),
    (PREFIX, False): (Floors(all=1), 0),
    (GLOB, False): (Floors(all=1), 0),
    (KEY, True): (Floors(), 1),
    (TAG, True): (Floors(), 1),
    (PREFIX, True): (Floors(), 1),
    (GLOB, True): (Floors(), 1),
}


@pytest.mark.parametrize(("kind", "soft"), FLOORS)
def test_a_ban_that_has_to_go_raises_the_floor_of_its_kind(every_server: Server, namespace: str, kind: Kind, soft: bool) -> None:
    """More than was asked for is dead, never less; and only what it could concern."""
    with closing(Line(every_server, namespace, bans=5)) as line:
        line.announce(Targets(kind, ("a*b",), SOFT if soft else "h"))
        line.announce(*(Targets(KEY, (f"key{number}",)) for number in range(2, 6)))
        line.announce(*(Targets(KEY, ("key5",)) for _ in range(6, TURN + 1)))
        assert len(line.bans()[0]) == 5
        assert (line.bans()[1].hard, line.bans()[1].soft) == (Floors(), 0)
        line.announce(*(Targets(KEY, ("key6",)) for _ in range(TURN)))
        found, page = line.bans()
        assert found == {(KEY, "key2"): 2, (KEY, "key3"): 3, (KEY, "key4"): 4, (KEY, "key5"): TURN, (KEY, "key6"): 2 * TURN}
        assert (page.hard, page.soft) == FLOORS[kind, soft]


def test_the_oldest_bans_go_first_whatever_their_kind(every_server: Server, namespace: str) -> None:
    """Each floor is that of the newest ban of its kind that had to go."""
    with closing(Line(every_server, namespace, bans=3)) as line:
        kinds: tuple[Kind, ...] = (TAG, KEY, TAG, PREFIX, KEY, TAG)
        line.tag("first")
        line.announce(*(Targets(kind, (f"text{at}",)) for at, kind in enumerate(kinds)))
        line.announce(Targets(KEY, ("text1",), SOFT), Targets(TAG, ("first",)))
        line.announce(*(Targets(TAG, ("last",)) for _ in range(TURN)))
        found, page = line.bans()
        assert found == {("K", "text1"): 8, ("t", "first"): 9, ("t", "last"): 9 + TURN}
        assert (page.hard, page.soft) == (Floors(all=5, keys=6, tags=7), 0)


def test_bans_exceed_their_bound_by_a_turn_at_most(every_server: Server, namespace: str) -> None:
    """Each of them is found until it has raised its floor."""
    with closing(Line(every_server, namespace, bans=100)) as line:
        for number in range(1, 1_001):
            line.tag(f"tag{number}")
        found, page = line.bans()
        assert 100 <= len(found) < 100 + TURN
        assert page.hard == Floors(tags=1_000 - len(found))
        assert min(found.values()) == page.hard.tags + 1


def test_one_record_may_ban_more_than_there_is_room_for(every_server: Server, namespace: str) -> None:
    """Its own number becomes the floor: a process that has applied it may fill."""
    with closing(Line(every_server, namespace, bans=10)) as line:
        last = line.announce(Targets(TAG, tuple(f"tag{number}" for number in range(50))))
        found, page = line.bans()
        assert len(found) == 10
        assert (page.hard, page.soft) == (Floors(tags=last.number), 0)


def test_a_ban_older_than_every_entry_is_dropped(every_server: Server, namespace: str) -> None:
    """Entries live no longer than the longest policy says, by the server's clock. The floors rise all the same, for all kinds."""
    with closing(Line(every_server, namespace, longest_life=0.04)) as line:
        line.announce(Targets(TAG, ("old",)), Targets(KEY, ("old",), SOFT))

        def is_gone() -> bool:
            line.announce(*(Targets(TAG, ("new",)) for _ in range(TURN)))
            return "old" not in {text for _, text in line.bans()[0]}

        until(is_gone, "the old bans are dropped")
        found, page = line.bans()
        assert found[TAG, "new"] == line.join().head.number
        assert min(*page.hard, page.soft) >= 2
        assert max(*page.hard, page.soft) < line.join().head.number


def test_the_longest_life_that_any_process_knows_counts(every_server: Server, namespace: str) -> None:
    """Old and new processes run side by side during a deploy: what one of them may have stored is not forgotten by another."""
    slow, fast = (Line(every_server, namespace, longest_life=seconds) for seconds in (3600.0, 0.01))
    with closing(slow), closing(fast):
        slow.tag("old")
        for _ in range(20):
            fast.pass_time(0.005)
            fast.announce(*(Targets(TAG, ("new",)) for _ in range(TURN)))
        found, page = fast.bans()
        assert found[TAG, "old"] == 1
        assert page.hard == Floors()


def test_what_is_remembered_of_ages_does_not_grow(every_server: Server, namespace: str) -> None:
    """A few marks of time are enough for any life."""
    with closing(Line(every_server, namespace, longest_life=0.08)) as line:
        for _ in range(60):
            line.pass_time(0.002)
            line.announce(*(Targets(TAG, ("t",)) for _ in range(TURN)))
        assert len(line.meta("w") or "") < 400


# --- another server numbers the records ---------------------------------------------------------------------------------------------


def test_another_server_begins_an_epoch_of_its_own(line: Line) -> None:
    """Noticed by the replication id beside the number. Nothing is dead by it alone: stamps up to the cut stay valid, bans keep their
    numbers, and these go on.
    """
    line.announce(Targets(TAG, ("a",)), Targets(KEY, ("b",), SOFT))
    before = line.announce(Targets(EVERYTHING, ("*",), SOFT))
    line.client.hset(line.name("meta"), "r", "somebody else")
    assert line.beat()[:1] + line.beat()[3:4] == (before, False)
    joined = line.join()
    assert joined.head.epoch != before.epoch
    assert joined.head.number == 3
    assert joined.nonce == line.beat().nonce
    assert joined.lineage == Lineage(joined.head.epoch, {before.epoch: 3})
    assert line.bans() == (
        {(TAG, "a"): 1, ("K", "b"): 2},
        Bans(((Targets(TAG, ("a",)), 1), (Targets(KEY, ("b",), SOFT), 2)), False, joined.head.epoch, Floors(), 3),
    )
    assert line.beat().is_same
    assert line.join() == joined, "once"
    assert line.tag("c") == Stamp(joined.head.epoch, 4)
    assert line.read(before) == Log((), Stamp(joined.head.epoch, 4), gap=True)
    [record] = line.records(joined.head)
    assert (record.number, record.previous) == (4, joined.nonce)


def test_those_who_notice_at_once_begin_one_epoch(line: Line) -> None:
    """In one piece, whoever comes first."""
    line.tag("a")
    line.client.hset(line.name("meta"), "r", "somebody else")
    steps = [Announce((Targets(TAG, (f"tag{at}",)),), (f"nonce{at}",), "test", ()) if at % 2 else Snapshot() for at in range(16)]
    replies: list[Any] = line.talk.ask_together(steps, (Joined, Announced))
    epochs = {reply.head.epoch if isinstance(reply, Joined) else reply.last.epoch for reply in replies}
    assert len(epochs) == 1
    assert line.join().lineage.cuts.keys().isdisjoint(epochs)
    assert len(line.join().lineage.cuts) == 1


def test_sixteen_cuts_are_remembered(line: Line) -> None:
    """Each says up to where an epoch is still valid. What is of an older one is dead: more than need be, never less."""
    heads: list[Stamp] = []
    for number in range(25):
        heads.append(line.tag(f"tag{number}"))
        line.client.hset(line.name("meta"), "r", f"server {number}")
    joined = line.join()
    assert len({head.epoch for head in heads}) == 25
    assert joined.head.number == 25
    assert joined.lineage.cuts == {head.epoch: head.number for head in heads[-16:]}
    for head in heads[-16:]:
        assert joined.lineage.number(head) == head.number
        assert joined.lineage.number(Stamp(head.epoch, head.number + 1)) is None
    assert [joined.lineage.number(head) for head in heads[:9]] == [None] * 9


def test_bans_that_are_lost_on_the_way_to_another_server_are_noticed(line: Line) -> None:
    """Both at once: the epoch is cut, and everything stamped before is dead."""
    before = line.tag("a", "b")
    line.client.hset(line.name("meta"), "r", "somebody else")
    line.client.delete(line.name("bans"))
    joined = line.join()
    assert joined.lineage.cuts == {before.epoch: 2}
    found, page = line.bans()
    assert (found, page.epoch, page.hard.all, page.soft) == ({}, joined.head.epoch, 2, 2)


AT_ONCE = ("--repl-diskless-sync-delay", "0")


class Pair:
    """A master, and a replica that follows it through a proxy. Both are asked by name."""

    def __init__(self, flavour: str, **bounds: Any) -> None:
        self._stack = ExitStack()
        self.master = self._stack.enter_context(Server(flavour, options=AT_ONCE))
        self.replica = self._stack.enter_context(Server(flavour, options=AT_ONCE))
        self.link = self._stack.enter_context(Proxy("127.0.0.1", self.master.port))
        self.follow(self.replica, self.link.port)  # first: a server takes another replication id when its first replica comes
        self.there = self._stack.enter_context(closing(Line(self.master, "pair", **bounds)))
        self.here = self._stack.enter_context(closing(Line(self.replica, "pair", **bounds)))

    @staticmethod
    def follow(server: Server, port: int) -> None:
        say(server, "REPLICAOF", "127.0.0.1", str(port))
        until(lambda: server.client().info("replication")["master_link_status"] == "up", "it is in step")

    def in_step(self) -> None:
        """Wait until the replica has all that its master has."""
        head = self.there.beat().head
        until(lambda: self.here.beat().head == head, "the replica has it")

    def promote(self) -> None:
        """The replica takes over, as it is."""
        say(self.replica, "REPLICAOF", "NO", "ONE")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.release()
        self._stack.close()


@pytest.fixture(params=flavours())
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Pair(request.param) as own:
        yield own


def blob_of(stamp: Stamp) -> bytes:
    return seal(Header(0, bytes.fromhex(stamp.epoch), stamp.number, 0, 0, 60_000, 0, 0, 1, 0, digest_of(b"x")), b"x")


def test_a_replica_refuses_what_only_a_master_may_do(pair: Pair) -> None:
    """It neither begins a log nor an epoch, whatever it thinks of the replication id; and a strict read of it is none."""
    assert "READONLY" in pair.here.refuses(Snapshot())
    last = pair.there.tag("a")
    pair.in_step()
    state = pair.here.client.hgetall(pair.here.name("meta"))
    refused: list[SharedStep] = [
        Snapshot(),
        Announce((Targets(TAG, ("t",)),), ("nonce",), "test", ()),
        Announce((Targets(TAG, ("t",)),), ("nonce",), "test", (), again=True),
        Announce((Targets(KEY, ("a",)),), ("nonce",), "test", ("a",)),
        Lease("a", "mine", NOWHERE, 1_000, None),
        Seize("a", "mine", NOWHERE, 1_000, unlink=True),
    ]
    for step in refused:
        assert "READONLY" in pair.here.refuses(step), step
    assert "follows another" in pair.here.refuses(Fetch(("a",), strict=True))
    assert pair.here.ask(Fetch(("a",)), Fetched).head == last
    assert pair.here.records(Stamp(last.epoch, 0))[0].number == 1
    assert pair.here.client.hgetall(pair.here.name("meta")) == state


def test_a_replica_that_lacks_acknowledged_records_gives_no_stamp_twice(pair: Pair) -> None:
    """Its link was cut, the master went on, and then it took over. The numbers come again, under another epoch; what was stamped with
    the lost ones is dead, and everything up to the cut is as valid as before, bans included.
    """
    before = pair.there.tag("a", "b")
    assert pair.there.ask(Lease("entry", "mine", NOWHERE, 60_000, None), Leased).granted
    assert pair.there.ask(Store("entry", "mine", blob_of(before), 60_000), Done).done
    pair.in_step()
    until(lambda: pair.here.ask(Fetch(("entry",)), Fetched).blobs[0] is not None, "the replica has the entry")
    pair.link.hold()
    lost = [pair.there.tag(f"lost {number}") for number in range(3)]
    assert [stamp.number for stamp in lost] == [3, 4, 5]
    pair.promote()
    told = pair.here.beat()
    assert (told.head, told.is_master, told.is_same) == (before, True, False)
    joined = pair.here.join()
    assert joined.head == Stamp(joined.head.epoch, 2)
    assert joined.lineage.cuts == {before.epoch: 2}
    assert joined.lineage.number(before) == 2
    assert [joined.lineage.number(stamp) for stamp in lost] == [None] * 3
    again = [pair.here.tag(f"new {number}") for number in range(3)]
    assert [stamp.number for stamp in again] == [3, 4, 5]
    assert not set(again) & set(lost)
    assert pair.here.bans()[0] == {(TAG, "a"): 1, (TAG, "b"): 2} | {(TAG, f"new {number}"): 3 + number for number in range(3)}
    assert pair.here.ask(Fetch(("entry",)), Fetched).blobs == (blob_of(before),)
    # The deposed one goes on, if nobody tells it: still no stamp twice.
    assert not {pair.there.tag("deposed") for _ in range(3)} & {*lost, *again}


def test_lost_records_are_brought_back_once(pair: Pair) -> None:
    """By every process that had applied them: each text is appended once, under a number of the new epoch."""
    before = pair.there.tag("a")
    pair.in_step()
    pair.link.hold()
    lost = (Targets(TAG, ("b", "c")), Targets(KEY, ("d",)), Targets(TAG, ("b",), SOFT))
    pair.there.announce(*lost)
    pair.promote()
    last = [pair.here.announce(*lost, again=True, origin=f"process {number}") for number in range(3)]
    assert last == [Stamp(last[0].epoch, 4)] * 3
    joined = pair.here.join()
    assert joined.lineage == Lineage(last[0].epoch, {before.epoch: 1})
    assert [record.targets for record in pair.here.records(Stamp(last[0].epoch, 1))] == list(lost)
    pair.here.announce(Targets(TAG, ("c", "e")), again=True, origin="who knows one more")
    assert pair.here.records(last[0])[0].targets == Targets(TAG, ("e",))


def test_two_promotions_in_a_row_cut_twice(pair: Pair) -> None:
    """The old master follows the new one, loses what nobody else had, and takes over again without the last of it."""
    first = pair.there.tag("a", "b")
    pair.in_step()
    pair.link.hold()
    lost = pair.there.tag("lost with the first")
    pair.promote()
    second = pair.here.tag("c", "d")
    with Proxy("127.0.0.1", pair.replica.port) as back:
        pair.follow(pair.master, back.port)
        until(lambda: pair.there.beat().head == second, "the old master has what the new one has")
        back.hold()
        lost_too = pair.here.tag("lost with the second")
        say(pair.master, "REPLICAOF", "NO", "ONE")
        third = pair.there.tag("e")
        back.release()
    assert len({stamp.epoch for stamp in (first, second, third)}) == 3
    assert [stamp.number for stamp in (first, lost, second, lost_too, third)] == [2, 3, 4, 5, 5]
    lineage = pair.there.join().lineage
    assert lineage == Lineage(third.epoch, {second.epoch: 4, first.epoch: 2})
    assert [lineage.number(stamp) for stamp in (first, lost, second, lost_too, third)] == [2, None, 4, None, 5]
    assert set(pair.there.bans()[0]) == {(TAG, text) for text in "abcde"}


def test_a_server_that_was_demoted_and_promoted_again_is_another_one(pair: Pair) -> None:
    """It keeps its run id; its replication id tells. It may have lost something in between."""
    first = pair.there.tag("a")
    pair.in_step()
    run_id = pair.master.client().info("server")["run_id"]
    pair.promote()
    second = pair.here.tag("b")
    pair.follow(pair.master, pair.replica.port)
    until(lambda: pair.there.beat().head == second, "it has what the new one has")
    say(pair.master, "REPLICAOF", "NO", "ONE")
    assert pair.master.client().info("server")["run_id"] == run_id
    third = pair.there.tag("c")
    assert (third.number, len({first.epoch, second.epoch, third.epoch})) == (3, 3)
    assert pair.there.join().lineage.cuts == {first.epoch: 1, second.epoch: 2}


def test_a_replica_that_comes_changes_no_validity(every_server: Server) -> None:
    """A server may take another replication id then (Redis documentation, "Replication"): an epoch is cut, and nothing is lost by it."""
    alone, replica = (Server(every_server.flavour, options=AT_ONCE) for _ in range(2))
    with alone, replica, closing(Line(alone, "alone")) as line:
        before = line.tag("a", "b")
        Pair.follow(replica, alone.port)
        after = line.tag("c")
        assert after.number == 3
        lineage = line.join().lineage
        assert lineage.number(before) == 2
        assert line.bans()[0] == {(TAG, "a"): 1, (TAG, "b"): 2, (TAG, "c"): 3}


# --- waiting for replicas -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", flavours())
def test_a_durable_announcement_says_how_many_have_it(flavour: str) -> None:
    """It waits for one replica, no longer than it is told to; and does not fail when there is none in time: it is in the log."""
    with Pair(flavour, durable=20_000) as pair:
        announce = Announce((Targets(TAG, ("t",)),), ("nonce",), "test", ())
        assert pair.there.ask(announce, Announced).replicas == 1
        assert pair.here.beat().head == pair.there.beat().head
    with Pair(flavour, durable=20) as pair:
        pair.link.hold()
        reply = pair.there.ask(announce, Announced)
        assert (reply.last.number, reply.replicas) == (1, 0)
    with Server(flavour) as alone, closing(Line(alone, "alone", durable=20)) as line:
        assert line.ask(announce, Announced).replicas == 0
    with Server(flavour) as alone, closing(Line(alone, "alone")) as line:
        assert line.ask(announce, Announced).replicas is None


# --- slots ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["valkey9", "redis8"])
def test_every_script_touches_one_slot(flavour: str) -> None:
    """A server in cluster mode refuses whatever else. Keys that differ in their braces alone are not each other's."""
    with Server(flavour, options=("--cluster-enabled", "yes", "--cluster-port", free_port())) as server:
        say(server, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in say(server, "CLUSTER", "INFO"), "the cluster is up")
        with closing(Line(server, "slots {of} ours")) as line:
            start = line.join().head
            for key in ("a", "", "}x", "{a}b", "a b", "é", "\0", "x" * 600):
                assert line.ask(Lease(key, "mine", start, 60_000, None), Leased).granted
                assert line.ask(Extend(key, "mine", 60_000), Done).done
                assert line.ask(Store(key, "mine", blob_of(start), 60_000), Done).done
                assert line.ask(Fetch((key,), strict=True), Fetched).blobs == (blob_of(start),)
                assert line.ask(Seize(key, "sets", start, 60_000, unlink=True), Leased).granted
                assert line.ask(Release(key, "sets"), Done).done
                for again in (False, True):
                    announce = Announce((Targets(KEY, (key,)), Targets(TAG, (key or "t",))), ("one", "two"), "test", (key,), again)
                    assert line.ask(announce, Announced)
            assert len(line.records(start)) == 32
            assert line.beat().head == line.join().head
            assert len(line.bans()[0]) == 16
