"""Items: how a function of many arguments becomes a function of each.

``def stores(codes: Sequence[str], lang: str) -> dict[str, Store]`` under ``"stores:{code}:{lang}"`` is planned as if it were a function
of one ``code`` and of ``lang``: the one parameter that the template leaves out holds the items, and the one name of the template that
is no parameter stands for one of them. What the function answers is taken apart by item, or by place.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, cast

from cachesync.coordination.wrapper import Blueprint, annotations_of, compile_binding, name_of, plan, signature_of
from cachesync.errors import BatchError, KeyArgumentError, KeyTemplateError
from cachesync.layers.annotations import return_annotation, spelled

Form = Literal["mapping", "list", "tuple"]
EMPTY: Final = inspect.Parameter.empty
SHOWN: Final = 3
"""Items that a message shows."""

_FORMS: Final[Mapping[Any, Form]] = {
    dict: "mapping",
    Mapping: "mapping",
    MutableMapping: "mapping",
    list: "list",
    Sequence: "list",
    MutableSequence: "list",
    tuple: "tuple",
}
_CONTAINERS: Final[Mapping[Any, Callable[[Iterable[Any]], Any]]] = {
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    AbstractSet: frozenset,
    MutableSet: set,
}
"""What a function is given that asks for more than a list is."""
_TEXTS: Final = (str, bytes, bytearray)
_NAME: Final = re.compile(r"\{\s*(\w+)")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a function of many arguments returns: results by item (``mapping``), or one for each in their order (``list``, ``tuple``).

    ``value`` is the type of one result as it is stored: ``None`` stands for an item that was left out. ``has_none`` says that the
    function returns ``None`` itself for what is not there, so that it is no gap in what callers are given.
    """

    form: Form
    value: Any
    has_none: bool


@dataclass(frozen=True, slots=True)
class Items:
    """What is settled about a function of many arguments at decoration.

    ``one`` is planned as for a function of one item, ``bind`` turns a call into parameter values, at ``index`` the items. ``batch`` is
    what computes: one item when called, several by ``many``.
    """

    one: Blueprint
    bind: Callable[..., tuple[Any, ...]]
    index: int
    parameter: str
    batch: Batch


class Batch:
    """A function of many arguments as an `Ask` carries it. `AsyncBatch` is the same for a coroutine function."""

    def __init__(self, function: Callable[..., Any], name: str, index: int, container: Callable[[Iterable[Any]], Any]) -> None:
        self._function = function
        self.name = name
        self._index = index
        self._container = container
        self.call: Callable[..., Any] = function
        self._answers: Answers | None = None

    @property
    def answers(self) -> Answers:
        """Raises ``KeyTemplateError`` for an annotation that says something else, ``CodecError`` for one that can not be resolved."""
        if self._answers is None:
            self._answers = _answers_of(return_annotation(self._function), self.name)
            if self._answers.form != "mapping" and issubclass(_class_of(self._container), (set, frozenset)):
                raise KeyTemplateError(f"{self.name}: a set has no order that its results could be in; return a dict, or take a list")
        return self._answers

    def __call__(self, *values: Any) -> Any:
        """The result of one item."""
        return self.many([values])[0]

    def many(self, rows: Sequence[tuple[Any, ...]]) -> Any:
        """The results of several items, each in the place of its row. Raises ``BatchError`` for an answer that does not fit."""
        return self.taken_apart(self.call(*self.arguments(rows)), rows)

    def arguments(self, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The parameter values of the one call for all of them."""
        values = list(rows[0])
        values[self._index] = self._container(row[self._index] for row in rows)
        return values

    def taken_apart(self, answer: Any, rows: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
        """The results in the order of the rows."""
        items = [row[self._index] for row in rows]
        return by_item(answer, items, self.name) if self.answers.form == "mapping" else by_place(answer, items, self.name)


class AsyncBatch(Batch):
    """As `Batch`, for a coroutine function."""

    async def __call__(self, *values: Any) -> Any:
        """As `Batch.__call__`."""
        return (await self.many([values]))[0]

    async def many(self, rows: Sequence[tuple[Any, ...]]) -> Any:
        """As `Batch.many`."""
        return self.taken_apart(await self.call(*self.arguments(rows)), rows)


class Asked:
    """What a caller has given to compute texts by, in one call for several of them."""

    def __init__(self, compute: Callable[[list[str]], Any]) -> None:
        if not callable(compute):
            raise TypeError(f"compute is a function that is given the keys which are not cached, not {type(compute).__name__}")
        self._compute = compute
        self._name = name_of(compute)

    def __call__(self, key: str) -> Any:
        """The result of one key."""
        return self.many([(key,)])[0]

    def many(self, rows: Sequence[tuple[Any, ...]]) -> Any:
        """The results of several keys, each in the place of its row."""
        keys = [key for (key,) in rows]
        return by_item(self._compute(list(keys)), keys, self._name)


class AsyncAsked(Asked):
    """The same for a coroutine function."""

    async def __call__(self, key: str) -> Any:
        """The result of one key."""
        return (await self.many([(key,)]))[0]

    async def many(self, rows: Sequence[tuple[Any, ...]]) -> Any:
        """The results of several keys, each in the place of its row."""
        keys = [key for (key,) in rows]
        found = self._compute(list(keys))
        if not inspect.isawaitable(found):
            raise TypeError(f"{self._name}: it is awaited; a plain function is for get_or_compute_many")
        return by_item(await found, keys, self._name)


def by_item(answer: Any, items: Sequence[Any], name: str) -> Sequence[Any]:
    """The results that a mapping has for ``items``, ``None`` for what it leaves out. Raises ``BatchError`` for one that nobody asked for:
    most often its keys are of another type, and every answer would be missed.
    """
    if not isinstance(answer, Mapping):
        raise BatchError(f"{name}: it returned {_article(answer)}, where a dict of items to results was expected")
    found: Mapping[Any, Any] = answer  # pyright: ignore[reportUnknownVariableType] - whatever it holds
    asked = set(items)
    unasked = [key for key in found if key not in asked]
    if unasked:
        raise BatchError(f"{name}: it returned a result for {_shown(unasked)}, which it was not asked for; it was given {_shown(items)}")
    return [found.get(item) for item in items]


def by_place(answer: Any, items: Sequence[Any], name: str) -> Sequence[Any]:
    """The results of a list, one for each of ``items``. Raises ``BatchError`` for another number of them."""
    if not isinstance(answer, Sequence) or isinstance(answer, _TEXTS):
        raise BatchError(f"{name}: it returned {_article(answer)}, where a list with a result for each item was expected")
    found: Sequence[Any] = answer  # pyright: ignore[reportUnknownVariableType] - whatever it holds
    if len(found) != len(items):
        results = "1 result" if len(found) == 1 else f"{len(found)} results"
        raise BatchError(
            f"{name}: it returned {results} for {len(items)} item{'s' * (len(items) != 1)}; a list has one for each, in their order, and "
            "None for what is not there. Where some may be left out, return a dict of items to results"
        )
    return found


def _article(value: Any) -> str:
    kind = type(value).__name__
    return "None" if value is None else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _shown(values: Collection[Any]) -> str:
    shown = ", ".join(repr(value) for value, _ in zip(values, range(SHOWN), strict=False))
    return f"{shown} and {len(values) - SHOWN} more" if len(values) > SHOWN else shown


def items_of(given: Any, parameter: str, name: str) -> list[Any]:
    """The items of one call. Raises ``KeyArgumentError`` for what holds none."""
    if isinstance(given, _TEXTS):
        raise KeyArgumentError(f"{name}: {parameter} are several items; write [{given!r}], not {given!r}")
    try:
        return list(given)
    except TypeError:
        raise KeyArgumentError(f"{name}: {parameter} are several items, in a list; got {_article(given)}") from None


def check_items(items: Sequence[Any], keys: Sequence[str], name: str) -> None:
    """Whether the results can stand in a dict by these items. Raises ``KeyArgumentError``."""
    known: dict[Any, str] = {}
    for item, key in zip(items, keys, strict=True):
        try:
            other = known.setdefault(item, key)
        except TypeError:
            raise KeyArgumentError(f"{name}: its results stand in a dict by item, which has to be hashable; {item!r} is not") from None
        if other != key:
            raise KeyArgumentError(f"{name}: {item!r} is equal to another item, and has another key: they are one key of a dict")


def plan_items(function: Callable[..., Any], text: str, *, tags: Sequence[str], ignore: Sequence[str]) -> Items:
    """Fit a template to a function of many arguments. Raises ``KeyTemplateError``."""
    name = name_of(function)
    if not callable(function):
        raise KeyTemplateError(f"{name}: only a function can be cached, not {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise KeyTemplateError(f"{name} is a generator: its values are used up by the first caller; return a dict or a list")
    signature = signature_of(function, name)
    parameter, item = _pair(signature, text, ignore, name)
    index = list(signature.parameters).index(parameter)
    hints = annotations_of(function)
    is_variadic = signature.parameters[parameter].kind is inspect.Parameter.VAR_POSITIONAL
    hint = hints.get(parameter, EMPTY)
    if hint in _TEXTS and not is_variadic:
        raise KeyTemplateError(
            f"{name}: {parameter!r} holds the items, and is annotated as {spelled(hint)}; write Sequence[{spelled(hint)}]"
        )
    kind, of = (tuple, hint) if is_variadic else _taken(hint)
    is_async = inspect.iscoroutinefunction(function)
    batch = (AsyncBatch if is_async else Batch)(function, name, index, _CONTAINERS.get(kind, list))
    bind, batch.call = compile_binding(function, name, signature)
    stand_in = _stand_in(function, signature, parameter, item, of, is_async)
    one = plan(stand_in, text, tags=tags, ignore=ignore)
    return Items(one, bind, index, parameter, batch)


def _pair(signature: inspect.Signature, text: str, ignore: Sequence[str], name: str) -> tuple[str, str]:
    """The parameter that holds the items, and the template's name for one of them."""

    def wrong(problem: str) -> KeyTemplateError:
        return KeyTemplateError(f"{name}: key template {text!r}: {problem}")

    named = dict.fromkeys(_NAME.findall(text))
    unknown = [one for one in named if one not in signature.parameters]
    left = [one for one in signature.parameters if one not in named and one not in ignore]
    if len(unknown) != 1:
        problem = f"{{{unknown[0]}}} and {{{unknown[1]}}} are no parameters" if unknown else "each of its names is a parameter"
        raise wrong(f"{problem}; one name that is none stands for one of the items, as {{code}} does for a parameter codes")
    if len(left) != 1:
        problem = f"it leaves out {', '.join(map(repr, left))}" if left else "it leaves out no parameter"
        raise wrong(f"{problem}; the one that it leaves out holds the items, the others are named in it, or in ignore=[...]")
    return left[0], unknown[0]


def _taken(hint: Any) -> tuple[Any, Any]:
    """The kind of collection that a function takes, and what its items are annotated as."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (Union, types.UnionType):
        hint = next((arm for arm in typing.get_args(hint) if arm is not types.NoneType), EMPTY)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    of = arguments[0] if arguments and isinstance(origin, type) else EMPTY
    return origin or hint, EMPTY if isinstance(of, typing.TypeVar) else of


def _stand_in(
    function: Callable[..., Any], signature: inspect.Signature, parameter: str, item: str, of: Any, is_async: bool
) -> Callable[..., Any]:
    """A function of one item, for the plan: it is looked at, and never called."""

    def plain() -> None: ...

    async def coroutine() -> None: ...

    stand_in: Any = coroutine if is_async else plain
    stand_in.__name__ = getattr(function, "__name__", "function")
    stand_in.__qualname__ = getattr(function, "__qualname__", stand_in.__name__)
    stand_in.__module__ = getattr(function, "__module__", "?")
    stand_in.__wrapped__ = function  # where its annotations are resolved
    hints: dict[str, Any] = getattr(inspect.unwrap(function), "__annotations__", {})
    stand_in.__annotations__ = {one: hint for one, hint in hints.items() if one not in (parameter, "return")}
    if of is not EMPTY:
        stand_in.__annotations__[item] = of
    changed: list[inspect.Parameter] = []
    has_default = False
    for one in signature.parameters.values():
        if one.name == parameter:
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if one.kind is inspect.Parameter.VAR_POSITIONAL else one.kind
            one = inspect.Parameter(item, kind, default=None if has_default and kind is not inspect.Parameter.KEYWORD_ONLY else EMPTY)
        has_default = has_default or one.default is not EMPTY
        changed.append(one)
    stand_in.__signature__ = signature.replace(parameters=changed)
    return cast("Callable[..., Any]", stand_in)


def _answers_of(annotation: Any, name: str) -> Answers:
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    form = _FORMS.get(origin) if isinstance(origin, type) else None
    if form == "tuple" and (len(arguments) != 2 or arguments[1] is not ...):
        form = None
    if form is None:
        said = "says nothing" if annotation is inspect.Signature.empty else f"says {spelled(annotation)}"
        raise KeyTemplateError(
            f"{name}: its return annotation {said}; a function of many arguments returns dict[K, V], items to results, "
            "or list[V], a result for each item in their order"
        )
    if not arguments:
        return Answers(form, inspect.Signature.empty, has_none=True)
    value = arguments[1] if form == "mapping" else arguments[0]
    has_none = form != "mapping" or _admits_none(value)
    optional: Any = value if _admits_none(value) else Union[value, None]  # noqa: UP007 - a type that is known at run time only
    return Answers(form, optional, has_none)


def _admits_none(annotation: Any) -> bool:
    if annotation in (Any, object, None, types.NoneType) or isinstance(annotation, typing.TypeVar):
        return True
    if typing.get_origin(annotation) is Annotated:
        return _admits_none(typing.get_args(annotation)[0])
    return typing.get_origin(annotation) in (Union, types.UnionType) and any(map(_admits_none, typing.get_args(annotation)))


def _class_of(container: Any) -> type:
    return container if isinstance(container, type) else list
