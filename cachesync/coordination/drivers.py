"""The two drivers: they take a flow from step to step and bring it the replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from cachesync.core.steps import Step

R = TypeVar("R")


def run(flow: Generator[Step, Any, R], perform: Callable[[Step], Any]) -> R:
    """Run a flow to its end in this thread."""
    reply: Any = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as stop:
            result: R = stop.value
            return result
        reply = perform(step)


async def arun(flow: Generator[Step, Any, R], perform: Callable[[Step], Awaitable[Any]]) -> R:
    """Run a flow to its end in this task."""
    reply: Any = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as stop:
            result: R = stop.value
            return result
        reply = await perform(step)
