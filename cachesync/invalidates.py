"""Writes that announce: ``@cache.invalidates("stores:{code}", "stats:{code}:*")`` on a function or a route.

What it names is made of the arguments before the function is called, so that an argument that can not stand in a key is an error before
anything is written. It is invalidated once, after the function has succeeded, and before its caller goes on.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from cachesync.coordination.wrapper import annotations_of, name_of, signature_of
from cachesync.core.keys import Template, compile_template
from cachesync.errors import KeyTemplateError

if TYPE_CHECKING:
    from cachesync.cache import Cache

F = TypeVar("F", bound=Callable[..., Any])

_STAR: Final = "\ue000"
"""Stands for a star while a template is compiled: it is of a private use, and refused where a program uses it itself."""
_FAILURES: Final = range(400, 600)


@dataclass(frozen=True, slots=True)
class Invalidates:
    """The decorator that `Cache.invalidates` returns. The function stays what it is: its name, its signature, its colour."""

    cache: Cache
    patterns: tuple[str, ...]
    tags: tuple[str, ...]
    soft: bool

    def __call__(self, function: F, /) -> F:
        """The function, which invalidates after its success. Raises `KeyTemplateError` for what does not fit its parameters."""
        name = name_of(function)
        if isinstance(function, classmethod | staticmethod | type):
            raise KeyTemplateError(f"{name}: put it right above the function: below @classmethod or @staticmethod, and above no class")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise KeyTemplateError(f"{name}: what invalidates is a function that ends, so that it is known whether it has succeeded")
        signature = signature_of(function, name)
        annotations = annotations_of(function)
        parameters = {parameter: annotations.get(parameter, inspect.Parameter.empty) for parameter in signature.parameters}
        patterns = [_pattern(text, parameters, name) for text in self.patterns]
        tags = [compile_template(text, parameters=parameters, ignore=None, what=f"{name}, tag") for text in self.tags]

        def named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[str], list[str]]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            return [_filled(one, given) for one in patterns], [_filled(one, given) for one in tags]

        async def announced(result: Awaitable[Any], patterns: list[str], tags: list[str]) -> Any:
            found = await result
            if has_succeeded(found):
                await self.cache.ainvalidate(*patterns, tags=tags, soft=self.soft)
            return found

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def announcing(*args: Any, **kwargs: Any) -> Any:
                named_before = named(args, kwargs)
                return await announced(cast("Awaitable[Any]", function(*args, **kwargs)), *named_before)

            return cast("F", announcing)

        @wraps(function)
        def telling(*args: Any, **kwargs: Any) -> Any:
            patterns, tags = named(args, kwargs)
            result = function(*args, **kwargs)
            if inspect.isawaitable(result):  # of a coroutine function in the clothes of another
                return announced(result, patterns, tags)
            if has_succeeded(result):
                self.cache.invalidate(*patterns, tags=tags, soft=self.soft)
            return result

        return cast("F", telling)


def has_succeeded(result: object) -> bool:
    """Whether what a function has returned is no failure: an answer of HTTP with a status from 400 to 599 is one (RFC 9110, 15.5, 15.6).

    An answer is known by its ``status_code``; inside of a request of Flask's it may be a tuple of a body and a status, too.
    """
    status: object = getattr(result, "status_code", None)
    if isinstance(result, tuple) and len(answer := cast("tuple[object, ...]", result)) > 1 and _is_in_flask():
        status = answer[1]
    return not (isinstance(status, int) and status in _FAILURES)


def _is_in_flask() -> bool:
    flask = sys.modules.get("flask")
    return flask is not None and bool(flask.has_request_context())


def _pattern(text: str, parameters: dict[str, Any], name: str) -> Template:
    """A template whose own text may have stars. Those of arguments are encoded when it is filled, so only the program's mean anything."""
    if _STAR in text:
        raise KeyTemplateError(f"{name}: {text!r} has a character of private use, U+E000, which can not stand in a pattern")
    compiled = compile_template(text.replace("*", _STAR), parameters=parameters, ignore=None, what=f"{name}, invalidates")
    return replace(compiled, text=text, segments=tuple(map(_starred, compiled.segments)))


def _starred(segment: str | tuple[str, int, str]) -> str | tuple[str, int, str]:
    if isinstance(segment, str):
        return segment.replace(_STAR, "*")
    before, at, after = segment
    return before.replace(_STAR, "*"), at, after.replace(_STAR, "*")


def _filled(template: Template, given: dict[str, Any]) -> str:
    """The key, pattern or tag for these arguments. Raises ``KeyArgumentError``."""
    return template.join(template.texts([reduce(getattr, field.attributes, given[field.parameter]) for field in template.fields]))


def check_named(patterns: Sequence[str], tags: Sequence[str]) -> None:
    """Raise `KeyTemplateError` where nothing is named."""
    if not (patterns or tags):
        raise KeyTemplateError('nothing to invalidate: name keys, patterns or tags, such as @cache.invalidates("stores:{code}")')
