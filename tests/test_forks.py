"""Forks: a child is handed the cache as it is between two changes, and finds every lock free.

The children are those of scripts, so that the process that runs the tests never forks. A script that hangs is ended by its alarm.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from cachesync import Cache, Policy
from cachesync.core.names import Names
from cachesync.core.records import from_fields
from support.nodes import COLOURS, Colour, until
from support.proxy import Proxy
from support.scripts import Script, connections, is_alive, kill, ports_of_clients, subscribers
from support.servers import Server

BEGINNING = """
import os
import signal
import sys
import threading
import time
import traceback
from operator import attrgetter

from cachesync import Cache, MemoryShared, Policy
from cachesync.layers.forks import lock_across_forks

signal.alarm(20)
inside, forking = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)  # the last to be registered is the first to be called


def fork(hold, check) -> None:
    # `hold` runs in another thread, and lets go of its locks some time after the fork began.
    inside.clear()
    forking.clear()
    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(10)
            check()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join()
    check()
"""

ONE_OF_A_CACHE = """
shared = MemoryShared() if "shared" in sys.argv[1] else None
cache = Cache(policies=[Policy(name="all", match="*", ttl="1m")], shared=shared)
cache.set("b", 1)  # with a shared layer its log is read from now on
lock = attrgetter(sys.argv[1])(cache)

def hold() -> None:
    with lock:
        inside.set()
        forking.wait(10)
        time.sleep(0.05)

def check() -> None:
    heard = []
    cache.on_event(heard.append)
    cache.set("a", 1)
    assert cache.get("a") == 1
    @cache.cached("n:{n}")
    def double(n: int) -> int:
        return 2 * n
    assert double(2) == 4
    cache.invalidate("a")
    assert heard
    assert [one.computed for name, one in cache.stats().functions.items() if name.endswith("double")] == [1]

fork(hold, check)
"""

TWO_AT_ONCE = """
first, second = lock_across_forks(), lock_across_forks()

def in_this_order(one, other):
    def hold() -> None:
        with one:
            inside.set()
            forking.wait(10)
            time.sleep(0.05)
            with other:
                pass
    return hold

def check() -> None:
    with first, second:
        pass

fork(in_this_order(first, second), check)
fork(in_this_order(second, first), check)
"""

ONE_UNDER_ANOTHER = """
outer, made = lock_across_forks(), []

def hold() -> None:
    with outer:
        inside.set()
        forking.wait(10)
        time.sleep(0.05)
        made.append(lock_across_forks())

def check() -> None:
    with outer:
        for lock in made:
            with lock:
                pass

fork(hold, check)
assert made
"""

FROM_MANY_THREADS = """
locks = [lock_across_forks() for _ in range(3)]
codes = []

def forks() -> None:
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            for lock in locks:
                lock.acquire()
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

threads = [threading.Thread(target=forks) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert codes == [0] * 60, codes
assert all(lock.acquire(blocking=False) for lock in locks)
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Python 3.12 and later warn of forks beside threads, which is the very thing tested.
    command = [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning", "-c", BEGINNING + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("lock", ["_registry._lock", "_events._lock", "_engine.local.lock", "_engine.shared.changed"])
def test_a_child_can_use_a_cache_that_another_thread_was_changing(lock: str) -> None:
    """That thread does not exist in the child and would never let go."""
    done = run(ONE_OF_A_CACHE, lock)
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_order_in_which_threads_take_locks_does_not_matter_to_a_fork() -> None:
    """A fork waits for a lock only while it holds none, so nobody waits for the fork and is waited for by it."""
    done = run(TWO_AT_ONCE)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_lock_may_be_made_under_another_that_a_fork_waits_for() -> None:
    """As when a cache is opened under a lock: whoever forks waits while it holds nothing, not even its turn to fork."""
    done = run(ONE_UNDER_ANOTHER)
    assert (done.stderr, done.returncode) == ("", 0)


def test_threads_may_fork_at_the_same_time() -> None:
    """Each gives back the locks it has taken, and no others."""
    done = run(FROM_MANY_THREADS)
    assert (done.stderr, done.returncode) == ("", 0)


# --- the whole cache ----------------------------------------------------------------------------------------------------------------

SHOP = """
import mmap
import struct

from cachesync import Cache, Policy, Settings
from cachesync.coordination import log_reader
from cachesync.core.settings import CoordinationSettings

log_reader.PATIENCE = 20.0  # a busy machine is no outage
url, namespace, colour, *rest = sys.argv[1:]

class Origin:
    # What is cached, as all processes see it. What was computed is counted by each for itself.
    def __init__(self):
        self._memory = mmap.mmap(-1, 8)
        self.version, self.computed = 1, 0

    @property
    def version(self):
        return struct.unpack("q", self._memory[:8])[0]

    @version.setter
    def version(self, version):
        self._memory[:8] = struct.pack("q", version)

origin = Origin()

def open_cache(**others):
    policy = Policy(name="items", match="item:*", ttl="1h", **others)
    wide = Settings(coordination=CoordinationSettings(budget=20.0, lease=20.0, max_lag=10.0))
    return Cache(wide, policies=[policy], redis=None if url == "memory" else url, namespace=namespace)

def sell(cache):
    # The function that is cached, in the colour of the test, called from where no loop runs.
    if colour == "def":
        @cache.cached("item:{number}", tags=["items"])
        def item(number: int) -> int:
            return compute(number)
        return item
    @cache.cached("item:{number}", tags=["items"])
    async def aitem(number: int) -> int:
        return compute(number)
    return lambda number: asyncio.run(aitem(number))

def compute(number):
    origin.computed += 1
    return origin.version
"""

ANY_LINE = """
import cachesync

what, PACKAGE, FORKS = rest[0], os.path.dirname(cachesync.__file__), 20
forking, held = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)  # the last to be registered is the first to be called
cache = open_cache()
item = sell(cache)

def act():
    if what == "invalidate":
        cache.invalidate("item:1", "item:7*", tags=["items"])
    elif what == "compute":
        item(3)
    elif what == "set":
        cache.set("item:1", origin.version)
    else:
        with open_cache() as other:  # a new cache reads what Redis has
            sell(other)(1)

def act_and_stop_at(line):
    # Returns how many lines there were.
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            count += 1
            if count == line:
                held.set()
                forking.wait(10)
                time.sleep(0.002)  # if this thread holds no lock, the fork happens now
        return trace
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return count

def begin():
    origin.version = 1
    cache.invalidate("*")
    assert [item(1), item(2)] == [1, 1]
    origin.version = 2

def is_kept():
    origin.computed = 0
    answers = [item(number) for number in (1, 2, 3)]
    assert answers == [3, 3, 3], f"forked at {line}: {answers} is older than what was invalidated"
    return origin.computed == 0

def check():
    for number in (1, 2, 3):
        assert item(number) in (1, 2), f"forked at {line}"
    origin.version = 3
    cache.invalidate(tags=["items"])
    until(is_kept)

begin()
total = act_and_stop_at(0)
lines = list(range(1, total, max(1, total // FORKS)))
for line in lines:
    begin()
    held.clear()
    forking.clear()
    thread = threading.Thread(target=act_and_stop_at, args=[line])
    thread.start()
    until(lambda: held.is_set() or not thread.is_alive())
    child = fork(check)
    thread.join()
    if what == "invalidate":
        assert 1 not in [item(1), item(2)], f"forked at {line}: the parent's copy is older"
    ended(child)
    say("forked at", line)
say("forks", len(lines))
"""


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("what", ["invalidate", "compute", "set", "read"])
@pytest.mark.parametrize("where", ["in memory", "with Redis"])
def test_a_fork_at_any_line_of_another_thread_leaves_two_whole_caches(
    server: Server, namespace: str, where: str, what: str, colour: Colour
) -> None:
    """The child caches as ever, and serves nothing older than what it invalidates; the parent goes on."""
    url = "memory" if where == "in memory" else server.url
    with Script(SHOP + ANY_LINE, url, namespace, colour, what) as script:
        forks = 0
        while (said := script.hear()).startswith("forked at"):
            forks += 1
        assert said == f"forks {forks}" and forks >= 20
        # The child may invalidate before the parent's `set` is done, which then says that it was outrun.
        script.end(excused="not_stored: key=item:1, policy=items, error=an invalidation came first" if what == "set" else "")


WARM = """
cache = open_cache(on_disconnect=rest[0], stale_while_revalidate="10m")
item = sell(cache)
assert [item(1), item(2), item(1), item(2)] == [1] * 4
doors = [Door() for _ in range(3)]

def serve(door):
    door.stand()
    origin.version, origin.computed = int(wait()), 0
    say(item(1), item(2), origin.computed)
    hits = sum(one.local_hits for one in cache.stats().functions.values())
    until(lambda: item(2) and sum(one.local_hits for one in cache.stats().functions.values()) > hits)
    say(origin.computed)
    cache.invalidate("item:1")
    say("invalidated")

children = [fork(lambda: serve(door)) for door in doors]
say("forked")
for door, child in zip(doors, children):
    door.open()
    ended(child)
origin.version = int(wait())
until(lambda: item(1) == origin.version)
say("the parent too")
cache.close()
"""


@pytest.mark.parametrize("on_disconnect", ["bypass", "serve"])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_child_serves_its_warm_copies_only_after_it_has_heard_the_log(
    server: Server, namespace: str, colour: Colour, on_disconnect: str
) -> None:
    """What was invalidated while it was being forked, by whomever, is computed; what was not is a local hit again."""
    other = Cache(policies=[Policy(name="items", match="item:*", ttl="1h")], redis=server.url, namespace=namespace)
    with Script(SHOP + WARM, server.url, namespace, colour, on_disconnect) as script, other:
        script.hear("forked")
        for version in (2, 3, 4):
            assert not other.invalidate("item:1").pending
            script.say(str(version))
            assert script.hear() == f"{version} 1 1"
            assert script.hear() == "1"
            script.hear("invalidated")
        script.say("5")
        script.hear("the parent too")
        script.end()


UNDER_WAY = """
begun, go = threading.Event(), threading.Event()

def compute(number):
    answer = origin.version
    begun.set()
    assert go.wait(20)
    return answer

cache = open_cache()
item = sell(cache)
answers = []
thread = threading.Thread(target=lambda: answers.append(item(1)))
thread.start()
assert begun.wait(20)

def ask():
    origin.version = 2
    begun.clear()
    go.set()
    if rest[0] == "invalidate":
        cache.invalidate("item:1")
        origin.version = 3
    elif rest[0] == "ask":
        say("asks")
    say(item(1), begun.is_set())
    cache.close()

child = fork(ask)
if rest[0] == "ask":
    say(wait())
else:
    ended(child)
go.set()
thread.join()
if rest[0] == "ask":
    ended(child)
say(*answers, item(1))
cache.close()
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_a_child_waits_for_what_its_parent_computes_as_any_process_does(server: Server, namespace: str, colour: Colour) -> None:
    """By the lease: the flight in its memory is not its own. It is given the parent's result, and computes nothing."""
    with Script(SHOP + UNDER_WAY, server.url, namespace, colour, "ask") as script:
        script.hear("asks")
        script.say("finish")
        script.hear("finish")
        assert sorted([script.hear(), script.hear()]) == ["1 1", "1 False"]
        script.end()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_child_without_a_shared_layer_computes_what_its_parent_is_computing(colour: Colour) -> None:
    """The thread that computes is in the parent; nobody lands its flight in the child."""
    with Script(SHOP + UNDER_WAY, "memory", "alone", colour, "alone") as script:
        assert script.hear() == "2 True"
        assert script.hear() == "1 1"
        script.end()


@pytest.mark.parametrize("colour", COLOURS)
def test_an_invalidation_by_a_child_reaches_what_its_parent_computes(server: Server, namespace: str, colour: Colour) -> None:
    """The result belongs to its caller only; afterwards parent and child are given the newer one."""
    with Script(SHOP + UNDER_WAY, server.url, namespace, colour, "invalidate") as script:
        assert script.hear() == "3 True"
        assert script.hear() == "1 3"
        script.end()


LEASES = """
go = Door()
arrived = Door()

def compute(number):
    arrived.open()
    go.stand()
    return os.getpid()

cache = open_cache()
item = sell(cache)
thread = threading.Thread(target=item, args=[0])
thread.start()
arrived.stand()
children = [fork(lambda: item(number)) for number in (1, 2)]
arrived.stand()
arrived.stand()
say("three are computing")
wait()
for _ in range(3):
    go.open()
thread.join()
ended(*children)
for number in range(3):
    cache.invalidate(f"item:{number}")
ended(fork(lambda: cache.invalidate("item:9")), fork(lambda: cache.invalidate("item:9")))
say("three have invalidated")
cache.close()
"""


def test_parent_and_children_never_use_the_same_token(server: Server, namespace: str) -> None:
    """Nor the same nonce or origin in the log: what is drawn at random is drawn by each process for itself."""
    client, names = server.client(), Names.of(namespace)
    with Script(SHOP + LEASES, server.url, namespace, "def") as script:
        script.hear("three are computing")
        tokens = [client.get(names.lease(f"item:{number}")) for number in range(3)]
        assert None not in tokens and len(set(tokens)) == 3
        script.say()
        script.hear("three have invalidated")
        log = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrange(names.log))
        records = [from_fields({name.decode(): value.decode() for name, value in fields.items()}) for _, fields in log]
        assert len({record.nonce for record in records}) == len(records) == 5
        assert len({record.origin for record in records}) == 3
        script.end()


CONNECTED = """
cache = open_cache()
computing = threading.Event()
door = Door()

def compute(number):
    if number == 3:
        computing.set()
        time.sleep(0.01)
    return number

item = sell(cache)
item(1)
thread = threading.Thread(target=item, args=[3])
thread.start()
computing.wait()

def serve():
    say("child", os.getpid())
    door.stand()
    item(1), item(2), item(4)
    say("served")
    door.stand()
    cache.close()

child = fork(serve)
thread.join()
until(lambda: cache.stats().position)
assert wait() == "use them"
door.open()
item(1), item(2)
assert wait() == "end"
door.open()
ended(child)
cache.invalidate("item:1")
item(1)
say("ended")
wait()
cache.close()
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_a_child_has_connections_of_its_own_and_none_of_its_parent_s(server: Server, proxy: Proxy, namespace: str, colour: Colour) -> None:
    """Not even open and unused: no socket is in both processes, and the server sees those of each. The parent opens none anew."""
    with Script(SHOP + CONNECTED, proxy.url, namespace, colour) as script:
        child = int(script.hear("child"))
        inherited = connections(script.pid, proxy.port).keys() & connections(child, proxy.port).keys()
        assert not inherited
        script.say("use them")
        script.hear("served")
        parents, childs = connections(script.pid, proxy.port), connections(child, proxy.port)
        assert parents and childs
        assert not parents.keys() & childs.keys()
        assert not set(parents.values()) & set(childs.values())
        accepted = proxy.accepted
        script.say("end")
        script.hear("ended")
        if colour == "def":  # each asyncio.run opens connections of its own
            assert connections(script.pid, proxy.port) == parents
            assert proxy.accepted == accepted
        script.say()
        script.end()


ORPHAN = """
cache = open_cache()
item = sell(cache)
item(1)
door = Door()

def serve():
    item(1)
    say("child", os.getpid())
    door.stand()

say("warm")
wait()
until(lambda: "cachesync-connect" not in [thread.name for thread in threading.enumerate()])
fork(serve)
door.stand()
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_the_connections_of_a_parent_that_is_killed_end_with_it(server: Server, namespace: str, colour: Colour) -> None:
    """Though its child lives on: the server does not keep them for a process that is gone."""
    client = server.client()
    with Script(SHOP + ORPHAN, server.url, namespace, colour) as script:
        script.hear("warm")
        until(lambda: subscribers(client) & set(connections(script.pid, server.port).values()), "it hears the log")
        script.say()
        child = int(script.hear("child"))
        parents = set(connections(script.pid, server.port).values())
        assert parents <= ports_of_clients(client)
        script.kill()
        until(lambda: not parents & ports_of_clients(client), "the server lets the connections of the dead go")
        assert is_alive(child)
        kill(child)


CLOSED = """
cache = open_cache()
item = sell(cache)
item(1)
asyncio.run(cache.aclose()) if colour == "async def" else cache.close()

def serve():
    before = threading.active_count()
    assert [item(1), item(2), item(1), item(2)] == [1] * 4
    cache.invalidate("item:1")
    say(os.getpid(), threading.active_count() - before)
    wait()

ended(fork(serve))
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_a_cache_that_was_closed_before_the_fork_stays_closed(server: Server, namespace: str, colour: Colour) -> None:
    """It answers, and keeps neither a thread nor a connection."""
    with Script(SHOP + CLOSED, server.url, namespace, colour) as script:
        pid, threads = map(int, script.hear().split())
        assert threads == 0
        assert not connections(pid, server.port)
        script.say()
        script.end()


CLOSED_WITH_WORK = """
cache = open_cache(stale_while_revalidate="1h", shadow=1.0)
item = sell(cache)
assert item(1) == 1
cache.close()

def serve():
    origin.computed = 0
    assert item(1) == 1
    say("checked", cache._operations.shadow.under_way, cache.stats().total.shadow_dropped)
    cache.invalidate("item:1", soft=True)
    assert item(1) == 1
    say("refreshed", cache._operations.refresher.under_way, origin.computed)

ended(fork(serve))
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_behind_the_back_of_a_cache_that_was_closed_nothing_begins_in_a_child(namespace: str, colour: Colour) -> None:
    """Its hits are not checked, and what it serves stale is not refreshed, as before the fork."""
    with Script(SHOP + CLOSED_WITH_WORK, "memory", namespace, colour) as script:
        script.hear("checked 0 1")
        script.hear("refreshed 0 0")
        script.end()


DAEMON = """
cache = open_cache()
cache._engine.budget = 0.2
item = sell(cache)
assert [item(1), item(1)] == [1, 1]
say("warm")
wait()
origin.version = 2
assert cache.invalidate("item:1").pending
if os.fork():
    os._exit(0)  # as programs do that go into the background
signal.alarm(40)
say("in the background", os.getpid())
wait()
say(item(1))
until(lambda: cache.stats().position.number > 0)
say("announced", item(1))
cache.close()
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_a_program_that_goes_into_the_background_takes_its_queued_invalidations_along(
    server: Server, proxy: Proxy, namespace: str, colour: Colour
) -> None:
    """Its parent ends at once and can not announce them. Until the child has, the old entry in Redis is not served."""
    with Script(SHOP + DAEMON, proxy.url, namespace, colour) as script:
        script.hear("warm")
        proxy.refuse()
        script.say()
        pid = int(script.hear("in the background"))
        proxy.admit()
        script.say()
        assert script.hear() == "2"
        assert script.hear() == "announced 2"
        until(lambda: not is_alive(pid), "it ends")


HOLDER = """
def open_cache():
    brief = Settings(coordination=CoordinationSettings(budget=20.0, lease=1.0, max_lag=20.0))
    return Cache(brief, policies=[Policy(name="items", match="item:*", ttl="1h")], redis=url, namespace=namespace)

computing = threading.Event()

def compute(number):
    if number == 1:
        computing.set()
        time.sleep(100)
    return number

cache = open_cache()
item = sell(cache)
threading.Thread(target=item, args=[1], daemon=True).start()
assert computing.wait(20)

def serve():
    item(2)
    until(lambda: cache.stats().log.is_heard)
    say("child", os.getpid())
    Door().stand()

fork(serve)
Door().stand()
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_the_lease_of_a_parent_that_is_killed_lapses_though_its_child_lives(server: Server, namespace: str, colour: Colour) -> None:
    """Its child extends the leases that it has taken itself, and no others."""
    client, lease = server.client(), Names.of(namespace).lease("item:1")
    with Script(SHOP + HOLDER, server.url, namespace, colour) as script:
        child = int(script.hear("child"))
        assert client.exists(lease)
        script.kill()
        until(lambda: not client.exists(lease), "the lease lapses")
        assert is_alive(child)
        kill(child)


INSIDE = """
PARENT, CHILD, NOBODY = 1, 2, 3
forked = None

def compute(number):
    global forked
    if forked is not None:
        return NOBODY
    forked = os.fork()
    if forked:
        ended(forked)  # the child is faster
        return PARENT
    signal.alarm(40)
    return CHILD

cache = open_cache()
item = sell(cache)
answer = item(1)
if forked == 0:
    assert answer == CHILD
    os._exit(0)
say(answer, item(1), sell(open_cache())(1))
"""


def test_a_computation_that_forks_is_stored_by_the_parent_alone(server: Server, namespace: str) -> None:
    """Both return from it, and the lease is one process's: what the child has made is for its caller."""
    with Script(SHOP + INSIDE, server.url, namespace, "def") as script:
        assert script.hear() == "1 1 1"
        script.end()


RUNNING = """
async def story():
    cache = open_cache()
    busy, go = asyncio.Event(), asyncio.Event()

    @cache.cached("item:{number}")
    async def item(number: int) -> int:
        if number == 3:
            try:
                busy.set()
                await go.wait()
            finally:
                say("left by", "the child" if os.getpid() != parent else "the parent")
        return origin.version

    async def in_child():
        # As a pool of processes does it: the parent's loop is not run any more, another may be.
        gc.collect()
        answers = [await item(1), await item(2), await asyncio.to_thread(cache.get, "item:2")]
        gc.collect()
        await cache.aclose()
        return answers

    def serve():
        assert asyncio.run(in_child()) == [1, 1, 1]
        gc.collect()

    parent = os.getpid()
    await item(1)
    task = asyncio.create_task(item(3))
    await busy.wait()
    children = [fork(serve) for _ in range(3)]
    assert await item(2) == 1
    await asyncio.to_thread(ended, *children)
    assert [await item(number) for number in (1, 2, 4)] == [1, 1, 1]
    await cache.ainvalidate("item:1")
    origin.version = 2
    assert await item(1) == 2
    go.set()
    assert await task == 2
    await cache.aclose()

asyncio.run(story())
"""


def test_a_fork_in_a_running_loop_leaves_the_loop_to_the_parent(server: Server, namespace: str) -> None:
    """The child may run another one. Its tasks are not touched in the child, and the connections go on in the parent."""
    with Script(SHOP + RUNNING, server.url, namespace, "async def") as script:
        script.hear("left by the parent")
        script.end()


BEHIND = """
import logging

logging.getLogger("cachesync").addHandler(logging.NullHandler())  # it tells that an old value stands in

async def story():
    parent, waiting = os.getpid(), []

    def sell(cache, **how):
        @cache.cached("item:{number}", **how)
        async def item(number: int) -> int:
            if origin.version == 2:
                waiting.append(number)
                try:
                    await asyncio.Event().wait()
                finally:
                    say("left by", "the child" if os.getpid() != parent else "the parent")
            return origin.version
        return item

    refreshing = open_cache(stale_while_revalidate="1h")
    slow = open_cache(stale_if_error="1h", soft_timeout="20ms")
    warming = open_cache()
    items = [sell(refreshing), sell(slow)]
    sell(warming, warm=[(3,)])
    assert [await item(number) for number, item in enumerate(items, 1)] == [1, 1]
    for number, cache in enumerate((refreshing, slow), 1):
        await cache.ainvalidate(f"item:{number}", soft=True)
    origin.version = 2
    assert [await item(number) for number, item in enumerate(items, 1)] == [1, 1]
    warming.warm_behind()
    while sorted(waiting) != [1, 2, 3]:
        await asyncio.sleep(0.001)
    ended(fork(gc.collect))
    say("the child has ended")
    os._exit(0)

asyncio.run(story())
"""


def test_what_works_behind_callers_in_a_loop_is_left_to_the_parent(namespace: str) -> None:
    """A refresh, a computation that its callers have left, a warming: nobody else holds them, and the child ends none of them."""
    with Script(SHOP + BEHIND, "memory", namespace, "async def") as script:
        script.hear("the child has ended")
        script.end()


BUSY = """
dead = Origin()  # its version is the last one that was invalidated
cache = open_cache()
item = sell(cache)
over = threading.Event()
wrong = []

def invalidate():
    while not over.is_set():
        origin.version += 1
        cache.invalidate(tags=["items"])
        least = dead.version = origin.version
        if item(1) < least:
            wrong.append(("own", least))

def read():
    while not over.is_set():
        for number in range(6):
            least = dead.version
            if item(number) < least:
                wrong.append((number, least))

def read_redis():
    while not over.is_set():
        other = open_cache()
        answer = sell(other)
        answer(1)

def serve():
    for number in range(6):
        least = dead.version
        value = item(number)
        if number == 0:  # before it the child had not heard anything
            assert value >= least, (value, least)
    cache.invalidate("item:0")
    cache.close()

threads = [threading.Thread(target=work) for work in (invalidate, read, read, read_redis)]
for thread in threads:
    thread.start()
for _ in range(6):
    ended(*[fork(serve) for _ in range(2)])
over.set()
for thread in threads:
    thread.join()
assert not wrong, wrong
assert dead.version > 6
say("well", dead.version)
cache.close()
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_forks_in_the_middle_of_everything(server: Server, namespace: str, colour: Colour) -> None:
    """Other threads invalidate, compute, and open and close caches: nobody hangs, and nothing older than what was invalidated is served."""
    with Script(SHOP + BUSY, server.url, namespace, colour) as script:
        script.hear("well")
        script.end()


AT_WORK = """
import sys
from cachesync import Cache, Policy

url, colour = sys.argv[1:]
imported = set(sys.modules)
import asyncio

def work(url):
    with Cache(redis=url, policies=[Policy(name="all", match="*", ttl="1m")], listen=True) as cache:
        if colour == "def":
            cache.cached("item:{number}", tags=["items"])(lambda number: {"number": number})(1)
            cache.set("item:2", b"bytes")
            cache.invalidate("item:1", "item:7*", tags=["items"])
            cache.peek("item:1")
        else:
            asyncio.run(work_in_loop(cache))
        cache.stats()

async def work_in_loop(cache):
    @cache.cached("item:{number}", tags=["items"])
    async def item(number):
        return {"number": number}

    await item(1)
    await cache.aset("item:2", b"bytes")
    await cache.ainvalidate("item:1", "item:7*", tags=["items"])
    await cache.apeek("item:1")

for address in (url, url.replace("127.0.0.1", "localhost"), "redis://localhost:1"):
    work(address)
print(*sorted(set(sys.modules) - imported))
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_nothing_is_imported_at_work(server: Server, colour: Colour) -> None:
    """A child that is forked while another thread imports a module can never import it: the lock of the module is held for ever."""
    done = subprocess.run([sys.executable, "-c", AT_WORK, server.url, colour], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


FAMILY = """
cache = open_cache()
item = sell(cache)

def descend(depth):
    assert [item(number) for number in (1, 2, 3)] == [origin.version] * 3
    if depth:
        for _ in range(2):
            ended(fork(lambda: descend(depth - 1)))
        origin.version += 1
        cache.invalidate(tags=["items"])
        assert [item(number) for number in (1, 2, 3)] == [origin.version] * 3
    cache.close()

descend(3)
say("all of them")
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_children_of_children_are_processes_like_any_other(server: Server, namespace: str, colour: Colour) -> None:
    """Each has heard what its children and its brothers' children have invalidated, before it serves what it was born with."""
    with Script(SHOP + FAMILY, server.url, namespace, colour) as script:
        script.hear("all of them")
        script.end()


POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

method, version = rest[0], Path(rest[1])

def compute(number):
    return int(version.read_text())

cache = open_cache()
item = sell(cache)

def serve(number):
    return item(number)

def invalidate(number):
    return str(cache.invalidate(f"item:{number}"))

def story(do):
    # `do` has something done in another process.
    assert [item(1), item(2)] == [1, 1]
    assert [do(serve, 1), do(serve, 2), do(serve, 1)] == [1, 1, 1]
    version.write_text("2")
    cache.invalidate("item:1")
    until(lambda: do(serve, 1) == 2)
    version.write_text("3")
    do(invalidate, 2)
    until(lambda: item(2) == 3)
    assert do(serve, 3) == item(3) == 3

if __name__ == "__main__":
    version.write_text("1")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        story(lambda work, number: pool.submit(work, number).result(20))
    cache.close()
    say("well")
"""


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_a_pool_share_one_cache(server: Server, namespace: str, tmp_path: Path, method: str, colour: Colour) -> None:
    """However they are started: with the cache of the one who started them, or with one that they have made as they were imported."""
    with Script(SHOP + POOL, server.url, namespace, colour, method, str(tmp_path / "version"), file=tmp_path / "program.py") as script:
        script.hear("well")
        script.end()


PLUGGED = """
from cachesync import RedisShared

class Plugged(RedisShared):
    def after_fork(self):
        raise RuntimeError("a mistake of whoever wrote this layer")

def open_plugged():
    return Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=Plugged(rest[0], namespace=namespace))

caches = [open_cache() if number % 4 else open_plugged() for number in range(8)]
for cache in caches:
    cache.set("item:1", 1)

def serve():
    say("child", os.getpid())
    wait()
    assert [cache.get("item:1") for cache in caches] == [1] * 8

ended(fork(serve))
for cache in caches:
    cache.close()
"""


def test_a_layer_that_fails_in_a_child_spoils_no_other_cache(server: Server, proxy: Proxy, namespace: str) -> None:
    """What was plugged in raises as it is put in order after the fork. It is told, and the other caches are put in order."""
    with Script(SHOP + PLUGGED, server.url, namespace, "def", proxy.url) as script:
        child = int(script.hear("child"))
        assert not connections(child, server.port)
        script.say()
        script.end(errors="a mistake of whoever wrote this layer")
