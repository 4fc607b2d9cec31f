"""What an application wants to be checked besides its cache, such as its database."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from cachesync.admin.bodies import Check

CHECK_TAKES: Final = 2.0
"""Seconds that a check may take."""

Checked = Callable[[], Any]
"""Something of the application's that may fail: a plain function, called in a thread, or a coroutine function."""


async def check_all(checks: Mapping[str, Checked]) -> dict[str, Check]:
    """What has come of each, by name. They are asked side by side."""
    done = await asyncio.gather(*map(_check, checks.values()))
    return dict(zip(checks, done, strict=True))


async def _check(check: Checked) -> Check:
    began = time.monotonic()
    try:
        async with asyncio.timeout(CHECK_TAKES):
            if inspect.iscoroutinefunction(check):
                await check()
            else:
                await asyncio.to_thread(check)
    except Exception as error:  # whatever the application's check raises means that it is ill
        return Check(ok=False, seconds=time.monotonic() - began, error=type(error).__name__)
    return Check(ok=True, seconds=time.monotonic() - began)
