"""The worlds that are explored, and the mechanisms that each of them needs.

A world is as small as its race allows. Where one mechanism stands behind another, the one in front is taken out too, or the world is made
so that it does not help: bans that are bounded to one, a log of which nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cachesync.core.records import EVERYTHING, GLOB, HARD, KEY, PREFIX, SOFT, TAG, Kind, Mode, Targets
from model.layer import Do
from model.mechanisms import (
    AGAIN,
    ANNOUNCED,
    BANS,
    BEATS,
    CAUGHT_UP,
    COMPARES,
    CONFIRMED,
    COPIES_END,
    CUTS,
    DETACHING,
    EPOCHS,
    FLOORS,
    GAPS,
    IN_ORDER,
    JOINED_FLOORS,
    JOINER,
    KEYS_USED,
    LATE_TAGS,
    LEASE_CHECK,
    LEAST,
    LOOKS_AGAIN,
    MAX_LAG,
    MISSED_BANS,
    NEW_EPOCH,
    ORDER,
    OWN_FLIGHTS,
    OWN_KEY,
    OWN_LEASE,
    OWN_PENDING,
    PENDING,
    POSITION_FIRST,
    QUEUE,
    REVOCATION,
    SEIZED,
    SOFT_APART,
    SOFTLY_STALE,
    STALE_USED,
    STAMP_BEFORE,
    STAMP_OF_SET,
    TAGS_USED,
    TAKE_OVER,
    TURNING,
    UNLINKING,
    Mechanism,
)
from model.stories import Asks, Ways
from model.world import BURY, DOWN, FLUSH, FOLLOW, LATER, LOSE_META, PROMOTE, RISE, STALE, TRIM, UP, Item, World, cut, lapse, lose

ITEM: Final = Item("item", tags=("t",))
CHILD: Final = Item("child", tags=("t",))
PARENT: Final = Item("parent", of=CHILD)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world, what holds in it, and what it takes for that. ``states``: it has at least so many. ``deep``: too large for a quick look."""

    title: str
    build: Callable[[], World]
    needs: tuple[Mechanism, ...]
    states: int
    deep: bool


SCENARIOS: Final[list[Scenario]] = []


def scenario(title: str, states: int, *needs: Mechanism, deep: bool = False) -> Callable[[Callable[[], World]], Callable[[], World]]:
    """Note a scenario."""

    def note(build: Callable[[], World]) -> Callable[[], World]:
        SCENARIOS.append(Scenario(title, build, needs, states, deep))
        return build

    return note


# --- a key, a tag, a pattern ------------------------------------------------------------------------------------------


def two_readers(kind: Kind, text: str, **settings: Any) -> World:
    """The process of the second reader hears of it in the log."""
    world = World(**settings)
    world.listen(1)
    world.read("a", 0, ITEM)
    world.read("b", 1, ITEM)
    world.change("w", 0, kind, text)
    return world


def crowded(kind: Kind, text: str, another: str, *, warm: bool = False) -> World:
    """Two things are invalidated one after the other, and one ban of a kind is remembered."""
    world = World(rows=2, bans=1, ledger_bans=1)
    world.listen(0, 1)
    if warm:
        world.read("warm", 0, ITEM, warm=True)
    world.read("b", 1, ITEM)
    world.change_all("w", 0, (0, Targets(kind, (text,))), (1, Targets(kind, (another,))))
    return world


@scenario("a key is invalidated while two processes compute and read it", 34_000, BANS)
def key() -> World:
    return two_readers(KEY, "item")


@scenario("a key, in a cluster: the log and the entry are read apart", 37_000, BANS)
def key_cluster() -> World:
    return two_readers(KEY, "item", ways=Ways(split=True))


@scenario("a key, in one piece", 27_000)
def key_in_one() -> World:
    return two_readers(KEY, "item", ways=Ways(in_one=True))


@scenario("a tag", 28_000, BANS, STAMP_BEFORE)
def tag() -> World:
    return two_readers(TAG, "t")


def one_reader(kind: Kind, text: str) -> World:
    """A reader in one process, a writer in another; both hear the log."""
    world = World()
    world.listen(0, 1)
    world.read("b", 1, ITEM)
    world.change("w", 0, kind, text)
    return world


@scenario("a prefix", 800, BANS)
def prefix() -> World:
    return one_reader(PREFIX, "it")


@scenario("a glob", 800, BANS)
def glob() -> World:
    return one_reader(GLOB, "*m")


@scenario("everything", 800, FLOORS)
def everything() -> World:
    return one_reader(EVERYTHING, "*")


def two_writers(first: tuple[Kind, str], second: tuple[Kind, str], *, asks: Asks = "") -> World:
    """Each of two processes invalidates, and one reads; only that one hears the log by itself."""
    world = World()
    world.listen(0)
    world.change("w", 0, *first)
    world.change("v", 1, *second)
    world.read("a", 0, ITEM, asks=asks)
    return world


@scenario("two writers: a key and the same key", 57_000)
def key_and_key() -> World:
    return two_writers((KEY, "item"), (KEY, "item"))


@scenario("two writers: a key and a tag", 50_000, BANS)
def key_and_tag() -> World:
    return two_writers((KEY, "item"), (TAG, "t"))


@scenario("a key whose ban is dropped", 6_500, LEASE_CHECK, REVOCATION, UNLINKING)
def key_dropped() -> World:
    return crowded(KEY, "item", "other")


@scenario("an entry whose key's ban is dropped", 6_000, UNLINKING, ORDER)
def entry_dropped() -> World:
    return crowded(KEY, "item", "other", warm=True)


@scenario("a tag whose ban is dropped", 5_700, FLOORS)
def tag_dropped() -> World:
    return crowded(TAG, "t", "another")


@scenario("two keys, three readers", 100_000, deep=True)
def key_deep() -> World:
    world = two_readers(KEY, "item")
    world.read("c", 1, ITEM)
    return world


# --- values made of others --------------------------------------------------------------------------------------------


def nested(kind: Kind, text: str, *, warm: int | None, **settings: Any) -> World:
    """A value is made of another one, which may be at hand in one of the processes already."""
    world = World(processes=3, **settings)
    world.listen(0, 1, 2)
    if warm is not None:
        world.read("warm", warm, CHILD, warm=True)
    world.read("a", 0, PARENT)
    world.change("w", 1, kind, text)
    world.ask(2, PARENT)
    return world


@scenario("a key that another value is made of", 5_700, KEYS_USED)
def nested_key() -> World:
    return nested(KEY, "child", warm=None)


@scenario("the key of a copy that another value is made of", 2_500, KEYS_USED)
def nested_key_local() -> World:
    return nested(KEY, "child", warm=0)


@scenario("the tag of a value that another one is made of", 5_100, TAGS_USED)
def nested_tag() -> World:
    return nested(TAG, "t", warm=None)


@scenario("the tag of a copy that another value is made of", 2_500, TAGS_USED, CAUGHT_UP)
def nested_tag_local() -> World:
    return nested(TAG, "t", warm=0)


@scenario("the tag of an entry that another value is made of", 3_000, TAGS_USED)
def nested_tag_shared() -> World:
    return nested(TAG, "t", warm=1)


@scenario("a value made of one that is stale", 530, STALE_USED)
def nested_stale() -> World:
    world = World(policy=STALE)
    world.listen(0, 1)
    world.read("warm", 0, CHILD, warm=True)
    world.change("w", 1, TAG, "t", mode=SOFT)
    world.read("a", 0, PARENT)
    return world


# --- joining a computation --------------------------------------------------------------------------------------------

FOUND: Final = Item("found", late=("t",))
"""Its tag is known when it has been computed."""


def joiners(item: Item, kind: Kind, text: str, *, writer: int = 0) -> World:
    world = World()
    world.listen(0)
    world.read("a", 0, item)
    world.read("late", 0, item)
    world.change("w", writer, kind, text)
    return world


@scenario("a late caller of a computation whose tags are known", 38_000)
def joiner_known() -> World:
    return joiners(ITEM, TAG, "t")


@scenario("a late caller of a computation whose tags are found at its end", 9_300, JOINER, LATE_TAGS)
def joiner_found() -> World:
    return joiners(FOUND, TAG, "t")


@scenario("a late caller, and an invalidation by another process", 4_500, JOINER)
def joiner_elsewhere() -> World:
    return joiners(FOUND, TAG, "t", writer=1)


def joiners_dropped(writer: int) -> World:
    """Each ban is dropped at once: what is not detached can not be refused at its end."""
    world = World(bans=0, ledger_bans=0)
    if writer != 0:
        world.listen(0)
    world.read("a", 0, ITEM)
    world.read("late", 0, ITEM)
    world.change("w", writer, KEY, "item")
    return world


@scenario("a late caller, and a key whose ban is dropped", 16_000, OWN_FLIGHTS)
def joiner_dropped() -> World:
    return joiners_dropped(0)


@scenario("a late caller, and a key of another process whose ban is dropped", 13_000, DETACHING)
def joiner_dropped_elsewhere() -> World:
    return joiners_dropped(1)


@scenario("a late caller after one's own invalidation, ahead of those of others", 19_000, OWN_PENDING)
def joiner_pending() -> World:
    world = World(rows=2)
    world.read("warm", 0, Item("tagged", row=1, tags=("u",)), warm=True)
    world.change("other", 1, TAG, "u", row=1, warm=True)
    world.read("a", 0, FOUND)
    world.change("w", 0, TAG, "t")
    world.befall("layer", DOWN)
    world.read("late", 0, FOUND)
    return world


@scenario("two processes, one cold key", 100, LOOKS_AGAIN)
def thrift() -> World:
    world = World(thrifty=1)
    world.listen(0, 1)
    world.read("a", 0, ITEM)
    world.read("b", 1, ITEM)
    return world


@scenario("a lease whose holder is gone, and an invalidation that makes it worthless", 440, TAKE_OVER)
def take_over() -> World:
    world = World()
    world.listen(0, 1)
    world.leave_lease("gone", 0, ITEM)
    world.change("w", 0, TAG, "t")
    world.read("b", 1, ITEM)
    return world


@scenario("a lease that is extended after it was revoked", 13_000, COMPARES)
def extension() -> World:
    world = crowded(KEY, "item", "other")
    world.extend("extension", "item", "a1")
    return world


@scenario("a lease that lapses while its holder computes", 14_000, LEASE_CHECK)
def lapsing() -> World:
    world = crowded(KEY, "item", "other")
    world.befall("lapse", lapse("item"))
    return world


# --- one's own --------------------------------------------------------------------------------------------------------


@scenario("one's own invalidation, ahead of those of others", 1_200, IN_ORDER, TURNING)
def own_first() -> World:
    world = World(rows=2)
    world.listen(0)
    tagged = Item("tagged", row=1, tags=("u",))
    world.read("warm", 0, ITEM, warm=True)
    world.read("warm too", 0, tagged, warm=True)
    world.change("other", 1, TAG, "u", row=1)
    world.change("w", 0, TAG, "t")
    world.read("b", 0, tagged)
    return world


@scenario("hard, then soft", 30_000, SOFT_APART)
def hard_soft() -> World:
    world = World(policy=STALE)
    world.listen(0, 1)
    world.read("warm", 0, ITEM, warm=True)
    world.change("hard", 1, TAG, "t")
    world.change("soft", 1, TAG, "t", mode=SOFT)
    world.read("a", 0, ITEM)
    return world


@scenario("soft, then stale", 81, SOFTLY_STALE)
def soft() -> World:
    world = World(policy=STALE)
    world.listen(0, 1)
    world.read("warm", 0, ITEM, warm=True)
    world.change("soft", 1, TAG, "t", mode=SOFT)
    world.read("a", 0, ITEM)
    return world


@scenario("soft, and a refresh that a hard one meets", 830, BANS)
def soft_refresh() -> World:
    world = World(policy=STALE)
    world.listen(0, 1)
    world.read("warm", 0, ITEM, warm=True)
    world.change("soft", 1, TAG, "t", mode=SOFT, warm=True)
    world.read("a", 0, ITEM)
    world.change("hard", 1, KEY, "item")
    return world


# --- setting values ---------------------------------------------------------------------------------------------------


@scenario("a value is set beside a computation", 1_700, ANNOUNCED)
def set_beside() -> World:
    world = World()
    world.listen(0, 1)
    world.read("warm", 1, ITEM, warm=True)
    world.change("first", 1, TAG, "t", warm=True)
    world.read("b", 1, ITEM)
    world.set("set", 0, ITEM)
    return world


@scenario("a value is set that another process holds", 180, ANNOUNCED)
def set_held() -> World:
    world = World()
    world.listen(0, 1)
    world.read("warm", 0, ITEM, warm=True)
    world.read("warm too", 1, ITEM, warm=True)
    world.set("set", 0, ITEM)
    world.read("b", 1, ITEM)
    return world


@scenario("a value is set beside a computation, and the ban is dropped", 46_000, SEIZED)
def set_dropped() -> World:
    world = World(rows=2, bans=1, ledger_bans=1)
    world.listen(0)
    world.read("b", 1, ITEM)
    world.set("set", 0, ITEM)
    world.change("w", 0, KEY, "other", row=1)
    world.ask(0, ITEM)
    return world


def updating(*changes: tuple[int, Targets], **settings: Any) -> World:
    """A value is obtained and set, while its row is changed by another process."""
    world = World(rows=2, **settings)
    world.listen(0, 1)
    world.set("update", 0, ITEM, late=True)
    if changes:
        world.change_all("w", 1, *changes)
    else:
        world.set("other", 1, ITEM, late=True)
    world.ask(1, ITEM)
    return world


@scenario("a value is updated while its key is invalidated", 4_000)
def update_key() -> World:
    return updating((0, Targets(KEY, ("item",))))


@scenario("a value is updated while its key is invalidated, and the ban is dropped", 39_000, OWN_LEASE)
def update_dropped() -> World:
    return updating((0, Targets(KEY, ("item",))), (1, Targets(KEY, ("other",))), bans=1, ledger_bans=1)


@scenario("a value is updated while its tag is invalidated", 3_200, STAMP_OF_SET)
def update_tag() -> World:
    return updating((0, Targets(TAG, ("t",))))


@scenario("two updates", 13_000)
def update_update() -> World:
    return updating()


# --- what a reader may ask for ----------------------------------------------------------------------------------------


@scenario("a strict read, two writers", 57_000)
def strict() -> World:
    return two_writers((KEY, "item"), (TAG, "t"), asks="strict")


@scenario("a strict read beside another", 11_000, CONFIRMED)
def strict_beside() -> World:
    world = World()
    world.listen(0)
    world.read("a", 1, ITEM)
    world.read("b", 1, ITEM, asks="strict")
    world.change("w", 0, TAG, "t")
    return world


@scenario("a strict read of a copy", 630)
def strict_copy() -> World:
    world = World()
    world.listen(0)
    world.read("warm", 1, ITEM, warm=True)
    world.change("w", 0, TAG, "t")
    world.read("b", 1, ITEM, asks="strict")
    world.read("c", 1, ITEM)
    return world


def asked_for(item: Item, *, mode: Mode = HARD, **settings: Any) -> World:
    """A reader asks for the stamp of what has returned last, in a process that may not have heard of it."""
    world = World(**settings)
    world.listen(0, 1)
    world.read("warm", 1, item, warm=True)
    world.change("w", 0, TAG, "t", mode=mode)
    world.read("b", 1, item, asks="at_least")
    return world


@scenario("a read that asks for a stamp", 190, LEAST)
def at_least() -> World:
    return asked_for(ITEM)


@scenario("a read that asks for the stamp of a soft invalidation", 190, LEAST)
def at_least_soft() -> World:
    return asked_for(ITEM, mode=SOFT, policy=STALE)


@scenario("a read that asks for a stamp, of a value made of another", 270, LEAST)
def at_least_nested() -> World:
    return asked_for(PARENT, mode=SOFT, policy=STALE)


# --- what is pending --------------------------------------------------------------------------------------------------


def away(*events: Do, kind: Kind = TAG, text: str = "t") -> World:
    """The layer is away while something is invalidated, and comes back."""
    world = World()
    world.listen(0)
    world.ask(1, ITEM)
    world.read("warm", 0, ITEM, warm=True)
    world.befall("layer", *events)
    world.change("w", 0, kind, text)
    world.read("a", 0, ITEM)
    return world


@scenario("an invalidation while the layer is away", 4_300, PENDING)
def pending() -> World:
    return away(DOWN, UP)


@scenario("an invalidation of a key while the layer is away", 7_100, PENDING)
def pending_key() -> World:
    return away(DOWN, UP, kind=KEY, text="item")


@scenario("an invalidation that waits, and what others hold", 820, QUEUE)
def pending_elsewhere() -> World:
    world = World()
    world.listen(0, 1)
    world.read("warm", 1, ITEM, warm=True)
    world.befall("layer", DOWN, UP)
    world.change("w", 0, TAG, "t")
    return world


@scenario("the layer is away, and for long", 19_000, PENDING)
def pending_long() -> World:
    return away(DOWN, LATER, UP)


# --- epochs -----------------------------------------------------------------------------------------------------------


def lost_log(event: Do) -> World:
    """The log is lost while something is computed and invalidated."""
    world = World(eventful=True)
    world.listen(0, 1)
    world.read("warm", 0, ITEM, warm=True)
    world.change("w", 0, TAG, "t")
    world.befall("layer", event)
    world.read("b", 1, ITEM)
    return world


@scenario("all is lost", 16_000)
def flushed() -> World:
    return lost_log(FLUSH)


@scenario("the log is lost, and entries are not", 19_000, EPOCHS)
def log_lost() -> World:
    return lost_log(LOSE_META)


def failing_over(kind: Kind, text: str, *, reader: int | None = None) -> World:
    """A replica takes over that may lack the last records."""
    world = World(eventful=True)
    world.listen(0)
    world.read("warm", 0, ITEM, warm=True)
    world.befall("replica", FOLLOW, PROMOTE)
    world.change("w", 0, kind, text)
    world.ask(1, ITEM)
    if reader is not None:
        world.read("b", reader, ITEM)
    return world


@scenario("a replica takes over that lacks a tag's record", 170, AGAIN)
def fail_over_tag() -> World:
    return failing_over(TAG, "t")


@scenario("a replica takes over that lacks a key's record", 180)
def fail_over_key() -> World:
    return failing_over(KEY, "item")


@scenario("a replica takes over, and its process reads", 32_000, AGAIN, NEW_EPOCH)
def fail_over_read() -> World:
    return failing_over(TAG, "t", reader=0)


@scenario("a number that is given out again", 46_000, CUTS)
def number_again() -> World:
    world = World(rows=2, eventful=True)
    world.listen(0, 1)
    world.befall("replica", FOLLOW, warm=True)
    world.change("lost", 1, TAG, "u", row=1, warm=True)
    world.read("warm", 0, ITEM, warm=True)
    world.befall("replica takes over", PROMOTE)
    world.change("w", 0, TAG, "t")
    return world


@scenario("a copy that was judged by what is lost", 46_000, COPIES_END)
def judged_by_lost() -> World:
    world = World(rows=2, eventful=True)
    world.listen(0, 1)
    world.read("warm", 0, ITEM, warm=True)
    world.befall("replica", FOLLOW, warm=True)
    world.change("lost", 1, TAG, "u", row=1, warm=True)
    world.read("warm again", 0, ITEM, warm=True)
    world.befall("replica takes over", PROMOTE)
    world.change("w", 1, TAG, "t")
    return world


@scenario("a replica takes over, and another process reads", 100_000, deep=True)
def fail_over_elsewhere() -> World:
    return failing_over(TAG, "t", reader=1)


@scenario("the entry comes back that was unlinked", 5_400, OWN_KEY)
def entry_back() -> World:
    world = World()
    world.listen(0, 1)
    world.read("warm", 0, ITEM, warm=True)
    world.befall("replica", BURY, RISE)
    world.change("w", 0, KEY, "item")
    world.read("b", 1, ITEM)
    return world


# --- hearing the log --------------------------------------------------------------------------------------------------


def heard(*events: Any, **settings: Any) -> World:
    """A process holds a copy, and something happens to its connection while the copy is invalidated."""
    world = World(**settings)
    world.listen(0, 1)
    world.read("warm", 1, ITEM, warm=True)
    world.befall("event", *events)
    world.change("w", 0, TAG, "t")
    world.read("b", 1, ITEM)
    return world


@scenario("a connection is cut", 580)
def cut_line() -> World:
    return heard(cut(1))


@scenario("a connection is cut, and the log is trimmed", 1_400, MISSED_BANS)
def cut_trimmed() -> World:
    return heard(cut(1), TRIM)


@scenario("messages are lost without a sign", 91, BEATS)
def lost() -> World:
    return heard(lose(1))


@scenario("a message is lost between two others", 1_300, GAPS)
def lost_between() -> World:
    world = World(rows=2)
    world.listen(0, 1)
    world.read("warm", 1, ITEM, warm=True)
    world.befall("event", lose(1))
    world.change_all("w", 0, (0, Targets(TAG, ("t",))), (1, Targets(TAG, ("another",))))
    world.read("b", 1, ITEM)
    return world


@scenario("a process that hears nothing for longer than max_lag", 1_200, MAX_LAG)
def cut_off() -> World:
    world = World()
    world.listen(0)
    world.read("warm", 1, ITEM, warm=True)
    world.change("w", 0, TAG, "t")
    world.befall("time", LATER)
    world.read("b", 1, ITEM)
    return world


@scenario("a process that joins while bans are made and dropped", 1_000, JOINED_FLOORS, MISSED_BANS, POSITION_FIRST)
def joining() -> World:
    world = World(processes=2, rows=2, bans=1, ledger_bans=1)
    world.listen(0)
    world.read("warm", 0, ITEM, warm=True)
    world.change_all("w", 0, (0, Targets(TAG, ("t",))), (1, Targets(TAG, ("another",))))
    world.read("b", 1, ITEM)
    return world
