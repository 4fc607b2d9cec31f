"""Caching in a plain script. No server is needed: run ``python examples/script.py``.

With CACHESYNC_REDIS_URL=redis://localhost:6379/0 the copies outlive the script: run it twice, and the second run computes less.
"""

from dataclasses import dataclass
from pathlib import Path

from cachesync import Cache


@dataclass
class Store:
    code: str
    city: str
    region: str
    visitors: int


DATABASE = {
    "CGK": Store("CGK", "Jakarta", "java", 48),
    "SUB": Store("SUB", "Surabaya", "java", 17),
    "DPS": Store("DPS", "Denpasar", "bali", 24),
}

cache = Cache.from_file(Path(__file__).with_name("stores.toml"))


@cache.cached("stores:{code}")
def store(code: str) -> Store | None:
    print(f"   ... looking up {code}")
    return DATABASE.get(code)


@cache.cached("regions:{region}:visitors:{days}", tags=["region:{region}"])
def visitors(region: str, *, days: int = 7) -> int:
    print(f"   ... adding up {region}")
    return days * sum(one.visitors for one in DATABASE.values() if one.region == region)


def main() -> None:
    print("1. The first call computes, the second is a hit:", store("CGK") == store("CGK"))

    print("2. One call, however it is written:", visitors("java"), visitors("java", days=7), visitors(region="java"))

    DATABASE["CGK"].visitors = 50
    store.invalidate("CGK")  # this one store, everywhere
    cache.invalidate(tags=["region:java"])  # and whatever was made from its region
    print("3. Changed and invalidated:", store("CGK"), visitors("java"))

    print("4. Several at once:", [one.city if one else None for one in store.many([("CGK",), ("DPS",), ("XXX",)])])

    cache.invalidate("stores:*")  # by prefix; "*" would be everything
    print("5. After a prefix was invalidated, nothing is held:", store.peek("DPS"))

    total = cache.stats().total
    print(f"6. {total.calls} calls, {total.computed} computed, hit rate {total.hit_rate:.0%}")


if __name__ == "__main__":
    with cache:
        main()
