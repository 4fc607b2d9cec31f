"""What must type-check: mypy and pyright, both strict, find nothing to say about this file. It is read, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, assert_type
from uuid import UUID

from cachesync import (
    MISSING,
    AsyncCachedFunction,
    AsyncCachedMany,
    Cache,
    CachedFunction,
    CachedMany,
    Entry,
    Event,
    FunctionStats,
    Health,
    MemoryShared,
    Policies,
    Policy,
    Settings,
    Span,
    Stamp,
    Stats,
)
from cachesync.cache import RequestScope
from cachesync.testing import FakeClock

T = TypeVar("T")


@dataclass
class Store:
    code: str
    name: str


cache = Cache(policies=[Policy(name="all", match="*", ttl="5m", local_ttl=30, tags=["shop"], copy=True)])


# --- def ----------------------------------------------------------------------------------------------------------------------


@cache.cached("stores:{code}")
def store(code: str) -> Store:
    return Store(code, "Jakarta")


assert_type(store("JKT"), Store)
assert_type(store(code="JKT"), Store)
assert_type(store("JKT").name, str)
assert_type(store.invalidate("JKT"), Stamp)
assert_type(store.invalidate(code="JKT"), Stamp)
assert_type(store.refresh("JKT"), Store)
assert_type(store.peek("JKT"), Entry[Store] | None)
assert_type(store.set(Store("JKT", "Jakarta"), "JKT"), Stamp)
assert_type(store.set(Store("JKT", "Jakarta"), code="JKT"), Stamp)
assert_type(store.many([("JKT",), ("BDG",)]), list[Store])
assert_type(store.many((code,) for code in ("JKT", "BDG")), list[Store])
assert_type(store.key("JKT"), str)
assert_type(store.__wrapped__("JKT"), Store)
as_before: Callable[[str], Store] = store
sorted_stores = sorted(map(store, ["JKT", "BDG"]), key=lambda found: found.name)
assert_type(sorted_stores, list[Store])


@cache.cached("stats:{code}:{days}:{since}", tags=["store:{code}"], ignore=["trace"])
def stats(code: str, /, days: int = 7, *, since: UUID | None = None, trace: object = None) -> dict[str, list[int]]:
    return {code: [days]}


assert_type(stats("JKT"), dict[str, list[int]])
assert_type(stats("JKT", 7, since=None), dict[str, list[int]])
assert_type(stats.invalidate("JKT", days=7), Stamp)
assert_type(stats.set({"JKT": [1]}, "JKT", since=UUID(int=1)), Stamp)
assert_type(stats.key("JKT", 7, trace=cache), str)


@cache.cached("none:{n}")
def maybe(n: int) -> str | None:
    return None


assert_type(maybe(1), str | None)
assert_type(maybe.many([(1,)]), list[str | None])
maybe.set(None, 1)
looked = maybe.peek(1)
if looked is not None:
    assert_type(looked.value, str | None)
    assert_type(looked.age, float)
    assert_type(looked.is_stale, bool)
    assert_type(looked.stamp, Stamp)
    assert_type(looked.etag, str)


@cache.cached("loose:{anything}")
def loose(anything: Any) -> Any:
    return anything


loose(1).whatever()
loose.many([(1,)])[0].whatever()
loose.invalidate(1)


@cache.cached("variadic:{first}:{rest}:{options}")
def variadic(first: int, *rest: str, **options: bool) -> tuple[int, ...]:
    return (first,)


assert_type(variadic(1, "a", "b", deep=True), tuple[int, ...])
assert_type(variadic.key(1, "a", deep=True), str)


@cache.cached("nothing")
def nothing() -> int:
    return 1


assert_type(nothing(), int)
assert_type(nothing.many([()]), list[int])

by_call = cache.cached("called:{n}")(maybe.__wrapped__)
assert_type(by_call(1), str | None)
length: CachedFunction[[str], int] = cache.cached("length:{obj}")(len)


# --- async def ----------------------------------------------------------------------------------------------------------------


@cache.cached("astores:{code}:{days}")
async def astore(code: str, *, days: int = 7) -> Store:
    return Store(code, str(days))


@cache.cached("aloose:{anything}")
async def aloose(anything: Any) -> Any:
    return anything


@cache.cached("stores:{code}", same_as=store)
async def store_too(code: str) -> Store:
    return store(code)


async def awaited() -> None:
    assert_type(await astore("JKT"), Store)
    assert_type(await astore("JKT", days=1), Store)
    assert_type(await astore.invalidate("JKT", days=1), Stamp)
    assert_type(await astore.refresh("JKT"), Store)
    assert_type(await astore.peek("JKT"), Entry[Store] | None)
    assert_type(await astore.set(Store("JKT", "x"), "JKT", days=1), Stamp)
    assert_type(await astore.many([("JKT",)]), list[Store])
    assert_type(astore.key("JKT", days=1), str)
    assert_type(await astore.__wrapped__("JKT"), Store)
    both = await asyncio.gather(astore("JKT"), maybe_later(1))
    assert_type(both, tuple[Store, int])
    task = asyncio.create_task(astore("JKT"))
    assert_type(await task, Store)
    (await aloose(1)).whatever()
    assert_type(await store_too("JKT"), Store)


async def maybe_later(n: int) -> int:
    return n


async_as_before: Callable[[str], Coroutine[Any, Any, Store]] = store_too


# --- methods ------------------------------------------------------------------------------------------------------------------


class Repo:
    def __init__(self, name: str) -> None:
        self.name = name

    @cache.cached("repo:{self.name}:{n}")
    def find(self, n: int, *, deep: bool = False) -> Store:
        return Store(str(n), str(deep))

    @cache.cached("arepo:{self.name}:{n}")
    async def afind(self, n: int) -> Store:
        return self.find(n)

    @staticmethod
    @cache.cached("static:{n}")
    def static(n: int) -> str:
        return str(n)

    @property
    @cache.cached("size:{self.name}")
    def size(self) -> int:
        return 1


repo = Repo("one")
assert_type(repo.find(1), Store)
assert_type(repo.find(n=1, deep=True), Store)
assert_type(Repo.find(repo, 1), Store)
assert_type(Repo.find.invalidate(repo, 3), Stamp)
assert_type(Repo.find.peek(repo, 3, deep=True), Entry[Store] | None)
assert_type(Repo.find.set(Store("a", "b"), repo, 3), Stamp)
assert_type(Repo.find.many([(repo, 1)]), list[Store])
assert_type(Repo.static(1), str)
assert_type(repo.size, int)
bound: Callable[[int], Store] = repo.find


async def methods() -> None:
    assert_type(await repo.afind(1), Store)
    pair = await asyncio.gather(repo.afind(1), maybe_later(1))
    assert_type(pair, tuple[Store, int])
    assert_type(await Repo.afind(repo, 1), Store)
    assert_type(await Repo.afind.refresh(repo, 1), Store)


class SpecialRepo(Repo):
    pass


assert_type(SpecialRepo("x").find(1), Store)
assert_type(SpecialRepo.find.key(SpecialRepo("x"), 1), str)


# --- functions of many arguments ------------------------------------------------------------------------------------------------


@cache.cached_many("many:{code}", page=100)
def stores(codes: Sequence[str]) -> dict[str, Store]:
    return {code: Store(code, "Jakarta") for code in codes}


assert_type(stores(["JKT"]), dict[str, Store])
assert_type(stores(codes=("JKT",)), dict[str, Store])
assert_type(stores.invalidate(["JKT"]), Stamp)
assert_type(stores.refresh(["JKT"]), dict[str, Store])
assert_type(stores.at_least(cache.stamp(), ["JKT"]), dict[str, Store])
assert_type(stores.keys(["JKT"]), list[str])
assert_type(stores.__wrapped__(["JKT"]), dict[str, Store])
many_as_before: Callable[[Sequence[str]], dict[str, Store]] = stores
as_a_type: CachedMany[[Sequence[str]], dict[str, Store]] = stores


@cache.cached_many("visits:{lang}:{number}", tags=["visits:{number}"], ignore=["trace"], tags_from=lambda result: [str(result)])
def visits(lang: str, numbers: Iterable[int], *, trace: object = None) -> list[int]:
    return list(numbers)


assert_type(visits("id", {1, 2}, trace=cache), list[int])


@cache.cached_many("variadic_many:{code}")
def variadic_many(*codes: str) -> Mapping[str, int | None]:
    return dict.fromkeys(codes, 1)


assert_type(variadic_many("JKT", "BDG"), Mapping[str, int | None])


@cache.cached_many("astores:{code}", same_as=store)
async def astores(codes: Collection[str]) -> dict[str, Store]:
    return stores(list(codes))


class Repos:
    @cache.cached_many("repos:{number}", ignore=["self"])
    def find(self, numbers: list[int]) -> dict[int, str]:
        return dict.fromkeys(numbers, "x")

    @cache.cached_many("arepos:{number}", ignore=["self"])
    async def afind(self, numbers: list[int]) -> dict[int, str]:
        return dict.fromkeys(numbers, "x")


assert_type(Repos().find([1]), dict[int, str])
assert_type(Repos.find.invalidate(Repos(), [1]), Stamp)
amany: AsyncCachedMany[[Collection[str]], dict[str, Store]] = astores


async def awaited_many() -> None:
    assert_type(await astores(["JKT"]), dict[str, Store])
    assert_type(await astores.invalidate(["JKT"]), Stamp)
    assert_type(await astores.refresh(["JKT"]), dict[str, Store])
    assert_type(await Repos().afind([1]), dict[int, str])
    both = await asyncio.gather(astores(["JKT"]), maybe_later(1))
    assert_type(both, tuple[dict[str, Store], int])
    assert_type(await cache.aget_many(["stores:x"]), dict[str, Any])
    assert_type(await cache.aget_or_compute_many(["stores:x"], lengths_later), dict[str, int | None])


def lengths(keys: list[str]) -> dict[str, int]:
    return {key: len(key) for key in keys}


async def lengths_later(keys: list[str]) -> dict[str, int]:
    return lengths(keys)


assert_type(cache.get_many({"stores:x"}, at_least=cache.stamp()), dict[str, Any])
assert_type(cache.get_or_compute_many(["stores:x"], lengths), dict[str, int | None])
assert_type(cache.get_or_compute_many(["stores:x"], lambda keys: dict.fromkeys(keys, 1)), dict[str, int | None])

# --- functions about cached functions -----------------------------------------------------------------------------------------


def warm(function: CachedFunction[[str], T], codes: Sequence[str]) -> list[T]:
    return [function.refresh(code) for code in codes]


async def awarm(function: AsyncCachedFunction[[str], T], codes: Sequence[str]) -> list[T]:
    return [await function.refresh(code) for code in codes]


assert_type(warm(store, ["JKT"]), list[Store])
assert_type(asyncio.run(awarm(store_too, ["JKT"])), list[Store])

# --- the cache ----------------------------------------------------------------------------------------------------------------

assert_type(cache.set("stores:x", 1), Stamp)
assert_type(cache.get_or_compute("stores:x", lambda: 7), int)
assert_type(cache.get_or_compute("stores:x", nothing), int)
assert_type(cache.invalidate("stores:*", "users:1", tags=["a", "b"]), Stamp)
assert_type(cache.invalidate(tags={"a"}), Stamp)
assert_type(cache.ttl("short"), float)
assert_type(cache.stats(), Stats)
assert_type(cache.stats().total.hit_rate, float)
assert_type(cache.peek("stores:x"), Entry[Any] | None)
found = cache.get("stores:x")
if found is not MISSING:
    print(found)
cache.get("stores:x", None)
with cache.request() as scope:
    assert_type(scope, RequestScope)


async def in_a_request() -> None:
    async with cache.request() as waiting:
        assert_type(waiting, RequestScope)


@cache.on_event
def told(event: Event) -> None:
    if event.name == "violation":
        print(event.fields["served"], event.level)


@cache.on_span
@contextmanager
def watched(span: Span) -> Generator[None, None, None]:
    yield
    print(span.name, span.fields, span.error)


assert_type(cache.off_event(told), bool)
assert_type(cache.off_span(watched), bool)
assert_type(cache.health(), Health)
assert_type(cache.check().status, Literal["ok", "degraded", "down"])
assert_type(cache.stats().policies["stores"], FunctionStats)
assert_type(cache.stats().as_dict(), dict[str, Any])


async def in_a_loop() -> None:
    assert_type(await cache.aset("stores:x", 1), Stamp)
    assert_type(await cache.aget_or_compute("stores:x", nobody), int)
    assert_type(await cache.ainvalidate("stores:*"), Stamp)
    assert_type(await cache.apeek("stores:x"), Entry[Any] | None)
    assert_type(await cache.acheck(), Health)
    await cache.aget("stores:x", default=None)
    async with cache as same:
        assert_type(same, Cache)


async def nobody() -> int:
    return 1


with Cache(Settings(policies=Policies([])), shared=MemoryShared(), clock=FakeClock(), on_event=told) as other:
    assert_type(other, Cache)


@cache.cached("dynamic:{n}", ttl=lambda result: result["ttl"])
def dynamic(n: int) -> dict[str, float]:
    return {"ttl": float(n)}


def rows() -> Iterator[int]:
    yield from store.many([("JKT",)])[0].code.encode()
