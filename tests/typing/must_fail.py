"""What must not type-check: mypy and pyright, both strict, complain about each line marked ``# E``, and about no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_type

from cachesync import AsyncCachedFunction, Cache, CachedFunction, Event, Policy, Stamp

cache = Cache(policies=[Policy(name="all", match="*", ttl=60)])


@cache.cached("stores:{code}:{days}")
def store(code: str, *, days: int = 7) -> list[int]:
    return [days]


@cache.cached("astores:{code}:{days}")
async def astore(code: str, *, days: int = 7) -> list[int]:
    return [days]


class Repo:
    @cache.cached("repo:{n}", ignore=["self"])
    def find(self, n: int) -> str:
        return str(n)

    @cache.cached("arepo:{n}", ignore=["self"])
    async def afind(self, n: int) -> str:
        return str(n)


repo = Repo()

# The arguments are those of the function, in calls and in every attribute.
store()  # E
store(7)  # E
store("JKT", 7)  # E
store("JKT", days="7")  # E
store("JKT", hours=7)  # E
store.invalidate(7)  # E
store.invalidate("JKT", hours=7)  # E
store.refresh()  # E
store.peek("JKT", days="7")  # E
store.key(7)  # E
store.set([1])  # E
store.many(["JKT"])  # E
store.many(7)  # E

# So is the result, and the value that is set.
wrong_result: str = store("JKT")  # E
wrong_refresh: str = store.refresh("JKT")  # E
store.set("JKT", "JKT")  # E
store.set(["1"], "JKT")  # E
wrong_many: list[str] = store.many([("JKT",)])  # E
store.peek("JKT").value  # E
wrong_stamp: int = store.invalidate("JKT")  # E
store("JKT").missing  # E

# There is no such attribute, and none can be set.
store.forget("JKT")  # E
store.ainvalidate("JKT")  # E


async def in_a_loop() -> None:
    # The attributes of an async function are awaited, those of a plain one are not.
    wrong: list[int] = astore("JKT")  # E
    wrong_key: str = await astore.key("JKT")  # E
    wrong_stamp: Stamp = astore.invalidate("JKT")  # E
    await store.invalidate("JKT")  # E
    await store("JKT")  # E
    await astore(7)  # E
    await astore.set("JKT", "JKT")  # E
    await astore.set([1])  # E
    assert_type(await astore("JKT"), str)  # E
    assert_type(await astore.many([("JKT",)]), list[int])  # E
    await repo.afind("1")  # E
    await Repo.afind(1)  # E
    await cache.invalidate("*")  # E
    wrong_compute: int = await cache.aget_or_compute("x", text)  # E
    await cache.aget_or_compute("x", plain)  # E


async def text() -> str:
    return ""


def plain() -> int:
    return 1


# Functions of many arguments.
@cache.cached_many("many:{code}")
def stores(codes: list[str]) -> dict[str, int]:
    return dict.fromkeys(codes, 1)


@cache.cached_many("amany:{code}")
async def astores(codes: list[str]) -> list[int]:
    return [1 for _ in codes]


def one_value(codes: list[str]) -> int:
    return 1


async def one_value_later(codes: list[str]) -> int:
    return 1


def names(keys: list[str]) -> list[str]:
    return keys


stores("JKT")  # E
stores([1])  # E
stores()  # E
stores.invalidate("JKT")  # E
stores.keys()  # E
stores.many([("JKT",)])  # E
wrong_stores: dict[str, str] = stores(["JKT"])  # E
wrong_astores: list[int] = astores(["JKT"])  # E
cache.cached_many("x:{code}")(one_value)  # E
cache.cached_many("x:{code}")(one_value_later)  # E
cache.cached_many("x:{code}", page="7")(names)  # E
cache.get_many(7)  # E
cache.get_or_compute_many(["x"], names)  # E
cache.get_or_compute_many(["x"])  # E


# Methods.
repo.find("1")  # E
repo.find()  # E
repo.find(1, 2)  # E
Repo.find(1)  # E
Repo.find.invalidate(3)  # E
Repo.find.invalidate(repo, "3")  # E
repo.find.invalidate(repo, 3)  # E
wrong_method: int = repo.find(1)  # E

# The cache.
cache.cached("x:{n}", tags=7)(plain)  # E
cache.cached()(plain)  # E
cache.cached("x")(7)  # E
cache.cached("x", ttls=5)(plain)  # E
cache.get(7)  # E
cache.invalidate(7)  # E
cache.invalidate(tags=[7])  # E
cache.set("x")  # E
wrong_get: int = cache.get_or_compute("x", lambda: "text")  # E
cache.get_or_compute("x", 7)  # E
Cache(policies=[7])  # E
cache.on_event(lambda: None)  # E
cache.on_span(lambda span: None)  # E
cache.health().state  # E
Event("layer_fialed", {})  # E
Cache(policy=[])  # E
Policy(match="*", ttl=60)  # E
Policy(name="all", match="*", ttl=60, copy="yes")  # E
Policy("all", "*", 60)  # E
not_a_def: CachedFunction[[str], list[int]] = astore  # E
not_async: AsyncCachedFunction[[str], list[int]] = store  # E
other_parameters: Callable[[int], list[int]] = store  # E
