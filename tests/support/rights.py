"""The rights that the reference lists: what tests hold against what is asked of servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

REFERENCE: Final = Path(__file__).parents[2] / "docs/reference/redis.md"
OLD: Final = "everything, before Redis 7"
NEW: Final = "everything, from Redis 7 on"
CLUSTER: Final = "a cluster"


def listed() -> dict[str, list[str]]:
    """The table of the reference: what for, and the commands."""
    rights = REFERENCE.read_text(encoding="utf-8").partition("## Rights")[2].partition("\n- ")[0]
    rows = re.findall(r"^\| ([^|]+) \| (`[^|]+) \|$", rights, re.MULTILINE)
    return {what: [command.lower().replace(" ", "|") for command in re.findall(r"`([^`]+)`", commands)] for what, commands in rows}
