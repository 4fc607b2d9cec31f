"""Taking a part out of the real code for a while, to see who notices."""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


def edited(owner: Any, name: str, old: str, new: str) -> Callable[[], Any]:
    """Write a function of a module or class anew, with one text in it replaced. Raises ``LookupError`` unless that occurs once."""

    @contextmanager
    def without() -> Generator[None]:
        function = inspect.getattr_static(owner, name)
        text = textwrap.dedent(inspect.getsource(function))
        if text.count(old) != 1:
            raise LookupError(f"{old!r} occurs {text.count(old)} times in {name}")
        code = compile(text.replace(old, new), f"<{name}>", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
        scope: dict[str, Any] = {}
        exec(code, vars(sys.modules[function.__module__]), scope)  # noqa: S102 - what is run is our own text
        with patch.object(owner, name, scope[name]):
            yield

    return without


def replaced(owner: Any, name: str, function: Any) -> Callable[[], Any]:
    """Put another function in the place of one."""
    return lambda: patch.object(owner, name, function)


def answering(value: Any) -> Callable[..., Any]:
    """A function that says the same whatever it is asked."""

    def answer(*_: object, **__: object) -> Any:
        return value

    return answer


def together(*removals: Callable[[], Any]) -> Callable[[], Any]:
    """Several of them at once, where one stands behind another."""

    @contextmanager
    def without() -> Generator[None]:
        with ExitStack() as stack:
            for removal in removals:
                stack.enter_context(removal())
            yield

    return without
