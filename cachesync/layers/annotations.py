"""What a function says it returns: the resolved type hint, and how a codec's name spells it."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterator
from inspect import Signature, unwrap
from typing import Annotated, Any, Literal, Union

from cachesync.errors import CodecError


def return_annotation(function: Callable[..., object]) -> object:
    """The type ``function`` says it returns, resolved, with ``Annotated`` kept; ``inspect.Signature.empty`` if it says nothing.

    ``async def f() -> X`` gives ``X``. Only the return annotation is evaluated: a parameter's may name what is imported for type checkers
    only. Names are looked up in the function's module, among its type parameters and in the variables it closes over. Raises ``CodecError``
    that names the function and the name that can not be resolved.
    """
    target = _underlying(function)
    try:
        annotations: dict[str, object] = getattr(target, "__annotations__", {})
        if "return" not in annotations:
            return Signature.empty
        stand_in = types.SimpleNamespace(__annotations__={"return": annotations["return"]})
        innermost = unwrap(target)
        names = {parameter.__name__: parameter for parameter in getattr(target, "__type_params__", ())}
        names.update(_closed_over(innermost))
        return typing.get_type_hints(stand_in, getattr(innermost, "__globals__", {}), names, include_extras=True)["return"]
    except NameError as error:
        missing = repr(error.name) if error.name else "a name in it"
        raise CodecError(
            f"{_name_of(target)}: the return annotation can not be resolved: {missing} is not defined at decoration. "
            "Define or import it at run time, above the function (not under TYPE_CHECKING), or pass codec="
        ) from None
    except Exception as error:
        raise CodecError(f"{_name_of(target)}: the return annotation can not be resolved ({type(error).__name__}: {error})") from None


def spelled(annotation: object) -> str:
    """``annotation`` as one would write it, without modules and ``Annotated``: ``list[Store] | None``. The same in every process."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    origin: object = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        return spelled(arguments[0])
    if origin is Union or origin is types.UnionType:
        return " | ".join(spelled(each) for each in arguments)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if arguments:
        return f"{spelled(origin)}[{', '.join('...' if each is ... else spelled(each) for each in arguments)}]"
    name: object = getattr(annotation, "__qualname__", None) or getattr(annotation, "__name__", None)
    return str(name or annotation)


def mentioned(annotation: object) -> Iterator[object]:
    """``annotation`` itself and everything its brackets and bars mention; not what stands in the fields of a class."""
    origin: object = typing.get_origin(annotation)
    if origin is None:
        yield annotation
    elif origin is Annotated:
        yield from mentioned(typing.get_args(annotation)[0])
    elif origin is not Literal:
        yield origin
        for each in typing.get_args(annotation):
            yield from mentioned(each)


def _underlying(function: Callable[..., object]) -> Any:
    """The function that carries the annotations: of a partial, of a method, of an object with ``__call__``."""
    while isinstance(function, functools.partial):
        function = typing.cast("Callable[..., object]", function.func)
    if isinstance(function, types.MethodType):
        return function.__func__
    if hasattr(function, "__annotations__") or isinstance(function, type):
        return function
    return type(function).__call__


def _closed_over(function: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    code = getattr(function, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # Not assigned yet.
            continue
    return found


def _name_of(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
