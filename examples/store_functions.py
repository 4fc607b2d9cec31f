"""What the dashboards on Flask and Django cache: functions that know nothing of HTTP. How long results are kept stands in stores.toml."""

from pathlib import Path

from store_data import Database, Overview, Store, UserStats, VideoStats

from cachesync import Cache

cache = Cache.from_file(Path(__file__).with_name("stores.toml"))
database = Database()


@cache.cached("lists:stores")
def find_stores() -> list[Store]:
    return database.stores()


@cache.cached("stores:{code}")
def find_store(code: str) -> Store | None:
    return database.store(code)


@cache.cached("stores:{code}:users")
def find_user_stats(code: str) -> UserStats | None:
    return database.user_stats(code)


@cache.cached("stores:{code}:videos")
def find_video_stats(code: str) -> VideoStats | None:
    return database.video_stats(code)


@cache.cached("analytics:overview")
def find_overview() -> Overview:
    return database.overview()


@cache.invalidates("stores:{code}", "stores:*:users", "stores:{code}:videos", tags=["stores"])
def sync_store(code: str) -> bool:
    """First commit, then invalidate: whoever asks after this has returned is not given what was before."""
    return database.sync(code)
