"""What every shared layer must do, as tests, and how they ask it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import ClassVar, Final, Literal, Self, TypeVar, cast

from cachesync.core.auditing import Question
from cachesync.core.bans import Floors
from cachesync.core.envelope import IDENTITY, Header, digest_of, seal
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, SOFT, TAG, VALUE, Record, Targets
from cachesync.core.stamps import NOWHERE, Lineage, Stamp
from cachesync.core.steps import (
    NEVER,
    NO_DEADLINE,
    RESTING,
    Announce,
    Announced,
    Bans,
    Beat,
    Collect,
    Confirm,
    Discard,
    Discarded,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    Heads,
    Hear,
    Heard,
    Holder,
    Inquire,
    Joined,
    Lease,
    Leased,
    Log,
    ReadBans,
    ReadLog,
    Release,
    Replies,
    Reply,
    Scan,
    Scanned,
    Seize,
    SharedStep,
    Snapshot,
    Store,
    Testify,
    Testimony,
    Throw,
    Together,
    Torn,
    Woken,
)
from cachesync.core.switches import NOTHING_THROWN, Thrown
from cachesync.protocols import Ear, Shared
from cachesync.testing.together import run_together

R = TypeVar("R")
Heardable = Record | Torn | Beat | Woken | Question | Thrown


class SharedLayerContract:
    """What every shared layer must do, as tests: subclass it in a test module, name it ``Test...`` and say how to make the layer.

    ::

        class TestMine(SharedLayerContract):
            def make_shared(self) -> Shared:
                return MyShared("a namespace that nobody else uses")

            def lose_everything(self, shared: Shared) -> None:
                ...  # what FLUSHALL does, at least to that namespace

            @contextmanager
            def cut_off(self, shared: Shared) -> Generator[None, None, None]:
                ...  # break the connections on which ears hear
                yield

        class TestMineAsync(TestMine):
            colour = "async def"

    The layer is new: no log has begun in it. Every step of ``cachesync.core.steps`` is tried, in the colour of the class.
    """

    colour: ClassVar[Literal["def", "async def"]] = "def"
    log_length: ClassVar[int] = 10_000
    """About how many records the layer's log remembers; 0 if it never forgets."""

    def make_shared(self) -> Shared:
        """A new layer for one test."""
        raise NotImplementedError("return a new shared layer in which no log has begun")

    def lose_everything(self, shared: Shared) -> None:
        """Do what a restart without data does."""
        raise NotImplementedError("remove entries, leases and the log, as FLUSHALL does")

    def cut_off(self, shared: Shared) -> AbstractContextManager[None]:
        """Ears fail inside the ``with`` block, at the latest when they ask something. Afterwards they can hear again."""
        raise NotImplementedError("break the connections on which ears hear")

    def pass_time(self, shared: Shared, seconds: float) -> None:
        """Let the layer's clock go on. Override it for a layer whose clock is moved by hand."""
        time.sleep(seconds)

    # --- asking -------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def opened(self) -> Generator[SharedTalk, None, None]:
        """A new layer for one test, closed after it."""
        shared = self.make_shared()
        with SharedTalk(shared, self.colour) as talk:
            yield talk

    def wait_until(self, talk: SharedTalk, condition: Callable[[], bool]) -> None:
        """Let time pass until the condition holds; ten seconds of the layer's time at most."""
        for _ in range(500):
            if condition():
                return
            self.pass_time(talk.shared, 0.02)
        raise AssertionError("it did not happen within ten seconds")

    @staticmethod
    def make_blob(stamp: Stamp, payload: bytes = b"payload") -> bytes:
        """An envelope that was stamped so."""
        header = Header(0, bytes.fromhex(stamp.epoch), stamp.number, 0, 0, 60_000, 0, 0, 1, 0, digest_of(payload))
        return seal(header, payload)

    @staticmethod
    def lease(
        talk: SharedTalk,
        key: str,
        token: str,
        *,
        stamp: Stamp = NOWHERE,
        milliseconds: int = 60_000,
        dead: bytes | None = None,
        over: Holder | None = None,
    ) -> Leased:
        """Ask for a lease."""
        return talk.ask(Lease(key, token, stamp, milliseconds, dead, over), Leased)

    @staticmethod
    def seize(talk: SharedTalk, key: str, token: str, *, stamp: Stamp = NOWHERE, milliseconds: int = 60_000, unlink: bool) -> Leased:
        """Take a lease from whoever holds it."""
        return talk.ask(Seize(key, token, stamp, milliseconds, unlink), Leased)

    def store(self, talk: SharedTalk, key: str, blob: bytes, *, dead: bytes | None = None, milliseconds: int = 60_000) -> bool:
        """Take the lease and fill."""
        assert self.lease(talk, key, "filler", dead=dead).granted
        return talk.ask(Store(key, "filler", blob, milliseconds), Done).done

    @staticmethod
    def announce(talk: SharedTalk, *targets: Targets, unlink: tuple[str, ...] = (), again: bool = False) -> Stamp:
        """Append records with nonces of their own. Returns the position of the last."""
        nonces = tuple(os.urandom(8).hex() for _ in targets)
        return talk.ask(Announce(targets, nonces, "contract", unlink, again), Announced).last

    @staticmethod
    def read_all(talk: SharedTalk, after: Stamp) -> list[Record]:
        """Everything that follows ``after``, page by page. Asserts that nothing is missing."""
        records: list[Record] = []
        while True:
            log = talk.ask(ReadLog(after), Log)
            assert not log.gap
            assert log.head is not None
            records += log.records
            if log.records:
                after = Stamp(log.records[-1].epoch, log.records[-1].number)
            if not log.records or after == log.head:
                return records

    @staticmethod
    def read_bans(talk: SharedTalk, since: int = 0, *, most: int = 1_000) -> tuple[dict[tuple[str, str, bool], int], Bans]:
        """All bans from a number on, page by page: kind, text and whether it is soft, with the number; and the last page.

        Asserts that they come in the order of their numbers, and no more of them in a page than asked for.
        """
        numbers: dict[tuple[str, str, bool], int] = {}
        while True:
            page = talk.ask(ReadBans(since, most), Bans)
            assert len(page.found) <= most
            assert [number for _, number in page.found] == sorted(number for _, number in page.found)
            for targets, number in page.found:
                assert number >= since
                for text in targets.texts:
                    assert numbers.setdefault((targets.kind, text, targets.is_soft), number) == number
            if not page.more or not page.found:
                return numbers, page
            last = page.found[-1][1]
            most = 2 * most if last == since else most  # one record banned more than a page holds
            since = last

    # --- entries ------------------------------------------------------------------------------------------------------------------

    def test_nothing_is_there_at_first(self) -> None:
        """No entry, and no head: a log begins when somebody joins or announces."""
        with self.opened() as talk:
            fetched = talk.ask(Fetch(("a",)), Fetched)
            assert fetched.blobs == (None,)
            assert fetched.head is None
            assert fetched.now > 0

    def test_a_fetch_of_no_keys_still_tells_head_and_time(self) -> None:
        """It is how a process asks for them alone."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            fetched = talk.ask(Fetch(()), Fetched)
            assert fetched.blobs == ()
            assert fetched.head == head
            assert fetched.now > 0

    def test_what_was_stored_is_fetched_byte_by_byte(self) -> None:
        """Every byte may occur in an entry."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head, bytes(range(256)) * 3)
            assert self.store(talk, "a", blob)
            assert talk.ask(Fetch(("a",)), Fetched).blobs == (blob,)

    def test_many_keys_come_in_the_order_asked(self) -> None:
        """Absent ones are ``None`` in their place, and one that is asked for twice comes twice."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            blobs = {f"key:{i}": self.make_blob(head, b"%d" % i) for i in range(0, 100, 3)}
            for key, blob in blobs.items():
                assert self.store(talk, key, blob)
            keys = tuple(f"key:{i}" for i in (*range(100), 3, 4))
            fetched = talk.ask(Fetch(keys), Fetched)
            assert fetched.blobs == tuple(blobs.get(key) for key in keys)
            assert fetched.head == head

    def test_a_fetch_tells_the_newest_position(self) -> None:
        """So that whoever reads knows what it has not applied yet."""
        with self.opened() as talk:
            for number in range(1, 4):
                stamp = self.announce(talk, Targets(TAG, ("a",)))
                assert stamp.number == number
                assert talk.ask(Fetch(("a",)), Fetched).head == stamp

    def test_the_clock_of_the_layer_goes_on(self) -> None:
        """Milliseconds, the same clock for every step, never back."""
        with self.opened() as talk:
            first = talk.ask(Fetch(("a",)), Fetched).now
            second = self.lease(talk, "a", "token").now
            third = self.seize(talk, "a", "token", unlink=False).now
            assert first <= second <= third
            self.wait_until(talk, lambda: talk.ask(Fetch(("a",)), Fetched).now > third)

    def test_an_entry_ends_with_its_time(self) -> None:
        """Then it is as if it had never been."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            assert self.store(talk, "short", blob, milliseconds=20)
            assert self.store(talk, "long", blob)
            self.wait_until(talk, lambda: talk.ask(Fetch(("short",)), Fetched).blobs == (None,))
            assert talk.ask(Fetch(("long",)), Fetched).blobs == (blob,)
            assert self.lease(talk, "short", "token").granted

    def test_large_and_empty_payloads_are_stored(self) -> None:
        """No bytes at all, bytes that look like the protocol, and three megabytes."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            for payload in (b"", b"\0", b"\r\n$-1\r\n", b"x" * 3_000_000):
                blob = self.make_blob(head, payload)
                before = talk.ask(Fetch(("a",)), Fetched).blobs[0]
                assert self.store(talk, "a", blob, dead=before and before[:IDENTITY])
                assert talk.ask(Fetch(("a",)), Fetched).blobs == (blob,)

    # --- leases -------------------------------------------------------------------------------------------------------------------

    def test_a_lease_is_granted_to_one_and_its_head_and_time_are_told(self) -> None:
        """The other is told that somebody computes. Each key has its own lease."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            now = talk.ask(Fetch(("a",)), Fetched).now
            leased = self.lease(talk, "a", "mine")
            assert leased.granted
            assert leased.blob is None
            assert leased.head == head
            assert leased.now >= now
            assert self.lease(talk, "a", "other")[:2] == (False, None)
            assert self.lease(talk, "b", "other").granted

    def test_of_many_who_ask_at_once_one_is_granted(self) -> None:
        """One computation among all processes."""
        with self.opened() as talk:
            replies = talk.ask_together([Lease("a", f"token{i}", NOWHERE, 60_000, None) for i in range(16)], Leased)
            assert [reply.granted for reply in replies].count(True) == 1

    def test_the_same_token_is_granted_again(self) -> None:
        """The first answer may have been lost on its way."""
        with self.opened() as talk:
            for _ in range(3):
                assert self.lease(talk, "a", "mine").granted
            assert not self.lease(talk, "a", "other").granted

    def test_a_lease_looks_for_the_entry_again(self) -> None:
        """What came between the fetch and the lease is handed over, and no lease is taken."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            assert self.store(talk, "a", blob)
            assert self.lease(talk, "a", "mine")[:2] == (False, blob)
            assert not talk.ask(Store("a", "mine", blob, 60_000), Done).done

    def test_an_entry_that_was_refused_is_not_handed_over_again(self) -> None:
        """``dead`` names it by its first bytes; any other entry is another one."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            old, new = self.make_blob(head, b"old"), self.make_blob(head, b"new")
            assert self.store(talk, "a", new)
            assert self.lease(talk, "a", "mine", dead=old[:IDENTITY])[:2] == (False, new)
            assert self.lease(talk, "a", "mine", dead=new[:IDENTITY])[:2] == (True, None)
            assert self.lease(talk, "a", "other", dead=new[:IDENTITY])[:2] == (False, None)

    def test_bytes_that_are_no_envelope_can_be_refused_and_replaced(self) -> None:
        """Also when they are shorter than an identity, or nothing at all."""
        with self.opened() as talk:
            good = self.make_blob(talk.ask(Snapshot(), Joined).head)
            for bad in (b"", b"cS", b"garbage", good[:30], bytes(200), good[:-1]):
                key = f"bad:{bad.hex()}"
                assert self.store(talk, key, bad)
                assert talk.ask(Fetch((key,)), Fetched).blobs == (bad,)
                assert self.lease(talk, key, "mine")[:2] == (False, bad)
                assert self.store(talk, key, good, dead=bad[:IDENTITY])
                assert talk.ask(Fetch((key,)), Fetched).blobs == (good,)

    def test_a_dead_entry_that_is_gone_meanwhile_hinders_nobody(self) -> None:
        """``dead`` is what was met, and need not be there any more."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            assert self.lease(talk, "a", "mine", dead=blob[:IDENTITY]).granted

    def test_whoever_is_refused_a_lease_is_told_who_holds_it(self) -> None:
        """By which token, and since which position: one that is about to compute something outdated need not be waited for."""
        with self.opened() as talk:
            head = self.announce(talk, Targets(TAG, ("t",)))
            granted = self.lease(talk, "a", "mine", stamp=head)
            assert (*granted[:3], granted.holder) == (True, None, head, None)
            assert self.lease(talk, "a", "other").holder == Holder("mine", head)
            assert self.lease(talk, "b", "other").holder is None
            assert self.lease(talk, "b", "mine").holder == Holder("other", NOWHERE)
            assert self.seize(talk, "a", "sets", stamp=Stamp("ff" * 8, 7), unlink=True).granted
            assert self.lease(talk, "a", "other").holder == Holder("sets", Stamp("ff" * 8, 7))
            assert talk.ask(Extend("a", "sets", 60_000), Done).done
            assert self.lease(talk, "a", "other").holder == Holder("sets", Stamp("ff" * 8, 7))

    def test_a_lease_is_taken_over_by_whoever_names_its_holder(self) -> None:
        """And the position it has. The one who held it can not fill any more; everybody else is told who holds it now."""
        with self.opened() as talk:
            head = self.announce(talk, Targets(TAG, ("t",)))
            blob = self.make_blob(head)
            holder = Holder("older", NOWHERE)
            assert self.lease(talk, "a", "older").granted
            for other in (Holder("older", head), Holder("somebody", NOWHERE), Holder("old", NOWHERE)):
                refused = self.lease(talk, "a", "newer", stamp=head, over=other)
                assert (refused.granted, refused.holder) == (False, holder)
            assert self.lease(talk, "a", "newer", stamp=head, over=holder).granted
            late = self.lease(talk, "a", "late", stamp=head, over=holder)
            assert (late.granted, late.holder) == (False, Holder("newer", head))
            assert not talk.ask(Extend("a", "older", 60_000), Done).done
            assert not talk.ask(Store("a", "older", blob, 60_000), Done).done
            assert talk.ask(Store("a", "newer", blob, 60_000), Done).done

    def test_of_many_who_take_over_one_is_granted(self) -> None:
        """Compare and set, in one piece."""
        with self.opened() as talk:
            assert self.lease(talk, "a", "older").granted
            over = Holder("older", NOWHERE)
            steps = [Lease("a", f"token{i}", NOWHERE, 60_000, None, over) for i in range(16)]
            assert [reply.granted for reply in talk.ask_together(steps, Leased)].count(True) == 1

    def test_a_lease_that_has_ended_can_not_be_taken_over_but_taken(self) -> None:
        """Whom it was to be taken from does not matter then; an entry that came is handed over all the same."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            over = Holder("older", NOWHERE)
            assert self.lease(talk, "a", "newer", over=over).granted
            assert talk.ask(Store("a", "newer", blob, 60_000), Done).done
            assert self.lease(talk, "a", "third", over=over)[:2] == (False, blob)

    def test_tokens_that_begin_alike_are_told_apart(self) -> None:
        """A token is compared as a whole."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            assert self.lease(talk, "a", "token1").granted
            for other in ("token", "token10", "t", ""):
                assert not self.lease(talk, "a", other).granted, other
                assert not talk.ask(Extend("a", other, 60_000), Done).done, other
                assert not talk.ask(Release("a", other), Done).done, other
                assert not talk.ask(Store("a", other, blob, 60_000), Done).done, other
            assert talk.ask(Release("a", "token1"), Done).done

    def test_a_lease_lapses_with_its_time(self) -> None:
        """Its holder may not fill any more, and another may."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            assert self.lease(talk, "a", "mine", milliseconds=20).granted
            self.wait_until(talk, lambda: self.lease(talk, "a", "other").granted)
            assert not talk.ask(Store("a", "mine", blob, 60_000), Done).done
            assert talk.ask(Fetch(("a",)), Fetched).blobs == (None,)
            assert talk.ask(Store("a", "other", blob, 60_000), Done).done

    def test_whoever_seizes_a_lease_revokes_it(self) -> None:
        """The computation that held it can not fill; who seized it can. An entry stays unless it is to be unlinked."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            old, new = self.make_blob(head, b"old"), self.make_blob(head, b"new")
            assert self.store(talk, "a", old)
            assert self.lease(talk, "a", "computes", dead=old[:IDENTITY]).granted
            seized = self.seize(talk, "a", "sets", unlink=False)
            assert seized[:3] == (True, None, head)
            assert talk.ask(Fetch(("a",)), Fetched).blobs == (old,)
            assert not talk.ask(Store("a", "computes", new, 60_000), Done).done
            assert not talk.ask(Extend("a", "computes", 60_000), Done).done
            assert not talk.ask(Release("a", "computes"), Done).done
            assert talk.ask(Store("a", "sets", new, 60_000), Done).done
            assert self.seize(talk, "a", "sets again", unlink=True).granted
            assert talk.ask(Fetch(("a",)), Fetched).blobs == (None,)

    def test_the_last_who_seizes_has_the_lease(self) -> None:
        """Of several who set a value, the last one stores."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            for token in ("one", "two", "three"):
                assert self.seize(talk, "a", token, unlink=True).granted
            assert [talk.ask(Store("a", token, blob, 60_000), Done).done for token in ("one", "two", "three")] == [False, False, True]

    def test_a_seized_lease_lapses_too(self) -> None:
        """Nothing is held for ever."""
        with self.opened() as talk:
            assert self.seize(talk, "a", "mine", milliseconds=20, unlink=True).granted
            self.wait_until(talk, lambda: self.lease(talk, "a", "other").granted)

    def test_extending_gives_a_lease_a_new_time(self) -> None:
        """Counted from now: here it is made shorter, so that it is seen to lapse."""
        with self.opened() as talk:
            assert self.lease(talk, "a", "mine").granted
            assert not talk.ask(Extend("a", "other", 20), Done).done
            assert not self.lease(talk, "a", "other").granted
            assert talk.ask(Extend("a", "mine", 20), Done).done
            self.wait_until(talk, lambda: self.lease(talk, "a", "other").granted)

    def test_extending_never_makes_a_lease_anew(self) -> None:
        """One that was revoked, has lapsed or never was stays away: another computation may hold it any moment."""
        with self.opened() as talk:
            assert not talk.ask(Extend("never", "mine", 60_000), Done).done
            assert self.lease(talk, "a", "mine").granted
            self.announce(talk, Targets(KEY, ("a",)), unlink=("a",))
            assert not talk.ask(Extend("a", "mine", 60_000), Done).done
            assert self.lease(talk, "a", "other").granted
            assert self.lease(talk, "never", "other").granted

    def test_only_the_holder_gives_a_lease_back(self) -> None:
        """Once; then another may compute."""
        with self.opened() as talk:
            assert self.lease(talk, "a", "mine").granted
            assert not talk.ask(Release("a", "other"), Done).done
            assert not self.lease(talk, "a", "other").granted
            assert talk.ask(Release("a", "mine"), Done).done
            assert not talk.ask(Release("a", "mine"), Done).done
            assert self.lease(talk, "a", "other").granted

    ODD_REASONS: ClassVar[tuple[str, ...]] = (
        *("", " ", "  two  spaces  ", "!", "RuntimeError('boom')", "a: b, c", "%", "\r\n+OK", "a\0b"),
        *("é😀", "\ud83d", "x" * 200, "😀" * 200),
    )

    def test_a_lease_may_leave_a_rest_behind(self) -> None:
        """The holder's computation has failed: nobody is granted the lease for a while, and whoever asks is told why."""
        with self.opened() as talk:
            head = self.announce(talk, Targets(TAG, ("t",)))
            rest = Holder(RESTING, head, "RuntimeError('boom')")
            assert self.lease(talk, "a", "mine").granted
            assert talk.ask(Release("a", "mine", rest=rest, milliseconds=60_000), Done).done
            for _ in range(2):
                assert self.lease(talk, "a", "other")[:2] == (False, None)
                assert self.lease(talk, "a", "mine").holder == rest
            assert not talk.ask(Release("a", "mine"), Done).done
            assert not talk.ask(Extend("a", "mine", 60_000), Done).done
            assert not talk.ask(Store("a", "mine", self.make_blob(head), 60_000), Done).done
            assert self.lease(talk, "b", "other").granted
            assert self.lease(talk, "a", "other").holder == rest

    def test_a_rest_ends_with_its_time(self) -> None:
        """Counted from when the lease was given back. Without a time it is none."""
        with self.opened() as talk:
            rest = Holder(RESTING, NOWHERE, "boom")
            assert self.lease(talk, "a", "mine").granted
            assert talk.ask(Release("a", "mine", rest=rest, milliseconds=20), Done).done
            self.wait_until(talk, lambda: self.lease(talk, "a", "other").granted)
            assert self.lease(talk, "b", "mine").granted
            assert talk.ask(Release("b", "mine", rest=rest, milliseconds=0), Done).done
            assert self.lease(talk, "b", "other").granted

    def test_only_the_holder_leaves_a_rest_behind(self) -> None:
        """One whose lease was lost meanwhile stops nobody."""
        with self.opened() as talk:
            rest = Holder(RESTING, NOWHERE, "boom")
            assert self.lease(talk, "a", "mine").granted
            assert not talk.ask(Release("a", "other", rest=rest, milliseconds=60_000), Done).done
            assert self.lease(talk, "a", "other").holder == Holder("mine", NOWHERE)
            assert not talk.ask(Release("b", "other", rest=rest, milliseconds=60_000), Done).done
            assert self.lease(talk, "b", "mine").granted

    def test_a_rest_is_ended_by_whoever_knows_better(self) -> None:
        """By naming it, as any lease is taken over; by a value that is set; by an invalidation of the key."""
        with self.opened() as talk:
            rest = Holder(RESTING, NOWHERE, "boom")
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            for key in ("a", "b", "c"):
                assert self.lease(talk, key, "mine").granted
                assert talk.ask(Release(key, "mine", rest=rest, milliseconds=60_000), Done).done
            assert not self.lease(talk, "a", "other", over=Holder(RESTING, NOWHERE, "bang")).granted
            assert not self.lease(talk, "a", "other", over=Holder(RESTING, NOWHERE)).granted
            assert not self.lease(talk, "a", "other", over=Holder(RESTING, NOWHERE, "boom", 1)).granted
            assert self.lease(talk, "a", "other", over=rest).granted
            assert talk.ask(Store("a", "other", blob, 60_000), Done).done
            assert self.seize(talk, "b", "sets", unlink=True).granted
            assert talk.ask(Store("b", "sets", blob, 60_000), Done).done
            self.announce(talk, Targets(KEY, ("c",)), unlink=("c",))
            assert self.lease(talk, "c", "other").granted

    def test_a_rest_hides_no_entry(self) -> None:
        """What stands there already is handed over, unless it was refused."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            rest = Holder(RESTING, NOWHERE, "boom")
            assert self.store(talk, "a", blob)
            assert self.lease(talk, "a", "mine", dead=blob[:IDENTITY]).granted
            assert talk.ask(Release("a", "mine", rest=rest, milliseconds=60_000), Done).done
            assert self.lease(talk, "a", "other")[:2] == (False, blob)
            assert self.lease(talk, "a", "other", dead=blob[:IDENTITY]).holder == rest

    def test_what_a_computation_failed_with_is_told_as_it_was_said(self) -> None:
        """Spaces, line ends, emoji, lone surrogates, nothing at all."""
        with self.opened() as talk:
            for at, why in enumerate(self.ODD_REASONS):
                rest = Holder(RESTING, Stamp("ff" * 8, at), why, at)
                assert self.lease(talk, f"key:{at}", "mine").granted
                assert talk.ask(Release(f"key:{at}", "mine", rest=rest, milliseconds=60_000), Done).done
                assert self.lease(talk, f"key:{at}", "other").holder == rest, why
                assert self.lease(talk, f"key:{at}", "other", over=rest).granted, why

    # --- several steps at once ----------------------------------------------------------------------------------------------------

    def test_several_steps_are_answered_each_for_itself(self) -> None:
        """In their order; one that is not done says nothing about the others, and odd or equal keys are no trouble."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            blob = self.make_blob(head)
            assert self.store(talk, "there", blob)
            assert self.lease(talk, "held", "other").granted
            asked: tuple[SharedStep, ...] = (
                Lease("a", "mine", NOWHERE, 60_000, None),
                Fetch(("there", "a")),
                Lease("held", "mine", NOWHERE, 60_000, None),
                Release("nobody's", "mine"),
                Lease("there", "mine", NOWHERE, 60_000, None),
                Fetch(("a", "there")),
                Confirm(),
                Lease("b", "mine", NOWHERE, 60_000, None),
            )
            replies = talk.ask(Together(asked, NO_DEADLINE), Replies).replies
            a, first, held, released, there, second, beat, b = replies
            assert isinstance(a, Leased) and isinstance(b, Leased)
            assert (a.granted, b.granted, a.head, b.head) == (True, True, head, head)
            assert isinstance(held, Leased) and isinstance(there, Leased)
            assert (held.granted, held.blob, there.granted, there.blob) == (False, None, False, blob)
            assert isinstance(first, Fetched) and isinstance(second, Fetched)
            assert (first.blobs, second.blobs) == ((blob, None), (None, blob))
            assert (first.head, released, isinstance(beat, Beat)) == (head, Done(done=False), True)
            stored = talk.ask(Together((Store("a", "mine", blob, 60_000), Store("c", "mine", blob, 60_000))), Replies).replies
            assert stored == (Done(done=True), Done(done=False))
            assert talk.ask(Fetch(("a", "c")), Fetched).blobs == (blob, None)
            assert talk.ask(Together(()), Replies).replies == ()

    # --- fills --------------------------------------------------------------------------------------------------------------------

    def test_nobody_fills_without_a_lease(self) -> None:
        """Neither without one, nor under another's, nor under that of another key."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            assert not talk.ask(Store("a", "mine", blob, 60_000), Done).done
            assert self.lease(talk, "a", "mine").granted
            assert not talk.ask(Store("a", "other", blob, 60_000), Done).done
            assert not talk.ask(Store("b", "mine", blob, 60_000), Done).done
            assert talk.ask(Fetch(("a", "b")), Fetched).blobs == (None, None)
            assert talk.ask(Store("a", "mine", blob, 60_000), Done).done

    def test_a_fill_ends_the_lease(self) -> None:
        """One lease, one fill."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            first, second = self.make_blob(head, b"first"), self.make_blob(head, b"second")
            assert self.store(talk, "a", first)
            assert not talk.ask(Store("a", "filler", second, 60_000), Done).done
            assert talk.ask(Fetch(("a",)), Fetched).blobs == (first,)
            assert self.lease(talk, "a", "other", dead=first[:IDENTITY]).granted

    def test_a_fill_never_replaces_a_higher_stamp_of_its_epoch(self) -> None:
        """An equal or a lower one it replaces. Numbers are compared as numbers: 10 is above 9, 256 above 255."""
        with self.opened() as talk:
            epoch = talk.ask(Snapshot(), Joined).head.epoch
            there: bytes | None = None
            fills = {
                "9": True,
                "9 again": True,
                "8": False,
                "10": True,
                "255": True,
                "256": True,
                "255 again": False,
                "1099511627776": True,
            }
            for text, stored in fills.items():
                number = int(text.removesuffix(" again"))
                blob = self.make_blob(Stamp(epoch, number), text.encode())
                assert self.store(talk, "a", blob, dead=there and there[:IDENTITY]) is stored, text
                there = blob if stored else there
                assert talk.ask(Fetch(("a",)), Fetched).blobs == (there,)

    def test_a_fill_replaces_any_stamp_of_another_epoch(self) -> None:
        """Numbers of two logs can not be compared."""
        with self.opened() as talk:
            epoch = talk.ask(Snapshot(), Joined).head.epoch
            foreign = self.make_blob(Stamp("ff" * 8, 1_000))
            assert self.store(talk, "a", foreign)
            blob = self.make_blob(Stamp(epoch, 1))
            assert self.store(talk, "a", blob, dead=foreign[:IDENTITY])
            assert talk.ask(Fetch(("a",)), Fetched).blobs == (blob,)

    # --- the log ------------------------------------------------------------------------------------------------------------------

    def test_a_log_begins_once(self) -> None:
        """Whoever comes first begins it; an epoch is 8 random bytes as hexadecimal digits."""
        with self.opened() as talk:
            heads = [reply.head for reply in talk.ask_together([Snapshot() for _ in range(8)], Joined)]
            assert len(set(heads)) == 1
            assert heads[0].number == 0
            assert len(bytes.fromhex(heads[0].epoch)) == 8
            assert talk.ask(Fetch(("a",)), Fetched).head == heads[0]

    def test_an_announcement_begins_a_log_too(self) -> None:
        """Nobody has to join before."""
        with self.opened() as talk:
            stamp = self.announce(talk, Targets(TAG, ("a",)))
            assert stamp.number == 1
            assert not stamp.pending
            assert talk.ask(Snapshot(), Joined).head == stamp

    def test_numbers_are_consecutive(self) -> None:
        """Over the records of one call, and over calls: the stamp of a call is the number of its last record."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            assert self.announce(talk, Targets(KEY, ("a",))) == Stamp(start.epoch, 1)
            assert self.announce(talk, Targets(KEY, ("a", "b")), Targets(TAG, ("t",)), Targets(PREFIX, ("p:",))) == Stamp(start.epoch, 4)
            assert self.announce(talk, Targets(EVERYTHING, ("*",))) == Stamp(start.epoch, 5)
            assert [record.number for record in self.read_all(talk, start)] == [1, 2, 3, 4, 5]

    def test_records_are_read_as_they_were_announced(self) -> None:
        """Kind, texts, mode, nonce and origin; and each names the nonce of the one before it."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            targets = (
                Targets(KEY, ("stores:JKT", "stores:BDG")),
                Targets(KEY, ("stores:JKT",), "v"),
                Targets(TAG, ("region:java",), "s"),
                Targets(PREFIX, ("stores:",)),
                Targets(GLOB, ("*:stats", "a*b*c")),
                Targets(EVERYTHING, ("*",)),
            )
            nonces = tuple(f"nonce{i}" for i in range(len(targets)))
            talk.ask(Announce(targets[:2], nonces[:2], "me", ()), Announced)
            last = talk.ask(Announce(targets[2:], nonces[2:], "you", ()), Announced).last
            records = self.read_all(talk, start)
            assert [record.targets for record in records] == list(targets)
            assert [record.nonce for record in records] == list(nonces)
            assert [record.previous for record in records] == ["", *nonces[:-1]]
            assert [record.origin for record in records] == ["me", "me", "you", "you", "you", "you"]
            assert {record.epoch for record in records} == {start.epoch}
            assert records[-1].number == last.number

    def test_a_reader_goes_on_where_it_stopped(self) -> None:
        """From any position, and from the last one there is nothing."""
        with self.opened() as talk:
            stamps = [talk.ask(Snapshot(), Joined).head]
            stamps += [self.announce(talk, Targets(KEY, (f"key{i}",))) for i in range(5)]
            for at, after in enumerate(stamps):
                log = talk.ask(ReadLog(after), Log)
                assert [record.number for record in log.records] == [stamp.number for stamp in stamps[at + 1 :]]
                assert log.head == stamps[-1]
                assert not log.gap

    def test_a_position_of_another_epoch_can_not_be_continued(self) -> None:
        """Whatever its number."""
        with self.opened() as talk:
            stamp = self.announce(talk, Targets(KEY, ("a",)))
            for number in (0, 1, 7):
                assert talk.ask(ReadLog(Stamp("ff" * 8, number)), Log) == Log((), stamp, gap=True)

    def test_a_log_that_has_not_begun_can_not_be_continued(self) -> None:
        """There is no head either."""
        with self.opened() as talk:
            assert talk.ask(ReadLog(Stamp("ff" * 8, 3)), Log) == Log((), None, gap=True)
            assert talk.ask(Confirm(), Beat).head is None
            page = talk.ask(ReadBans(0, 10), Bans)
            assert page == Bans((), False, None, Floors(), 0)

    def test_a_log_that_was_lost_begins_another_epoch(self) -> None:
        """Nothing of the old one is left: no entry, no lease, no ban, no position that could be continued."""
        with self.opened() as talk:
            before = self.announce(talk, Targets(TAG, ("t",)), Targets(EVERYTHING, ("*",)))
            assert self.store(talk, "a", self.make_blob(before))
            assert self.lease(talk, "b", "mine").granted
            self.lose_everything(talk.shared)
            fetched = talk.ask(Fetch(("a",)), Fetched)
            assert fetched.blobs == (None,)
            assert fetched.head is None
            assert talk.ask(ReadLog(before), Log).gap
            assert not talk.ask(Store("b", "mine", self.make_blob(before), 60_000), Done).done
            joined = talk.ask(Snapshot(), Joined)
            assert joined.head.epoch != before.epoch
            assert (joined.head.number, joined.nonce, joined.lineage) == (0, "", Lineage(joined.head.epoch, {}))
            assert talk.ask(ReadBans(0, 10), Bans) == Bans((), False, joined.head.epoch, Floors(), 0)
            assert talk.ask(ReadLog(before), Log).gap
            first = self.announce(talk, Targets(KEY, ("a",)))
            assert first == Stamp(joined.head.epoch, 1)
            assert self.read_all(talk, joined.head)[0].previous == ""

    def test_a_position_that_was_trimmed_away_can_not_be_continued(self) -> None:
        """The log is bounded. A reader that was away for too long is told so; one that was not is not."""
        if not self.log_length:
            return
        with self.opened() as talk:
            start = last = talk.ask(Snapshot(), Joined).head
            batch = tuple(Targets(TAG, ("t",)) for _ in range(500))
            for _ in range(self.log_length * 5 // 4 // len(batch)):
                last = self.announce(talk, *batch)
            assert talk.ask(ReadLog(start), Log) == Log((), last, gap=True)
            late = Stamp(last.epoch, last.number - self.log_length // 2)
            assert len(self.read_all(talk, late)) == self.log_length // 2

    def test_those_who_announce_at_once_each_get_numbers_of_their_own(self) -> None:
        """Every number is given once, the records of a call stand side by side, and the chain of nonces does not break."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            steps = [
                Announce((Targets(KEY, (f"key{i}",)), Targets(TAG, (f"tag{i}",))), (f"{i}:0", f"{i}:1"), str(i), (f"key{i}",))
                for i in range(40)
            ]
            replies = talk.ask_together(steps, Announced)
            records = self.read_all(talk, start)
            assert [record.number for record in records] == list(range(1, 81))
            assert [record.previous for record in records] == ["", *(record.nonce for record in records[:-1])]
            by_number = {record.number: record for record in records}
            for i, reply in enumerate(replies):
                assert by_number[reply.last.number - 1].nonce == f"{i}:0"
                assert by_number[reply.last.number].nonce == f"{i}:1"

    def test_an_announcement_unlinks_entries_and_leases(self) -> None:
        """Those it is told to, and no others."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            blob = self.make_blob(head)
            for key in ("a", "b", "c"):
                assert self.store(talk, key, blob)
                assert self.lease(talk, key, "computes", dead=blob[:IDENTITY]).granted
            self.announce(talk, Targets(KEY, ("a", "b", "c")), unlink=("a", "b"))
            assert talk.ask(Fetch(("a", "b", "c")), Fetched).blobs == (None, None, blob)
            stored = [talk.ask(Store(key, "computes", blob, 60_000), Done).done for key in ("a", "b", "c")]
            assert stored == [False, False, True]

    def test_an_announcement_of_a_pattern_touches_no_entry(self) -> None:
        """The dead are refused when they are met: the cost does not grow with their number."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            assert self.store(talk, "a:1", blob)
            self.announce(talk, Targets(PREFIX, ("a:",)), Targets(TAG, ("t",)), Targets(EVERYTHING, ("*",)))
            assert talk.ask(Fetch(("a:1",)), Fetched).blobs == (blob,)

    def test_whoever_asks_is_told_where_the_log_ends(self) -> None:
        """Position and nonce of the last record, by the master that numbers them: the proof that nothing was missed."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined)
            told = talk.ask(Confirm(), Beat)
            assert (told.head, told.nonce) == (start.head, "")
            assert told.is_master
            assert told.is_same
            last = talk.ask(Announce((Targets(KEY, ("a",)), Targets(TAG, ("t",))), ("one", "two"), "me", ()), Announced).last
            assert talk.ask(Confirm(), Beat)[:2] == (last, "two")

    def test_a_process_that_starts_is_told_where_it_joins(self) -> None:
        """Position and nonce of the last record, and the lineage of the epoch, which continues none here."""
        with self.opened() as talk:
            last = talk.ask(Announce((Targets(KEY, ("a",)),), ("nonce",), "me", ()), Announced).last
            joined = talk.ask(Snapshot(), Joined)
            assert (joined.head, joined.nonce, joined.lineage) == (last, "nonce", Lineage(last.epoch, {}))

    # --- bans ---------------------------------------------------------------------------------------------------------------------

    def test_a_process_that_starts_is_told_the_newest_number_of_each_ban(self) -> None:
        """Hard and soft are two. A value that is set bans as a hard one does. "Everything" is a floor, for hard and soft one each."""
        with self.opened() as talk:
            self.announce(talk, Targets(EVERYTHING, ("*",)), Targets(EVERYTHING, ("*",), SOFT))
            self.announce(talk, Targets(KEY, ("a", "b")), Targets(TAG, ("t",)), Targets(PREFIX, ("a:",)), Targets(GLOB, ("*:x",)))
            self.announce(talk, Targets(TAG, ("t",), SOFT), Targets(KEY, ("b", "c"), SOFT), Targets(PREFIX, ("a:",), SOFT))
            last = self.announce(talk, Targets(GLOB, ("*:x",), SOFT), Targets(KEY, ("a",), VALUE), Targets(TAG, ("u",)))
            numbers, page = self.read_bans(talk)
            assert numbers == {
                (KEY, "a", False): 11,
                (KEY, "b", False): 3,
                (TAG, "t", False): 4,
                (TAG, "u", False): 12,
                (PREFIX, "a:", False): 5,
                (GLOB, "*:x", False): 6,
                (TAG, "t", True): 7,
                (KEY, "b", True): 8,
                (KEY, "c", True): 8,
                (PREFIX, "a:", True): 9,
                (GLOB, "*:x", True): 10,
            }
            assert (page.epoch, page.hard.all, page.soft) == (last.epoch, 1, 2)

    def test_bans_are_read_in_pages(self) -> None:
        """In the order of their numbers, from any number on; also where one record banned more than a page holds."""
        with self.opened() as talk:
            expected: dict[tuple[str, str, bool], int] = {}
            for number in range(1, 21):
                texts = tuple(f"tag:{number}:{i}" for i in range(number))
                self.announce(talk, Targets(TAG, texts, SOFT if number % 5 == 0 else "h"))
                expected |= {(TAG, text, number % 5 == 0): number for text in texts}
            for most in (1, 2, 7, 100, 1_000):
                assert self.read_bans(talk, most=most)[0] == expected
            for since in (0, 1, 13, 20, 21):
                found, _ = self.read_bans(talk, since, most=4)
                assert found == {ban: number for ban, number in expected.items() if number >= since}

    def test_a_ban_that_is_renewed_moves_behind_the_others(self) -> None:
        """Whoever reads on from a number does not miss it."""
        with self.opened() as talk:
            self.announce(talk, Targets(TAG, ("t",)), Targets(TAG, ("u",)), Targets(TAG, ("t",)))
            assert self.read_bans(talk, most=1)[0] == {(TAG, "u", False): 2, (TAG, "t", False): 3}

    # --- announcing again ---------------------------------------------------------------------------------------------------------

    def test_what_several_announce_again_is_appended_once(self) -> None:
        """Every process that knows of a record the log has lost brings it; the log does not grow with their number."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            lost = (Targets(KEY, ("a", "b")), Targets(TAG, ("t",)))
            last = self.announce(talk, *lost, again=True)
            assert last.number == 2
            for _ in range(3):
                assert self.announce(talk, *lost, again=True) == last
            assert [record.targets for record in self.read_all(talk, start)] == list(lost)
            assert self.read_bans(talk)[0] == {(KEY, "a", False): 1, (KEY, "b", False): 1, (TAG, "t", False): 2}

    def test_of_what_is_announced_again_only_the_unknown_is_appended(self) -> None:
        """Text by text. Another mode or kind is another invalidation."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            self.announce(talk, Targets(KEY, ("a", "b")), again=True)
            self.announce(talk, Targets(KEY, ("b", "c", "a")), Targets(TAG, ("a",)), Targets(KEY, ("a",), SOFT), again=True)
            self.announce(talk, Targets(EVERYTHING, ("*",)), again=True)
            self.announce(talk, Targets(EVERYTHING, ("*",)), Targets(KEY, ("c",)), again=True)
            records = self.read_all(talk, start)
            assert [record.targets for record in records] == [
                Targets(KEY, ("a", "b")),
                Targets(KEY, ("c",)),
                Targets(TAG, ("a",)),
                Targets(KEY, ("a",), SOFT),
                Targets(EVERYTHING, ("*",)),
            ]
            assert [(one.nonce, other.previous) for one, other in pairwise(records)] == [(record.nonce,) * 2 for record in records[:-1]]

    def test_those_who_announce_again_at_once_append_one_record(self) -> None:
        """The second one finds it there."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            steps = [Announce((Targets(TAG, ("t",)),), (f"nonce{i}",), str(i), (), again=True) for i in range(16)]
            assert {reply.last.number for reply in talk.ask_together(steps, Announced)} == {1}
            assert len(self.read_all(talk, start)) == 1

    def test_an_announcement_that_is_no_repetition_is_always_appended(self) -> None:
        """An invalidation after one that says the same is news: something may have been computed in between."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            self.announce(talk, Targets(TAG, ("t",)), again=True)
            for _ in range(2):
                self.announce(talk, Targets(TAG, ("t",)))
            assert [record.number for record in self.read_all(talk, start)] == [1, 2, 3]

    def test_announcing_again_unlinks_again(self) -> None:
        """An entry that a failover brought back goes, whoever comes first."""
        with self.opened() as talk:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            for _ in range(2):
                assert self.store(talk, "a", blob)
                self.announce(talk, Targets(KEY, ("a",)), unlink=("a",), again=True)
                assert talk.ask(Fetch(("a",)), Fetched).blobs == (None,)

    def test_a_log_that_was_lost_takes_what_is_announced_again(self) -> None:
        """It knows nothing of what another one was told."""
        with self.opened() as talk:
            self.announce(talk, Targets(TAG, ("t",)), again=True)
            self.lose_everything(talk.shared)
            start = talk.ask(Snapshot(), Joined).head
            assert self.announce(talk, Targets(TAG, ("t",)), again=True) == Stamp(start.epoch, 1)

    # --- hearing ------------------------------------------------------------------------------------------------------------------

    def test_an_ear_hears_what_is_announced(self) -> None:
        """By itself, each record once, in order, and as it is read from the log."""
        with self.opened() as talk, talk.listening() as heard:
            start = talk.ask(Snapshot(), Joined).head
            targets = (
                Targets(KEY, ("stores:JKT", "stores:BDG")),
                Targets(KEY, ("stores:JKT",), VALUE),
                Targets(TAG, ("region:java",), SOFT),
                Targets(PREFIX, ("stores:",)),
                Targets(GLOB, ("*:stats", "a*b*c")),
                Targets(EVERYTHING, ("*",)),
            )
            self.announce(talk, *targets[:2])
            self.announce(talk, *targets[2:])
            heard.until(lambda: len(heard.items) >= len(targets))
            assert [record.targets for record in heard.records] == list(targets)
            assert heard.items == self.read_all(talk, start)

    def test_the_answer_where_the_log_ends_comes_behind_what_was_announced_before(self) -> None:
        """So that an answer that agrees with what was heard proves that nothing is missing."""
        with self.opened() as talk, talk.listening() as heard:
            start, asked = talk.ask(Snapshot(), Joined).head, NEVER
            for _ in range(5):
                last = self.announce(talk, Targets(KEY, ("a",)), Targets(TAG, ("t",)), Targets(PREFIX, ("p:",)))
                beat = heard.beat()
                assert heard.items == [*self.read_all(talk, start), beat]
                assert (beat.head, beat.nonce) == (last, heard.records[-1].nonce)
                assert beat.is_master
                assert beat.is_same
                assert beat.asked >= asked
                start, asked = last, beat.asked
                heard.items.clear()

    def test_an_ear_is_told_that_there_is_no_log(self) -> None:
        """Nothing has begun, or everything is lost."""
        with self.opened() as talk, talk.listening() as heard:
            assert heard.beat().head is None
            before = self.announce(talk, Targets(TAG, ("t",)))
            assert heard.beat().head == before
            self.lose_everything(talk.shared)
            assert heard.beat().head is None
            after = self.announce(talk, Targets(TAG, ("t",)))
            assert heard.beat().head == after
            assert [record.epoch for record in heard.records] == [before.epoch, after.epoch]

    def test_from_the_first_answer_on_nothing_is_missed(self) -> None:
        """Whoever reads the log after it, and then takes what was heard, has everything, though others announce all the time."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            steps = [Announce((Targets(KEY, (f"key{i}",)),), (f"nonce{i}",), "me", ()) for i in range(200)]
            announcing = threading.Thread(target=lambda: [talk.shared.sync.perform(step) for step in steps])
            heard = Listening(talk.shared.ear())
            announcing.start()
            first = heard.beat()
            announcing.join()
            last = heard.beat()
            records = self.read_all(talk, start)
            heard.ear.close()
            assert first.head is not None
            assert last.head is not None
            assert last.head.number == 200
            assert heard.records == records[200 - len(heard.records) :]
            assert len(heard.records) >= 200 - first.head.number

    def test_those_who_announce_at_once_are_heard_in_the_order_of_their_numbers(self) -> None:
        """Whatever way each record takes."""
        with self.opened() as talk, talk.listening() as heard:
            start = talk.ask(Snapshot(), Joined).head
            targets = Targets(KEY, ("a",)), Targets(TAG, ("t",))
            talk.ask_together([Announce(targets, (f"{i}:0", f"{i}:1"), str(i), ()) for i in range(40)], Announced)
            heard.beat()
            assert [record.number for record in heard.records] == list(range(1, 81))
            assert heard.records == self.read_all(talk, start)

    def test_several_ears_hear_the_same(self) -> None:
        """Several caches of one process may share a layer: each has its own."""
        with self.opened() as talk, talk.listening() as one, talk.listening() as two, talk.listening() as three:
            start = talk.ask(Snapshot(), Joined).head
            for _ in range(3):
                self.announce(talk, Targets(KEY, ("a",)), Targets(TAG, ("t",)))
            for heard in (one, two, three):
                heard.beat()
                assert heard.records == self.read_all(talk, start)

    def test_an_ear_that_was_cut_off_says_so_and_begins_anew(self) -> None:
        """It does not hand over what it may have missed a part of; from its first answer on it hears everything again."""
        with self.opened() as talk, talk.listening() as heard:
            self.announce(talk, Targets(TAG, ("before",)))
            heard.beat()
            for round_ in range(3):
                with self.cut_off(talk.shared):
                    heard.fail()
                missed = self.announce(talk, Targets(TAG, (f"missed {round_}",)))
                assert heard.beat().head == missed
                self.announce(talk, Targets(TAG, (f"after {round_}",)))
                heard.beat()
                assert [record.targets.texts for record in heard.records] == [(f"after {round_}",)]

    def test_a_waiting_ear_can_be_woken(self) -> None:
        """Who has something to say to it, or wants it to end, does not wait for news."""
        with self.opened() as talk, talk.listening() as heard:
            found: list[object] = []
            listener = threading.Thread(target=lambda: found.append(heard.ear.perform(Hear(600.0, False, 600.0))), daemon=True)
            listener.start()
            heard.ear.wake()
            listener.join(60.0)
            assert found == [Heard(())]

    def test_a_wake_that_comes_first_ends_the_next_waiting(self) -> None:
        """Whoever wakes does not know whether somebody waits already. One waiting is ended, and nothing is lost by it."""
        with self.opened() as talk, talk.listening() as heard:
            self.announce(talk, Targets(TAG, ("t",)))
            heard.beat()
            for _ in range(3):
                heard.ear.wake()
            began = time.monotonic()
            heard.turn(seconds=600.0)
            assert time.monotonic() - began < 300.0
            last = self.announce(talk, Targets(TAG, ("t",)))
            assert heard.beat().head == last
            assert [record.number for record in heard.records] == [1, 2]

    def test_the_end_of_a_lease_is_heard(self) -> None:
        """By a fill, or because it was given back or left at rest: whoever waits may look again. Also where it ended before that
        could be heard, and at the worst once too often.
        """
        with self.opened() as talk, talk.listening() as heard:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            heard.ear.watch("a")
            heard.until(lambda: heard.woken == ["a"])
            assert self.lease(talk, "a", "mine").granted
            assert talk.ask(Release("a", "mine"), Done).done
            heard.until(lambda: heard.woken == ["a"] * 2)
            assert self.lease(talk, "a", "mine").granted
            assert talk.ask(Store("a", "mine", blob, 60_000), Done).done
            heard.until(lambda: heard.woken == ["a"] * 3)
            assert self.lease(talk, "b", "mine").granted
            heard.ear.watch("b")
            heard.beat()  # of the log: where the key lies elsewhere, that it is watched may be heard after this
            begun = len(heard.woken)
            assert talk.ask(Release("b", "mine", rest=Holder(RESTING, NOWHERE), milliseconds=60_000), Done).done
            heard.until(lambda: len(heard.woken) > begun)
            heard.beat()
            assert heard.woken in ([*["a"] * 3, *["b"] * times] for times in (1, 2))

    def test_what_ends_no_lease_wakes_nobody(self) -> None:
        """Neither taking, extending or seizing one, nor trying to end another one's, nor what happens to other keys."""
        with self.opened() as talk, talk.listening() as heard:
            blob = self.make_blob(talk.ask(Snapshot(), Joined).head)
            heard.ear.watch("a")
            heard.until(lambda: heard.woken == ["a"])
            assert self.lease(talk, "a", "mine").granted
            assert talk.ask(Extend("a", "mine", 60_000), Done).done
            assert not talk.ask(Release("a", "other"), Done).done
            assert not talk.ask(Store("a", "other", blob, 60_000), Done).done
            assert self.seize(talk, "a", "sets", unlink=True).granted
            assert not talk.ask(Release("a", "mine"), Done).done
            assert self.store(talk, "b", blob)
            heard.beat()
            assert heard.woken == ["a"]

    def test_what_is_watched_can_be_let_go(self) -> None:
        """And watched again."""
        with self.opened() as talk, talk.listening() as heard:
            for _ in range(3):
                heard.items.clear()
                heard.ear.watch("a")
                heard.ear.watch("b")
                heard.until(lambda: sorted(heard.woken) == ["a", "b"])
                heard.ear.unwatch("a")
                for key in ("a", "b"):
                    assert self.lease(talk, key, "mine").granted
                    assert talk.ask(Release(key, "mine"), Done).done
                heard.until(lambda: heard.woken[2:] == ["b"])
                heard.beat()
                assert heard.woken[2:] == ["b"]
                heard.ear.unwatch("b")

    def test_what_is_watched_before_anything_is_heard_is_heard_from_the_beginning(self) -> None:
        """Whoever waits need not know whether the log is being heard already."""
        with self.opened() as talk:
            ear = talk.shared.ear()
            ear.watch("a")
            ear.watch("b")
            ear.unwatch("b")
            heard = Listening(ear)
            heard.until(lambda: heard.woken == ["a"])
            assert self.lease(talk, "a", "mine").granted
            assert talk.ask(Release("a", "mine"), Done).done
            heard.until(lambda: heard.woken == ["a", "a"])
            ear.close()

    def test_an_ear_that_begins_anew_watches_what_it_watched(self) -> None:
        """The lease may have ended while it was cut off, so whoever waits is told to look."""
        with self.opened() as talk, talk.listening() as heard:
            heard.ear.watch("a")
            heard.until(lambda: heard.woken == ["a"])
            assert self.lease(talk, "a", "mine").granted
            with self.cut_off(talk.shared):
                heard.fail()
            assert talk.ask(Release("a", "mine"), Done).done
            heard.until(lambda: heard.woken == ["a"])
            assert self.lease(talk, "a", "mine").granted
            assert talk.ask(Release("a", "mine"), Done).done
            heard.until(lambda: heard.woken == ["a", "a"])

    def test_an_ear_can_be_closed_at_any_time(self) -> None:
        """Before it has heard anything, and twice; what is said to it afterwards does no harm."""
        with self.opened() as talk:
            for turns in range(2):
                heard = Listening(talk.shared.ear())
                for _ in range(turns):
                    heard.beat()
                heard.ear.close()
                heard.ear.close()
                heard.ear.wake()
                heard.ear.unwatch("a")

    # --- sweeping -----------------------------------------------------------------------------------------------------------------

    def test_every_entry_is_found_by_its_name(self) -> None:
        """Page by page; neither leases nor the log are among them. The name tells the key, unless the layer shortens it."""
        with self.opened() as talk:
            blob = self.make_blob(self.announce(talk, Targets(TAG, ("t",))))
            keys = {*(f"key:{i}" for i in range(300)), *self.ODD_TEXTS}
            for key in keys:
                assert self.store(talk, key, blob)
            assert self.lease(talk, "a lease and no entry", "mine").granted
            found: dict[bytes, str | None] = {}
            pages = cursor = 0
            while cursor or not pages:
                scanned = talk.ask(Scan(cursor, 50), Scanned)
                found |= dict(scanned.found)
                cursor, pages = scanned.cursor, pages + 1
            assert len(found) == len(keys)
            known = [key for key in found.values() if key is not None]
            assert len(set(known)) == len(known)
            assert set(known) <= keys
            assert {key for key in keys if len(key.encode("utf-8", "surrogatepass")) < 100} <= set(known)

    def test_nothing_is_found_where_nothing_is(self) -> None:
        """An empty layer has one empty page, or several."""
        with self.opened() as talk:
            cursor = -1
            while cursor:
                scanned = talk.ask(Scan(max(cursor, 0), 1_000), Scanned)
                assert scanned.found == ()
                cursor = scanned.cursor

    def names_of(self, talk: SharedTalk) -> dict[str, bytes]:
        """The names of all entries by their keys."""
        found: dict[str, bytes] = {}
        cursor = -1
        while cursor:
            scanned = talk.ask(Scan(max(cursor, 0), 1_000), Scanned)
            found |= {key: name for name, key in scanned.found if key is not None}
            cursor = scanned.cursor
        return found

    def test_entries_are_judged_by_their_beginnings(self) -> None:
        """As much as holds header and dependencies; the value need not travel. An entry that is gone is ``None`` in its place."""
        with self.opened() as talk:
            head = self.announce(talk, Targets(TAG, ("t",)))
            blobs = {"small": self.make_blob(head, b"s"), "large": self.make_blob(head, b"x" * 3_000_000)}
            for key, blob in blobs.items():
                assert self.store(talk, key, blob)
            names = self.names_of(talk)
            assert names.keys() == blobs.keys()
            assert self.seize(talk, "small", "sets", unlink=True).granted
            fetched = talk.ask(Heads(tuple(names[key] for key in ("large", "small", "large"))), Fetched)
            large, gone, again = fetched.blobs
            assert large is not None
            assert gone is None
            assert again == large
            assert len(large) >= 1_024
            assert blobs["large"].startswith(large)
            assert fetched.head == head
            assert fetched.now > 0

    def test_what_is_discarded_is_still_what_was_read(self) -> None:
        """An entry that was filled anew meanwhile stays; the count is exact."""
        with self.opened() as talk:
            head = self.announce(talk, Targets(TAG, ("t",)))
            old, new = self.make_blob(head, b"old"), self.make_blob(head, b"new")
            for key in ("dead", "renewed", "gone", "alive"):
                assert self.store(talk, key, old)
            names = self.names_of(talk)
            assert self.seize(talk, "gone", "sets", unlink=True).granted
            assert self.store(talk, "renewed", new, dead=old[:IDENTITY])
            entries = tuple((names[key], old[:IDENTITY]) for key in ("dead", "renewed", "gone"))
            assert talk.ask(Discard(entries), Discarded).entries == 1
            assert talk.ask(Discard(entries), Discarded).entries == 0
            assert talk.ask(Discard(()), Discarded).entries == 0
            assert talk.ask(Fetch(("dead", "renewed", "gone", "alive")), Fetched).blobs == (None, new, None, old)

    # --- auditing -----------------------------------------------------------------------------------------------------------------

    def test_a_question_is_heard_by_everybody_in_its_place(self) -> None:
        """Behind the records that were announced before it. It is no record: it takes no number and is not read later."""
        with self.opened() as talk, talk.listening() as one, talk.listening() as two:
            start = talk.ask(Snapshot(), Joined).head
            before = self.announce(talk, Targets(TAG, ("t",)))
            questions = [Question(f"id{i}", Targets(kind, self.ODD_TEXTS), before) for i, kind in enumerate((KEY, TAG))]
            for question in questions:
                assert talk.ask(Inquire(question), Done).done
            assert self.announce(talk, Targets(TAG, ("u",))).number == 2
            records = self.read_all(talk, start)
            for heard in (one, two):
                beat = heard.beat()
                assert heard.items == [records[0], *questions, records[1], beat]

    def test_answers_to_a_question_are_collected_once(self) -> None:
        """Each question has its own."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            one, other = (Question(name, Targets(KEY, ("a",)), head) for name in ("one", "other"))
            assert talk.ask(Collect(one), Testimony).answers == ()
            for question in (one, other):
                assert talk.ask(Inquire(question), Done).done
            assert talk.ask(Testify(one, "me", 3), Done).done
            assert talk.ask(Testify(one, "you", 0), Done).done
            assert talk.ask(Testify(other, "me", 2**53), Done).done
            assert sorted(talk.ask(Collect(one), Testimony).answers) == [("me", 3), ("you", 0)]
            assert talk.ask(Collect(one), Testimony).answers == ()
            assert talk.ask(Collect(other), Testimony).answers == (("me", 2**53),)

    # --- switching ----------------------------------------------------------------------------------------------------------------

    def test_what_is_switched_is_heard_and_told_to_whoever_asks(self) -> None:
        """Before there is a log, too. What is as usual is not named, and every version is above the one before."""
        with self.opened() as talk, talk.listening() as ear:
            assert talk.ask(Confirm(), Beat).thrown == NOTHING_THROWN
            first = talk.ask(Throw((("redis", "off"), ("all", "ttl"))), Thrown)
            assert first.switched == (("all", "ttl"), ("redis", "off"))
            second = talk.ask(Throw((("all", "full"), ("policy.a", "headers"))), Thrown)
            assert second.switched == (("policy.a", "headers"), ("redis", "off"))
            third = talk.ask(Throw((("redis", "on"), ("policy.a", "full"))), Thrown)
            assert third.switched == () and 0 < first.version < second.version < third.version
            assert talk.ask(Confirm(), Beat).thrown == talk.ask(Snapshot(), Joined).thrown == third
            assert ear.beat().thrown == third
            assert ear.thrown == [first, second, third]

    def test_what_was_switched_once_counts_unless_something_newer_stands_there(self) -> None:
        """So whoever knows of it may say it to a layer that has lost it. Nothing new is not told."""
        with self.opened() as talk, talk.listening() as ear:
            known = Thrown(5, (("all", "off"),))
            assert talk.ask(Throw((), known), Thrown) == known
            assert talk.ask(Throw((), Thrown(4, (("all", "ttl"),))), Thrown) == known
            assert talk.ask(Throw((), known), Thrown) == known
            newer = talk.ask(Throw((("all", "ttl"),)), Thrown)
            assert newer.version > 5
            assert talk.ask(Throw((), known), Thrown) == newer
            ear.beat()
            assert ear.thrown == [known, newer]

    def test_a_switch_takes_no_number(self) -> None:
        """It is no record: the log goes on as if nothing had been said."""
        with self.opened() as talk:
            start = talk.ask(Snapshot(), Joined).head
            talk.ask(Throw((("all", "off"),)), Thrown)
            assert talk.ask(Snapshot(), Joined).head == start
            assert self.announce(talk, Targets(TAG, ("t",))).number == start.number + 1
            assert len(self.read_all(talk, start)) == 1

    # --- odd texts ----------------------------------------------------------------------------------------------------------------

    ODD_TEXTS: ClassVar[tuple[str, ...]] = (
        *("", "%", "%%", "%25", "%7B", "{", "}", "{}", "}x", "{a}", "{a}b", "a{b", ":", "::", "a:b", "a", "A", " a", "a ", "a\n", "a\r\nb"),
        *(
            "\0",
            "a\0",
            "a\0b",
            "%00",
            "é",
            "e\u0301",
            "😀",
            "\ud83d",
            "\ude00",
            "\ud83d\ude00",
            "\ud800",
            "\udfff",
            "\u2028",
            "\x7f",
            "\x1b",
        ),
        *('"', "\\", '\\"', "[", "]", "[]", "null", "*", "**", "a*", "?", "[a-z]", "'", "$1", "%#", "~1", "e:{a}", "l:{a}", "log", "meta"),
        *("x" * 512, "x" * 513, "x" * 10_000, "x" * 9_999 + "y", "é" * 5_000, "{" * 5_000, "\ud800" * 3_000),
    )

    def test_odd_keys_do_not_meet(self) -> None:
        """Colons, braces, percent signs, NUL, emoji, lone surrogates, nothing at all, 10 kB: each has an entry of its own."""
        with self.opened() as talk:
            head = talk.ask(Snapshot(), Joined).head
            blobs = {key: self.make_blob(head, b"%d" % i) for i, key in enumerate(self.ODD_TEXTS)}
            assert len(blobs) == len(self.ODD_TEXTS)
            for key, blob in blobs.items():
                assert self.store(talk, key, blob), key[:20]
            assert talk.ask(Fetch(self.ODD_TEXTS), Fetched).blobs == tuple(blobs.values())
            for key, blob in blobs.items():
                assert talk.ask(Fetch((key,)), Fetched).blobs == (blob,)

    def test_odd_keys_are_leased_each_for_itself(self) -> None:
        """A lease is named as its entry is."""
        with self.opened() as talk:
            for i, key in enumerate(self.ODD_TEXTS):
                assert self.lease(talk, key, f"token{i}").granted, key[:20]
            for i, key in enumerate(self.ODD_TEXTS):
                assert talk.ask(Extend(key, f"token{i}", 60_000), Done).done, key[:20]
                assert talk.ask(Release(key, f"token{i}"), Done).done, key[:20]

    def test_odd_texts_travel_through_the_log(self) -> None:
        """In a record, on the way to an ear, in the bans of a process that starts, and when the entry is unlinked."""
        with self.opened() as talk, talk.listening() as heard:
            start = talk.ask(Snapshot(), Joined).head
            blob = self.make_blob(start)
            for key in self.ODD_TEXTS:
                assert self.store(talk, key, blob)
            for kind in (KEY, TAG, PREFIX):
                self.announce(talk, Targets(kind, self.ODD_TEXTS), unlink=self.ODD_TEXTS if kind == KEY else ())
            records = self.read_all(talk, start)
            assert [record.targets.texts for record in records] == [self.ODD_TEXTS] * 3
            heard.beat()
            assert heard.records == records
            assert talk.ask(Fetch(self.ODD_TEXTS), Fetched).blobs == (None,) * len(self.ODD_TEXTS)
            bans, _ = self.read_bans(talk)
            assert bans == {(kind, text, False): number for number, kind in enumerate((KEY, TAG, PREFIX), 1) for text in self.ODD_TEXTS}

    def test_odd_texts_are_announced_again(self) -> None:
        """Those that are known already, and those that are not, which are written anew then."""
        with self.opened() as talk, talk.listening() as heard:
            start = talk.ask(Snapshot(), Joined).head
            known, rest = self.ODD_TEXTS[::2], self.ODD_TEXTS[1::2]
            self.announce(talk, Targets(TAG, known), again=True)
            self.announce(talk, Targets(TAG, self.ODD_TEXTS), again=True)
            last = self.announce(talk, Targets(TAG, self.ODD_TEXTS), again=True)
            assert last.number == 2
            records = self.read_all(talk, start)
            assert [record.targets.texts for record in records] == [known, rest]
            heard.beat()
            assert heard.records == records

    def test_ends_of_odd_leases_are_heard(self) -> None:
        """Whoever waits is told for which key."""
        with self.opened() as talk, talk.listening() as heard:
            for key in self.ODD_TEXTS:
                heard.ear.watch(key)
            heard.until(lambda: len(heard.woken) >= len(self.ODD_TEXTS))
            assert sorted(heard.woken) == sorted(self.ODD_TEXTS)
            heard.items.clear()
            for key in self.ODD_TEXTS:
                assert self.lease(talk, key, "mine").granted
                assert talk.ask(Release(key, "mine"), Done).done
            heard.beat()
            assert heard.woken == list(self.ODD_TEXTS)


class SharedTalk:
    """Asks a shared layer in one colour and closes it in the end. A ``Failed`` reply fails the test."""

    def __init__(self, shared: Shared, colour: Literal["def", "async def"]) -> None:
        self.shared = shared
        self._runner = asyncio.Runner() if colour == "async def" else None

    def ask(self, step: SharedStep, kind: type[R]) -> R:
        """The reply, which has to be of this kind."""
        return self.ask_together([step], kind)[0]

    def ask_together(self, steps: Sequence[SharedStep], kind: type[R] | tuple[type[R], ...]) -> list[R]:
        """The replies to steps that are asked at the same time: by threads, or by tasks of one loop."""
        replies = self._in_threads(steps) if self._runner is None else self._runner.run(self._in_tasks(steps))
        for reply in replies:
            assert isinstance(reply, kind), reply
        return cast("list[R]", replies)

    def _in_threads(self, steps: Sequence[SharedStep]) -> list[Reply]:
        if len(steps) == 1:
            return [self.shared.sync.perform(steps[0])]
        replies: dict[int, Reply] = {}

        def ask(at: int) -> None:
            replies[at] = self.shared.sync.perform(steps[at])

        run_together([partial(ask, at) for at in range(len(steps))])
        return [replies[at] for at in range(len(steps))]

    def listening(self) -> Listening:
        """What hears the layer, for one process; to be used as a context manager."""
        return Listening(self.shared.ear())

    async def _in_tasks(self, steps: Sequence[SharedStep]) -> list[Reply]:
        layer = self.shared.of_loop()
        return list(await asyncio.gather(*map(layer.perform, steps)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is None:
            self.shared.close()
        else:
            self._runner.run(self.shared.aclose())
            self._runner.close()


class Listening:
    """An ear, in the hands of a test. It hears everything from the beginning of the ``with`` block on, and is closed at its end.

    ``items`` is what it has heard, in order. A ``Failed`` reply fails the test.
    """

    PATIENCE: Final = 60.0
    TURNS: Final = 2_000

    def __init__(self, ear: Ear) -> None:
        self.ear = ear
        self.items: list[Heardable] = []

    @property
    def records(self) -> list[Record]:
        """The records among what was heard."""
        return [item for item in self.items if isinstance(item, Record)]

    @property
    def woken(self) -> list[str]:
        """The keys whose leases were heard to end, or whose watching was heard to begin."""
        return [item.key for item in self.items if isinstance(item, Woken)]

    @property
    def thrown(self) -> list[Thrown]:
        """What was heard to be switched."""
        return [item for item in self.items if isinstance(item, Thrown)]

    def turn(self, *, beat: bool = False, seconds: float = 0.01) -> None:
        """Wait once, for at most ``seconds``."""
        heard = self.ear.perform(Hear(seconds, beat, self.PATIENCE))
        assert isinstance(heard, Heard), heard
        self.items += heard.items

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; about twenty seconds at most."""
        for _ in range(self.TURNS):
            if condition():
                return
            self.turn()
        raise AssertionError(f"it was not heard; {len(self.items)} items were, the last of them {self.items[-5:]}")

    def beat(self) -> Beat:
        """Ask where the log ends, and wait for the answer. What came with it, or before it, is heard then."""
        known = sum(isinstance(item, Beat) for item in self.items)

        def answers() -> list[Beat]:
            return [item for item in self.items if isinstance(item, Beat)][known:]

        self.turn(beat=True)
        self.until(lambda: bool(answers()))
        return answers()[0]

    def fail(self) -> None:
        """Be told that it can not hear any more. What it had heard before is forgotten."""
        for _ in range(self.TURNS):
            if isinstance(self.ear.perform(Hear(0.01, True, self.PATIENCE)), Failed):
                self.items.clear()
                return
        raise AssertionError("it did not notice that it was cut off")

    def __enter__(self) -> Self:
        self.beat()
        self.items.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ear.close()
