"""What a deployment needs of Redis: that it answers soon, is new enough, keeps what it must not lose, and lets the log be heard."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from statistics import median
from typing import Final

from cachesync.command_line.doctor_rights import examine_rights
from cachesync.command_line.findings import Finding, fine, warning, wrong
from cachesync.command_line.printing import address_of, bytes_text
from cachesync.core.settings import Settings
from cachesync.core.steps import Beat, Failed, Hear
from cachesync.core.units import format_duration
from cachesync.errors import LayerError
from cachesync.layers.redis import RedisShared
from cachesync.layers.redis_cluster import SLOTS, ClusterShared, redis_layer
from cachesync.layers.redis_line import reason_of
from cachesync.layers.redis_places import PATIENCE, Place, places_of, server_info

TRIPS: Final = 20
"""Trips by which latency is measured."""
OLDEST: Final = (6, 2)
NEW: Final = (7, 0)
"""Versions of Redis: what is asked for at least, and from when on a full server takes invalidations and channels belong to shards."""
NEAR: Final = 0.9
"""Of what a server has: above this it is nearly used up."""
APART: Final = 1.0
"""Seconds that two clocks may differ."""
_VERSION: Final = re.compile(r"([0-9]+)\.([0-9]+)")


def examine_redis(settings: Settings) -> Iterator[Finding]:
    """Ask every server. Where one can not be reached nothing else is asked of it."""
    if settings.redis is None:
        yield fine("redis", "no Redis: one process, or several that know nothing of each other")
        return
    shared = redis_layer(settings.redis.url, namespace=settings.namespace)
    try:
        yield from _servers(shared, settings)
    finally:
        shared.close()


def _servers(shared: RedisShared | ClusterShared, settings: Settings) -> Iterator[Finding]:
    where = address_of(settings)
    try:
        places = places_of(shared)
    except LayerError as error:
        yield wrong("redis", f"{where}: {error}", "is the address right, and does the server run?")
        return
    if isinstance(shared, ClusterShared):
        yield from _slots(shared, len(places))
    heard = False
    for place in places:
        try:
            info = server_info(place)
        except LayerError as error:
            yield wrong("redis", f"{place.name or where}: {error}", _advice_for(str(error)))
            continue
        yield from _server(place, info, settings, is_first=place is places[0])
        version = _version_of(info)
        yield from examine_rights(place, settings, shared.names, is_first=place is places[0], has_shards=version >= NEW)
        heard = heard or place is places[0]
    if heard:
        yield from _latency(places[0], settings)
        yield from _log(shared)


def _advice_for(trouble: str) -> str:
    if "AUTH" in trouble or "WRONGPASS" in trouble or "NOPERM" in trouble:
        return "are user and password of the url right, and may the user call INFO?"
    return "is the address right, does the server run, and does a firewall let this machine through?"


def _slots(shared: ClusterShared, masters: int) -> Iterator[Finding]:
    unserved = sum(shared.slots.owner(slot) is None for slot in range(SLOTS))
    if unserved:
        yield wrong(
            "cluster", f"{unserved:,} of {SLOTS:,} slots are served by nobody", "what lies there can not be cached: mend the cluster"
        )
    else:
        yield fine("cluster", f"{masters} masters serve all {SLOTS:,} slots")


def _version_of(info: Mapping[str, str]) -> tuple[int, int]:
    found = _VERSION.match(info.get("redis_version", ""))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _server(place: Place, info: Mapping[str, str], settings: Settings, *, is_first: bool) -> Iterator[Finding]:
    where = place.name or str(address_of(settings))
    name = f"{info.get('server_name', 'redis').capitalize()} {info.get('valkey_version', info.get('redis_version', 'of unknown version'))}"
    if _version_of(info) < OLDEST:
        yield wrong("redis", f"{where}: {name}", "use Redis 6.2 or newer, or Valkey")
    elif _version_of(info) < NEW:
        yield warning("redis", f"{where}: {name}; when it is full, invalidations wait", "Redis 7 and Valkey take them also then")
    else:
        yield fine("redis", f"{where}: {name}")
    if info.get("role") != "master":
        yield wrong("master", f"{where} follows another server", "name the master in the url, or its sentinels: redis+sentinel://...")
    if info.get("loading") == "1":
        yield wrong("persistence", f"{where} is still reading its data", "wait until it has")
    yield from _memory(where, info)
    yield from _persistence(where, info)
    if is_first and settings.coordination.durable and int(info.get("connected_slaves", "0")) == 0:
        yield wrong("replicas", f"{where} has no replica, and durable = true waits for one each time", "set one up, or leave durable out")


def _memory(where: str, info: Mapping[str, str]) -> Iterator[Finding]:
    policy, most, used = info.get("maxmemory_policy", ""), int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if not most:
        yield fine("memory", f"{where}: {bytes_text(used)}, without a limit (maxmemory)")
        return
    says = f"{where}: {bytes_text(used)} of {bytes_text(most)} (maxmemory), {policy}"
    if policy.startswith("allkeys"):
        advice = "use a volatile-* policy: the log has no lifetime, and when it is evicted all that was cached is dead"
        yield warning("memory", says, advice)
    elif policy == "noeviction":
        yield warning("memory", f"{says}: when it is full, nothing new is cached", "use a volatile-* policy, which makes room")
    elif used > NEAR * most and policy.startswith("volatile"):
        yield warning("memory", f"{says}: it evicts, or will soon", "give it more memory, or let values live shorter")
    else:
        yield fine("memory", says)


def _persistence(where: str, info: Mapping[str, str]) -> Iterator[Finding]:
    broken = [
        what
        for what, key in (("snapshots", "rdb_last_bgsave_status"), ("the append-only file", "aof_last_write_status"))
        if info.get(key, "ok") != "ok"
    ]
    if broken:
        advice = "look into the server's log: is its disk full? Until then it may refuse everything that is written"
        yield wrong("persistence", f"{where}: {' and '.join(broken)} can not be written", advice)
        return
    aof = "on" if info.get("aof_enabled") == "1" else "off"
    yield fine("persistence", f"{where}: append-only file {aof}. What a restart loses is computed anew")


def _latency(place: Place, settings: Settings) -> Iterator[Finding]:
    trips: list[tuple[float, float]] = []
    try:
        for _ in range(TRIPS):
            began, wall = time.perf_counter(), time.time()
            [(seconds, microseconds)] = place.ask((b"TIME",))
            took = time.perf_counter() - began
            trips.append((took, int(seconds) + int(microseconds) / 1e6 - (wall + took / 2)))
    except LayerError as error:
        yield wrong("latency", str(error), "let the user call TIME")
        return
    middle, worst = median(took for took, _ in trips), max(took for took, _ in trips)
    budget = settings.coordination.budget
    says = f"{1000 * middle:.2f} ms, {1000 * worst:.2f} ms at most, of {TRIPS} trips; budget {format_duration(budget)}"
    if worst > budget:
        yield warning("latency", says, "calls give up on Redis after the budget: bring it nearer, or raise budget in [coordination]")
    else:
        yield fine("latency", says)
    took, apart = min(trips)
    says = f"the server's is {abs(apart):.3f} s {'ahead' if apart > 0 else 'behind'}, give or take {1000 * took / 2:.2f} ms"
    if abs(apart) > APART + took:
        yield warning("clock", says, "set both by NTP: ages go by the server's clock, Date and Age of HTTP by this machine's")
    else:
        yield fine("clock", says)


def _log(shared: RedisShared | ClusterShared) -> Iterator[Finding]:
    until = time.monotonic() + PATIENCE
    with closing(shared.ear()) as ear:
        beat: Beat | None = None
        while beat is None and (left := until - time.monotonic()) > 0:
            heard = ear.perform(Hear(left, True, PATIENCE))
            if isinstance(heard, Failed):
                says = reason_of(heard.error).removeprefix("Redis, hear: ")
                yield wrong(
                    "log", f"it can not be heard: {says}", "let the user subscribe to the log's channel: What lies in Redis, Rights"
                )
                return
            beat = next((item for item in heard.items if isinstance(item, Beat)), None)
    if beat is None:
        yield wrong(
            "log", f"nothing was heard within {format_duration(PATIENCE)}", "is there a proxy between that does not let messages through?"
        )
        return
    if beat.thrown is not None and beat.thrown.switched:
        switched = ", ".join(f"{target} {value}" for target, value in beat.thrown.switched)
        yield warning("switches", f"switched for all processes: {switched}", "when that is over: cachesync switch TARGET full")
    if beat.head is None:
        yield fine("log", "it is heard; there is none yet, the first process begins one")
    else:
        yield fine("log", f"it is heard, and is at {beat.head}")
