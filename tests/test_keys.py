"""Keys: no two calls share one unless they are one call, and a key leads back to the copy that it names."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cache as remember
from itertools import combinations, product
from typing import Annotated, Any, Literal, NamedTuple, NewType, cast
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from cachesync import Cache, KeyArgumentError, KeyTemplateError, Policy
from cachesync.coordination.site import Site
from cachesync.coordination.wrapper import Blueprint, compile_wrapper, plan
from cachesync.core.arguments import encode
from cachesync.core.keys import MAX_KEY_LENGTH, Template, check_key, compile_template
from cachesync.core.names import MAX_KEY_BYTES, Names, escape
from cachesync.layers.codecs import AnyCodec
from cachesync.layers.local import LocalMemory

# --- values that try to look like each other ----------------------------------------------------------------------------------


class Number(enum.Enum):
    ONE = 1
    TWO = 2


class Word(enum.Enum):
    A = "a"
    ODD = "~*:%{}\x00"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    A = "a"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = None


@dataclasses.dataclass(frozen=True)
class Place:
    x: Any
    y: Any = None


class Pair(NamedTuple):
    x: Any
    y: Any


class Account:
    """An object that says what identifies it."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __cachesync_key__(self) -> object:
        return self.number


class Text(str):
    """Counts as the ``str`` that it extends."""

    __slots__ = ()


class Count(int):
    """Counts as the ``int`` that it extends."""


UserId = NewType("UserId", int)
JAKARTA = timezone(timedelta(hours=7))
NASTY = ("", ":", "~", "%", "*", "{", "}", "\x00", "\n", "\r\n", " ", "\x7f", "🙂", "\ud800", "\udfff", "\ud83d\ude00", "é", "e\u0301")
LOOKALIKES = (
    "1", "01", "-1", "True", "true", "None", "none", "~none", "~true", "~i1", "~s", "%7E", "%7e", "%25", "%3A", "%3a", "~strue", "1.0",
    "~f1.0",    "a", "A", "a,b", "(a)", "[", "]", "(sa,sb)", "=", "sa=sb", "61", "~x61",
    "12345678-1234-5678-1234-567812345678", "2024-01-02", "2024-01-02T00:00:00", "1/1",
)  # fmt: skip
texts = st.one_of(
    st.sampled_from((*NASTY, *LOOKALIKES)),
    st.text(st.sampled_from("a1~%*:{}(),[]=<> \x00\n\ud800🙂37AEes"), max_size=5),
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Lu", "Nd"]), max_size=5),
)


def _folded(at: datetime, fold: int) -> datetime:
    return at.replace(fold=fold)


moments = st.one_of(
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from((UTC, JAKARTA))),
    st.builds(_folded, st.datetimes(), st.sampled_from((0, 1))),
)
simple = st.one_of(
    texts,
    st.integers(-3, 20) | st.integers(),
    st.booleans(),
    st.none(),
    st.sampled_from((0.0, -0.0, 1.0, -1.0, 1e16, 1.5, math.inf, -math.inf, math.nan)) | st.floats(),
    st.binary(max_size=4),
    st.builds(bytearray, st.binary(max_size=2)),
    st.uuids() | st.just(UUID("12345678-1234-5678-1234-567812345678")),
    moments,
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=True) | st.sampled_from((Decimal(1), Decimal("1.0"), Decimal("1E+1"), Decimal(10))),
    st.complex_numbers(allow_nan=False),
    st.sampled_from((*Number, *Word, *Level, *Mixed, Right.READ, Right.WRITE, Right.READ | Right.WRITE, Right(0))),
    st.sampled_from((int, str, bool, type(None), Point, Place, Number)),
    texts.map(Text),
    st.integers(-3, 20).map(Count),
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hashable = simple.filter(_is_hashable)
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.builds(Point, inner, inner),
        st.builds(Place, inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(Account, inner),
        st.sets(hashable, max_size=3),
        st.frozensets(hashable, max_size=3),
        st.dictionaries(hashable, inner, max_size=3),
    )


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:  # a bytearray, a signalling nan
        return False
    return True


values = st.recursive(simple, _containers, max_leaves=6)


def identity(value: Any) -> object:
    """What a value is, said in another way than keys do: two are the same argument where this is equal. Types count."""
    cls: type = value.__class__
    if isinstance(value, enum.Enum):
        return cls, str(value.name), value.value if isinstance(value, Right) else None
    if isinstance(value, str):
        return str, str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int, int(value)
    if cls in (float, complex, Decimal, datetime, date, time, timedelta):
        return cls, repr(value)
    if cls is bytearray:
        return cls, bytes(value)
    if isinstance(value, tuple | list):
        return cls, tuple(map(identity, cast("Sequence[Any]", value)))
    if isinstance(value, set | frozenset):
        return cls, frozenset(map(identity, cast("frozenset[Any]", value)))
    if isinstance(value, dict):
        return cls, frozenset((identity(k), identity(v)) for k, v in _items(value))
    if isinstance(value, Point | Place):
        return cls, identity(value.x), identity(value.y)
    if isinstance(value, Account):
        return cls, identity(value.number)
    return cls, value


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    return cast("Iterable[tuple[Any, Any]]", value.items())


def is_function(names: Sequence[Any], texts: Sequence[str]) -> None:
    """Equal names have equal texts and different names different ones."""
    by_name: dict[Any, str] = {}
    by_text: dict[str, Any] = {}
    for name, text in zip(names, texts, strict=True):
        assert by_name.setdefault(name, text) == text, "one argument, two keys"
        assert by_text.setdefault(text, name) == name, "two arguments share a key"


ANNOTATIONS: tuple[Any, ...] = (
    types.NoneType,  # stands for a parameter without annotation, see `fitted`
    str,
    int,
    bool,
    float,
    bytes,
    UUID,
    datetime,
    date,
    Decimal,
    Number,
    Word,
    Level,
    Mixed,
    Right,
    Text,
    Count,
    UserId,
    Any,
    object,
    list[int],
    str | None,
    int | None,
    UUID | None,
    int | str,
    Annotated[int, "positive"],
    Literal["a", "b"],
    Literal[1, 2],
    Literal[True],
    Literal[1, "a"],
    Point,
)


@remember
def fitted(text: str, *annotations: Any) -> Template:
    """A template over the parameters a, b, ... with these annotations."""
    parameters = dict(zip("abc", annotations, strict=False))
    return compile_template(text, parameters=parameters, ignore=(), what="test")


def key_of(template: Template, *arguments: Any) -> str:
    return template.join(template.texts(arguments))


# --- no two share one ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from(ANNOTATIONS), st.lists(values, min_size=2, max_size=8))
@settings(max_examples=400)
@example(str, ["1", 1, True, 1.0, None, Decimal(1), Level.LOW, Number.ONE, b"1", "~i1", "~none", "%7Ei1"])
@example(int, ["1", 1, True, 1.0, None, Level.LOW, "01", Count(1)])
@example(bool, ["true", True, 1, "True", "~true"])
@example(float, [1.0, 1, "1.0", Decimal("1.0"), True, -0.0, 0.0, 0])
@example(bytes, [b"a", "61", "a", "x61", bytearray(b"a"), "~x61"])
@example(Any, [("a", "b"), ["a", "b"], "(sa,sb)", ("a,b",), (("a",), "b"), ("a", ("b",)), {"a", "b"}, frozenset("ab"), {"a": "b"}])
@example(Any, [Point(1, 2), Place(1, 2), Pair(1, 2), (1, 2), Point(Point(1), 2), Point(1, Point(2)), Account(1), Account("1")])
@example(Any, [{}, set(), frozenset(), [], (), "", None, b"", [[]], ((),), {"": ""}, [None]])
@example(Any, ["\ud83d\ude00", "\U0001f600", "%F0%9F%98%80", "\ud83d", "%ED%A0%BD"])
@example(str, ["x" * 10_240, "x" * 10_239 + "y", "\x00" * 1_000, "\x00" * 1_001, "🙂" * 2_560, "%00" * 1_000])
@example(Word, [Word.ODD, Word.ODD.value, Word.A, "a", Mixed.A])
def test_arguments_share_a_key_only_if_they_are_the_same(annotation: Any, arguments: list[Any]) -> None:
    """Whatever they contain and whatever the parameter's annotation: equal type and content, and only those, make one key."""
    template = fitted("stores:{a}", annotation)
    is_function([identity(a) for a in arguments], [key_of(template, a) for a in arguments])


@given(st.tuples(*[st.sampled_from(ANNOTATIONS)] * 2), st.lists(st.tuples(values, values), min_size=2, max_size=6))
@settings(max_examples=300)
@example((str, str), [("a:b", "c"), ("a", "b:c"), ("", ""), (":", ""), ("", ":"), ("a", "b"), ("a%3Ab", "c")])
@example((str, int), [("1", 1), ("1:1", 1), ("1", "1"), ("1:~s1", 1)])
def test_neighbours_in_a_key_do_not_run_into_each_other(annotations: tuple[Any, Any], calls: list[tuple[Any, Any]]) -> None:
    """Two arguments side by side, and with text around them, stay apart."""
    for text in ("stores:{a}:{b}", "x{a}y:y{b}x", "{a}:{b}"):
        template = fitted(text, *annotations)
        is_function([tuple(map(identity, call)) for call in calls], [key_of(template, *call) for call in calls])


@given(st.sampled_from(ANNOTATIONS), values)
@settings(max_examples=300)
def test_a_key_is_never_a_pattern_and_takes_one_segment_for_each_argument(annotation: Any, argument: Any) -> None:
    """No star, no colon, no brace-to-be, no control character, no lone surrogate: it can be printed, sent and split."""
    text = encode(argument, fitted("{a}", annotation).fields[0].plain)
    assert not set(text) & set(":*")
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in text)
    text.encode("utf-8")
    assert check_key("stores:" + text)
    assert len(("stores:" + text).split(":")) == 2


@given(st.permutations([1, "1", None, "b", 2.5, ("x",)]))
def test_sets_and_dicts_have_no_order(items: list[Any]) -> None:
    """However they were built."""
    template = fitted("{a}", Any)
    assert key_of(template, set(items)) == key_of(template, {1, "1", None, "b", 2.5, ("x",)})
    assert key_of(template, dict.fromkeys(items, 0)) == key_of(template, dict.fromkeys([1, "1", None, "b", 2.5, ("x",)], 0))


ANOTHER_PROCESS = """
import enum
from decimal import Decimal
from cachesync.core.arguments import encode
class E(enum.Enum):
    A = "a"
    B = "b"
words = [f"word{i}" for i in range(40)]
for value in (set(words), frozenset(words), dict.fromkeys(words, 1), {E.A, E.B}, [{("x", Decimal(1)), None, 2}], {"k": {"a", "b"}}):
    print(encode(value))
"""


def test_every_process_makes_the_same_key() -> None:
    """Sets and dicts in processes whose strings hash differently: what one stores, another finds."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 6


@pytest.mark.parametrize(
    ("annotation", "argument", "text"),
    [
        (str, "JKT", "JKT"),
        (str, "a:b*c%d", "a%3Ab%2Ac%25d"),
        (str, "~", "%7E"),
        (str, "New York", "New York"),
        (str, "", ""),
        (str, "🙂", "🙂"),
        (str, 7, "~i7"),
        (str, None, "~none"),
        (str, Text("JKT"), "JKT"),
        (int, 7, "7"),
        (int, -7, "-7"),
        (int, "7", "~s7"),
        (int, True, "~true"),
        (int, Count(7), "7"),
        (int | None, 7, "7"),
        (int | None, None, "~none"),
        (UserId, 7, "7"),
        (Annotated[int, "positive"], 7, "7"),
        (bool, True, "true"),
        (bool, 1, "~i1"),
        (float, 1.5, "1.5"),
        (Decimal, Decimal("1.50"), "1.50"),
        (bytes, b"\x00\xff", "00ff"),
        (UUID, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (date, date(2024, 2, 29), "2024-02-29"),
        (datetime, datetime(2024, 2, 29, 7, tzinfo=JAKARTA), "2024-02-29T07%3A00%3A00+07%3A00"),  # a plus sign stays
        (Word, Word.A, "a"),
        (Number, Number.TWO, "2"),
        (Level, Level.HIGH, "2"),
        (Mixed, Mixed.A, "A"),
        (Right, Right.WRITE, "WRITE"),
        (Literal["a", "b"], "a", "a"),
        (Literal[1, 2], 2, "2"),
        (types.NoneType, "JKT", "JKT"),
        (types.NoneType, 7, "~i7"),
        (Any, (1, "a", None), "~(i1,sa,none)"),
        (Any, [1.5, True], "~[f1.5,true]"),
        (Any, {"a": 1}, "~{sa=i1}"),
        (Any, {2, 1}, "~S{i1,i2}"),
    ],
)
def test_a_value_of_the_annotated_type_is_written_plainly(annotation: Any, argument: Any, text: str) -> None:
    """So that SQL, JSON and the command line can name keys; any other type is marked. This text is part of the wire format."""
    assert key_of(fitted("k:{a}", annotation), argument) == f"k:{text}"


def test_one_two_true_and_none_are_five_keys() -> None:
    """``1``, ``"1"``, ``True``, ``1.0`` and ``None`` are five arguments under every annotation."""
    for annotation in ANNOTATIONS:
        assert len({key_of(fitted("{a}", annotation), value) for value in (1, "1", True, 1.0, None)}) == 5


def test_a_dataclass_counts_by_its_class_and_fields() -> None:
    """Two classes with the same fields are two arguments, and so is a tuple of them."""
    template = fitted("{a}", Any)
    assert key_of(template, Point(1, "a")) == key_of(template, Point(1, "a"))
    assert len({key_of(template, value) for value in (Point(1, 2), Place(1, 2), Pair(1, 2), (1, 2), [1, 2], {"x": 1, "y": 2})}) == 6


# --- from a key to the copy ---------------------------------------------------------------------------------------------------


class Spy(Mapping[Any, Any]):
    """Stands for a shelf's copies: notes what a wrapper looks up and never has it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getitem__(self, raw: Any) -> Any:
        self.seen.append(raw)
        raise KeyError

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


class SpiedShelf:
    """As much of a shelf as a wrapper knows."""

    def __init__(self) -> None:
        self.copies = Spy()


class Watched(NamedTuple):
    wrapper: Callable[..., None]
    template: Template
    spy: Spy


@remember
def watched(text: str, *annotations: Any) -> Watched:
    """A compiled wrapper whose look-ups can be watched."""

    def one(a: Any) -> None: ...

    def two(a: Any, b: Any) -> None: ...

    function: Any = one if len(annotations) == 1 else two
    function.__annotations__ = {name: hint for name, hint in zip("ab", annotations, strict=False) if hint is not types.NoneType}
    blueprint: Blueprint = plan(function, text, tags=(), ignore=())
    shelf = SpiedShelf()
    policy = Policy(name="all", match="*", ttl=60)
    site = Site(name="one", policy=policy, shelf=cast("Any", shelf), make_codec=AnyCodec, call=function, template=blueprint.template)

    def slow(_values: tuple[Any, ...]) -> None: ...

    wrapper = compile_wrapper(blueprint, site, ledger=None, now=lambda: 0.0, slow=slow, check=slow)
    return Watched(wrapper, blueprint.template, shelf.copies)


def looked_up(watch: Watched, *arguments: Any) -> list[Any]:
    """What the wrapper looks up for a call: one raw key, or none where the arguments can not stand in one."""
    watch.spy.seen.clear()
    watch.wrapper(*arguments)
    return list(watch.spy.seen)


def finds(looked: list[Any], stored: Any) -> bool:
    """Would a dict that holds ``stored`` answer the look-up? Whoever can not be hashed finds nothing."""
    try:
        return any(raw in {stored: True} for raw in looked)
    except TypeError:
        return False


RAW_ANNOTATIONS = (
    types.NoneType,
    str,
    int,
    bool,
    float,
    UUID,
    Number,
    Word,
    Level,
    Right,
    int | None,
    str | None,
    int | str,
    Literal[1, 2],
    Any,
)


@given(st.sampled_from(RAW_ANNOTATIONS), st.lists(values, min_size=2, max_size=5))
@settings(max_examples=400)
@example(types.NoneType, [1, True, 1.0, Decimal(1), Level.LOW, "1", None])
@example(int, [1, True, 1.0, Level.LOW, "1"])
@example(bool, [True, 1])
@example(Level, [Level.LOW, 1, Number.ONE])
def test_a_look_up_finds_its_own_key_and_no_other(annotation: Any, arguments: list[Any]) -> None:
    """Python says that ``1 == True == 1.0`` and hashes them alike; what stands under the raw key of one is not found by another."""
    watch = watched("k:{a}", annotation)
    template = watch.template
    for one, other in product(arguments, repeat=2):
        looked = looked_up(watch, one)
        key = key_of(template, other)
        stored = template.raw(template.texts([other]), key)
        if key_of(template, one) != key:
            assert not finds(looked, stored), "a hit on another call's copy"
        elif stored != (key,) and not isinstance(one, Text | Count):  # these come to it the long way
            assert finds(looked, stored), "a hit would never come"


@given(st.tuples(*[st.sampled_from((types.NoneType, str, int, str | None, Literal["a"], bool))] * 2), values, values)
@settings(max_examples=300)
@example((str, int), "JKT", 7)
@example((str, int), "~JKT", 10**18)
@example((str, int), "x" * 256, -(10**18))
@example((str, int), "a%:*\x00\ud800", -7)
@example((types.NoneType, str | None), "a b", "")
def test_the_short_way_to_a_key_leads_to_the_same_key(annotations: tuple[Any, Any], a: Any, b: Any) -> None:
    """What is written out for plain texts and integers says what the long way says: key, raw key and tags, by arguments or by text."""

    def find(a: Any, b: Any) -> None: ...

    find.__annotations__ = {name: hint for name, hint in zip("ab", annotations, strict=True) if hint is not types.NoneType}
    blueprint = plan(find, "k:x{a}:{b}y", tags=["t:{b}", "t"], ignore=())
    policy = Policy(name="all", match="*", ttl=60, tags=["p"])
    long_way = Site(
        name="find",
        policy=policy,
        shelf=LocalMemory().shelf(),
        make_codec=AnyCodec,
        call=find,
        template=blueprint.template,
        fields=blueprint.fields,
        tags=blueprint.tags,
        tag_indexes=blueprint.tag_indexes,
    )
    short_way = dataclasses.replace(long_way, quick=blueprint.quick)
    address = long_way.address((a, b))
    assert short_way.address((a, b)) == address
    assert long_way.address_of_key(address.key) == address
    assert [text for _, text in address.dependencies] == list(dict.fromkeys(["p", "t:" + blueprint.template.texts([a, b])[1], "t"]))


@pytest.mark.parametrize(
    ("annotations", "arguments", "raw"),
    [
        ((str,), ("JKT",), "JKT"),
        ((str,), ("a:b %\ud800",), "a:b %\ud800"),
        ((int,), (-7,), -7),
        ((bool,), (True,), True),
        ((UUID,), (UUID(int=5),), UUID(int=5)),
        ((Number,), (Number.TWO,), Number.TWO),
        ((Word,), (Word.ODD,), Word.ODD),
        ((Literal["a", "b"],), ("a",), "a"),
        ((types.NoneType,), (7,), (7, int)),
        ((types.NoneType,), ("7",), ("7", str)),
        ((types.NoneType,), (None,), (None, type(None))),
        ((int | None,), (None,), (None, type(None))),
        ((int | None,), (7,), (7, int)),
        ((str, int), ("JKT", 7), ("JKT", 7)),
        ((str, types.NoneType), ("JKT", True), ("JKT", True, bool)),
    ],
)
def test_common_arguments_stand_as_they_are_in_a_raw_key(annotations: tuple[Any, ...], arguments: tuple[Any, ...], raw: Any) -> None:
    """A hit makes no text: what the wrapper looks up is what the key's text leads back to."""
    watch = watched("k:{a}:{b}" if len(annotations) == 2 else "k:{a}", *annotations)
    key = key_of(watch.template, *arguments)
    assert watch.template.split(key) == watch.template.texts(arguments)
    found = watch.template.raw(watch.template.texts(arguments), key)
    assert found == raw
    assert looked_up(watch, *arguments) == [raw]


key_texts = st.one_of(
    texts,
    st.text(st.sampled_from("~%37aAeEisn0Btru-1"), max_size=6),
    values.map(lambda value: encode(value, str)),
    values.map(lambda value: encode(value, int)),
).filter(lambda text: ":" not in text and "*" not in text)


@given(st.sampled_from(RAW_ANNOTATIONS), st.lists(key_texts, min_size=2, max_size=5, unique=True))
@settings(max_examples=400)
@example(int, ["1", "01", "+1", "1_0", " 1", "１", "~i1", "-0", "0"])
@example(str, ["a", "%61", "~sa", "%7e", "%7E", "a%20b", "a b", "%", "%ff", "\ud800", "%ED%A0%80"])
@example(bool, ["true", "True", "1", "~true"])
@example(UUID, [str(UUID(int=5)), str(UUID(int=5)).replace("-", ""), "{" + str(UUID(int=5)) + "}", f"urn%3Auuid%3A{UUID(int=5)}"])
@example(types.NoneType, ["~none", "None", "~i1", "~i01", "~true", "~s", "~sa", "a"])
@example(Level, ["1", "2", "LOW", "01"])
def test_two_key_texts_never_share_a_copy(annotation: Any, found: list[str]) -> None:
    """Also texts that no call would make, such as ``01`` for an integer: they name nothing but themselves."""
    watch = watched("k:{a}", annotation)
    raws = [watch.template.raw([text], f"k:{text}") for text in found]
    for (one, raw), (other, another) in combinations(zip(found, raws, strict=True), 2):
        assert raw != another, f"{one!r} and {other!r} lead to one copy"
    for text, raw in zip(found, raws, strict=True):
        if raw != (f"k:{text}",):
            value: object = cast("tuple[object, ...]", raw)[0] if isinstance(raw, tuple) else raw
            assert key_of(watch.template, value) == f"k:{text}"


@given(values, values)
def test_a_key_splits_into_the_texts_that_it_was_joined_from(a: Any, b: Any) -> None:
    """And a key of another template into nothing."""
    template = fitted("stores:x{a}y:{b}", str, int)
    found = template.texts([a, b])
    assert template.split(template.join(found)) == found
    for other in ("stores", "stores:x:1", "stores:xy:1:2", "shops:xay:1", "stores:xy", ""):
        assert template.split(other) is None


# --- two templates ------------------------------------------------------------------------------------------------------------

POOL: tuple[Any, ...] = (
    *(0, 1, -1, 10, True, None, 1.0, b"", b"\xab"),
    *("", "a", "b", "ab", "foob", "1", "-1", "1b", "~", "a1", ":", "a:b", "e", "~sa"),
    *(Number.ONE, Word.A, Mixed.A, (), ("a",)),
)


def decorated(cache: Cache, name: str, text: str, annotations: Sequence[Any]) -> Any:
    """A cached function with parameters a, b; it returns its name and its arguments."""

    def zero() -> tuple[Any, ...]:
        return (name,)

    def one(a: Any) -> tuple[Any, ...]:
        return (name, a)

    def two(a: Any, b: Any) -> tuple[Any, ...]:
        return (name, a, b)

    function: Any = (zero, one, two)[len(annotations)]
    function.__annotations__ = dict(zip("ab", annotations, strict=False))
    function.__qualname__ = function.__name__ = name
    return cast("Any", cache.cached(text)(function))


def everything() -> Cache:
    return Cache(policies=[Policy(name="all", match="*", ttl=60)])


Shape = tuple[str, list[Any]]
"""A template and the annotations of its parameters."""

segments = st.one_of(
    st.sampled_from(["", "a", "1", "b", "-1", "ab"]).map(lambda literal: (literal, None, "")),
    st.tuples(st.sampled_from(["", "a", "1"]), st.sampled_from([int, str, bool, bytes]), st.sampled_from(["", "b", "1", "A"])),
)


def _template(parts: Sequence[tuple[str, Any, str]]) -> tuple[str, list[Any]]:
    names = iter("ab")
    text = ":".join(before + (f"{{{next(names)}}}" if kind else "") + after for before, kind, after in parts)
    return text, [kind for _, kind, _ in parts if kind]


templates = st.lists(segments, min_size=1, max_size=2).map(_template).filter(lambda found: bool(found[0]))


@given(templates, templates)
@settings(max_examples=300)
@example(("{a}", [int]), ("{a}b", [int]))
@example(("{a}", [int]), ("{a}b", [str]))
@example(("{a}", [int]), ("{a}A", [str]))
@example(("{a}", [int]), ("b", []))
@example(("1{a}", [int]), ("{a}1", [int]))
@example(("{a}:b", [str]), ("b:{a}", [int]))
def test_two_functions_whose_keys_could_meet_are_refused(first: tuple[str, list[Any]], second: tuple[str, list[Any]]) -> None:
    """Where both are accepted, no arguments of the one make a key of the other, and a key's text finds the function it belongs to."""
    cache = everything()
    functions = [decorated(cache, "first", *first)]
    try:
        functions.append(decorated(cache, "second", *second))
    except KeyTemplateError:
        return
    owners: dict[str, str] = {}
    for function, (_, hints) in zip(functions, (first, second), strict=True):
        for arguments in product(POOL, repeat=len(hints)):
            key = function.key(*arguments)
            assert owners.setdefault(key, function.__name__) == function.__name__, f"both make {key!r}"
        for arguments in product(POOL[::4], repeat=len(hints)):
            assert function(*arguments) is cache.get(function.key(*arguments)), "its text leads elsewhere"


APART: list[tuple[Shape, Shape]] = [
    (("stores:{a}", [str]), ("stores:{a}:stats", [str])),
    (("stores:{a}", [int]), ("stores:top", [])),
    (("stores:{a}", [int]), ("stores:best-{a}", [str])),
    (("stores:{a}", [str]), ("store:{a}", [str])),
    (("a{a}", [str]), ("b{a}", [str])),
    (("{a}:x", [str]), ("{a}:y", [str])),
]


@pytest.mark.parametrize(("first", "second"), APART)
def test_templates_that_can_not_meet_live_side_by_side(first: tuple[str, list[Any]], second: tuple[str, list[Any]]) -> None:
    """A placeholder of type ``int`` leaves room for words beside it."""
    cache = everything()
    for name, (text, hints) in zip(("first", "second"), (first, second), strict=True):
        decorated(cache, name, text, hints)


MEETING: list[tuple[Shape, Shape]] = [
    (("stores:{a}", [str]), ("stores:{a}", [str])),
    (("stores:{a}", [str]), ("stores:top", [])),
    (("stores:{a}", [int]), ("stores:{a}", [str])),
    (("stores:{a}", [int]), ("stores:1", [])),
    (("stores:{a}:x", [str]), ("stores:y:{a}", [str])),
    (("a{a}", [str]), ("{a}b", [str])),
    (("{a}", [int]), ("{a}b", [int])),
]


@pytest.mark.parametrize(("first", "second"), MEETING)
def test_templates_that_can_meet_are_refused_with_both_names(first: tuple[str, list[Any]], second: tuple[str, list[Any]]) -> None:
    """The message says which function was there, and what to do."""
    cache = everything()
    decorated(cache, "first", *first)
    with pytest.raises(KeyTemplateError, match=r"second.*first.*Choose another template.*same_as=first"):
        decorated(cache, "second", *second)


# --- names in Redis -----------------------------------------------------------------------------------------------------------

any_text = st.one_of(texts, values.map(lambda value: "k:" + encode(value)), st.text(st.sampled_from("%{}#27BD5a"), max_size=6))


@given(st.lists(any_text, min_size=2, max_size=10))
@example(["", "%", "%25", "{", "%7B", "%7b", "}", "{}", "%#", "%%", "\ud800", "%ED%A0%80"])
@example(["x" * 512, "x" * 513, "x" * 514, "é" * 256, "é" * 257, "%#" + "0" * 40])
def test_keys_that_differ_have_names_that_differ(keys: list[str]) -> None:
    """Also the empty key, keys of braces and percent signs, and long ones, which are hashed."""
    names = Names.of("shop")
    is_function(keys, [names.entry(key).decode("latin-1") for key in keys])
    is_function(keys, [escape(key).decode("latin-1") for key in keys])


@given(any_text, st.sampled_from(["shop", "{shop}", "a}b", "{", "}", "%", "a b", "🙂", "{}x"]))
def test_an_entry_and_its_lease_share_a_slot_of_a_cluster(key: str, namespace: str) -> None:
    """Exactly one hash tag, around the whole key, whatever braces stand in it or in the namespace; so do log, meta and bans."""
    names = Names.of(namespace)
    entry, lease = names.entry(key), names.lease(key)
    assert entry != lease
    for name in (entry, lease):
        assert name.count(b"{") == name.count(b"}") == 1
        assert name.endswith(b"{" + escape(key) + b"}")
        assert len(name) <= MAX_KEY_BYTES + len(names.entry_prefix) + 1
    assert key_slot(entry) == key_slot(lease) == key_slot(escape(key))
    assert len({key_slot(name) for name in (names.log, names.meta, names.bans)}) == 1
    assert len({names.log, names.meta, names.bans, entry, lease}) == 5


def test_keys_over_512_bytes_are_hashed() -> None:
    """The last byte decides: 512 stay readable, 513 become a hash of 42 characters that no other key's name begins like."""
    assert escape("x" * 512) == b"x" * 512
    assert len(escape("x" * 513)) == 42
    assert len(escape("é" * 257)) == 42
    assert escape("x" * 513).startswith(b"%#")
    assert not escape("%#" + "x" * 100).startswith(b"%#")


def test_namespaces_do_not_meet() -> None:
    """What one namespace is called, another can not begin with."""
    names = [Names.of(namespace) for namespace in ("a", "a:e", "a:e:{x}", "b", "{a}")]
    found = [name for one in names for name in (one.log, one.meta, one.bans, one.entry("x"), one.lease("x"))]
    assert len(set(found)) == len(found)


# --- what can not be a key ----------------------------------------------------------------------------------------------------


class Broken:
    """Every way in which a part of an argument can fail."""

    @property
    def id(self) -> int:
        raise ZeroDivisionError("no id today")

    def __cachesync_key__(self) -> object:
        raise ValueError("no key today")


@dataclasses.dataclass
class Unset:
    """A dataclass whose field was never set."""

    x: int = dataclasses.field(init=False)


class Opaque:
    """Nothing tells two of these apart."""


def _cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _deep() -> object:
    found: object = ()
    for _ in range(40):
        found = (found,)
    return found


def short(value: object) -> str:
    """A name for a case: some of them are longer than any terminal."""
    return value if isinstance(value, str) and len(value) < 60 else type(value).__name__


@pytest.mark.parametrize(
    ("text", "argument", "says"),
    [
        ("{a}", Opaque(), r"Opaque can not be part of a key.*\{argument\.id\}.*ignore.*__cachesync_key__"),
        ("{a}", [Opaque()], "Opaque can not be part of a key"),
        ("{a}", lambda: None, "function can not be part of a key"),
        ("{a}", memoryview(b"x"), "memoryview can not be part of a key"),
        ("{a}", iter(()), "can not be part of a key"),
        ("{a}", _cycle(), "nested more than 32 deep"),
        ("{a}", _deep(), "nested more than 32 deep"),
        ("{a}", "x" * (MAX_KEY_LENGTH + 1), r"65,\d{3} characters; at most 65,536.*\{argument\.id\}"),
        ("{a}", list(range(20_000)), "characters; at most 65,536"),
        ("{a}", b"x" * 40_000, "characters; at most 65,536"),
        ("{a}", 10**5_000, "too long for a key"),
        ("{a}", [10**5_000], "too long for a key"),
        ("{a}", Broken(), "no key today"),
        ("{a}", [Broken()], "no key today"),
        ("{a}", Unset(), "x"),
        ("{a.id}", Broken(), "no id today"),
        ("{a.id}", Opaque(), "no attribute 'id'"),
        ("{a.id}", None, "no attribute 'id'"),
        ("{a.x.y}", Point(1), "no attribute 'y'"),
    ],
    ids=short,
)
def test_an_argument_that_can_not_be_part_of_a_key_is_an_error_of_ours(text: str, argument: Any, says: str) -> None:
    """A ``KeyArgumentError`` that names the template, at the call, before the function runs or anything is looked up."""
    cache = everything()
    calls: list[Any] = []

    def find(a: Any) -> int:
        calls.append(a)
        return 1

    cached = cache.cached(f"k:{text}")(find)
    ways: list[Callable[[], object]] = [
        lambda: cached(argument),
        lambda: cached.key(argument),
        lambda: cached.peek(argument),
        lambda: cached.refresh(argument),
        lambda: cached.invalidate(argument),
        lambda: cached.set(1, argument),
        lambda: cached.many([(argument,)]),
    ]
    for way in ways:
        with pytest.raises(KeyArgumentError, match=f"(?s){says}") as caught:
            way()
        assert text in str(caught.value), "it says whose key it is"
        assert isinstance(caught.value, TypeError)
    assert calls == []


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("stores:*", "is a pattern, not a key.*%2A"),
        ("*", "is a pattern"),
        (7, "a key is a text, not int"),
        (None, "a key is a text, not NoneType"),
        (b"stores", "a key is a text, not bytes"),
        ("x" * (MAX_KEY_LENGTH + 1), "65,537 characters"),
    ],
    ids=short,
)
def test_what_is_no_key_is_refused(key: Any, says: str) -> None:
    """Where a key is wanted as text."""
    with pytest.raises(KeyArgumentError, match=says):
        check_key(key)


# --- templates that do not fit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameters", "ignore", "says"),
    [
        ("", "a", (), "is empty"),
        ("stores:*", "", (), r"'\*' can not stand in it: it has a meaning of its own"),
        ("stores:%41", "", (), "'%' can not stand in it"),
        ("stores:~x", "", (), "'~' can not stand in it"),
        ("stores:\n", "", (), r"'\\n' can not stand in it"),
        ("stores:\x00", "", (), r"'\\x00' can not stand in it"),
        ("stores:\ud800", "", (), "can not stand in it"),
        ("stores:{a", "a", (), r"'\{' can not stand in it: placeholders are written \{name\}"),
        ("stores:a}", "a", (), r"'\}' can not stand in it: placeholders are written \{name\}"),
        ("stores:{{a}}", "a", (), "can not stand in it"),
        ("stores:{}", "a", (), r"\{\} is no placeholder; write \{name\} or \{name\.attribute\}"),
        ("stores:{0}", "a", (), r"\{0\} is no placeholder"),
        ("stores:{a!r}", "a", (), r"\{a!r\} is no placeholder"),
        ("stores:{a:>3}", "a", (), "'{a' has half a placeholder.*without a format"),
        ("stores:{a:>3}", "a", ("a",), "'{a' has half a placeholder"),
        ("stores:{a[0]}", "a", (), "is no placeholder"),
        ("stores:{a.}", "a", (), "is no placeholder"),
        ("stores:{a b}", "a", (), "is no placeholder"),
        ("stores:{code}", "a", (), r"\{code\} names no parameter of the function, which has: a"),
        ("stores:{code}", "", (), "which has: none"),
        ("stores:{a}{b}", "ab", (), r"\{a\} and \{b\} need a ':' between them"),
        ("stores:{a}-{b}", "ab", (), r"\{a\} and \{b\} need a ':' between them"),
        ("stores:{a}", "ab", (), r"the parameter 'b' is not part of it.*add \{b\}, or a part of it, or say ignore=\['b'\]"),
        ("stores", "a", (), "the parameter 'a' is not part of it"),
        ("stores:{a}", "a", ("b",), "ignore names 'b', which is no parameter"),
        ("stores:{a}", "a", ("a",), "'a' is named in the template and in ignore"),
        ("stores:{a.id}", "a", ("a",), "'a' is named in the template and in ignore"),
        ("stores", ("self",), (), r"tells instances apart, \{self\.id\}, or say ignore=\['self'\]"),
        ("stores", ("cls",), (), r"tells instances apart, \{cls\.id\}, or say ignore=\['cls'\]"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_at_decoration(
    text: str, parameters: Sequence[str], ignore: Sequence[str], says: str
) -> None:
    """With the function's name, the template and what to write."""
    with pytest.raises(KeyTemplateError, match=says) as caught:
        compile_template(text, parameters=dict.fromkeys(parameters, str), ignore=ignore, what="shop.find")
    assert str(caught.value).startswith("shop.find: key template ")


def test_a_placeholder_may_stand_twice() -> None:
    """It adds nothing and takes nothing away."""
    template = fitted("{a}:again:{a}", str)
    assert key_of(template, *["x"] * len(template.fields)) == "x:again:x"


def test_a_part_of_an_argument_is_written_by_its_own_annotation() -> None:
    """``{a.x}`` of a dataclass whose ``x`` is an ``int`` is a plain number; without annotation ``str`` is the plain type."""

    template = compile_template("{a.part}:{a.inner.number}:{a.other}", parameters={"a": Whole}, ignore=(), what="test")
    assert [field.plain for field in template.fields] == [int, UUID, str]
    assert key_of(template, 7, UUID(int=1), 7) == f"7:{UUID(int=1)}:~i7"


class Inner:
    """A part that has parts."""

    number: UUID


class Whole:
    """An argument with annotated parts."""

    part: int
    inner: Inner
