"""What the three store dashboards beside this file have in common: the data, who may see it, and how answers look."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Store:
    code: str
    city: str
    region: str
    users: int
    videos: int


@dataclass(frozen=True)
class UserStats:
    code: str
    users: int
    share: float


@dataclass(frozen=True)
class VideoStats:
    code: str
    videos: int
    per_user: float


@dataclass(frozen=True)
class Overview:
    stores: int
    users: int
    videos: int


class Database:
    """Stands for yours, which several workers would share. Each method is a query, which you would like to be spared."""

    def __init__(self) -> None:
        rows = (Store("CGK", "Jakarta", "java", 48, 12), Store("SUB", "Surabaya", "java", 17, 5), Store("DPS", "Denpasar", "bali", 24, 9))
        self._rows = {row.code: row for row in rows}

    def stores(self) -> list[Store]:
        return list(self._rows.values())

    def store(self, code: str) -> Store | None:
        return self._rows.get(code)

    def user_stats(self, code: str) -> UserStats | None:
        row, everybody = self._rows.get(code), sum(one.users for one in self._rows.values())
        return None if row is None else UserStats(code, row.users, round(row.users / everybody, 3))

    def video_stats(self, code: str) -> VideoStats | None:
        row = self._rows.get(code)
        return None if row is None else VideoStats(code, row.videos, round(row.videos / row.users, 3))

    def overview(self) -> Overview:
        rows = self._rows.values()
        return Overview(len(rows), sum(one.users for one in rows), sum(one.videos for one in rows))

    def sync(self, code: str) -> bool:
        """Fetch what is new of one store: here, one user and one video. False where there is no such store."""
        if code not in self._rows:
            return False
        row = self._rows[code]
        self._rows[code] = replace(row, users=row.users + 1, videos=row.videos + 1)
        return True


USERS = {"Bearer let-me-in": "ann"}
"""By their Authorization field: stands for your login."""


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


def failure(code: str, message: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": message}}


def code_in(body: Any) -> str:
    """The code of the store that a request names. Raises ValueError where it names none."""
    code: Any = body.get("code") if hasattr(body, "get") else None
    if not isinstance(code, str):
        raise ValueError('send {"code": "CGK"}')
    return code


def named(body: Any) -> tuple[list[str], list[str]]:
    """The patterns and the tags that a request names. Raises ValueError where it names none."""
    said: Any = body if hasattr(body, "get") else {}
    patterns: Any = said.get("patterns", [])
    tags: Any = said.get("tags", [])
    are_lists = all(isinstance(one, list) for one in (patterns, tags))
    texts: list[Any] = [*patterns, *tags] if are_lists else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError('send {"patterns": ["stores:*"], "tags": []}, with at least one text in one of them')
    return patterns, tags
