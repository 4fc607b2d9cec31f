"""Keys as text: what a program, a shell or SQL may say to a cache without having the function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import MISSING, Cache, CodecError, Entry, KeyArgumentError, MemoryShared, Policy, Stamp
from cachesync.testing import FakeClock

POLICIES = (
    Policy(name="stores", match="stores:*", ttl=60, tags=["shop"]),
    Policy(name="users", match="users:*", ttl=10, negative_ttl=1),
    Policy(name="dynamic", match="dynamic:*", ttl="dynamic", min_ttl=1, max_ttl=100),
)


class Way:
    """The methods of a cache in one colour: ``get`` is ``cache.get``, or ``cache.aget`` awaited."""

    def __init__(self, cache: Cache, runner: asyncio.Runner | None) -> None:
        self.cache = cache
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self._runner is None:
            return cast("Callable[..., Any]", getattr(self.cache, name))
        runner: asyncio.Runner = self._runner
        method: Callable[..., Any] = getattr(self.cache, f"a{name}")

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "get_or_compute":
                compute = args[1]

                async def coroutine() -> Any:
                    return compute()

                args = (args[0], coroutine)
            answer = method(*args, **kwargs)
            assert inspect.iscoroutine(answer)
            return runner.run(answer)

        return call


@pytest.fixture
def clock() -> FakeClock:
    """Time, moved by hand."""
    return FakeClock()


@pytest.fixture(params=["def", "async def"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner | None]:
    """Both colours, one after the other."""
    if request.param == "def":
        yield None
        return
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=["one layer", "two layers"])
def way(request: pytest.FixtureRequest, clock: FakeClock, runner: asyncio.Runner | None) -> Way:
    """A cache with and without a shared layer, in both colours."""
    shared = MemoryShared(clock.monotonic) if request.param == "two layers" else None
    return Way(Cache(policies=POLICIES, shared=shared, clock=clock, listen=False), runner)


def test_get_finds_what_set_stored(way: Way) -> None:
    """Under a key that no function owns, by its policy; other keys stay empty."""
    assert way.get("stores:JKT") is MISSING
    assert way.get("stores:JKT", None) is None
    stamp = way.set("stores:JKT", {"name": "Jakarta", "open": True})
    assert isinstance(stamp, Stamp)
    assert not stamp.pending
    assert way.get("stores:JKT") == {"name": "Jakarta", "open": True}
    assert way.get("stores:BDG") is MISSING
    way.set("stores:JKT", [1, 2])
    assert way.get("stores:JKT") == [1, 2]


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}])
def test_an_empty_value_is_told_from_nothing(way: Way, value: Any) -> None:
    """``MISSING`` is the answer where nothing is cached, and only there."""
    way.set("stores:x", value)
    assert way.get("stores:x") == value
    assert way.get("stores:x") is not MISSING
    assert way.get_or_compute("stores:x", lambda: "computed") == value
    entry = way.peek("stores:x")
    assert entry is not None
    assert entry.value == value


def test_missing_has_a_name() -> None:
    """It is one object, told from every value by ``is``, false in a condition, and readable in a log."""
    assert repr(MISSING) == "MISSING"
    assert not MISSING
    empty: list[object] = [None, "", 0, False]
    assert MISSING not in empty


def test_get_or_compute_computes_once(way: Way) -> None:
    """And again when the value is out of date."""
    computed: list[int] = []

    def compute() -> int:
        computed.append(1)
        return len(computed)

    assert [way.get_or_compute("stores:x", compute) for _ in range(3)] == [1, 1, 1]
    way.invalidate("stores:x")
    assert [way.get_or_compute("stores:x", compute) for _ in range(3)] == [2, 2, 2]


def test_get_or_compute_raises_what_the_function_raised(way: Way) -> None:
    """Nothing is stored."""

    def compute() -> int:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        way.get_or_compute("stores:x", compute)
    assert way.get("stores:x") is MISSING


def test_peek_shows_an_entry_without_computing(way: Way, clock: FakeClock) -> None:
    """``None`` where nothing is cached."""
    assert way.peek("stores:x") is None
    way.set("stores:x", 7)
    clock.advance(1)
    assert way.get("stores:x") == 7
    entry = way.peek("stores:x")
    assert isinstance(entry, Entry)
    assert (entry.value, entry.age, entry.is_stale, entry.layer) == (7, 1.0, False, "local")
    assert len(entry.etag) == 32


def test_a_value_lives_as_long_as_its_policy_says(way: Way, clock: FakeClock) -> None:
    """The policy is found by the key."""
    way.set("users:1", "ann")
    way.set("users:2", None)
    way.set("stores:x", "JKT")
    clock.advance(1)
    assert (way.get("users:1"), way.get("users:2")) == ("ann", MISSING)
    clock.advance(9)
    assert way.get("users:1") is MISSING
    assert way.get("stores:x") == "JKT"


@pytest.mark.parametrize("target", ["stores:x", "stores:*", "*:x", "*", "st*x"])
def test_a_value_set_by_text_is_invalidated_as_any_other(way: Way, target: str) -> None:
    """By key, prefix, glob or everything; what does not match stays."""
    way.set("stores:x", 1)
    way.set("users:1", "ann")
    way.invalidate(target)
    assert way.get("stores:x") is MISSING
    assert (way.get("users:1") is MISSING) is (target == "*")


def test_the_policys_tags_stand_on_a_value_set_by_text(way: Way) -> None:
    """And no others."""
    way.set("stores:x", 1)
    way.set("users:1", "ann")
    way.invalidate(tags=["shop"])
    assert way.get("stores:x") is MISSING
    assert way.get("users:1") == "ann"


def test_several_targets_are_one_invalidation(way: Way) -> None:
    """Keys, patterns and tags in one call; the stamp is the position of the last."""
    for key in ("stores:a", "stores:b", "users:1", "users:2"):
        way.set(key, 1)
    before = way.invalidate("stores:none")
    stamp = way.invalidate("users:1", "stores:a*", tags=["other", "another"])
    assert stamp.number > before.number
    assert [way.get(key) is MISSING for key in ("stores:a", "stores:b", "users:1", "users:2")] == [True, False, True, False]


def test_tags_may_be_one_text(way: Way) -> None:
    """``tags="shop"`` means that tag, not its letters."""
    way.set("stores:x", 1)
    way.invalidate(tags="shop")
    assert way.get("stores:x") is MISSING


@pytest.mark.parametrize(
    ("patterns", "tags"),
    [((), ()), (("",), ()), ((7,), ()), ((None,), ()), (("stores:x", ""), ()), (("stores:x",), [7]), (("stores:x", b"y"), ())],
    ids=repr,
)
def test_an_invalidation_of_nothing_is_an_error(way: Way, patterns: Any, tags: Any) -> None:
    """A wrong call that quietly invalidated nothing would show old data for ever."""
    way.set("stores:x", 1)
    with pytest.raises(KeyArgumentError):
        way.invalidate(*patterns, tags=tags)
    assert way.get("stores:x") == 1


@pytest.mark.parametrize("key", ["stores:*", "*", 7, None, b"stores:x", "x" * 70_000, "elsewhere:x", "", "store:x"], ids=repr)
@pytest.mark.parametrize("method", ["get", "set", "peek", "get_or_compute"])
def test_what_is_no_key_or_has_no_policy_is_refused(way: Way, method: str, key: Any) -> None:
    """A pattern, another type, too long a text, a key that no policy matches: ``KeyArgumentError``, and nothing is computed."""
    arguments = {"set": (1,), "get_or_compute": (lambda: 1,)}.get(method, ())
    with pytest.raises(KeyArgumentError):
        getattr(way, method)(key, *arguments)


def test_a_key_of_a_dynamic_policy_needs_its_function(way: Way) -> None:
    """Only the function knows how long the value lives; with it, text will do."""
    with pytest.raises(KeyArgumentError, match=r'ttl = "dynamic".*can say how long it lives'):
        way.set("dynamic:5", {"ttl": 5})

    @way.cache.cached("dynamic:{n}", ttl=lambda found: found["ttl"])
    def find(n: int) -> dict[str, int]:
        return {"ttl": n}

    way.set("dynamic:5", {"ttl": 99})
    assert find(5) == {"ttl": 99}
    assert way.get_or_compute("dynamic:6", lambda: {"ttl": 1}) == {"ttl": 1}


def test_a_value_that_can_not_be_stored_changes_nothing(way: Way) -> None:
    """With a shared layer ``set`` needs bytes: the error comes before anything was touched."""
    way.set("stores:x", "before")
    if way.cache.stats().position is None or way.get("stores:x") is MISSING:
        raise AssertionError("it was stored")
    try:
        way.set("stores:x", object())
    except CodecError:
        assert way.get("stores:x") == "before"
    else:
        assert type(way.get("stores:x")) is object, "without a shared layer any object can be held"


# --- text and function ----------------------------------------------------------------------------------------------------------


def test_a_functions_keys_can_be_named_as_text(way: Way) -> None:
    """What the function stored is found by text, what was set by text is a hit of the function, and both invalidate the same."""
    calls: list[tuple[str, int]] = []

    @way.cache.cached("stores:{code}:stats:{days}", tags=["store:{code}"])
    def stats(code: str, days: int = 7) -> list[Any]:
        calls.append((code, days))
        return [code, days]

    assert stats("JKT") == ["JKT", 7]
    assert way.get("stores:JKT:stats:7") == ["JKT", 7]
    way.set("stores:BDG:stats:30", ["set", 30])
    assert stats("BDG", 30) == ["set", 30]
    assert way.get_or_compute("stores:SUB:stats:1", lambda: ["computed", 1]) == ["computed", 1]
    assert stats("SUB", days=1) == ["computed", 1]
    assert calls == [("JKT", 7)]
    way.invalidate(tags=["store:BDG"])
    assert way.get("stores:BDG:stats:30") is MISSING, "a value set by text has the function's tags"
    assert stats.peek("BDG", 30) is None
    way.invalidate("stores:JKT:stats:7")
    assert stats.peek("JKT") is None
    assert stats("JKT") == ["JKT", 7]
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("annotation", "argument"),
    [
        (str, "JKT"),
        (str, "New York"),
        (str, "a:b*c%d{e}~"),
        (str, "~"),
        (str, ""),
        (str, "\x00\n\x7f"),
        (str, "🙂\ud800"),
        (str, "x" * 10_000),
        (str, 7),
        (str, None),
        (int, 7),
        (int, -7),
        (int, "7"),
        (int, 10**30),
        (bool, True),
        (UUID, UUID(int=7)),
        (float, 1.5),
        (list[int], [1, 2]),
        (None, {"a": {1, 2}}),
        (None, True),
        (None, 1.0),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_any_key_can_be_named_by_what_key_says(way: Way, annotation: Any, argument: Any) -> None:
    """``f.key(...)`` is a text that leads to the call's entry, whatever the arguments hold: get, set, peek, invalidate."""

    def find(a: Any) -> str:
        return "computed"

    find.__annotations__ = {"return": str} if annotation is None else {"a": annotation, "return": str}
    cached: Any = way.cache.cached("stores:x{a}y")(find)
    key = cached.key(argument)
    assert cached(argument) == "computed"
    assert way.get(key) == "computed"
    way.set(key, "set")
    assert cached(argument) == "set"
    assert way.peek(key).value == "set"
    way.invalidate(key)
    assert cached.peek(argument) is None
    assert way.get(key) is MISSING


def test_a_text_need_not_be_encoded_where_it_is_clear(way: Way) -> None:
    """Control characters and lone surrogates may be written as they are, in keys, patterns and tags: they can mean nothing else."""

    @way.cache.cached("stores:{name}", tags=["store:{name}"])
    def find(name: str) -> str:
        return "computed"

    for name in ("New York", "a\nb", "\x00", "\ud800", "é🙂", "tab\t"):
        assert find(name) == "computed"
        assert way.get(f"stores:{name}") == "computed"
        way.invalidate(f"stores:{name}")
        assert find.peek(name) is None, "by key"
        find(name)
        way.invalidate(f"stores:{name}*")
        assert find.peek(name) is None, "by prefix"
        find(name)
        way.invalidate(tags=[f"store:{name}"])
        assert find.peek(name) is None, "by tag"


def test_a_text_that_no_call_makes_names_nothing_but_itself(way: Way) -> None:
    """``01`` is no spelling of ``1``: what is set there, no call meets."""

    @way.cache.cached("stores:{n}")
    def find(n: int) -> str:
        return "computed"

    for text in ("01", "+1", "1_0", "~i1", "~sx"):
        if text.startswith("~") or text == "01":
            way.set(f"stores:{text}", "other")
            assert way.get(f"stores:{text}") == "other"
    assert find(1) == "computed"
    assert way.get("stores:1") == "computed"


def test_a_key_belongs_to_the_function_whose_template_it_fits(way: Way) -> None:
    """A word beside a placeholder for integers is another function's, in whichever order they were defined."""

    @way.cache.cached("stores:{n}")
    def by_number(n: int) -> str:
        return "number"

    @way.cache.cached("stores:top")
    def top() -> str:
        return "top"

    assert (by_number(1), top()) == ("number", "top")
    assert (way.get("stores:1"), way.get("stores:top")) == ("number", "top")
    way.set("stores:top", "set")
    assert top() == "set"
    assert way.get("stores:bottom") is MISSING
    way.set("stores:bottom", "by policy")
    assert way.get("stores:bottom") == "by policy"


def test_a_value_set_before_its_function_was_defined_is_not_lost_from_the_shared_layer(clock: FakeClock) -> None:
    """The entry lies under the key, whoever asks; the local copy belongs to the function from then on."""
    cache = Cache(policies=POLICIES, shared=MemoryShared(clock.monotonic), clock=clock, listen=False)
    cache.set("stores:x", "early")

    @cache.cached("stores:{code}")
    def find(code: str) -> str:
        return "computed"

    assert find("x") == "early"


@given(st.text(max_size=10))
def test_any_text_without_a_star_is_a_key(text: str) -> None:
    """It can be set and got, and it is its own key: two texts that differ after encoding hold two values."""
    cache = Cache(policies=[Policy(name="all", match="*", ttl=60)])
    key = text.replace("*", "")
    cache.set(f"k:{key}", "value")
    assert cache.get(f"k:{key}") == "value"
    assert cache.get(f"k:{key}x") is MISSING


def test_named_durations_are_asked_by_name(tmp_path: Any) -> None:
    """``cache.ttl("short")`` is seconds; an unknown name says what is known."""
    file = tmp_path / "cachesync.toml"
    file.write_text('[ttl]\nshort = "1m"\nlong = "1h"\n[policy.all]\nmatch = "*"\nttl = "short"\n')
    cache = Cache.from_file(file)
    assert cache.ttl("short") == 60.0
    with pytest.raises(Exception, match="long, short"):
        cache.ttl("shrot")
