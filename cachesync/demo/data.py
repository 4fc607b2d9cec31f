"""The data of the demonstration: a chain of stores in SQLite, one for each airport of the ``airportsdata`` package.

The questions are real work: each distance is computed on the sphere, over all stores, whenever it is asked for.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EARTH_KM: Final = 12742.0
"""The mean diameter of the Earth."""
PAGE: Final = 20
"""Stores on a page of the list."""

Row = tuple[str, str, str, str, str, float, float, float, str]
"""A store as it comes in: code, name, city, region, country, latitude, longitude, elevation, time zone."""


@dataclass(frozen=True, slots=True)
class Store:
    """One store. ``revision`` counts the changes an administrator has made to it, from 1."""

    code: str
    name: str
    city: str
    region: str
    country: str
    latitude: float
    longitude: float
    elevation: float
    timezone: str
    revision: int


@dataclass(frozen=True, slots=True)
class StorePage:
    """A store with the figures of its surroundings, itself included."""

    store: Store
    in_country: int
    within_500_km: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A store in a list, with its distance from another one (0 where there is none)."""

    code: str
    name: str
    city: str
    country: str
    revision: int
    km: float = 0.0


@dataclass(frozen=True, slots=True)
class Country:
    """The stores of one country: how many, and how far they are from their middle, in km."""

    country: str
    stores: int
    mean_km: float
    farthest_km: float


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole chain. ``changes`` counts what administrators have changed so far, ``cost`` the seconds this took to compute."""

    stores: int
    countries: tuple[Country, ...]
    changes: int
    cost: float


def distance(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """The great-circle distance in km (haversine)."""
    a, b, c, d = map(math.radians, (latitude, longitude, other_latitude, other_longitude))
    chord = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return EARTH_KM * math.asin(math.sqrt(min(1.0, chord)))


def airports() -> list[Row]:
    """Every airport with an IATA code, as a store."""
    import airportsdata

    return [
        (code, a["name"], a["city"], a["subd"], a["country"], a["lat"], a["lon"], a["elevation"], a["tz"])
        for code, a in airportsdata.load("IATA").items()
    ]


def build(database: Path, rows: Iterable[Row]) -> None:
    """Make the SQLite file."""
    connection = sqlite3.connect(database)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # readers go on while an administrator writes
        with connection:
            connection.execute(
                "CREATE TABLE stores (code TEXT PRIMARY KEY, name TEXT, city TEXT, region TEXT, country TEXT, latitude REAL,"
                " longitude REAL, elevation REAL, timezone TEXT, revision INTEGER DEFAULT 1)"
            )
            connection.executemany("INSERT INTO stores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)", rows)
            connection.execute("CREATE INDEX by_country ON stores (country, code)")
    finally:
        connection.close()


class Chain:
    """The questions a dashboard asks of the SQLite file. Safe to use from any thread: each has a connection of its own."""

    def __init__(self, database: str | Path) -> None:
        self._database = database
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    @property
    def _db(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = sqlite3.connect(self._database, check_same_thread=False)
            self._connections.append(connection)
            connection.create_function("km", 4, distance, deterministic=True)
        return connection

    def close(self) -> None:
        """End the connections of all threads. None of them may be in the middle of a question."""
        for connection in self._connections:
            connection.close()

    def page(self, code: str) -> StorePage | None:
        """A store and its surroundings; ``None`` for a code that is none."""
        row = self._db.execute("SELECT * FROM stores WHERE code = ?", (code,)).fetchone()
        if row is None:
            return None
        store = Store(*row)
        in_country, near = self._db.execute(
            "SELECT sum(country = ?), sum(km(?, ?, latitude, longitude) <= 500) FROM stores",
            (store.country, store.latitude, store.longitude),
        ).fetchone()
        return StorePage(store, in_country, near)

    def nearby(self, code: str, count: int = 5) -> list[Neighbour]:
        """The stores nearest to one, nearest first."""
        rows = self._db.execute(
            "SELECT other.code, other.name, other.city, other.country, other.revision,"
            " round(km(one.latitude, one.longitude, other.latitude, other.longitude), 1) AS km"
            " FROM stores AS one JOIN stores AS other ON other.code <> one.code WHERE one.code = ? ORDER BY km, other.code LIMIT ?",
            (code, count),
        )
        return [Neighbour(*row) for row in rows]

    def listed(self, country: str, page: int) -> list[Neighbour]:
        """A page of a country's stores in order of their names; pages count from 1."""
        rows = self._db.execute(
            "SELECT code, name, city, country, revision FROM stores WHERE country = ? ORDER BY name, code LIMIT ? OFFSET ?",
            (country, PAGE, PAGE * (page - 1)),
        )
        return [Neighbour(*row) for row in rows]

    def overview(self) -> Overview:
        """The whole chain by country, the largest first."""
        began = time.perf_counter()
        stores, changes = self._db.execute("SELECT count(*), sum(revision - 1) FROM stores").fetchone()
        rows = self._db.execute(
            "WITH middle AS (SELECT country, avg(latitude) AS lat, avg(longitude) AS lon FROM stores GROUP BY country)"
            " SELECT country, count(*), round(avg(km), 1), round(max(km), 1) FROM"
            " (SELECT country, km(lat, lon, latitude, longitude) AS km FROM stores JOIN middle USING (country))"
            " GROUP BY country ORDER BY 2 DESC, 1 LIMIT 10"
        )
        countries = tuple(Country(*row) for row in rows)
        return Overview(stores, countries, changes, time.perf_counter() - began)

    def rename(self, code: str, name: str) -> int | None:
        """Change a store's name. Returns its new revision once that is committed; ``None`` for a code that is none."""
        with self._db as connection:
            changed = connection.execute("UPDATE stores SET name = ?, revision = revision + 1 WHERE code = ?", (name, code)).rowcount
            revision = connection.execute("SELECT revision FROM stores WHERE code = ?", (code,)).fetchone()
        return int(revision[0]) if changed else None
