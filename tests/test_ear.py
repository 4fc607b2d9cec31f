"""The ear: what a process hears of the log, on a wire that misbehaves and on real servers behind a proxy."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import RedisShared
from cachesync.core.auditing import Question
from cachesync.core.names import Names
from cachesync.core.records import KEY, TAG, Record, Targets
from cachesync.core.stamps import NOWHERE, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Beat,
    Confirm,
    Done,
    Failed,
    Hear,
    Heard,
    Joined,
    Lease,
    Log,
    ReadLog,
    Release,
    Snapshot,
    Torn,
    Woken,
)
from cachesync.core.switches import NOTHING_THROWN
from cachesync.errors import LayerError
from cachesync.layers.redis_ear import RedisEar
from cachesync.layers.redis_line import Line
from cachesync.testing import Listening
from support.nodes import LONG, until
from support.proxy import Proxy
from support.servers import Server

# --- a wire in the test's hand ----------------------------------------------------------------------------------------------------

NAMES = Names.of("ns")
EPOCH = "9f86d081884c7d65"


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def push(*parts: bytes | int) -> bytes:
    """A push of RESP 3."""
    said = (b":%d\r\n" % part if isinstance(part, int) else bulk(part) for part in parts)
    return b">%d\r\n" % len(parts) + b"".join(said)


def message_of(record: Record) -> bytes:
    """A record as it is published."""
    about = record.targets
    texts = ",".join(f'"{text}"' for text in about.texts)
    fields = f'{{"e":"{record.epoch}","n":{record.number},"c":"{record.nonce}","p":"{record.previous}","t":{record.at},"m":"{about.mode}"'
    return f'{fields},"k":"{about.kind}","x":[{texts}],"o":"{record.origin}"}}'.encode()


def published(text: bytes, channel: bytes = NAMES.log) -> bytes:
    return push(b"smessage", channel, text)


def record(number: int) -> Record:
    return Record(EPOCH, number, f"c{number}", f"c{number - 1}", Targets(KEY, (f"stores:{number}",)), "me", 1_700_000_000_000)


def answer(number: int) -> bytes:
    """The answers to the question where the log ends, by a master that numbers it."""
    told = b"*5\r\n" + b"".join(map(bulk, (EPOCH.encode(), b"%d" % number, b"c%d" % number, b"aa11"))) + b"_\r\n"
    info = b"# Replication\r\nrole:master\r\nmaster_replid:aa11\r\n"
    return told + b"=%d\r\ntxt:%b\r\n" % (len(info) + 4, info)


def beat_at(number: int) -> Beat:
    return Beat(Stamp(EPOCH, number), f"c{number}", is_master=True, is_same=True, thrown=NOTHING_THROWN)


CONFIRMED = push(b"ssubscribe", NAMES.log, 1)
LEASE = NAMES.lease("a")
STANDS, OVER = bulk(b"token"), b"_\r\n"
"""What looking for a lease says."""


class Connection:
    """What redis-py has opened: a socket that a `Line` takes over."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def disconnect(self) -> None:
        self._sock.close()


class Wire:
    """An ear and the server's end of its connection. ``greeting`` is sent to every new connection, unasked."""

    def __init__(self, greeting: bytes = CONFIRMED, *, wrap: Callable[[socket.socket], Any] = lambda sock: sock) -> None:
        self.greeting = greeting
        self.ear = RedisEar(NAMES, self._connect)
        self.opened = 0
        self._wrap = wrap
        self._stack = ExitStack()
        self._stack.callback(self.ear.close)

    def _connect(self, deadline: float) -> Line:
        mine, self.server = (self._stack.enter_context(closing(end)) for end in socket.socketpair())
        self.opened += 1
        self._commands = hiredis.Reader()
        self.server.sendall(self.greeting)
        return Line(Connection(self._wrap(mine)))

    def send(self, *pieces: bytes) -> None:
        self.server.sendall(b"".join(pieces))

    def hear(self, seconds: float = 0.01, *, beat: bool = False, patience: float = LONG) -> Heard | Failed:
        return self.ear.perform(Hear(seconds, beat, patience))

    def items(self, count: int) -> list[object]:
        """What is heard, as soon as it is ``count`` items. When a question was sent depends on the clock, and is left out."""
        found: list[object] = []
        deadline = time.monotonic() + LONG
        while len(found) < count:
            heard = self.hear()
            assert isinstance(heard, Heard), heard
            found += [item._replace(asked=float("-inf")) if isinstance(item, Beat) else item for item in heard.items]
            assert time.monotonic() < deadline, found
        return found

    def commands(self, count: int) -> list[list[bytes]]:
        """The next commands that the ear has said."""
        self.server.settimeout(LONG)
        found: list[list[bytes]] = []
        while len(found) < count:
            command = self._commands.gets()
            if command is False:
                self._commands.feed(self.server.recv(65536))
            else:
                found.append(cast("list[bytes]", command))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


QUESTION = [[b"HMGET", NAMES.meta, b"e", b"n", b"c", b"r", b"s"], [b"INFO", b"replication"]]


def test_an_ear_subscribes_before_it_asks_where_the_log_ends() -> None:
    """The question is sent when the server has confirmed: what is published after the answer is heard."""
    with Wire(greeting=b"") as wire:
        listening = threading.Thread(target=lambda: wire.hear(beat=True))
        listening.start()
        until(lambda: wire.opened, "the ear connects")
        assert wire.commands(1) == [[b"SSUBSCRIBE", NAMES.log]]
        wire.server.setblocking(False)
        with pytest.raises(BlockingIOError):
            wire.server.recv(1)
        wire.send(CONFIRMED)
        listening.join()
        assert wire.commands(2) == QUESTION
        wire.send(answer(7))
        assert wire.items(1) == [beat_at(7)]


def test_a_server_that_knows_no_sharded_channels_is_asked_for_plain_ones() -> None:
    """Redis before 7. On the same connection, and for leases too."""
    with Wire(greeting=b"-ERR unknown command `SSUBSCRIBE`, with args beginning with: \r\n" + push(b"subscribe", NAMES.log, 1)) as wire:
        wire.ear.watch("a")
        assert wire.hear(beat=True) == Heard(())
        assert [command[0] for command in wire.commands(6)] == [b"SSUBSCRIBE", b"SUBSCRIBE", b"SUBSCRIBE", b"GET", b"HMGET", b"INFO"]
        wire.send(push(b"subscribe", LEASE, 2), STANDS, push(b"message", NAMES.log, message_of(record(1))), answer(1))
        wire.send(push(b"message", LEASE, b""))
        assert wire.items(3) == [record(1), beat_at(1), Woken("a")]
        assert wire.opened == 1


@pytest.mark.parametrize("error", ["NOPERM this user has no permissions", "MOVED 7000 127.0.0.1:7001", "LOADING", "ERR max clients"])
def test_a_subscription_that_is_refused_is_a_failure_and_is_tried_again_as_it_was(error: str) -> None:
    """It does not mean that there are no sharded channels: on plain ones a newer server publishes nothing."""
    with Wire(greeting=f"-{error}\r\n".encode()) as wire:
        for _ in range(2):
            failed = wire.hear(beat=True)
            assert isinstance(failed, Failed)
            assert error in str(failed.error)
        wire.greeting = CONFIRMED
        assert wire.hear(beat=True) == Heard(())
        assert wire.commands(1) == [[b"SSUBSCRIBE", NAMES.log]]
        assert wire.opened == 3


def test_messages_and_answers_keep_the_order_in_which_they_were_sent() -> None:
    """So an answer that agrees with what was heard before it proves that nothing is missing."""
    with Wire() as wire:
        assert wire.hear(beat=True) == Heard(())
        wire.send(published(message_of(record(1))), published(message_of(record(2))), answer(2), published(message_of(record(3))))
        assert wire.items(4) == [record(1), record(2), beat_at(2), record(3)]


ODD_MESSAGES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    message_of(record(2))[:-1],
    message_of(record(2)).replace(b'"k":"k"', b'"k":"?"'),
    message_of(record(2)).replace(b'"m":"h"', b'"m":"?"'),
    message_of(record(2)).replace(b'"n":2', b'"n":"two"'),
    message_of(record(2)).replace(b'"n":2', b'"n":Infinity'),
    message_of(record(2)).replace(b'"n":2', b'"n":null'),
    message_of(record(2)).replace(b'"t":1700000000000', b'"t":1e999'),
    message_of(record(2)).replace(b'"x":["stores:2"]', b'"x":"stores:2"'),
    message_of(record(2)).replace(b'"x":["stores:2"]', b'"x":[["stores:2"]]'),
    message_of(record(2)).replace(b'"p":"c1",', b""),
]


@pytest.mark.parametrize("at", range(len(ODD_MESSAGES)))
def test_a_message_that_can_not_be_read_is_told_in_its_place(at: int) -> None:
    """It may have been an invalidation, so whoever hears it has to read the log. The connection is as good as before."""
    with Wire() as wire:
        assert wire.hear() == Heard(())
        wire.send(published(message_of(record(1))), published(ODD_MESSAGES[at]), published(message_of(record(3))))
        assert wire.items(3) == [record(1), Torn(), record(3)]
        assert wire.opened == 1


ODD_QUESTIONS = [
    b'{"q":"id"}',
    b'{"q":',
    b'{"q":' + b"[" * 100_000,
    b'{"q":"id","e":"e","n":1,"k":"?","x":[]}',
    b'{"q":"id","e":"e","n":1e999,"k":"k","x":[]}',
    b'{"q":"id","e":"e","n":1,"k":"k","x":7}',
]


@pytest.mark.parametrize("at", range(len(ODD_QUESTIONS)))
def test_a_question_that_can_not_be_read_is_passed_over(at: int) -> None:
    """An auditor of another version asks: nobody has to answer, and nothing was invalidated."""
    good = Question("id", Targets(TAG, ("t",)), Stamp(EPOCH, 1))
    with Wire() as wire:
        assert wire.hear() == Heard(())
        wire.send(published(ODD_QUESTIONS[at]), published(good.to_message().encode()), published(message_of(record(1))))
        assert wire.items(2) == [good, record(1)]


def test_what_was_not_asked_for_is_no_news() -> None:
    """Confirmations, channels that are not watched, pushes of other kinds."""
    with Wire() as wire:
        assert wire.hear() == Heard(())
        wire.send(CONFIRMED, push(b"smessage", b"ns:l:{never}", b""), push(b"sunsubscribe", b"ns:l:{never}", 1))
        wire.send(push(b"invalidate", b"a", b"b"), push(b"pong", b"", b""), published(message_of(record(1))))
        assert wire.items(1) == [record(1)]
        assert wire.opened == 1


def test_a_subscription_that_the_server_ends_is_a_failure() -> None:
    """The slot has moved to another server of a cluster: nothing would be heard here any more."""
    with Wire() as wire:
        assert wire.hear() == Heard(())
        wire.send(push(b"sunsubscribe", NAMES.log, 0))
        assert isinstance(wire.hear(LONG), Failed)
        assert wire.hear() == Heard(())
        assert wire.opened == 2


ODD_REPLIES = {
    "no RESP at all": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(100),
    "an error": b"-ERR something\r\n",
    "a push of one part": push(b"smessage"),
    "a push of two parts": push(b"smessage", NAMES.log),
    "an empty push": b">0\r\n",
    "a push of lists": b">3\r\n*0\r\n*0\r\n*0\r\n",
    "a message that is a number": push(b"smessage", NAMES.log, 7),
    "a message that is nothing": b">3\r\n" + bulk(b"smessage") + bulk(NAMES.log) + b"_\r\n",
    "answers that nobody has asked for": answer(1) * 3,
    "statuses": b"+OK\r\n" * 4,
    "numbers": b":1\r\n" * 4,
    "nulls": b"_\r\n" * 4,
    "empty lists": b"*0\r\n" * 4,
    "lists of nothing": b"*5\r\n_\r\n_\r\n_\r\n_\r\n_\r\n" * 4,
    "half a head": b"*5\r\n" + bulk(EPOCH.encode()) + bulk(b"x") + b"_\r\n_\r\n_\r\n" + bulk(b"role:master"),
    "a nonce of no letters": b"*5\r\n" + bulk(EPOCH.encode()) + bulk(b"1") + bulk(b"\xff") + b"_\r\n_\r\n" + bulk(b"role:master"),
    "the end": b"",
}


@pytest.mark.parametrize("case", ODD_REPLIES)
def test_whatever_else_is_sent_is_a_failure_and_ends_the_connection(case: str) -> None:
    """A proxy that is confused, or no Redis: never an exception. The next step begins anew and hears."""
    with Wire() as wire:
        assert wire.hear(beat=True) == Heard(())
        wire.send(ODD_REPLIES[case])
        if case == "the end":
            wire.server.shutdown(socket.SHUT_RDWR)
        found: Heard | Failed = Heard(())
        for _ in range(10):
            found = wire.hear(0.05)
            if isinstance(found, Failed):
                break
        assert isinstance(found, Failed)
        assert isinstance(found.error, LayerError)
        assert str(found.error).startswith("Redis, hear: ")
        assert wire.hear() == Heard(())
        wire.send(published(message_of(record(1))))
        assert wire.items(1) == [record(1)]
        assert wire.opened == 2


SENT = (published(message_of(record(1))), push(b"ssubscribe", LEASE, 2), OVER, answer(1), push(b"smessage", LEASE, b""), published(b"?"))


@given(st.lists(st.integers(1, len(b"".join(SENT)) - 1), max_size=12))
def test_it_does_not_matter_how_bytes_are_cut_into_pieces(cuts: list[int]) -> None:
    """A network delivers what it likes at a time."""
    sent = b"".join(SENT)
    borders = [0, *sorted(set(cuts)), len(sent)]
    with Wire() as wire:
        wire.ear.watch("a")
        assert wire.hear(0.0, beat=True) == Heard(())
        found: list[object] = []
        for begin, end in pairwise(borders):
            wire.send(sent[begin:end])
            heard = wire.hear(0.0)
            assert isinstance(heard, Heard)
            found += heard.items
        assert [type(item) for item in found] == [Record, Woken, Beat, Woken, Torn]


def test_waiting_for_no_time_takes_what_has_arrived() -> None:
    """It looks once, and does not wait."""
    with Wire() as wire:
        assert wire.hear(0.0) == Heard(())
        wire.send(published(message_of(record(1))))
        assert wire.hear(0.0) == Heard((record(1),))


def test_an_answer_that_is_late_is_waited_for_as_long_as_patience_lasts() -> None:
    """Steps may end before; it is known all along when the question was sent, and that time counts."""
    with Wire() as wire:
        asked = time.monotonic()
        for _ in range(3):
            assert wire.hear(0.001, beat=True) == Heard(())
        between = time.monotonic()
        wire.send(answer(1), answer(2), answer(3))
        heard = wire.hear(LONG)
        assert isinstance(heard, Heard)
        times = [item.asked for item in heard.items if isinstance(item, Beat)]
        assert asked <= times[0] < times[1] < times[2] <= between


def test_an_answer_that_does_not_come_is_a_failure() -> None:
    """The connection is of no use, whatever it says besides: what is published does not prove that the server is the master of now."""
    with Wire() as wire:
        assert wire.hear(0.001, beat=True, patience=0.05) == Heard(())
        failed: Heard | Failed = Heard(())
        deadline = time.monotonic() + LONG
        while isinstance(failed, Heard):
            assert time.monotonic() < deadline
            failed = wire.hear(0.02, patience=0.05)
        assert "no answer in time" in str(failed.error)
        assert wire.hear(0.001) == Heard(())
        assert wire.opened == 2


def test_a_server_that_confirms_no_subscription_is_a_failure() -> None:
    """After the step's patience; the connection is closed."""
    with Wire(greeting=b"") as wire:
        assert isinstance(wire.hear(LONG, patience=0.05), Failed)
        assert wire.commands(1) == [[b"SSUBSCRIBE", NAMES.log]]
        assert wire.server.recv(1) == b""


def test_a_connection_that_can_not_be_opened_is_a_failure() -> None:
    """And the next step tries again."""
    attempts: list[float] = []

    def connect(deadline: float) -> Line:
        attempts.append(deadline)
        raise ConnectionRefusedError("nobody listens")

    ear = RedisEar(NAMES, connect)
    for number in range(1, 4):
        began = time.monotonic()
        failed = ear.perform(Hear(0.0, True, 5.0))
        assert isinstance(failed, Failed)
        assert "nobody listens" in str(failed.error)
        assert len(attempts) == number
        assert attempts[-1] >= began + 5.0
    ear.close()


# --- sockets that hold back -------------------------------------------------------------------------------------------------------


class Secretive:
    """A socket as TLS makes it: it reads a whole record from the wire and hands it out in small pieces. The rest is pending, and the
    kernel knows nothing of it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""

    def pending(self) -> int:
        return len(self._held)

    def recv(self, size: int) -> bytes:
        if not self._held:
            self._held = self._sock.recv(65536)
        given, self._held = self._held[:7], self._held[7:]
        return given

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_what_tls_has_read_already_is_not_waited_for() -> None:
    """Nothing more comes on the wire, and all of it is heard."""
    with Wire(wrap=Secretive) as wire:
        assert wire.hear(beat=True) == Heard(())
        wire.send(*(published(message_of(record(number))) for number in range(1, 6)), answer(5))
        assert wire.items(6) == [*map(record, range(1, 6)), beat_at(5)]


class Silent(Secretive):
    """As TLS does with what is not for its user (a session ticket, a new key): something arrives, and there is nothing to read."""

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(65536, socket.MSG_PEEK)
        if data.startswith(b"ticket"):
            self._sock.recv(6)
            raise TimeoutError("timed out")
        return self._sock.recv(size)

    def pending(self) -> int:
        return 0


def test_something_that_arrives_without_data_is_no_failure() -> None:
    """TLS talks to itself now and then."""
    with Wire(wrap=Silent) as wire:
        assert wire.hear() == Heard(())
        wire.send(b"ticket")
        assert wire.hear(0.05) == Heard(())
        wire.send(published(message_of(record(1))))
        assert wire.items(1) == [record(1)]
        assert wire.opened == 1


# --- waking and closing -----------------------------------------------------------------------------------------------------------


def test_a_wake_that_comes_first_ends_the_next_step() -> None:
    """Whoever wakes does not know whether anybody waits."""
    with Wire() as wire:
        wire.hear()
        for _ in range(3):
            wire.ear.wake()
        began = time.monotonic()
        assert wire.hear(2 * LONG) == Heard(())
        assert time.monotonic() - began < LONG
        wire.send(published(message_of(record(1))))
        assert wire.items(1) == [record(1)], "one step was ended, and no more"


def test_a_step_that_is_woken_leaves_nothing_unheard() -> None:
    """What came before it, and what comes with it."""
    with Wire() as wire:
        wire.hear()
        for number in range(1, 50):
            wire.ear.wake()
            wire.send(published(message_of(record(number))))
        assert wire.items(49) == list(map(record, range(1, 50)))


def test_watching_ends_no_waiting_but_is_said_at_once() -> None:
    """A caller begins to wait for a lease while the ear waits for news."""
    with Wire() as wire:
        wire.hear()
        wire.commands(1)
        found: list[Heard | Failed] = []
        listening = threading.Thread(target=lambda: found.append(wire.hear(2 * LONG)))
        listening.start()
        wire.ear.watch("a")
        assert wire.commands(2) == [[b"SSUBSCRIBE", LEASE], [b"GET", LEASE]]
        wire.send(push(b"ssubscribe", LEASE, 2), OVER)
        listening.join()
        assert found == [Heard((Woken("a"),))]


def test_a_lease_that_stands_when_its_end_begins_to_be_heard_wakes_nobody() -> None:
    """Whoever waits for it would ask again in vain."""
    with Wire() as wire:
        wire.ear.watch("a")
        wire.hear()
        wire.send(push(b"ssubscribe", LEASE, 2), STANDS, published(message_of(record(1))))
        assert wire.items(1) == [record(1)]
        wire.send(push(b"smessage", LEASE, b""))
        assert wire.items(1) == [Woken("a")]


def test_what_is_no_longer_watched_is_unsubscribed() -> None:
    """The server keeps no list of those who went away."""
    with Wire() as wire:
        wire.ear.watch("a")
        wire.hear()
        wire.ear.unwatch("a")
        wire.ear.unwatch("never")
        wire.hear()
        assert wire.commands(5)[:4] == [[b"SSUBSCRIBE", NAMES.log], [b"SSUBSCRIBE", LEASE], [b"GET", LEASE], [b"SUNSUBSCRIBE", LEASE]]
        wire.send(push(b"ssubscribe", LEASE, 2), OVER, push(b"smessage", LEASE, b""), push(b"sunsubscribe", LEASE, 1))
        wire.send(published(message_of(record(1))))
        assert wire.items(1) == [record(1)]


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_an_ear_that_was_closed_holds_nothing_and_touches_nothing() -> None:
    """Its descriptors are free for others, and nobody who wakes it late writes into theirs."""
    before = descriptors()
    with Wire() as wire:
        wire.hear()
        wire.ear.close()
        wire.ear.close()
        ends = [os.pipe() for _ in range(8)]
        wire.ear.wake()
        wire.ear.watch("a")
        wire.ear.unwatch("a")
        for out, into in ends:
            os.set_blocking(out, False)
            with pytest.raises(BlockingIOError):
                os.read(out, 1)
            os.close(out)
            os.close(into)
    assert descriptors() == before


def test_connections_that_come_and_go_leave_no_descriptor_behind() -> None:
    """However often it begins anew."""
    with Wire() as wire:
        wire.hear()
        wire.send(b"?")
        assert isinstance(wire.hear(LONG), Failed)
        before = len(descriptors())
        for _ in range(20):
            assert wire.hear() == Heard(())
            wire.send(b"?")
            assert isinstance(wire.hear(LONG), Failed)
        assert len(descriptors()) <= before + 20, "one for each server's end, which this test keeps"


# --- real servers behind a proxy --------------------------------------------------------------------------------------------------


def say(server: Server, *command: bytes | int | str) -> Any:
    """A command for which redis-py has no words, or other ones on each kind of server."""
    return cast("Any", server.client()).execute_command(*command)


class Talk:
    """An ear behind a proxy, and a layer that reaches the server directly."""

    def __init__(self, server: Server, namespace: str) -> None:
        self.server = server
        self.names = Names.of(namespace)
        self.proxy = Proxy("127.0.0.1", server.port)
        self.direct = RedisShared(server.url, namespace=namespace)
        self.shared = RedisShared(self.proxy.url, namespace=namespace)
        self.heard = Listening(self.shared.ear())

    def announce(self, *texts: str) -> Stamp:
        """One record for each tag."""
        nonces = tuple(os.urandom(8).hex() for _ in texts)
        reply = self.direct.sync.perform(Announce(tuple(Targets(TAG, (text,)) for text in texts), nonces, "test", ()))
        assert isinstance(reply, Announced), reply
        return reply.last

    def read_all(self, after: Stamp) -> list[Record]:
        found: list[Record] = []
        while True:
            log = self.direct.sync.perform(ReadLog(after))
            assert isinstance(log, Log)
            assert not log.gap
            found += log.records
            if not log.records:
                return found
            after = Stamp(log.records[-1].epoch, log.records[-1].number)

    def join(self) -> Stamp:
        joined = self.direct.sync.perform(Snapshot())
        assert isinstance(joined, Joined)
        return joined.head

    def publish(self, text: bytes) -> None:
        """Say something on the log's channel, as whoever may publish there can."""
        sharded = self.server.flavour != "redis6"
        say(self.server, "SPUBLISH" if sharded else "PUBLISH", self.names.log, text)

    def fails(self, patience: float = LONG) -> Failed:
        """The failure of the next steps."""
        deadline = time.monotonic() + LONG
        while True:
            found = self.heard.ear.perform(Hear(0.01, True, patience))
            if isinstance(found, Failed):
                self.heard.items.clear()
                return found
            assert time.monotonic() < deadline, "it did not notice"

    def close(self) -> None:
        self.heard.ear.close()
        self.shared.close()
        self.direct.close()
        self.proxy.close()


@pytest.fixture
def talk(every_server: Server, namespace: str) -> Iterator[Talk]:
    with closing(Talk(every_server, namespace)) as own:
        own.heard.beat()
        own.heard.items.clear()
        yield own


def test_an_ear_that_is_reset_hears_everything_from_its_next_beginning_on(talk: Talk) -> None:
    """And its first answer tells that something was missed."""
    for number in range(3):
        talk.announce(f"heard {number}")
        talk.heard.beat()
        talk.heard.items.clear()
        talk.proxy.cut()
        missed = talk.announce(f"missed {number}")
        talk.fails()
        assert talk.heard.beat().head == missed
        talk.announce(f"heard again {number}")
        talk.heard.beat()
        assert [record.targets.texts for record in talk.heard.records] == [(f"heard again {number}",)]
        talk.heard.items.clear()


@pytest.mark.parametrize("replies", [False, True], ids=["nothing passes", "questions pass"])
def test_a_black_hole_is_noticed_by_the_answer_that_does_not_come(talk: Talk, replies: bool) -> None:
    """A connection that stays open and is silent. Meanwhile no other can be opened; afterwards all is as before."""
    talk.proxy.hold(replies=replies)
    missed = talk.announce("missed")
    assert "no answer in time" in str(talk.fails(patience=0.1).error)
    assert isinstance(talk.heard.ear.perform(Hear(0.01, True, 0.1)), Failed)
    talk.proxy.release()
    deadline = time.monotonic() + LONG
    while isinstance(talk.heard.ear.perform(Hear(0.01, False, LONG)), Failed):
        assert time.monotonic() < deadline
    assert talk.heard.beat().head == missed
    talk.announce("heard")
    talk.heard.beat()
    assert talk.heard.records[-1].targets.texts == ("heard",)


def test_without_a_question_silence_proves_nothing(talk: Talk) -> None:
    """A black hole looks like a quiet log: only answers are contact."""
    talk.proxy.hold()
    talk.announce("missed")
    for _ in range(5):
        assert talk.heard.ear.perform(Hear(0.001, False, 0.001)) == Heard(())
    talk.proxy.release()
    talk.heard.beat()
    assert [record.targets.texts for record in talk.heard.records] == [("missed",)]


def test_what_was_only_delayed_is_heard_in_order(talk: Talk) -> None:
    """A slow network. Contact is the time at which the question was sent, not that of its answer."""
    start = talk.join()
    talk.proxy.delay(0.05)
    began = time.monotonic()
    for number in range(5):
        talk.announce(f"tag {number}")
    beat = talk.heard.beat()
    ended = time.monotonic()
    assert began <= beat.asked <= ended - 0.1, "each way takes 50 ms"
    assert talk.heard.items == [*talk.read_all(start), beat]


def test_an_answer_that_was_held_back_counts_from_its_question(talk: Talk) -> None:
    """A process that wakes up with an old answer in its hands does not take it for today's."""
    talk.proxy.hold(replies=True)
    asked = time.monotonic()
    talk.heard.turn(beat=True)
    held = time.monotonic()
    last = talk.announce("after the question was sent")
    talk.proxy.release()
    talk.heard.until(lambda: any(isinstance(item, Beat) for item in talk.heard.items))
    beat = next(item for item in talk.heard.items if isinstance(item, Beat))
    assert asked <= beat.asked <= held
    assert talk.heard.beat().head == last


def test_garbage_on_the_channel_is_told_in_its_place(talk: Talk) -> None:
    """Another program publishes there, or a later release does."""
    start = talk.join()
    talk.announce("one")
    talk.publish(b"\xff not ours \0")
    talk.publish(b"{}")
    talk.announce("two")
    beat = talk.heard.beat()
    one, two = talk.read_all(start)
    assert talk.heard.items == [one, Torn(), Torn(), two, beat]


def test_an_ear_whose_client_is_killed_begins_anew(talk: Talk) -> None:
    """``CLIENT KILL``, or a buffer that has become too large (``client-output-buffer-limit pubsub``)."""
    for number in range(3):
        talk.server.client().client_kill_filter(_type="pubsub")
        missed = talk.announce(f"missed {number}")
        talk.fails()
        assert talk.heard.beat().head == missed


def test_a_storm_is_heard_in_order(talk: Talk) -> None:
    """20,000 records, while nobody listens and then while somebody does."""
    start = talk.join()
    texts = [f"tag:{number}" for number in range(20_000)]
    announcing = threading.Thread(target=lambda: [talk.announce(*texts[at : at + 500]) for at in range(10_000, 20_000, 500)])
    for at in range(0, 10_000, 500):
        talk.announce(*texts[at : at + 500])
    announcing.start()
    talk.heard.until(lambda: len(talk.heard.records) >= 20_000)
    announcing.join()
    assert [record.targets.texts[0] for record in talk.heard.records] == texts
    assert [record.number for record in talk.heard.records] == list(range(start.number + 1, start.number + 20_001))
    chain = talk.heard.records
    assert all(later.previous == earlier.nonce for earlier, later in pairwise(chain))
    beat = talk.heard.beat()
    assert beat.head is not None
    assert (beat.head.number, beat.nonce) == (start.number + 20_000, chain[-1].nonce)


def test_whoever_waits_is_told_when_the_ear_was_cut_off(talk: Talk) -> None:
    """The lease may have ended meanwhile. Each key that is watched is told once, and ends of leases are heard as before."""
    keys = ("a", "b", "c")
    for key in keys:
        talk.heard.ear.watch(key)
    talk.heard.until(lambda: sorted(talk.heard.woken) == list(keys))
    talk.heard.ear.unwatch("c")
    talk.direct.sync.perform(Lease("a", "mine", NOWHERE, 60_000, None))
    talk.proxy.cut()
    assert talk.direct.sync.perform(Release("a", "mine")) == Done(done=True)
    talk.fails()
    talk.heard.until(lambda: sorted(talk.heard.woken) == ["a", "b"])
    talk.direct.sync.perform(Lease("b", "mine", NOWHERE, 60_000, None))
    assert talk.direct.sync.perform(Release("b", "mine")) == Done(done=True)
    talk.heard.until(lambda: sorted(talk.heard.woken) == ["a", "b", "b"])


def test_many_who_wait_at_once_cost_one_connection(talk: Talk) -> None:
    """Five hundred keys, each watched and let go by threads of their own while records come."""
    start = talk.join()
    watched = [f"key:{number}" for number in range(500)]
    done = threading.Event()

    def come_and_go() -> None:
        for key in watched:
            talk.heard.ear.watch(key)
        for key in watched[::2]:
            talk.heard.ear.unwatch(key)
        talk.announce("a record between")
        done.set()

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    talk.heard.until(done.is_set)
    for thread in threads:
        thread.join()
    talk.heard.until(lambda: set(watched[1::2]) <= set(talk.heard.woken))
    talk.heard.beat()
    assert talk.heard.records == talk.read_all(start)
    talk.heard.items.clear()
    for key in watched[:4]:
        talk.direct.sync.perform(Lease(key, "mine", NOWHERE, 60_000, None))
        assert talk.direct.sync.perform(Release(key, "mine")) == Done(done=True)
    talk.heard.beat()
    assert set(talk.heard.woken) == {watched[1], watched[3]}
    assert talk.proxy.connections == 1


def test_an_ear_speaks_resp_3_whatever_the_url_says(every_server: Server, namespace: str) -> None:
    """Messages and answers in one order need it."""
    shared = RedisShared(every_server.url + "?protocol=2", namespace=namespace)
    with Listening(shared.ear()) as heard:
        reply = shared.sync.perform(Announce((Targets(TAG, ("t",)),), ("nonce",), "me", ()))
        assert isinstance(reply, Announced)
        assert heard.beat().head == reply.last
        assert [record.nonce for record in heard.records] == ["nonce"]
    shared.close()


def test_namespaces_hear_nothing_of_each_other(every_server: Server, namespace: str) -> None:
    """Also when the name of one begins with that of the other, or looks like a pattern."""
    spaces = [namespace, f"{namespace}:two", f"{namespace}*", f"{namespace}[a-z]"]
    layers = [RedisShared(every_server.url, namespace=one) for one in spaces]
    ears = [Listening(layer.ear()) for layer in layers]
    for heard in ears:
        heard.ear.watch("key")
        heard.beat()
        heard.until(lambda: heard.woken == ["key"])  # noqa: B023 - called before the next turn
        heard.items.clear()
    for space, layer in zip(spaces, layers, strict=True):
        assert isinstance(layer.sync.perform(Announce((Targets(TAG, (space,)),), ("nonce",), "me", ())), Announced)
        layer.sync.perform(Lease("key", "mine", NOWHERE, 60_000, None))
        assert layer.sync.perform(Release("key", "mine")) == Done(done=True)
    for space, layer, heard in zip(spaces, layers, ears, strict=True):
        heard.beat()
        assert [record.targets.texts for record in heard.records] == [(space,)]
        assert heard.woken == ["key"]
        heard.ear.close()
        layer.close()


# --- servers that come, go and change their role ----------------------------------------------------------------------------------


def test_an_ear_hears_a_server_that_was_restarted(fresh_server: Server) -> None:
    """Without its data: there is no log, and then another one."""
    with closing(Talk(fresh_server, "restart")) as talk:
        before = talk.announce("before")
        assert talk.heard.beat().head == before
        fresh_server.restart()
        talk.fails()
        assert talk.heard.beat().head is None
        after = talk.announce("after")
        assert talk.heard.beat().head == after
        assert after.epoch != before.epoch
        assert [record.targets.texts for record in talk.heard.records] == [("after",)]


def test_a_server_that_is_gone_is_a_failure_until_it_is_back(fresh_server: Server) -> None:
    """However long it takes."""
    with closing(Talk(fresh_server, "gone")) as talk:
        talk.heard.beat()
        fresh_server.kill()
        talk.fails()
        for _ in range(3):
            assert isinstance(talk.heard.ear.perform(Hear(0.01, True, 1.0)), Failed)
        fresh_server.start()
        assert talk.heard.beat().head is None


def test_a_frozen_server_is_noticed_and_heard_again_when_it_thaws(fresh_server: Server) -> None:
    """Nothing is lost: it says then what it would have said before."""
    with closing(Talk(fresh_server, "frozen")) as talk:
        start = talk.join()
        talk.heard.beat()
        fresh_server.freeze()
        assert "no answer in time" in str(talk.fails(patience=0.1).error)
        fresh_server.thaw()
        last = talk.announce("after")
        deadline = time.monotonic() + LONG
        while isinstance(talk.heard.ear.perform(Hear(0.01, False, LONG)), Failed):
            assert time.monotonic() < deadline
        assert talk.heard.beat().head == last
        assert len(talk.read_all(start)) == 1


AT_ONCE = ("--repl-diskless-sync-delay", "0")


@pytest.mark.parametrize("flavour", ["valkey9", "redis8", "redis6"])
def test_a_server_that_follows_another_one_says_so(flavour: str) -> None:
    """It is as late as its link, and proves nothing: neither when it is asked, nor by what it passes on. Promoted, it is a master,
    but not the one that has numbered the records it holds.
    """
    # A server takes another replication id when its first replica comes, so that comes first.
    with Server(flavour, options=AT_ONCE) as master, Server(flavour, options=("--replicaof", "127.0.0.1", str(master.port))) as replica:
        until(lambda: replica.client().info("replication")["master_link_status"] == "up", "the replica is in step")
        with closing(Talk(master, "roles")) as there, closing(Talk(replica, "roles")) as here:
            here.heard.beat()
            last = there.announce("before")
            assert there.heard.beat()[2:4] == (True, True)
            until(lambda: here.heard.beat().head == last, "the replica has the record")
            told = here.heard.beat()
            assert (told.head, told.is_master, told.is_same) == (last, False, True)
            assert here.direct.sync.perform(Confirm()) == told._replace(asked=float("-inf"))
            last = there.announce("passed on")
            here.heard.until(lambda: len(here.heard.records) == 2)
            assert [record.targets.texts for record in here.heard.records] == [("before",), ("passed on",)]
            say(replica, "REPLICAOF", "NO", "ONE")
            told = here.heard.beat()
            assert (told.head, told.is_master, told.is_same) == (last, True, False)
            here.announce("under its own name")
            told = here.heard.beat()
            assert told.head is not None
            assert (told.head.number, told.is_master, told.is_same) == (last.number + 1, True, True)
            assert told.head.epoch != last.epoch


def test_a_user_who_may_not_listen_is_told_so(fresh_server: Server) -> None:
    """Redis 7 gives a user no channels by default. The message names the reason and no password."""
    client = fresh_server.client()
    client.acl_setuser("deaf", enabled=True, passwords=["+hunter2"], keys=["*"], categories=["+@all"])
    shared = RedisShared(f"redis://deaf:hunter2@127.0.0.1:{fresh_server.port}/0", namespace="deaf")
    ear = shared.ear()
    failed = ear.perform(Hear(0.01, True, LONG))
    assert isinstance(failed, Failed)
    assert "NOPERM" in str(failed.error)
    assert "hunter2" not in str(failed.error)
    client.acl_setuser("deaf", enabled=True, channels=["*deaf*"])
    heard = Listening(ear)
    assert heard.beat().head is None
    last = shared.sync.perform(Announce((Targets(TAG, ("t",)),), ("nonce",), "me", ()))
    assert isinstance(last, Announced)
    heard.beat()
    assert [record.nonce for record in heard.records] == ["nonce"]
    ear.close()
    shared.close()


def test_a_cluster_that_moves_the_log_ends_the_subscription() -> None:
    """The server unsubscribes whoever hears a slot that it no longer has; when it has it again, it is heard again."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        bus = str(probe.getsockname()[1])
    with Server("valkey9", options=("--cluster-enabled", "yes", "--cluster-port", bus)) as own:
        say(own, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in say(own, "CLUSTER", "INFO"), "it is up")
        with closing(Talk(own, "moves")) as talk:
            talk.announce("before")
            talk.heard.beat()
            slot: int = say(own, "CLUSTER", "KEYSLOT", talk.names.log)
            own.client().delete(talk.names.meta, talk.names.log, talk.names.bans)
            say(own, "CLUSTER", "DELSLOTS", slot)
            talk.fails()
            assert isinstance(talk.heard.ear.perform(Hear(0.01, True, LONG)), Failed)
            say(own, "CLUSTER", "ADDSLOTS", slot)
            deadline = time.monotonic() + LONG
            while isinstance(talk.heard.ear.perform(Hear(0.01, False, LONG)), Failed):
                assert time.monotonic() < deadline
            talk.heard.beat()
            talk.heard.items.clear()
            talk.announce("after")
            talk.heard.beat()
            assert [record.targets.texts for record in talk.heard.records] == [("after",)]
