"""Tasks that work for one cache in event loops: flights, refreshes, checks of the shadow.

An event loop itself knows its tasks weakly, so what nobody awaits has to be held by somebody until it is over. And what still works when
the connections of its loop are to be closed has to come to its end before that, or it would wait for a reply that never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from cachesync.coordination.flights import Flight

T = TypeVar("T")


class Tasks:
    """The tasks under way, by their loop. Each loop adds to its own ones only."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, dict[asyncio.Task[Any], Sequence[Flight]]] = {}

    def start(self, work: Coroutine[Any, Any, T], flights: Sequence[Flight] = ()) -> asyncio.Task[T]:
        """Begin ``work`` in the running loop. Callers may wait for these ``flights`` of it; without any, nobody does.

        Raises ``RuntimeError`` where none runs: a coroutine may be driven by hand.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            work.close()
            raise
        tasks = self._by_loop.get(loop)
        if tasks is None:
            for other in [other for other in list(self._by_loop) if other.is_closed()]:
                self._by_loop.pop(other, None)
            tasks = self._by_loop[loop] = {}
        task = loop.create_task(work)
        tasks[task] = flights
        task.add_done_callback(tasks.pop)
        return task

    async def aclose(self, patience: float) -> None:
        """Cancel what nobody wants in the running loop, and let the rest come to its end, for ``patience`` seconds. Then what nobody waits
        for is cancelled, too, and is given as long to give its leases back.
        """
        own = asyncio.current_task()
        tasks = {task: flights for task, flights in self._by_loop.get(asyncio.get_running_loop(), {}).items() if task is not own}
        for task, flights in tasks.items():
            if not any(flight.is_wanted for flight in flights):
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        left = [
            task
            for task, flights in tasks.items()
            if any(one.is_wanted for one in flights) and not any(one.is_waited_for for one in flights)
        ]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=patience)
