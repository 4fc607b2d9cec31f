"""The two drivers: they take a flow from step to step and bring it the replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, TypeVar

R = TypeVar("R")
S = TypeVar("S")


def run(flow: Generator[S, Any, R], perform: Callable[[S], Any], reply: Any = None) -> R:
    """Run a flow to its end in this thread. ``reply`` is that to its first step, if it was performed already."""
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as stop:
            result: R = stop.value
            return result
        try:
            reply = perform(step)
        except BaseException:
            flow.close()
            raise


async def arun(flow: Generator[S, Any, R], here: Mapping[type, Callable[[Any], Any]], perform: Callable[[S], Awaitable[Any]]) -> R:
    """Run a flow to its end in this task. ``here`` answers the steps that need no waiting."""
    reply: Any = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as stop:
            result: R = stop.value
            return result
        handler = here.get(step.__class__)
        try:
            reply = await perform(step) if handler is None else handler(step)
        except BaseException:
            flow.close()
            raise
