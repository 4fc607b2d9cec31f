"""Values come back from their bytes as the types they were, or are refused where they are made."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import ipaddress
import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import threading
from collections import abc
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from inspect import Signature
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, computed_field, field_serializer, field_validator, model_serializer
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12.

from cachesync.errors import CodecError
from cachesync.layers import codecs, plaindata
from cachesync.layers.annotations import spelled
from cachesync.layers.codecs import AnyCodec, PickleCodec, codec_for, return_annotation
from cachesync.layers.compression import LARGEST, compress, decompress
from cachesync.layers.sameness import difference

if TYPE_CHECKING:
    from cachesync.protocols import Codec

    Absent = int

T = TypeVar("T")
JAKARTA = ZoneInfo("Asia/Jakarta")
NAIVE = datetime(2026, 3, 1)  # noqa: DTZ001 - the kind under test
PARSED = pydantic.TypeAdapter(datetime).validate_python("2026-03-01T08:30:00+07:00")  # Has a zone of pydantic's own.


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Mixed(enum.Enum):
    HALF = 0.5
    PAIR = (1, 2)


@dataclass
class Store:
    code: str
    open: bool = True


@dataclass
class Branch(Store):
    parent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    id: int
    price: Decimal
    at: datetime | None = None
    tags: frozenset[str] = frozenset()


@dataclass
class Loose:
    meta: Any = None
    anything: object = None


@dataclass(frozen=True)
class Key:
    n: int
    name: str


@dataclass
class Derived:
    net: int
    gross: int = field(init=False)
    notes: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.gross = self.net * 2


@dataclass
class Unset:
    net: int
    late: int = field(init=False)


@dataclass
class WithInitVar:
    net: int
    rate: InitVar[int]

    def __post_init__(self, rate: int) -> None:
        self.net *= rate


@dataclass
class Page(Generic[T]):
    items: list[T]
    total: int


@dataclass
class Node:
    name: str
    children: list[Node] = field(default_factory=list["Node"])
    parent: Node | None = None


@dataclass
class Picky:
    n: int

    def __post_init__(self) -> None:
        if self.n > 100:
            raise RuntimeError("a secret number")


class Half(TypedDict, total=False):
    a: int
    b: str


class Partly(TypedDict):
    a: int
    b: NotRequired[datetime]


class Point(NamedTuple):
    x: int
    y: float = 0.0
    extra: Any = None


Untyped = collections.namedtuple("Untyped", "a b")  # pyright: ignore[reportUntypedNamedTuple]  # What older code returns.
StoreId = NewType("StoreId", int)


@attrs.define
class Attrs:
    code: str
    at: datetime | None = None


@attrs.define
class PrivateAttrs:
    _hidden: int
    shown: str = "s"


class Cat(msgspec.Struct, tag=True, rename="camel"):
    life_count: int
    owner: object = None
    chip: int | msgspec.UnsetType = msgspec.UNSET


class Dog(msgspec.Struct, tag=True):
    tricks: set[str]


class Packed(msgspec.Struct, array_like=True, tag="p"):
    a: int
    when: datetime


class Model(BaseModel):
    id: int
    name: str = "n"


class SubModel(Model):
    extra: int = 1


class Rich(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=False)

    blob: bytes
    amount: Decimal
    pair: tuple[int, str]
    names: set[int]
    at: datetime
    colour: Colour
    right: Right
    by_id: dict[int, Model]
    path: pathlib.PurePosixPath
    address: ipaddress.IPv4Address
    queue: collections.deque[int]
    renamed: int = Field(validation_alias="in", serialization_alias="out")

    @computed_field
    def doubled(self) -> int:
        return self.renamed * 2


RICH = Rich.model_validate(
    {
        "blob": b"\xff",
        "amount": Decimal("1.10"),
        "pair": (1, "a"),
        "names": {1},
        "at": datetime(2026, 3, 1, 8, tzinfo=JAKARTA),
        "colour": Colour.RED,
        "right": Right.READ | Right.WRITE,
        "by_id": {7: Model(id=7)},
        "path": "/srv",
        "address": "10.0.0.1",
        "queue": [1, 2],
        "in": 3,
    },
    strict=False,
)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int


class Excluding(BaseModel):
    id: int
    password: str = Field(exclude=True)


class ExcludingDefault(BaseModel):
    id: int
    password: str = Field(default="", exclude=True)


class Remembering(BaseModel):
    id: int
    _memo: int = PrivateAttr(default=0)

    def remember(self, memo: int) -> Remembering:
        self._memo = memo
        return self


class Hashing(BaseModel):
    password: str

    @field_validator("password")
    @classmethod
    def hashed(cls, password: str) -> str:
        return f"hashed {password}"


class Exploding(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def small(cls, n: int) -> int:
        if n > 100:
            raise RuntimeError("a secret number")
        return n


class Shop(BaseModel):
    kind: Literal["shop"] = Field("shop", alias="k")


class Depot(BaseModel):
    kind: Literal["depot"] = Field("depot", alias="k")
    docks: int = 0


class Formatting(BaseModel, frozen=True):
    at: datetime

    @field_serializer("at")
    def for_readers(self, at: datetime) -> str:
        return at.strftime("%d.%m.%Y")


class FormattingWhole(BaseModel):
    ids: list[int]
    inner: Formatting

    @model_serializer
    def for_readers(self) -> str:
        return f"{len(self.ids)} ids"


class Numbers(pydantic.RootModel[list[int]]):
    pass


class HoldsJson(BaseModel):
    numbers: pydantic.Json[list[int]]


class Hiding(BaseModel):
    password: pydantic.SecretStr


class FormattingAndExcluding(Formatting, frozen=True):
    password: str = Field(default="", exclude=True)


class Custom:
    pass


@dataclass
class HoldsModel:
    model: Model
    others: dict[str, list[Model]] = field(default_factory=dict[str, list[Model]])


class TypedDictOfModel(TypedDict):
    model: Model


@attrs.define
class AttrsOfModel:
    model: Model
    maybe: Model | None = None


Place = Annotated[Shop | Depot, Field(discriminator="kind")]

CASES: dict[str, tuple[object, object]] = {
    # Plain types.
    "none": (None, None),
    "bool": (bool, True),
    "int": (int, -5),
    "int beyond 64 bits": (int, 2**80),
    "negative int beyond 64 bits": (list[int], [-(2**63) - 1, 2**64]),
    "float": (float, 0.1),
    "float minus zero": (float, -0.0),
    "float infinity": (float, math.inf),
    "str": (str, "größer"),
    "str with a lone surrogate": (str, "\ud800"),
    "bytes": (bytes, b"\x00\xff"),
    "bytearray": (bytearray, bytearray(b"ab")),
    "datetime naive": (datetime, NAIVE.replace(hour=8, microsecond=5)),
    "datetime utc": (datetime, datetime(2026, 3, 1, tzinfo=UTC)),
    "datetime offset": (datetime, datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=7)))),
    "datetime named offset": (datetime, datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=7), "WIB"))),
    "datetime zone": (datetime, datetime(2026, 3, 1, 8, tzinfo=JAKARTA)),
    "datetime fold": (datetime, datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)),
    "datetime parsed by pydantic": (datetime, PARSED),
    "date": (date, date(2026, 3, 1)),
    "time": (time, time(8, 30, 0, 1)),
    "time with zone": (time, time(8, 30, tzinfo=UTC)),
    "timedelta": (timedelta, timedelta(days=-1, microseconds=3)),
    "decimal": (Decimal, Decimal("1.10")),
    "decimal nan": (Decimal, Decimal("NaN")),
    "uuid": (UUID, UUID(int=7)),
    "list": (list[int], [1, 2]),
    "tuple": (tuple[int, str], (1, "a")),
    "tuple of any length": (tuple[int, ...], (1, 2, 3)),
    "empty tuple": (tuple[()], ()),
    "set": (set[int], {1}),
    "frozenset": (frozenset[str], frozenset({"a"})),
    "set of tuples": (set[tuple[int, str]], {(1, "a")}),
    "dict of int keys": (dict[int, str], {1: "a"}),
    "dict of tuple keys": (dict[tuple[int, str], float], {(1, "a"): 0.5}),
    "dict of uuid keys": (dict[UUID, Decimal], {UUID(int=1): Decimal("1.0")}),
    "dict of date keys": (dict[date, list[int]], {date(2026, 3, 1): [1]}),
    "sequence that is a list": (abc.Sequence[int], [1]),
    "sequence that is a tuple": (abc.Sequence[int], (1,)),
    "mapping": (abc.Mapping[str, int], {"a": 1}),
    "abstract set that is frozen": (abc.Set[int], frozenset({1})),
    "deque": (collections.deque[int], collections.deque([1])),
    "counter": (collections.Counter[str], collections.Counter("aab")),
    "ordered dict": (collections.OrderedDict[str, int], collections.OrderedDict(a=1)),
    "path": (pathlib.PurePosixPath, pathlib.PurePosixPath("/srv")),
    "complex": (complex, 1 + 2j),
    # Unions, literals, annotated and new types.
    "optional none": (Store | None, None),
    "optional value": (Store | None, Store("JKT")),
    "int of int or float": (int | float, 1),
    "float of int or float": (int | float, 1.0),
    "text of text or datetime": (str | datetime, "2026-03-01T00:00:00"),
    "datetime of text or datetime": (str | datetime, datetime(2026, 3, 1, 8, tzinfo=JAKARTA)),
    "bytes of bytes or text": (bytes | str, b"a"),
    "set of set or list": (set[int] | list[int], {1}),
    "second of two dataclasses": (Store | Derived, Derived(3)),
    "literal": (Literal["a", 1], "a"),
    "literal bytes": (Literal[b"a"], b"a"),
    "annotated for msgspec": (Annotated[int, msgspec.Meta(gt=0)], 1),
    "annotated for pydantic": (Annotated[int, Field(gt=0)], 1),
    "new type": (StoreId, 7),
    "type variable": (T, (1,)),
    # Enums.
    "enum": (Colour, Colour.RED),
    "int enum": (list[Size], [Size.SMALL]),
    "str enum": (dict[Word, Size], {Word.YES: Size.SMALL}),
    "flag": (Right, Right.READ | Right.WRITE),
    "enum of mixed values": (list[Mixed], [Mixed.HALF, Mixed.PAIR]),
    # Classes.
    "dataclass": (Store, Store("JKT", open=False)),
    "dataclass frozen slots kw_only": (
        list[Row],
        [Row(id=1, price=Decimal("1.0")), Row(id=2, price=Decimal(2), at=NAIVE, tags=frozenset({"a"}))],
    ),
    "dataclass with Any holding a tuple": (Loose, Loose(meta=(1, {2}), anything=[Decimal("1.0"), (1,)])),
    "dataclass with init=False": (Derived, Derived(3, notes=["x"])),
    "dataclass generic": (Page[int], Page([1], 1)),
    "dataclass generic of models": (Page[Model], Page([Model(id=1)], 1)),
    "dataclass recursive": (Node, Node("a", [Node("b")])),
    "typed dict": (Half, {"b": "x"}),
    "typed dict not required": (list[Partly], [{"a": 1}, {"b": NAIVE, "a": 2}]),
    "named tuple": (Point, Point(1, 0.5)),
    "named tuple with Any": (list[Point], [Point(1, extra=(1,))]),
    "named tuple untyped": (Untyped, Untyped(1, [2])),
    "attrs": (Attrs, Attrs("JKT", datetime(2026, 3, 1, tzinfo=JAKARTA))),
    "attrs private": (PrivateAttrs, PrivateAttrs(3)),
    "struct tagged first": (Cat | Dog, Cat(9, owner=(1,))),
    "struct tagged second": (list[Cat | Dog], [Dog({"sit"}), Cat(1, chip=3)]),
    "struct as array": (Packed, Packed(1, datetime(2026, 3, 1, tzinfo=JAKARTA))),
    # Pydantic.
    "model": (Model, Model(id=1)),
    "models": (list[Model], [Model(id=1), Model(id=2, name="x")]),
    "model or none": (Model | None, None),
    "models by key": (dict[int, tuple[Model, ...]], {1: (Model(id=1),)}),
    "model subclass annotated": (Model | SubModel, SubModel(id=1, extra=2)),
    "model strict and rich": (Rich, RICH),
    "model with extra fields": (Open, Open.model_validate({"id": 1, "more": [1]})),
    "model that excludes a default": (ExcludingDefault, ExcludingDefault(id=1)),
    "model discriminated by alias": (list[Place], [Shop.model_validate({}), Depot.model_validate({"docks": 2})]),
    "model in a dataclass": (HoldsModel, HoldsModel(Model(id=1), {"a": [Model(id=2)]})),
    "model in a typed dict": (TypedDictOfModel, {"model": Model(id=1)}),
    "model in attrs": (AttrsOfModel, AttrsOfModel(Model(id=1), Model(id=2))),
    "model with a serializer": (Formatting, Formatting(at=NAIVE)),
    "model with a serializer of its own": (list[FormattingWhole], [FormattingWhole(ids=[1, 2], inner=Formatting(at=NAIVE))]),
    "models in a set": (frozenset[Formatting], frozenset({Formatting(at=NAIVE)})),
    "dataclasses in a set": (set[Key], {Key(1, "a")}),
    "dataclasses in tuples in a set": (frozenset[tuple[Key, int]], frozenset({(Key(1, "a"), 2)})),
    "root model": (dict[str, Numbers], {"a": Numbers([1])}),
    "json in a model": (HoldsJson, HoldsJson.model_validate({"numbers": "[1, 2]"})),
    # Nothing annotated, or nothing said.
    "any none": (Any, None),
    "any plain": (Signature.empty, {"a": [1, 2.5, None, True, b"x", {"b": {}}], "c": 2**64 - 1}),
    "any of every kind": (
        object,
        [(1, [2]), {3}, frozenset({4}), {(5,): 6}, 2**70, -(2**70), "\udfff", date(2026, 3, 1), timedelta(1), UUID(int=1), Decimal("-0.0")],
    ),
    "any of every clock": (
        Any,
        (
            NAIVE.replace(year=1),
            datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=7), "WIB")),
            datetime(2026, 3, 1, 8, tzinfo=JAKARTA),
            PARSED,
            time(1, fold=1),
        ),
    ),
    "any with odd keys": (dict, {1: "a", "b": {None: True, 1.5: 2, b"k": 3, False: 4}, Decimal("1.0"): 5}),
    "bare list": (list, [(1,), [2]]),
    "dict of anything": (dict[str, Any], {"a": 1, "b": [1.5, None]}),
    "dict of anything odd": (dict[str, Any], {"at": datetime(2026, 3, 1, 8, tzinfo=JAKARTA), "pair": (1, {2}), "n": Decimal(1)}),
    "list of objects": (list[object], [(1,), {"a": {1}}]),
    "any or none": (Any | None, (1,)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_value_comes_back_as_it_was(case: str) -> None:
    """Exact types all the way down: repr tells them apart, independently of the codec's own check."""
    annotation, value = CASES[case]
    codec = codec_for(annotation)
    payload = codec.encode(value)
    for back in (codec.decode(payload), codec.decode(memoryview(payload)), codec_for(annotation).decode(payload)):
        assert type(back) is type(value)
        assert repr(back) == repr(value)
        assert difference(value, back) is None


def test_nan_comes_back() -> None:
    """A nan equals nothing, itself included, and still is the value that was sent."""
    for annotation in (float, list[float], Any, dict[str, Any]):
        value: Any = {"list[float]": [math.nan], "dict[str, Any]": {"a": (math.nan, {math.nan})}}.get(spelled(annotation), math.nan)
        assert "nan" in repr(codec_for(annotation).decode(codec_for(annotation).encode(value)))


def test_an_int_where_float_is_annotated_comes_back_as_the_equal_float() -> None:
    """PEP 484's numeric tower. An int that no float equals is refused; so is a bool."""
    codec = codec_for(float)
    assert repr(codec.decode(codec.encode(3))) == "3.0"
    with pytest.raises(CodecError, match="int became float"):
        codec.encode(2**53 + 1)
    with pytest.raises(CodecError):
        codec.encode(True)


NAMES: list[tuple[object, str]] = [
    (Store, "msgpack:Store"),
    (list[Store], "msgpack:list[Store]"),
    (Store | None, "msgpack:Store | None"),
    (list[Model], "pydantic:list[Model]"),
    (Annotated[dict[str, Model], "note"], "pydantic:dict[str, Model]"),
    (Page[int], "msgpack:Page[int]"),
    (tuple[int, ...], "msgpack:tuple[int, ...]"),
    (Literal["a", 1], "msgpack:Literal['a', 1]"),
    (StoreId, "msgpack:StoreId"),
    (None, "msgpack:None"),
    (Any, "any"),
    (Signature.empty, "any"),
    (dict, "any"),
]


@pytest.mark.parametrize(("annotation", "name"), NAMES)
def test_a_codec_is_named_by_its_annotation(annotation: object, name: str) -> None:
    """The name is short and the same in every process."""
    assert codec_for(annotation).name == name
    assert name in repr(codec_for(annotation)) or name == "any"


class OddZone(tzinfo):
    def utcoffset(self, dt: datetime | None, /) -> timedelta:
        return timedelta(0)

    def dst(self, dt: datetime | None, /) -> timedelta:
        return timedelta(0)

    def tzname(self, dt: datetime | None, /) -> str:
        return "odd"


def contains_itself() -> Node:
    node = Node("a")
    node.children.append(node)
    return node


# Values that are refused: annotation, value, what the message says.
REFUSED: dict[str, tuple[object, object, str]] = {
    "none where a dataclass is promised": (Store, None, "Expected `object`, got `null`"),
    "a tuple where a list is promised": (list[int], (1, 2), "at the top: tuple became list"),
    "a list where a tuple is promised": (list[tuple[int, ...]], [(1,), [2]], r"at \[1\]: list became tuple"),
    "text where an int is promised": (list[Row], [Row(id=cast("Any", "7"), price=Decimal(1))], r"got `str` - at `\$\[0\].id`"),
    "a subclass": (Store, Branch("JKT"), "at the top: Branch became Store"),
    "a model's subclass": (list[Model], [SubModel(id=1)], r"at \[0\]: SubModel became Model"),
    "an enum under Any": (dict[str, Any], {"a": [1, Colour.RED]}, r"at \['a'\]\[1\]: Colour became str"),
    "a dataclass under Any": (Loose, Loose(meta=Store("JKT")), "at .meta: Store became dict"),
    "a bool where an int is promised": (int, True, "Expected `int`, got `bool`"),
    "an int enum where an int is promised": (int, Size.SMALL, "at the top: Size became int"),
    "an int where an enum is promised": (Size, 1, "at the top: int became Size"),
    "a literal that is not one": (Literal["a"], "secret", "not a value of the annotation"),
    "an extra key": (Half, {"a": 1, "secret": 2}, "at the top: 2 keys became 1"),
    "an excluded field": (Excluding, Excluding(id=1, password="secret"), "missing"),
    "an excluded field that has a default": (ExcludingDefault, ExcludingDefault(id=1, password="secret"), "at .password: another str"),
    "an excluded field beside a serializer": (FormattingAndExcluding, FormattingAndExcluding(at=NAIVE, password="secret"), "at .password"),
    "a hidden field": (Hiding, Hiding(password=pydantic.SecretStr("secret")), "at .password: another SecretStr came back"),
    "a private attribute": (Remembering, Remembering(id=1).remember(5), r"at ._memo: another int came back"),
    "a validator that changes its own output": (Hashing, Hashing(password="secret"), "at .password: another str came back"),
    "a field never set": (Unset, Unset(1), "missing required field `late`"),
    "an object that contains itself": (Node, contains_itself(), "nested too deeply"),
    "a custom class under Any": (Any, [1, {"a": (2, Custom())}], r"at \[1\]\['a'\]\[1\]: Custom is not plain data; annotate"),
    "a key that may be a value": (Any, {"me@example.org": Custom()}, r"at \[key 0\]: Custom"),
    "a dataclass without annotation": (Signature.empty, Store("JKT"), "at the top: Store is not plain data"),
    "a zone of another library": (Any, [datetime(2026, 3, 1, tzinfo=OddZone())], r"at \[0\]\.tzinfo: OddZone is not plain data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_that_would_come_back_different_is_refused(case: str) -> None:
    """At encode, with the path and both types; the value itself is never shown, not even by the chained exception."""
    annotation, value, message = REFUSED[case]
    with pytest.raises(CodecError, match=message) as caught:
        codec_for(annotation).encode(value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_value_nested_too_deeply_is_refused() -> None:
    """And bytes nested too deeply can not be read; neither is a crash."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for annotation, mark in ((Any, b""), (list[Any], b""), (list[object], b"\xc1\x01"), (abc.Sequence[Any], b"\xc1\x02")):
        with pytest.raises(CodecError, match="nested too deeply"):
            codec_for(annotation).encode(deep)
        with pytest.raises(CodecError, match="nested too deeply"):
            codec_for(annotation).decode(mark + b"\x91" * 100_000 + b"\x90")
    while deep:  # Dropping it whole would recurse in the interpreter.
        deep = deep.pop()


# Annotations that are refused at decoration.
IMPOSSIBLE: dict[str, tuple[object, str]] = {
    "custom class": (Custom, "values of Custom can not be stored: neither a dataclass.*; annotate what .* or pass codec="),
    "custom class inside": (dict[str, list[Custom]], "can not be stored"),
    "iterator": (abc.Iterator[int], "read only once"),
    "generator": (abc.Generator[int, None, None], "read only once"),
    "async iterator": (abc.AsyncIterator[int] | None, "read only once"),
    "callable": (Callable[[int], int], "not data"),
    "type": (type[int], "not data"),
    "raw": (list[msgspec.Raw], "not data"),
    "init var": (WithInitVar, "InitVar"),
    "init var inside": (list[WithInitVar], "InitVar"),
    "text": ("Store", "can not be stored"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_annotation_that_can_not_be_stored_is_refused_at_decoration(case: str) -> None:
    """codec_for raises, so that the mistake is found before the first call."""
    annotation, message = IMPOSSIBLE[case]
    with pytest.raises(CodecError, match=message):
        codec_for(annotation)


@pytest.mark.parametrize("strict", [Exploding, Picky])
def test_an_exception_in_the_users_validator_is_an_error_of_ours(strict: type[Exploding | Picky]) -> None:
    """Whatever a validator or __post_init__ raises, the bytes are unreadable and no more; its words are not repeated."""
    codec = codec_for(strict)
    payload = codec.encode(strict(n=100))
    with pytest.raises(CodecError) as caught:
        codec.decode(payload.replace(b"\x64", b"\x65"))
    assert "secret" not in str(caught.value)


def test_bytes_of_another_annotation_are_an_error_or_a_value_of_this_one() -> None:
    """A payload that an older annotation wrote never comes back as the older type."""
    payload = codec_for(Store).encode(Store("JKT"))
    with pytest.raises(CodecError):
        codec_for(list[Store]).decode(payload)
    with pytest.raises(CodecError):
        codec_for(Model).decode(payload)
    for case, (annotation, value) in CASES.items():
        if annotation is not Model:
            try:
                back = codec_for(Model).decode(codec_for(annotation).encode(value))
            except CodecError:
                continue
            assert type(back) is Model, case


def test_equal_sets_have_equal_bytes_in_every_process(tmp_path: pathlib.Path) -> None:
    """Text hashes differ between processes, and with them the order of sets; payloads, and what is hashed from them, do not."""
    script = tmp_path / "sets.py"
    script.write_text(
        "import typing\n"
        "from cachesync.layers.codecs import codec_for\n"
        "value = {str(i) for i in range(50)}\n"
        "print(codec_for(set[str]).encode(value).hex(), codec_for(typing.Any).encode([value]).hex())\n"
    )
    assert len({run(script, hash_seed=seed) for seed in ("1", "2", "3")}) == 1


SHARED_MODULE = """
import enum
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from pydantic import BaseModel

class Kind(enum.Enum):
    A = "a"

@dataclass
class Row:
    id: int
    price: Decimal
    at: datetime
    kind: Kind
    meta: Any

class Model(BaseModel):
    rows: list[Row]
    names: frozenset[str]

def find() -> dict[int, Model | None]:
    import zoneinfo
    at = datetime(2026, 3, 1, 8, tzinfo=zoneinfo.ZoneInfo("Asia/Jakarta"))
    return {1: Model(rows=[Row(1, Decimal("1.10"), at, Kind.A, (1, None))], names=frozenset({"x"})), 2: None}

def rows() -> list[Row]:
    return find()[1].rows

def loose():
    return [(1, {2}), 2**70, Decimal("1.0")]
"""
WRITER = """
import json, sys
import shared
from cachesync.layers.codecs import codec_for, return_annotation
print(json.dumps({f.__name__: codec_for(return_annotation(f)).encode(f()).hex() for f in (shared.find, shared.rows, shared.loose)}))
"""
READER = """
import json, sys
import shared
from cachesync.layers.codecs import codec_for, return_annotation
for name, payload in json.loads(sys.argv[1]).items():
    function = getattr(shared, name)
    back = codec_for(return_annotation(function)).decode(bytes.fromhex(payload))
    assert repr(back) == repr(function()) and back == function(), name
    print(name)
"""


def run(script: pathlib.Path, *arguments: str, hash_seed: str = "random") -> str:
    """What a Python of its own prints when it runs ``script``."""
    package = str(pathlib.Path(codecs.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parent), package]), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_process_reads_what_another_wrote(tmp_path: pathlib.Path) -> None:
    """A payload is all that two processes need, beside the code."""
    (tmp_path / "shared.py").write_text(SHARED_MODULE)
    (tmp_path / "writer.py").write_text(WRITER)
    (tmp_path / "reader.py").write_text(READER)
    payloads = run(tmp_path / "writer.py")
    assert json.loads(payloads).keys() == {"find", "rows", "loose"}
    assert run(tmp_path / "reader.py", payloads).split() == ["find", "rows", "loose"]


PAYLOADS = pathlib.Path(__file__).parent / "payloads"


@pytest.mark.parametrize("release", sorted(PAYLOADS.glob("*.hex")), ids=lambda path: path.stem)
def test_payloads_of_every_release_still_decode(release: pathlib.Path) -> None:
    """A line is a case and its bytes, as that release wrote them. Files of past releases are never edited."""
    lines = [line.rsplit(": ", 1) for line in release.read_text().splitlines()]
    assert len(lines) > 50
    for case, payload in lines:
        annotation, value = CASES[case]
        assert repr(codec_for(annotation).decode(bytes.fromhex(payload))) == repr(value), case


def test_there_are_payloads_of_a_release() -> None:
    """`python -m tests.test_codecs 0.2` writes those of release 0.2."""
    assert list(PAYLOADS.glob("*.hex"))


# Plain data.

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(st.characters()),
    st.text(st.characters(codec=None, categories=("Cs", "L"))),
    st.binary(),
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.datetimes(timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
)
keys = st.recursive(
    leaves.filter(lambda leaf: "sNaN" not in repr(leaf)),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
plain_data = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
    ),
    max_leaves=20,
)


def shape(value: Any) -> Any:
    """The types of ``value`` all the way down with its leaves as text: an oracle that shares nothing with ``sameness``."""
    kind = cast("Any", type(value)).__name__
    if kind in ("list", "tuple"):
        return (kind, [shape(each) for each in value])
    if kind == "dict":
        return (kind, [(shape(key), shape(each)) for key, each in value.items()])
    if kind in ("set", "frozenset"):
        return (kind, sorted(repr(shape(each)) for each in value))
    return (kind, repr(value))


@given(plain_data)
def test_any_plain_data_comes_back_exactly(value: Any) -> None:
    """Tuples, sets, large integers, nan, lone surrogates, zones; at any depth."""
    codec = AnyCodec()
    payload = codec.encode(value)
    assert shape(codec.decode(payload)) == shape(value)
    assert codec.encode(codec.decode(payload)) == payload or "nan" in repr(value).lower()


@given(st.dictionaries(st.text(max_size=5), plain_data, max_size=4))
def test_anything_in_a_typed_dict_of_anything_comes_back_exactly(value: dict[str, Any]) -> None:
    """``dict[str, Any]`` keeps as much as no annotation does."""
    codec = codec_for(dict[str, Any])
    assert shape(codec.decode(codec.encode(value))) == shape(value)


FUZZED: list[Codec] = [codec_for(CASES[case][0]) for case in CASES]
SAMPLES: list[tuple[Codec, bytes]] = [(codec_for(annotation), codec_for(annotation).encode(value)) for annotation, value in CASES.values()]


@given(st.binary(max_size=64), st.sampled_from(FUZZED), st.sampled_from([b"", b"\xc1\x01", b"\xc1\x02"]))
def test_arbitrary_bytes_are_a_value_or_our_error(payload: bytes, codec: Codec, mark: bytes) -> None:
    """And nothing else: the caller makes a miss of our error."""
    try:
        codec.decode(mark + payload)
    except CodecError:
        pass


@given(st.data())
def test_damaged_bytes_are_a_value_or_our_error(data: st.DataObject) -> None:
    """A bit turned, a part cut out, something added."""
    codec, payload = data.draw(st.sampled_from(SAMPLES))
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged)))
        damaged[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        codec.decode(bytes(damaged))
    except CodecError:
        pass


def test_plain_data_stands_as_msgpack_writes_it() -> None:
    """What msgpack can tell apart by itself costs nothing more, and any msgpack reader understands it."""
    value = {"a": [1, 2.5, None, True, b"x", "y"], "b": {1: -1}}
    assert plaindata.is_plain(value)
    assert AnyCodec().encode(value) == msgspec.msgpack.encode(value)
    assert not any(map(plaindata.is_plain, [(1,), [(1,)], {True: 1}, {"a": {1}}, [Size.SMALL], {Word.YES: 1}]))


# Sameness.

SAME: list[tuple[object, object]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({(1, math.nan): 1}, {(1, float("nan")): 1}),
    ({1, math.nan}, {float("nan"), 1}),
    ([1] * 20 + [(2,)], [1.0] * 20 + [(2,)]),
    ([Store("a")] * 20, [Store("a") for _ in range(20)]),
    ([{"a": NAIVE}, None] * 20, [{"a": NAIVE}, None] * 20),
    ([Unset(1)], [Unset(1)]),
    ([Unset(1)] * 20, [Unset(1)] * 20),
]
DIFFERENT: list[tuple[object, object, str]] = [
    ({0, True}, {False, 1}, "at [key or element]: int became bool"),
    ([{0, True}] * 20, [{False, 1}] * 20, "at [0][key or element]: int became bool"),
    ([Decimal("1.0")], [Decimal("1.00")], "at [0]: another Decimal came back"),
    ([[Decimal("1.0")]] * 20, [[Decimal("1.00")]] * 20, "at [0][0]: another Decimal came back"),
    ({1: 2}, {True: 2}, "at [key or element]: int became bool"),
    ({"a": 1}, {"b": 1}, "at the top: a key or element of type str was lost"),
    ([1, 2], [1], "at the top: 2 items became 1"),
    ({1, 2}, {1}, "at the top: 2 elements became 1"),
    ([Store("a")] * 20, [Store("a")] * 19 + [Store("b")], "at [19].code: another str came back"),
    ([[1], (2,)] * 20, [[1], (2,)] * 19 + [[1], [2]], "at [39]: tuple became list"),
    (Point(1, extra=[1]), Point(1, extra=[True]), "at .extra[0]: int became bool"),
    (datetime(2026, 3, 1, 7, tzinfo=JAKARTA), datetime(2026, 3, 1, tzinfo=UTC), "at the top: another datetime came back"),
    (datetime(2026, 3, 1, 7, tzinfo=JAKARTA), NAIVE.replace(hour=7), "at .tzinfo: ZoneInfo became None"),
    (
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=timezone(timedelta(0), "Z")),
        "at .tzinfo: another zone came back",
    ),
    (NAIVE, NAIVE.replace(fold=1), "at the top: another datetime came back"),
    (Unset(1), Derived(1), "at the top: Unset became Derived"),
    (Unset(1), dataclasses.replace(Derived(1)), "at the top: Unset became Derived"),
    (Open.model_validate({"id": 1, "x": 2}), Open(id=1), "at .x: int was lost"),
    (Colour.RED, Word.YES, "at the top: Colour became Word"),
    (Custom(), Custom(), "at the top: another Custom came back"),
]


@pytest.mark.parametrize(("sent", "back"), SAME)
def test_what_is_the_same(sent: object, back: object) -> None:
    """Order of dicts and sets is nothing, nan is nan, a float that equals the int will do."""
    assert difference(sent, back) is None


@pytest.mark.parametrize(("sent", "back", "told"), DIFFERENT)
def test_what_is_not_the_same(sent: object, back: object, told: str) -> None:
    """``==`` lets most of these through. Many elements are compared by columns, few by rows: the answer is one."""
    assert difference(sent, back) == told


# The return annotation.


def resolves() -> list[Store] | None:
    return None


async def resolves_async() -> Annotated[Store, "kept"]:
    return Store("JKT")


says_nothing: Callable[[int], int] = lambda x: x  # noqa: E731 - a lambda has no annotations


def parameter_not_resolvable(x: Absent) -> Store:
    return Store(str(x))


def not_resolvable() -> Absent:
    return 1


class Repo:
    def find(self) -> Store:
        return Store("JKT")

    def __call__(self) -> Row:
        return Row(id=1, price=Decimal(1))


def test_the_return_annotation_is_resolved() -> None:
    """Text becomes types, ``async def f() -> X`` gives X, ``Annotated`` is kept, methods and partials are seen through."""
    assert return_annotation(resolves) == list[Store] | None
    assert return_annotation(resolves_async) == Annotated[Store, "kept"]
    assert return_annotation(says_nothing) is Signature.empty
    assert return_annotation(Repo.find) is Store
    assert return_annotation(Repo().find) is Store
    assert return_annotation(Repo()) is Row
    assert return_annotation(functools.partial(Repo().find)) is Store
    assert return_annotation(functools.wraps(resolves)(says_nothing)) == list[Store] | None


def test_a_parameter_that_can_not_be_resolved_does_not_matter() -> None:
    """It may be imported for type checkers only; the return annotation must be there at run time."""
    assert return_annotation(parameter_not_resolvable) is Store
    with pytest.raises(CodecError, match=r"test_codecs\.not_resolvable: .* 'Absent' is not defined"):
        return_annotation(not_resolvable)


def test_a_class_of_the_enclosing_function_is_found() -> None:
    """If the function mentions it, as one that returns it does."""

    @dataclass
    class Local:
        a: int

    def make() -> Local:
        return Local(1)

    assert return_annotation(make) is Local
    codec = codec_for(Local)
    assert codec.decode(codec.encode(make())) == Local(1)


# Pickle.


def test_pickle_is_signed() -> None:
    """Nothing is unpickled that was not signed with the secret; the repr does not show it."""
    codec = PickleCodec(b"sixteen bytes ok")
    payload = codec.encode({"a": (1, Store("JKT"))})
    assert codec.name == "pickle"
    assert codec.decode(payload) == codec.decode(memoryview(payload)) == {"a": (1, Store("JKT"))}
    assert "sixteen" not in repr(codec)
    unsigned = pickle.dumps(Store("JKT"))
    others = PickleCodec(b"another secret, long" * 10).encode(1)
    flipped = payload[:-1] + bytes([payload[-1] ^ 1])
    for forged in (b"", b"short", unsigned, bytes(32) + unsigned, others, flipped, payload[:-1], payload[1:]):
        with pytest.raises(CodecError, match="not signed with this secret"):
            codec.decode(forged)


def test_pickle_wants_a_secret_worth_the_name() -> None:
    """Fewer than 16 bytes are refused at once."""
    with pytest.raises(CodecError, match="fewer than 16 bytes"):
        PickleCodec(b"fifteen bytes..")


def test_what_pickle_can_not_do_is_our_error() -> None:
    """Neither a lambda nor a class that is gone raises anything else."""
    codec = PickleCodec(b"sixteen bytes ok")
    with pytest.raises(CodecError, match="can not be pickled"):
        codec.encode(lambda: None)
    gone = codec.encode(Custom)[32:].replace(b"Custom", b"Gustom")
    with pytest.raises(CodecError, match="can not be unpickled"):
        codec.decode(PickleCodec._signature(codec, gone) + gone)  # pyright: ignore[reportPrivateUsage]  # Nobody else can sign it.


# Compression.


@given(st.binary(max_size=2000).map(lambda part: part * 7))
def test_compression_gives_back_what_it_was_given(payload: bytes) -> None:
    """From bytes and from a memoryview."""
    assert decompress(compress(payload)) == payload
    assert decompress(memoryview(compress(payload))) == payload


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 300))
def test_what_is_not_compressed_by_us_is_our_error(payload: bytes, noise: bytes, place: int) -> None:
    """A frame has a checksum: damage is found, not returned."""
    frame = compress(payload)
    for damaged in (noise, frame[:place] + noise + frame[place + len(noise) :], frame + noise, frame[:-1]):
        try:
            assert decompress(damaged) == payload or damaged == noise
        except CodecError:
            pass


def test_a_frame_that_promises_too_much_is_refused_before_memory_is_taken() -> None:
    """More than a gibibyte, more than its own length could hold, or no size at all."""
    import zstandard

    frame = compress(b"a" * 70_000)
    size = frame.index((70_000).to_bytes(4, "little"))
    for promised in (LARGEST + 1, LARGEST, 2**32 - 1):
        with pytest.raises(CodecError, match="can not be true"):
            decompress(frame[:size] + promised.to_bytes(4, "little") + frame[size + 4 :])
    with pytest.raises(CodecError, match="gives no size"):
        decompress(zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 70_000))


def test_threads_share_codecs_and_compression() -> None:
    """Eight threads at once get their own values back."""
    shared = [codec_for(list[Row]), codec_for(list[Model]), codec_for(dict[str, Any]), AnyCodec()]
    failures: list[object] = []

    def work(n: int) -> None:
        values: list[Any] = [[Row(id=n, price=Decimal(n))] * 20, [Model(id=n)] * 20, {"n": (n,)}, [(n,)] * 20]
        for _ in range(100):
            for codec, value in zip(shared, values, strict=True):
                if codec.decode(decompress(compress(codec.encode(value)))) != value:
                    failures.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


if __name__ == "__main__":
    lines = [f"{case}: {codec_for(annotation).encode(value).hex()}\n" for case, (annotation, value) in CASES.items()]
    (PAYLOADS / f"{sys.argv[1]}.hex").write_text("".join(lines))
