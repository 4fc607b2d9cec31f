"""Tracebacks: an exception that is kept holds each frame that it has passed, and so all that the functions there had at hand."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from traceback import walk_tb
from types import FrameType
from typing import Final

REFUSES: Final = sys.version_info >= (3, 13)
"""Whether a frame that waits refuses to be cleared. Before, clearing it ends its generator or coroutine."""


def let_go(error: BaseException) -> None:
    """Let go of the variables of all that has ended with an exception, and with those that it was raised from.

    The traceback can be read as before. What still runs or waits keeps its own, and so does what our caller is handling.
    """
    left, seen = [error], {id(sys.exception())}
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for frame, _ in walk_tb(one.__traceback__):
            if REFUSES or _is_over(frame):
                with suppress(RuntimeError):
                    frame.clear()
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def _is_over(frame: FrameType) -> bool:
    """Whether a frame has ended: only then do its variables belong to itself, and the garbage collector finds them through it."""
    return any(found is frame.f_code for found in gc.get_referents(frame))
