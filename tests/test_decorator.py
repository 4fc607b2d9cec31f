"""Decorated functions: called as before, computed once, and asked, told and emptied through their attributes."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import inspect
import math
import pickle
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from cachesync import MISSING, Cache, Entry, Event, KeyTemplateError, MemoryShared, Policies, Policy, Settings, Stamp
from cachesync.errors import KeyArgumentError, PolicyError
from cachesync.testing import FakeClock

TTL = 60.0
FUNCTION: Any = type(lambda: None)


class Colour:
    """Writes a test once for ``def`` and ``async def``: ``cached`` decorates in its colour, a call of it brings the result."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self.runner = runner

    def cached(self, cache: Cache, template: str, function: Callable[..., Any], **how: Any) -> Any:
        """The function, or an ``async def`` of the same signature and metadata, decorated."""
        if self.runner is None:
            return cache.cached(template, **how)(function)

        @functools.wraps(function)
        async def coroutine_function(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return function(*args, **kwargs)

        return cache.cached(template, **how)(coroutine_function)

    def __call__(self, answer: Any) -> Any:
        """What a decorated function or one of its attributes answered, awaited where that is the colour."""
        if self.runner is None:
            return answer
        assert inspect.iscoroutine(answer), "a method of an async function is awaited"
        return self.runner.run(answer)


@pytest.fixture(params=["def", "async def"])
def colour(request: pytest.FixtureRequest) -> Iterator[Colour]:
    """Both colours, one after the other."""
    if request.param == "def":
        yield Colour(None)
        return
    with asyncio.Runner() as runner:
        yield Colour(runner)


@pytest.fixture
def clock() -> FakeClock:
    """Time, moved by hand."""
    return FakeClock()


class Watch(list[Event]):
    """The events of a cache."""

    def named(self, name: str) -> list[Event]:
        return [event for event in self if event.name == name]


@pytest.fixture
def events() -> Watch:
    """What the caches of the test have told."""
    return Watch()


@pytest.fixture
def make(clock: FakeClock, events: Watch) -> Callable[..., Cache]:
    """Makes caches with one policy for all keys: ``make(ttl=5, copy=True)``."""

    def cache(*, shared: MemoryShared | None = None, **policy: Any) -> Cache:
        settings: dict[str, Any] = {"ttl": TTL, **policy}
        policies = [Policy(name="all", match="*", **settings)]
        return Cache(policies=policies, clock=clock, on_event=events.append, shared=shared, listen=False)

    return cache


@pytest.fixture
def cache(make: Callable[..., Cache]) -> Cache:
    """A cache in one process; everything lives for a minute."""
    return make()


class Calls:
    """A function that notes how it was called and returns something new each time."""

    def __init__(self, answers: Callable[[int], Any] = lambda n: n) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self._answers = answers

    def __call__(self, *args: Any) -> Any:
        self.seen.append(args)
        return self._answers(len(self.seen))

    def __len__(self) -> int:
        return len(self.seen)


# --- one call, however it is written ------------------------------------------------------------------------------------------


def _plain(a: Any, b: Any = 2, *, c: Any = 3) -> tuple[Any, ...]:
    return (a, b, c)


def _positional(a: Any, /, b: Any = "x", *, c: Any) -> tuple[Any, ...]:
    return (a, b, c)


def _variadic(a: Any, /, *rest: Any, flag: bool = False, **options: Any) -> tuple[Any, ...]:
    return (a, rest, flag, options)


def _mutable(a: Any, b: Any = [1], c: Any = {"k": None}, d: Any = None) -> tuple[Any, ...]:  # noqa: B006 - that is the case
    return (a, b, c, d)


def _annotated(a: int, b: str = "x", *, c: bool = False) -> tuple[Any, ...]:
    return (a, b, c)


def _odd_names(self: Any, key: Any, value: Any = 1, function: Any = 2, cls: Any = 3, *args: Any, calls: Any = 4, **kwargs: Any) -> Any:
    return (self, key, value, function, cls, args, calls, kwargs)


def _keyword_only(*, a: Any, b: Any = None) -> tuple[Any, ...]:
    return (a, b)


Case = tuple[Callable[..., Any], str, list[tuple[tuple[Any, ...], dict[str, Any]]]]
ONE_CALL: list[Case] = [
    (_plain, "{a}:{b}:{c}", [((1,), {}), ((), {"a": 1}), ((1, 2), {}), ((1,), {"b": 2, "c": 3}), ((), {"c": 3, "b": 2, "a": 1})]),
    (_positional, "{a}:{b}:{c}", [((1,), {"c": 4}), ((1, "x"), {"c": 4}), ((1,), {"c": 4, "b": "x"})]),
    (_variadic, "{a}:{rest}:{flag}:{options}", [((1, 2), {"x": 1, "y": 2}), ((1, 2), {"y": 2, "flag": False, "x": 1})]),
    (_variadic, "{a}:{rest}:{flag}:{options}", [((1,), {}), ((1,), {"flag": False})]),
    (
        _mutable,
        "{a}:{b}:{c}:{d}",
        [((1,), {}), ((1, [1]), {}), ((1,), {"c": {"k": None}, "d": None}), ((1, [1], {"k": None}, None), {})],
    ),
    (_annotated, "{a}:{b}:{c}", [((1,), {}), ((), {"a": 1, "c": False}), ((1, "x"), {})]),
    (
        _odd_names,
        "{self}:{key}:{value}:{function}:{cls}:{args}:{calls}:{kwargs}",
        [((0, 5), {}), ((0,), {"key": 5}), ((), {"self": 0, "key": 5, "value": 1, "cls": 3}), ((0, 5, 1, 2, 3), {"calls": 4})],
    ),
    (_keyword_only, "{a}:{b}", [((), {"a": 1}), ((), {"b": None, "a": 1})]),
]


@pytest.mark.parametrize(("function", "template", "calls"), ONE_CALL)
def test_one_call_has_one_entry_however_it_is_written(
    cache: Cache, colour: Colour, function: Callable[..., Any], template: str, calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
) -> None:
    """By position, by name, with or without a default filled in: one computation, one key, and the arguments arrive as they should."""
    computed: list[Any] = []

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        computed.append((args, kwargs))
        return function(*args, **kwargs)

    cached = colour.cached(cache, template, counted)
    expected = function(*calls[0][0], **calls[0][1])
    for args, kwargs in calls:
        assert colour(cached(*args, **kwargs)) == expected
    assert len(computed) == 1
    assert len({cached.key(*args, **kwargs) for args, kwargs in calls}) == 1
    for args, kwargs in calls:
        entry = colour(cached.peek(*args, **kwargs))
        assert entry is not None
        assert entry.value == expected
        colour(cached.invalidate(*args, **kwargs))
        assert colour(cached.peek(*calls[0][0], **calls[0][1])) is None
        assert colour(cached.refresh(*args, **kwargs)) == expected
        colour(cached.set("other", *args, **kwargs))
        assert colour(cached(*calls[0][0], **calls[0][1])) == "other"
        colour(cached.set(expected, *args, **kwargs))


def test_what_differs_in_type_or_value_is_computed_apart(cache: Cache, colour: Colour) -> None:
    """Equal numbers of different types are different calls, whatever Python's dictionaries think of them."""
    calls = Calls()

    def find(a: Any) -> Any:
        return calls(a)

    cached = colour.cached(cache, "{a}", find)
    different = [1, "1", True, 1.0, None, Decimal(1), (1,), [1], b"1", 1 + 0j, {1}, {1: 1}]
    results = [colour(cached(a)) for a in different]
    assert len(set(results)) == len(different)
    assert [colour(cached(a)) for a in different] == results
    assert len(calls) == len(different)


def test_a_call_of_the_wrong_type_is_a_call_of_its_own(cache: Cache, colour: Colour) -> None:
    """``f("7")`` and ``f(True)`` where an ``int`` was announced: answered, and never from another's entry."""

    def find(a: int) -> Any:
        return repr(a)

    cached = colour.cached(cache, "{a}", find)
    for _ in range(2):
        assert [colour(cached(a)) for a in (7, "7", True, 1, None)] == ["7", "'7'", "True", "1", "None"]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"a": 1}), ((1,), {"z": 1}), ((), {"b": 1})],
)
def test_a_wrong_call_raises_what_the_function_raised(cache: Cache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A ``TypeError`` with the function's name and the same words, when it is called, not when it is awaited."""
    with pytest.raises(TypeError) as plain:
        _plain(*args, **kwargs)
    cached: Any = cache.cached("{a}:{b}:{c}")(_plain)
    with pytest.raises(TypeError) as caught:
        cached(*args, **kwargs)
    assert str(caught.value) == str(plain.value)
    for attribute in (cached.key, cached.peek, cached.invalidate, cached.refresh):
        with pytest.raises(TypeError, match=r"_plain\(\)") as caught:
            attribute(*args, **kwargs)
        assert str(caught.value) == str(plain.value)


def test_a_wrong_call_of_an_async_function_raises_at_once(cache: Cache) -> None:
    """As it does without the decorator."""

    @cache.cached("{a}")
    async def find(a: int) -> int:
        return a

    wrong: Any = find
    with pytest.raises(TypeError, match=r"find\(\) missing 1 required positional argument: 'a'"):
        wrong()


# --- still the function that it was -------------------------------------------------------------------------------------------

shop = Cache(policies=[Policy(name="all", match="*", ttl=60)])


@shop.cached("stores:{code}:{days}")
def store(code: str, *, days: int = 7) -> str:
    """One store."""
    return f"{code}/{days}"


@shop.cached("async-stores:{code}")
async def async_store(code: str) -> str:
    """One store, awaited."""
    return code


def test_a_decorated_function_is_a_function_with_its_old_face() -> None:
    """Name, docstring, module, signature, annotations, and the original within reach."""
    cases: list[tuple[Any, str, str]] = [(store, "store", "One store."), (async_store, "async_store", "One store, awaited.")]
    for dressed, name, words in cases:
        assert isinstance(dressed, FUNCTION)
        assert (dressed.__name__, dressed.__qualname__, dressed.__doc__, dressed.__module__) == (name, name, words, __name__)
        assert inspect.signature(dressed) == inspect.signature(dressed.__wrapped__)
        assert dressed.__annotations__ == dressed.__wrapped__.__annotations__
        assert callable(dressed.__wrapped__)
        assert not hasattr(dressed.__wrapped__, "invalidate")
    assert str(inspect.signature(store)) == "(code: 'str', *, days: 'int' = 7) -> 'str'"
    assert not inspect.iscoroutinefunction(store)
    assert inspect.iscoroutinefunction(async_store)
    assert store.__wrapped__("JKT") == "JKT/7"


def test_a_decorated_function_is_pickled_by_its_name() -> None:
    """As a function at the top of a module is; so it can be sent to a pool of processes. A copy of it is itself."""
    assert pickle.loads(pickle.dumps(store)) is store
    assert pickle.loads(pickle.dumps(async_store)) is async_store
    assert copy.deepcopy(store) is store


def test_a_function_of_any_make_can_be_cached(cache: Cache) -> None:
    """A lambda, a partial, an object with ``__call__``, a built-in, a function behind another decorator."""
    calls = Calls()

    class Finder:
        def __call__(self, n: int) -> Any:
            return calls(n)

    def find(prefix: str, n: int) -> Any:
        return calls(prefix, n)

    @functools.wraps(find)
    def behind(*args: Any, **kwargs: Any) -> Any:
        return find(*args, **kwargs)

    unnamed: Callable[[int], Any] = lambda n: calls(n)  # noqa: E731 - a lambda is the case
    made: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "a:{n}": (unnamed, (1,)),
        "b:{n}": (functools.partial(find, "x"), (1,)),
        "c:{n}": (Finder(), (1,)),
        "d:{prefix}:{n}": (behind, ("x", 1)),
    }
    for template, (function, arguments) in made.items():
        cached: Any = cache.cached(template)(function)
        before = len(calls)
        first = cached(*arguments)
        assert cached(*arguments) is first
        assert len(calls) == before + 1
    length: Any = cache.cached("len:{obj}")(len)
    assert length([1, 2]) == length([1, 2]) == 2


class Repo:
    """Methods of every kind, each decorated."""

    calls = Calls()

    def __init__(self, name: str) -> None:
        self.name = name

    @shop.cached("find:{self.name}:{n}")
    def find(self, n: int) -> tuple[Any, ...]:
        return (self.name, n, Repo.calls(self.name, n))

    @shop.cached("afind:{self.name}:{n}")
    async def afind(self, n: int) -> tuple[Any, ...]:
        return (self.name, n, Repo.calls(self.name, n))

    @shop.cached("same-repo:{n}", ignore=["self"])
    def same_for_all(self, n: int) -> int:
        return int(Repo.calls(n))

    @property
    @shop.cached("size:{self.name}")
    def size(self) -> int:
        return int(Repo.calls(self.name))

    @classmethod
    @shop.cached("repo-inside:{cls}:{n}")
    def inside(cls, n: int) -> tuple[Any, ...]:
        return (cls, n, Repo.calls(cls, n))

    @shop.cached("repo-outside:{cls}:{n}")
    @classmethod
    def outside(cls, n: int) -> tuple[Any, ...]:
        return (cls, n, Repo.calls(cls, n))

    @staticmethod
    @shop.cached("static-inside:{n}")
    def static_inside(n: int) -> int:
        return int(Repo.calls(n))

    @shop.cached("static-outside:{n}")
    @staticmethod
    def static_outside(n: int) -> int:
        return int(Repo.calls(n))


class SpecialRepo(Repo):
    """Inherits cached methods."""


def test_a_method_binds_and_is_keyed_on_what_tells_instances_apart() -> None:
    """``{self.name}`` in the template; the instance is the first argument of the attributes."""
    one, other, again = Repo("one"), Repo("other"), Repo("one")
    assert one.find(1) == one.find(n=1) == again.find(1)
    assert one.find(1)[:2] == ("one", 1)
    assert other.find(1)[:2] == ("other", 1)
    assert SpecialRepo("one").find(1) == one.find(1)
    assert Repo.find.key(one, 1) == "find:one:1"
    before = other.find(1)
    held = one.find(1)
    Repo.find.invalidate(one, 1)
    assert Repo.find.peek(one, 1) is None
    assert one.find(1) != held
    assert other.find(1) == before
    assert Repo.find.many([(one, 1), (other, 1)]) == [one.find(1), before]


def test_an_async_method_binds_too() -> None:
    """As one in ``def``."""
    one = Repo("one")

    async def story() -> None:
        first = await one.afind(5)
        assert await one.afind(5) == first
        await Repo.afind.invalidate(one, 5)
        assert await one.afind(5) != first

    asyncio.run(story())


def test_an_instance_can_be_left_out_of_the_key() -> None:
    """``ignore=["self"]``: all instances share one entry."""
    assert Repo("one").same_for_all(1) == Repo("other").same_for_all(1)


def test_a_property_can_be_cached() -> None:
    """It is a method without arguments."""
    one = Repo("p")
    assert one.size == one.size
    assert isinstance(Repo.size, property)


@pytest.mark.parametrize("name", ["inside", "outside"])
def test_classmethods_are_cached_in_both_orders_of_decorators(name: str) -> None:
    """The class is part of the key: a subclass has entries of its own."""
    base, special = getattr(Repo, name), getattr(SpecialRepo, name)
    assert base(1) == base(n=1)
    assert base(1)[:2] == (Repo, 1)
    assert special(1)[:2] == (SpecialRepo, 1)
    assert special(1) != base(1)
    assert getattr(Repo("x"), name)(1) == base(1)
    before = base(1)
    base.__func__.invalidate(Repo, 1)
    assert base(1) != before


@pytest.mark.parametrize("name", ["static_inside", "static_outside"])
def test_staticmethods_are_cached_in_both_orders_of_decorators(name: str) -> None:
    """Through the class and through an instance."""
    static: Any = getattr(Repo, name)
    first = static(1)
    assert static(1) == static(n=1) == getattr(Repo("x"), name)(1) == first
    static.invalidate(1)
    assert static(1) != first


# --- attributes ---------------------------------------------------------------------------------------------------------------


def test_invalidate_makes_one_call_out_of_date(cache: Cache, colour: Colour) -> None:
    """The next call computes; other arguments keep their entries. The answer is a position in the log, and positions rise."""
    calls = Calls()

    def find(a: int) -> Any:
        return calls(a)

    cached = colour.cached(cache, "{a}", find)
    first, other = colour(cached(1)), colour(cached(2))
    stamp = colour(cached.invalidate(1))
    assert isinstance(stamp, Stamp)
    assert not stamp.pending
    assert colour(cached(1)) != first
    assert colour(cached(2)) == other
    later = colour(cached.invalidate(1))
    assert later.number > stamp.number
    assert later.epoch == stamp.epoch


def test_refresh_computes_whatever_is_cached(cache: Cache, colour: Colour) -> None:
    """And stores it for the next caller."""
    calls = Calls()

    def find(a: int) -> Any:
        return calls(a)

    cached = colour.cached(cache, "{a}", find)
    assert colour(cached.refresh(1)) == 1
    assert colour(cached(1)) == 1
    assert colour(cached.refresh(1)) == 2
    assert colour(cached(1)) == 2
    assert calls.seen == [(1,), (1,)]


def test_a_refresh_that_fails_leaves_what_was_there(cache: Cache, colour: Colour) -> None:
    """The exception arrives; the older value is still served."""
    calls = Calls(lambda n: n if n == 1 else 1 // 0)

    def find(a: int) -> Any:
        return calls(a)

    cached = colour.cached(cache, "{a}", find)
    assert colour(cached(1)) == 1
    with pytest.raises(ZeroDivisionError):
        colour(cached.refresh(1))
    assert colour(cached(1)) == 1


def test_peek_shows_an_entry_and_changes_nothing(cache: Cache, colour: Colour, clock: FakeClock) -> None:
    """``None`` where nothing is cached; else value, age, stamp and layer. It neither computes nor counts as a hit."""
    calls = Calls()

    def find(a: int) -> Any:
        return calls(a)

    cached = colour.cached(cache, "{a}", find)
    assert colour(cached.peek(1)) is None
    assert len(calls) == 0
    colour(cached(1))
    clock.advance(5)
    entry = colour(cached.peek(1))
    assert isinstance(entry, Entry)
    assert (entry.value, entry.age, entry.is_stale, entry.layer) == (1, 5.0, False, "local")
    assert entry.stamp.number == 0
    assert entry.etag == colour(cached.peek(1)).etag != ""
    assert cache.stats().total.local_hits == 0
    clock.advance(TTL)
    assert colour(cached.peek(1)) is None


def test_set_puts_a_value_in_the_place_of_a_computation(cache: Cache, colour: Colour) -> None:
    """The value comes first, then the arguments as in a call."""
    calls = Calls()

    def find(a: int, *, value: int = 0) -> Any:
        return calls(a)

    cached = colour.cached(cache, "{a}:{value}", find)
    stamp = colour(cached.set("given", 1, value=5))
    assert isinstance(stamp, Stamp)
    assert colour(cached(1, value=5)) == "given"
    colour(cached.set("newer", a=1, value=5))
    assert colour(cached(1, value=5)) == "newer"
    assert len(calls) == 0


def test_many_answers_in_the_order_asked_and_computes_each_once(cache: Cache, colour: Colour) -> None:
    """What is held is taken, the rest computed; equal calls share one computation; any iterable will do."""
    calls = Calls(lambda n: f"v{n}")

    def find(a: int, b: int = 0) -> Any:
        return calls(a, b)

    cached = colour.cached(cache, "{a}:{b}", find)
    held = colour(cached(2))
    found = colour(cached.many(iter([(1,), (2,), (1, 0), (3, 1), (2, 0)])))
    assert found[1] == found[4] == held
    assert found[0] == found[2]
    assert sorted(calls.seen) == [(1, 0), (2, 0), (3, 1)]
    assert colour(cached.many([(3, 1), (1,)])) == [found[3], found[0]]
    assert len(calls) == 3
    assert colour(cached.many([])) == []


def test_many_raises_what_the_first_failing_call_raised(cache: Cache, colour: Colour) -> None:
    """In the order asked; what was computed beside it is kept."""
    calls = Calls()

    def find(a: int) -> Any:
        calls(a)
        if a < 0:
            raise LookupError(a)
        return a

    cached = colour.cached(cache, "{a}", find)
    with pytest.raises(LookupError) as caught:
        colour(cached.many([(1,), (-1,), (-2,), (2,)]))
    assert caught.value.args == (-1,)
    assert colour(cached(1)) == 1
    assert colour(cached(2)) == 2
    assert len(calls) == 4


def test_key_is_text_and_never_awaited(cache: Cache, colour: Colour) -> None:
    """It can be logged, or given to ``cache.get`` in another program."""

    def find(code: str, *, days: int = 7) -> Any:
        return code

    cached = colour.cached(cache, "stores:{code}:stats:{days}", find)
    assert cached.key("JKT") == cached.key(code="JKT", days=7) == "stores:JKT:stats:7"
    assert cached.key("J:K*") == "stores:J%3AK%2A:stats:7"


# --- parts, ignored arguments, keys of one's own ------------------------------------------------------------------------------


@dataclasses.dataclass
class User:
    id: int
    name: str

    @property
    def upper(self) -> str:
        return self.name.upper()


def test_a_key_may_be_made_of_parts_of_an_argument(cache: Cache, colour: Colour) -> None:
    """``{user.id}``: what else the object holds makes no difference."""
    calls = Calls()

    def find(user: User) -> Any:
        return calls(user.id)

    cached = colour.cached(cache, "users:{user.id}:{user.upper}", find)
    first = colour(cached(User(1, "ann")))
    assert colour(cached(User(1, "ANN"))) == first
    assert colour(cached(User(2, "ann"))) != first
    assert cached.key(User(1, "ann")) == "users:1:ANN"


def test_an_ignored_argument_reaches_the_function_and_not_the_key(cache: Cache, colour: Colour) -> None:
    """A connection or a request: it need not even be hashable."""
    calls = Calls()

    def find(connection: object, a: int, *, trace: Any = None) -> Any:
        calls(connection, trace)
        return a

    cached = colour.cached(cache, "{a}", find, ignore=["connection", "trace"])
    connection: list[Any] = [object()]
    assert colour(cached(connection, 1, trace={})) == 1
    assert colour(cached([], 1)) == 1
    assert calls.seen == [(connection, {})]
    assert calls.seen[0][0] is connection


def test_a_class_may_say_what_identifies_its_objects(cache: Cache, colour: Colour) -> None:
    """``__cachesync_key__``: two objects that answer the same are one argument, unless their classes differ."""
    calls = Calls()

    class Account:
        def __init__(self, number: int) -> None:
            self.number = number

        def __cachesync_key__(self) -> object:
            return self.number

    class Savings(Account):
        pass

    def find(account: Account) -> Any:
        return calls(account)

    cached = colour.cached(cache, "{account}", find)
    first = colour(cached(Account(1)))
    assert colour(cached(Account(1))) == first
    assert len({first, colour(cached(Account(2))), colour(cached(Savings(1)))}) == 3


def test_an_argument_that_can_not_be_part_of_a_key_fails_before_the_function_runs(cache: Cache, colour: Colour) -> None:
    """For both colours, when called and when asked; afterwards everything goes on."""
    calls = Calls()

    def find(a: Any) -> Any:
        return calls(a)

    cached = colour.cached(cache, "{a}", find)
    for ask in (cached, cached.peek, cached.refresh, cached.invalidate):
        with pytest.raises(KeyArgumentError, match="object can not be part of a key"):
            colour(ask(object()))
    with pytest.raises(KeyArgumentError):
        colour(cached.many([(1,), (object(),)]))
    with pytest.raises(KeyArgumentError):
        colour(cached.set(1, object()))
    assert len(calls) == 0
    assert colour(cached(1)) == 1


# --- tags ---------------------------------------------------------------------------------------------------------------------


def test_a_tag_invalidates_what_it_stands_on(make: Callable[..., Cache], colour: Colour) -> None:
    """The decorator's tags, with the key's own placeholders, and the policy's."""
    cache = make(tags=["shop"])
    calls = Calls()

    def find(code: str, days: int = 7) -> Any:
        return calls(code, days)

    cached = colour.cached(cache, "stores:{code}:{days}", find, tags=["store:{code}", "stats"])
    jkt, bdg = colour(cached("JKT")), colour(cached("BDG"))
    cache.invalidate(tags=["store:JKT"])
    assert colour(cached("BDG")) == bdg
    assert colour(cached("JKT")) != jkt
    for tag in ("stats", "shop"):
        before = [colour(cached("JKT")), colour(cached("BDG"))]
        cache.invalidate(tags=[tag])
        after = [colour(cached("JKT")), colour(cached("BDG"))]
        assert not set(before) & set(after)
    cache.invalidate(tags=["other", "store", "store:"])
    assert [colour(cached("JKT")), colour(cached("BDG"))] == after


def test_a_tag_is_written_as_the_key_is(cache: Cache, colour: Colour) -> None:
    """``store:J:K`` as an argument is percent-encoded in both; ``cache.invalidate`` takes the text as it stands."""
    calls = Calls()

    def find(code: str) -> Any:
        return calls(code)

    cached = colour.cached(cache, "stores:{code}", find, tags=["store:{code}"])
    first = colour(cached("J:K"))
    cache.invalidate(tags=["store:J%3AK"])
    assert colour(cached("J:K")) != first


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        (["store:{days}"], r"tag 'store:\{days\}' names \{days\}, which is not part of the key"),
        (["store:{nobody}"], r"\{nobody\} names no parameter"),
        (["store:*"], "can not stand in it"),
        ([""], "is empty"),
        (["{code}{code}"], "need a ':' between them"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused_at_decoration(cache: Cache, tags: list[str], says: str) -> None:
    """Two calls that share an entry must have the same tags."""

    def find(code: str, days: int) -> int:
        return days

    with pytest.raises(KeyTemplateError, match=says):
        cache.cached("stores:{code}", tags=tags, ignore=["days"])(find)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"tags": "stores"}, r"tags is a list of texts; write tags=\[\"stores\"\], not 'stores'"),
        ({"tags": ""}, "tags is a list of texts"),
        ({"tags": b"stores"}, "tags is a list of texts"),
        ({"tags": ["a", 5]}, r"tags is a list of texts.*not \['a', 5\]"),
        ({"tags": [None]}, "tags is a list of texts"),
        ({"tags": 5}, "tags is a list of texts"),
        ({"tags": None}, "tags is a list of texts"),
        ({"ignore": "n"}, "ignore is a list of texts"),
        ({"ignore": [1]}, "ignore is a list of texts"),
    ],
)
def test_one_text_is_no_list_of_tags(cache: Cache, how: dict[str, Any], says: str) -> None:
    """It would be taken for as many tags as it has letters, and nobody's invalidation would reach it."""
    with pytest.raises(KeyTemplateError, match=says):
        cache.cached("stores:{n}", **how)


@pytest.mark.parametrize("kind", [list, tuple, iter, set, dict.fromkeys])
def test_tags_may_come_from_anything_that_can_be_gone_through(cache: Cache, colour: Colour, kind: Callable[[list[str]], Any]) -> None:
    """Also where that can be done once only."""

    def find(code: str) -> str:
        return code

    cached = colour.cached(cache, "stores:{code}", find, tags=kind(["store:{code}", "all"]))
    assert set(cached.tags("JKT")) == {"store:JKT", "all"}


async def _tags_later(_result: Any) -> list[str]:
    return ["a"]


class _TagsLater:
    async def __call__(self, _result: Any) -> list[str]:
        return ["a"]


async def _ttl_later(_result: Any) -> float:
    return 5.0


@pytest.mark.parametrize("name", ["tags_from", "ttl"])
@pytest.mark.parametrize(
    "given",
    [["a"], 5, "a", _tags_later, functools.partial(_ttl_later), _TagsLater()],
    ids=["list", "number", "text", "async", "partial", "object"],
)
def test_what_is_told_by_the_result_is_told_by_a_plain_function(make: Callable[..., Cache], name: str, given: Any) -> None:
    """Anything else is an error at decoration: later it would cost the storing of every result."""
    cache = make(ttl="dynamic", min_ttl=1, max_ttl=60) if name == "ttl" else make()
    with pytest.raises(KeyTemplateError, match=f"{name} is a plain function that is given the result, not "):
        cache.cached("stores:{n}", **{name: given})


@pytest.mark.parametrize(
    "codec", ["json", 5, object(), type("Half", (), {"encode": None})()], ids=["text", "number", "object", "half of one"]
)
def test_a_codec_encodes_and_decodes(cache: Cache, codec: Any) -> None:
    """What can not is refused at decoration."""
    with pytest.raises(KeyTemplateError, match="codec is an object with encode and decode"):
        cache.cached("stores:{n}", codec=codec)


# --- time ---------------------------------------------------------------------------------------------------------------------


def test_a_value_is_fresh_for_its_ttl_and_no_longer(cache: Cache, colour: Colour, clock: FakeClock) -> None:
    """Up to but not at the end; its age counts from the beginning of its computation."""
    calls = Calls()

    def find() -> Any:
        clock.advance(10)
        return calls()

    cached = colour.cached(cache, "x", find)
    assert colour(cached()) == 1
    clock.advance(TTL - 10.5)
    assert colour(cached()) == 1
    clock.advance(0.5)
    assert colour(cached()) == 2


def test_negative_ttl_is_the_life_of_none_alone(make: Callable[..., Cache], colour: Colour, clock: FakeClock) -> None:
    """Other empty values live as long as any."""
    cache = make(negative_ttl=5)
    answers: dict[str, Any] = {"none": None, "zero": 0, "list": []}
    calls = Calls()

    def find(what: str) -> Any:
        calls(what)
        return answers[what]

    cached = colour.cached(cache, "{what}", find)
    for what, value in answers.items():
        assert colour(cached(what)) == value
    clock.advance(5)
    for what, value in answers.items():
        assert colour(cached(what)) == value
    assert [what for (what,) in calls.seen] == ["none", "zero", "list", "none"]


def test_jitter_spreads_expiry_within_its_bounds(make: Callable[..., Cache], colour: Colour, clock: FakeClock) -> None:
    """A tenth up or down: all are fresh at 90 % of the ttl, none after 110 %, and not all end at one moment."""
    cache = make(jitter=0.1)
    calls = Calls()

    def find(n: int) -> Any:
        return calls(n)

    cached = colour.cached(cache, "{n}", find)
    for n in range(200):
        colour(cached(n))
    clock.advance(TTL * 0.9 - 0.001)
    assert all(colour(cached.peek(n)) for n in range(200))
    clock.advance(TTL * 0.1)
    alive = sum(colour(cached.peek(n)) is not None for n in range(200))
    assert 0 < alive < 200
    clock.advance(TTL * 0.1 + 0.002)
    assert not any(colour(cached.peek(n)) for n in range(200))


def test_local_ttl_bounds_the_copy_in_this_process(make: Callable[..., Cache], colour: Colour, clock: FakeClock) -> None:
    """After it the shared layer is asked, not the function; without one, the function."""
    for shared, computed in ((MemoryShared(clock.monotonic), 1), (None, 2)):
        cache = make(shared=shared, local_ttl=5, on_disconnect="serve", stale_if_error=60)
        calls = Calls()

        def find(calls: Calls = calls) -> int:
            return int(calls())

        cached = colour.cached(cache, "x", find, ignore=["calls"])
        assert colour(cached()) == 1
        clock.advance(4.5)
        assert colour(cached()) == 1
        assert cache.stats().total.local_hits == 1
        clock.advance(0.5)
        assert colour(cached()) == computed
        assert len(calls) == computed
        assert cache.stats().total.local_hits == 1


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        (30, 30.0),
        (30.5, 30.5),
        ("30s", 30.0),
        ("1m30s", 90.0),
        (timedelta(minutes=1), 60.0),
        (Decimal(30), 30.0),
        (1, 10.0),
        (0, 10.0),
        (-5, 10.0),
        (timedelta(days=-1), 10.0),
        ("1ms", 10.0),
        (1e9, 100.0),
        ("2d", 100.0),
        (10, 10.0),
        (100, 100.0),
    ],
)
def test_a_dynamic_ttl_is_told_by_the_result_and_kept_within_bounds(
    make: Callable[..., Cache], colour: Colour, clock: FakeClock, wanted: Any, seconds: float
) -> None:
    """Seconds, a duration as text or a ``timedelta``; too short or too long becomes the bound."""
    cache = make(ttl="dynamic", min_ttl=10, max_ttl=100)
    results: list[Any] = []

    def find() -> dict[str, Any]:
        return {"ttl": wanted}

    def ttl(result: dict[str, Any]) -> Any:
        results.append(result)
        return result["ttl"]

    cached = colour.cached(cache, "x", find, ttl=ttl)
    first = colour(cached())
    assert results == [first]
    clock.advance(seconds - 0.001)
    assert colour(cached()) is first
    clock.advance(0.001)
    assert colour(cached()) is not first


@pytest.mark.parametrize(
    "wanted",
    ["raise", math.nan, math.inf, -math.inf, None, "5 mins", "", (), object],
    ids=repr,
)
def test_a_ttl_that_makes_no_sense_costs_the_storing_and_not_the_result(
    make: Callable[..., Cache], colour: Colour, events: Watch, wanted: Any
) -> None:
    """The result is delivered every time, nothing is stored, and an event says why."""
    cache = make(ttl="dynamic", min_ttl=10, max_ttl=100)
    calls = Calls()

    def find() -> Any:
        return calls()

    def ttl(_result: Any) -> Any:
        if wanted == "raise":
            raise ZeroDivisionError("no idea")
        return wanted

    cached = colour.cached(cache, "x", find, ttl=ttl)
    assert [colour(cached()), colour(cached())] == [1, 2]
    assert colour(cached.refresh()) == 3
    assert colour(cached.peek()) is None
    told = events.named("not_stored")
    assert len(told) == 3
    assert told[0].fields["key"] == "x"
    assert told[0].fields["policy"] == "all"
    assert "ttl" in told[0].fields["error"]
    assert cache.stats().total.not_stored == 3


def test_negative_ttl_goes_before_a_dynamic_one(make: Callable[..., Cache], colour: Colour, clock: FakeClock, events: Watch) -> None:
    """The ttl function is not asked about ``None``, in which it would find nothing."""
    cache = make(ttl="dynamic", min_ttl=10, max_ttl=100, negative_ttl=5)
    calls = Calls(lambda _: None)

    def find() -> Any:
        return calls()

    def ttl(result: Any) -> Any:
        return result.ttl

    cached = colour.cached(cache, "x", find, ttl=ttl)
    assert colour(cached()) is colour(cached()) is None
    assert len(calls) == 1
    assert events.named("not_stored") == []
    clock.advance(5)
    colour(cached())
    assert len(calls) == 2


def test_a_dynamic_policy_and_a_ttl_function_need_each_other(make: Callable[..., Cache]) -> None:
    """At decoration, with the policy's name and what to write."""

    def find() -> int:
        return 1

    with pytest.raises(KeyTemplateError, match=r'policy \'all\' has ttl = "dynamic": give ttl=lambda result'):
        make(ttl="dynamic", min_ttl=1, max_ttl=2).cached("x")(find)
    with pytest.raises(KeyTemplateError, match=r"policy 'all' has a ttl of its own"):
        make().cached("x", ttl=lambda _: 1)(find)


# --- values -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, (), b"", 0.0, math.nan, MISSING])
def test_an_empty_value_is_cached_as_any_other(cache: Cache, colour: Colour, value: Any) -> None:
    """And told from nothing at all."""
    calls = Calls(lambda _: value)

    def find() -> Any:
        return calls()

    cached = colour.cached(cache, "x", find)
    assert cache.get("x") is MISSING
    assert cache.get("x", "default") == "default"
    assert colour(cached()) is colour(cached()) is value
    assert len(calls) == 1
    assert cache.get("x", "default") is value
    entry = colour(cached.peek())
    assert entry is not None
    assert entry.value is value


def test_callers_share_one_object_unless_told_otherwise(cache: Cache, colour: Colour) -> None:
    """A hit returns the very object: who changes it changes it for all. The docs say so."""

    def find() -> list[int]:
        return [1]

    cached = colour.cached(cache, "x", find)
    first = colour(cached())
    first.append(2)
    assert colour(cached()) is first


@pytest.mark.parametrize("in_two_layers", [False, True])
def test_copy_gives_every_caller_an_object_of_their_own(make: Callable[..., Cache], colour: Colour, in_two_layers: bool) -> None:
    """Whoever computed, hit, refreshed, looked, set or asked for many: nothing they do to it reaches anybody else."""
    cache = make(copy=True, shared=MemoryShared() if in_two_layers else None)

    def find(n: int) -> list[list[int]]:
        return [[n]]

    cached = colour.cached(cache, "{n}", find)
    given = [[1]]
    colour(cached.set(given, 1))
    given[0].append(0)
    ways: list[Callable[[], Any]] = [
        lambda: colour(cached(1)),
        lambda: colour(cached.peek(1)).value,
        lambda: colour(cached.many([(1,)]))[0],
        lambda: colour(cached.many([(1,), (1,)]))[1],
        lambda: cache.get("1"),
        lambda: asyncio.run(cache.aget("1")),
        lambda: _entry(cache.peek("1")).value,
        lambda: cache.get_or_compute("1", list[Any]),
        lambda: colour(cached.refresh(1)),
        lambda: colour(cached(1)),
    ]
    for way in ways:
        found = way()
        assert found == [[1]]
        found[0].append(99)
        found.append([])
    computed = colour(cached(2))
    computed[0].append(99)
    assert colour(cached(2)) == [[2]]
    twice = colour(cached.many([(3,), (3,)]))
    twice[0][0].append(99)
    assert twice[1] == [[3]]
    assert colour(cached(3)) == [[3]]
    mine: list[int] = cache.get_or_compute("4", lambda: [4])
    mine.append(99)
    assert cache.get_or_compute("4", lambda: [5]) == [4]


def _entry(found: Entry[Any] | None) -> Entry[Any]:
    assert found is not None
    return found


# --- exceptions ---------------------------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """An exception with a constructor that pickling or copying would not survive."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def test_an_exception_arrives_as_it_left_and_is_not_cached(cache: Cache, colour: Colour) -> None:
    """The same object, with its cause, its notes and the frame that raised it; the next call tries again."""
    raised: list[RefusedError] = []

    def find() -> int:
        if len(raised) == 2:
            return 7
        error = RefusedError(404, reason="gone")
        error.add_note("asked politely")
        raised.append(error)
        try:
            raise LookupError("inside")
        except LookupError as inside:
            raise error from inside

    cached = colour.cached(cache, "x", find)
    for n in range(2):
        with pytest.raises(RefusedError, match="404 gone") as caught:
            colour(cached())
        error = caught.value
        assert error is raised[n]
        assert (error.code, error.reason, error.__notes__) == (404, "gone", ["asked politely"])
        assert isinstance(error.__cause__, LookupError)
        assert "find" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert colour(cached.peek()) is None
    assert colour(cached()) == 7
    assert colour(cached()) == 7


@pytest.mark.parametrize(
    "kind", [StopIteration, KeyError, TypeError, GeneratorExit, asyncio.CancelledError, RecursionError, KeyArgumentError]
)
def test_exceptions_with_a_meaning_for_python_pass_through(cache: Cache, kind: type[BaseException]) -> None:
    """Also those that the cache's own machinery lives on: a miss is a ``KeyError`` inside, a flow ends by ``StopIteration``."""

    @cache.cached("x")
    def find() -> int:
        raise kind("mine")

    for call in (find, find.refresh, lambda: cache.get_or_compute("x", find.__wrapped__), lambda: find.many([()])):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.args == ("mine",)
    assert cache.stats().total.failed == cache.stats().total.computed


@pytest.mark.parametrize("kind", [KeyError, TypeError, asyncio.CancelledError, TimeoutError])
def test_exceptions_with_a_meaning_for_asyncio_pass_through(cache: Cache, kind: type[BaseException]) -> None:
    """Python itself turns a ``StopIteration`` that leaves an ``async def`` into a ``RuntimeError``; all others arrive."""

    @cache.cached("x")
    async def find() -> int:
        raise kind("mine")

    async def story() -> None:
        for call in (find, find.refresh, lambda: cache.aget_or_compute("x", find.__wrapped__), lambda: find.many([()])):
            with pytest.raises(kind) as caught:
                await call()
            assert caught.value.args == ("mine",)

    asyncio.run(story())


def test_an_interrupt_reaches_the_caller_and_leaves_nothing_behind(cache: Cache) -> None:
    """``KeyboardInterrupt`` and ``SystemExit`` inside the function: raised at once, and the next call computes."""
    calls = Calls()

    @cache.cached("x")
    def find() -> int:
        n = calls()
        if n <= 2:
            raise (KeyboardInterrupt, SystemExit)[n - 1]
        return int(n)

    for kind in (KeyboardInterrupt, SystemExit):
        with pytest.raises(kind):
            find()
    assert find() == find() == 3


# --- what can not be cached ---------------------------------------------------------------------------------------------------


def test_a_generator_is_refused_at_decoration(cache: Cache) -> None:
    """What it yields is used up by its first caller."""

    def rows() -> Iterator[int]:
        yield 1

    async def arows() -> Any:
        yield 1

    for generator in (rows, arows):
        with pytest.raises(KeyTemplateError, match=r"rows is a generator.*return a list"):
            cache.cached("x")(generator)


@pytest.mark.parametrize(
    "make_value", [lambda: (n for n in range(3)), lambda: iter([0, 1, 2]), lambda: map(int, "012"), lambda: zip(range(3), strict=True)]
)
def test_a_value_that_is_used_up_by_its_reader_is_not_stored(
    cache: Cache, colour: Colour, events: Watch, make_value: Callable[[], Any]
) -> None:
    """An iterator is delivered to its caller; the next caller gets one of their own, and an event says why."""

    def rows() -> Any:
        return make_value()

    cached = colour.cached(cache, "x", rows)
    first = list(colour(cached()))
    assert list(colour(cached())) == first != []
    assert events.named("not_stored")


def test_an_async_function_behind_a_plain_one_is_not_taken_for_a_value(cache: Cache) -> None:
    """A sync decorator around ``async def`` returns a coroutine, which only one caller can await: refused, or never stored."""

    async def find(n: int) -> int:
        return n

    @functools.wraps(find)
    def behind(n: int) -> Awaitable[int]:
        return find(n)

    try:
        cached: Any = cache.cached("{n}")(behind)
    except KeyTemplateError:
        return

    async def story() -> None:
        assert [await cached(1), await cached(1)] == [1, 1]

    asyncio.run(story())


@pytest.mark.parametrize("thing", [7, "text", None, [len]])
def test_what_is_no_function_is_refused(cache: Cache, thing: Any) -> None:
    """At decoration."""
    with pytest.raises(KeyTemplateError, match="only a function can be cached"):
        cache.cached("x")(thing)


@pytest.mark.parametrize("settings", ["policies.toml", Path("policies.toml"), {"namespace": "shop"}], ids=["text", "path", "dict"])
def test_a_file_is_read_by_from_file(settings: Any) -> None:
    """Who gives its name to the class is told so."""
    with pytest.raises(PolicyError, match=r"a policy file is read by Cache\.from_file"):
        Cache(settings)


def test_a_url_is_no_layer() -> None:
    """It is told at the start, not by the first call."""
    with pytest.raises(PolicyError, match="is no layer; a url is given as redis="):
        Cache(policies=[Policy(name="all", match="*", ttl=60)], shared=cast("Any", "redis://127.0.0.1:1"))


@pytest.mark.parametrize("stamp", ["9f86d081884c7d65:121", "9f86d081884c7d65:121~", 5, ("9f86d081884c7d65", 121), b"x:1"])
def test_a_promise_is_asked_for_by_a_stamp(cache: Cache, colour: Colour, stamp: Any) -> None:
    """Stamps travel as text. A text that was not read yet is refused before anything is computed."""
    calls = Calls()

    def find(n: int) -> Any:
        return calls(n)

    cached = colour.cached(cache, "stores:{n}", find)
    get, compute = (cache.get, cache.get_or_compute) if colour.runner is None else (cache.aget, cache.aget_or_compute)
    asking: list[Callable[[], Any]] = [
        lambda: cached.at_least(stamp, 1),
        lambda: get("stores:1", at_least=stamp),
        lambda: compute("stores:1", cached.__wrapped__, at_least=stamp),
    ]
    for ask in asking:
        with pytest.raises(KeyArgumentError, match=r"at_least is a Stamp, not .*Stamp\.parse\(text\)"):
            colour(ask())
    assert calls.seen == []


def test_what_aget_or_compute_calls_is_awaited(cache: Cache) -> None:
    """Who gives it a plain function is told which method takes one."""
    with pytest.raises(TypeError, match=r"stores:1: .* a plain function is for get_or_compute"):
        asyncio.run(cache.aget_or_compute("stores:1", cast("Any", lambda: 1)))
    assert cache.get("stores:1") is MISSING


def test_no_stamp_is_no_promise(cache: Cache, colour: Colour) -> None:
    """A function is asked for one on purpose, so that a cookie which is not there is no silent "anything will do"."""

    def find(n: int) -> int:
        return n

    cached = colour.cached(cache, "stores:{n}", find)
    with pytest.raises(KeyArgumentError, match="at_least is a Stamp, not NoneType"):
        colour(cached.at_least(cast("Any", None), 1))
    with pytest.raises(ValueError, match="None is not a stamp"):
        Stamp.parse(cast("Any", None))


@pytest.mark.parametrize(
    ("named", "tags", "says"),
    [
        ([], 5, "tags are a list of texts, not int"),
        ([], None, "tags are a list of texts, not NoneType"),
        ([], [5], "are texts, not int"),
        ([5], [], "are texts, not int"),
        ([b"stores"], [], "are texts, not bytes"),
        (["x" * 65_537], [], "65,537 characters; at most 65,536"),
        (["stores:1", "x" * 70_000 + "*"], [], "70,001 characters"),
        ([], ["x" * 70_000], "70,000 characters"),
    ],
)
def test_what_can_not_be_invalidated_is_refused_before_anything_is(
    cache: Cache, colour: Colour, events: Watch, named: list[Any], tags: Any, says: str
) -> None:
    """And is told as what it is: a wrong argument."""
    invalidate = cache.invalidate if colour.runner is None else cache.ainvalidate
    with pytest.raises(KeyArgumentError, match=says):
        colour(invalidate(*named, tags=tags))
    assert not events.named("invalidated")
    assert not colour(invalidate("x" * 65_536)).pending, "as long as a key may be"


@pytest.mark.parametrize("in_two_layers", [False, True])
def test_who_is_told_of_a_sweep_is_a_function(make: Callable[..., Cache], colour: Colour, in_two_layers: bool) -> None:
    """Also where there is nothing to sweep, and so nothing to tell."""
    cache = make(shared=MemoryShared() if in_two_layers else None)
    with pytest.raises(TypeError, match="progress is a function"):
        colour((cache.sweep if colour.runner is None else cache.asweep)(cast("Any", 5)))


def test_a_key_needs_a_policy_that_matches_all_of_it(clock: FakeClock) -> None:
    """No policy, or one that matches a part of the template's keys, is an error at decoration."""
    cache = Cache(policies=[Policy(name="stores", match="stores:J*", ttl=60)], clock=clock)

    def find(code: str) -> str:
        return code

    with pytest.raises(KeyTemplateError, match="matches only a part of the keys"):
        cache.cached("stores:{code}")(find)
    with pytest.raises(KeyTemplateError, match="no policy matches"):
        cache.cached("users:{code}")(find)


# --- switched off -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_two_layers", [False, True])
def test_a_disabled_cache_bypasses_every_layer(clock: FakeClock, colour: Colour, in_two_layers: bool) -> None:
    """Every call computes, nothing is held or found, and nothing that the other layer holds is seen."""
    shared = MemoryShared(clock.monotonic) if in_two_layers else None
    policies = Policies([Policy(name="all", match="*", ttl=60)])
    if shared is not None:
        Cache(policies=policies, shared=shared, listen=False).set("1", 99)
    cache = Cache(Settings(policies=policies, enabled=False), clock=clock, shared=shared, listen=False)
    calls = Calls()

    def find(n: int) -> int:
        return int(calls(n))

    cached = colour.cached(cache, "{n}", find)
    assert [colour(cached(1)), colour(cached(1))] == [1, 2]
    assert colour(cached.many([(1,), (1,)])) == [3, 3], "equal calls of one batch are one"
    assert colour(cached.refresh(1)) == 4
    colour(cached.set(99, 1))
    cache.set("1", 99)
    assert colour(cached(1)) == 5
    assert colour(cached.peek(1)) is None
    assert cache.get("1") is MISSING
    assert cache.peek("1") is None
    assert cache.get_or_compute("1", lambda: "computed") == "computed"
    assert isinstance(colour(cached.invalidate(1)), Stamp)
    assert isinstance(cache.invalidate("*"), Stamp)
    assert cache.stats().local.entries == 0


# --- counting -----------------------------------------------------------------------------------------------------------------


def test_stats_say_what_was_done(cache: Cache, colour: Colour, clock: FakeClock) -> None:
    """Hits, computations, failures and stores by function, and their sum; ``calls`` and the hit rate follow from them."""

    def find(n: int) -> int:
        if n < 0:
            raise ValueError(n)
        return n

    cached = colour.cached(cache, "{n}", find)
    name = next(iter(cache.stats().functions))
    assert name.endswith("find")
    assert cache.stats().functions[name].hit_rate == 0.0
    for _ in range(4):
        colour(cached(1))
    colour(cached.many([(1,), (2,)]))
    with pytest.raises(ValueError):
        colour(cached(-1))
    colour(cached.peek(1))
    stats = cache.stats().functions[name]
    assert (stats.local_hits, stats.shared_hits, stats.computed, stats.joined) == (4, 0, 3, 0)
    assert (stats.failed, stats.stored, stats.not_stored) == (1, 2, 0)
    assert stats.calls == 7
    assert stats.hit_rate == pytest.approx(4 / 7)
    assert cache.stats().total == dataclasses.replace(stats, policy="*")
    assert cache.stats().local.entries == 2
    assert cache.get("1") == 1
    assert cache.stats().functions[name].local_hits == 5, "a key as text counts for its function"
    clock.advance(TTL)
    colour(cached(1))
    assert cache.stats().functions[name].computed == 4


# --- two functions ------------------------------------------------------------------------------------------------------------


def test_a_pair_of_both_colours_shares_entries(cache: Cache) -> None:
    """``same_as``: what one stores the other finds, and what one invalidates the other computes."""
    calls = Calls()

    @cache.cached("{n}", tags=["t"])
    def find(n: int) -> int:
        return int(calls("def", n))

    @cache.cached("{n}", tags=["t"], same_as=find)
    async def afind(n: int) -> int:
        return int(calls("async def", n))

    async def story() -> None:
        assert find(1) == await afind(1) == 1
        assert await afind(2) == find(2) == 2
        find.invalidate(2)
        assert await afind.peek(2) is None
        assert await afind(2) == find(2) == 3
        await afind.set(99, 1)
        assert find(1) == 99
        assert cache.get("1") == 99
        cache.invalidate(tags=["t"])
        assert find.peek(1) is None
        assert await afind.peek(2) is None

    asyncio.run(story())
    assert calls.seen == [("def", 1), ("async def", 2), ("async def", 2)]
    total = cache.stats().total
    assert total.computed == 3
    assert total.local_hits == 5, "a shelf that two share is counted once"


def test_a_pair_must_agree_in_template_types_and_tags(cache: Cache) -> None:
    """Else one would look where the other does not store, or miss what the other's tags invalidate."""

    @cache.cached("a:{n}", tags=["t"])
    def find(n: int) -> int:
        return n

    def stranger(n: int) -> int:
        return n

    async def other(n: int) -> int:
        return n

    async def otherwise_typed(n: str) -> int:
        return len(n)

    for function, template, tags, twin in (
        (other, "b:{n}", ["t"], find),
        (otherwise_typed, "a:{n}", ["t"], find),
        (other, "a:{n}", ["t"], stranger),
        (other, "a:{n}", [], find),
        (other, "a:{n}", ["t", "u"], find),
    ):
        with pytest.raises(KeyTemplateError, match="same_as has to"):
            cache.cached(template, tags=tags, same_as=twin)(function)


def test_a_function_may_be_defined_anew() -> None:
    """As a reload of its module does: the new one takes the keys over and starts without entries."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl=60)])
    source = "@cache.cached('{n}')\ndef find(n: int) -> int:\n    return n * factor\n"
    scope: dict[str, Any] = {"cache": cache, "factor": 1, "__name__": "shop"}
    exec(source, scope)  # noqa: S102 - what a reload does
    assert scope["find"](2) == 2
    older = scope["find"]
    scope["factor"] = 10
    exec(source, scope)  # noqa: S102 - what a reload does
    assert scope["find"] is not older
    assert scope["find"](2) == 20
    assert cache.get("2") == 20
    assert list(cache.stats().functions) == ["shop.find"]


def test_functions_made_by_one_function_are_not_taken_for_one() -> None:
    """They have one name and may answer differently: with the same keys the second is refused, with others both work."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl=60)])

    def make(tenant: str, template: str) -> Any:
        @cache.cached(template)
        def find(n: int) -> str:
            return f"{tenant} {n}"

        return find

    one = make("one", "one:{n}")
    with pytest.raises(KeyTemplateError, match="one would be handed the other's results"):
        make("two", "one:{n}")
    two = make("two", "two:{n}")
    assert (one(1), two(1), one(1), two(1)) == ("one 1", "two 1", "one 1", "two 1")
    assert cache.get("one:1") == "one 1"
    assert cache.get("two:1") == "two 1"
    assert len(cache.stats().functions) == 2


# --- events -------------------------------------------------------------------------------------------------------------------


def test_an_invalidation_is_an_event(cache: Cache, colour: Colour, events: Watch) -> None:
    """With what was named and its position."""

    def find(n: int) -> int:
        return n

    cached = colour.cached(cache, "k:{n}", find)
    stamp = colour(cached.invalidate(1))
    (event,) = events.named("invalidated")
    assert (event.fields["patterns"], event.fields["tags"]) == (["k:1"], [])
    assert event.fields["stamp"] == str(stamp)
    assert str(event).startswith("invalidated: ")


def test_a_listener_that_fails_harms_nobody(cache: Cache, colour: Colour, caplog: pytest.LogCaptureFixture) -> None:
    """It is an event, which is logged, and the next listener is told all the same."""
    told: list[Event] = []

    @cache.on_event
    def broken(_event: Event) -> None:
        raise ZeroDivisionError

    cache.on_event(told.append)

    def find(n: int) -> int:
        return n

    cached = colour.cached(cache, "{n}", find)
    assert callable(broken)
    colour(cached.invalidate(1))
    assert [event.name for event in told] == ["listener_failed", "invalidated"]
    assert "listener_failed: " in caplog.text and "broken" in caplog.text
