"""What a server counts itself: the commands it has carried out and the processor time it has used."""

from __future__ import annotations

from typing import Any, Final

import redis

OF_THE_OBSERVER: Final = frozenset({"info", "config|resetstat", "hello", "client|setinfo", "select", "ping"})
"""Commands that the measuring itself and the opening of connections cost."""


def observer(port: int) -> redis.Redis:
    """A client that looks on."""
    return redis.Redis(host="127.0.0.1", port=port)


def reset_commands(client: redis.Redis) -> None:
    """Begin counting commands."""
    client.config_resetstat()


def commands(client: redis.Redis) -> dict[str, int]:
    """How often each command was carried out since `reset_commands`, those inside of scripts included, ours for looking left out."""
    stats: dict[str, Any] = dict(client.info("commandstats"))
    counts = {name.removeprefix("cmdstat_").lower(): int(row["calls"]) for name, row in stats.items()}
    return {name: count for name, count in counts.items() if name not in OF_THE_OBSERVER}


def processor_seconds(client: redis.Redis) -> float:
    """The processor time of the server since it was started, user and system, of all its threads."""
    used: dict[str, Any] = dict(client.info("cpu"))
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
