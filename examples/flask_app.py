"""A Flask application whose views are cached, with an administrator's route that puts the copies out of date.

    flask --app examples/flask_app.py run

With CACHESYNC_REDIS_URL=redis://localhost:6379/0 workers share their results, and a change at one is heard by all.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from flask import Flask, Response, abort, jsonify, request

from cachesync import Cache, Stamp


@dataclass(frozen=True)
class Store:
    code: str
    city: str
    region: str
    visitors: int


# Stands for your database, which several workers would share.
DATABASE = {
    "CGK": Store("CGK", "Jakarta", "java", 48),
    "SUB": Store("SUB", "Surabaya", "java", 17),
    "DPS": Store("DPS", "Denpasar", "bali", 24),
}

app = Flask(__name__)
cache = Cache.from_file(Path(__file__).with_name("stores.toml"))


@cache.cached("stores:{code}")
def find_store(code: str) -> Store | None:
    return DATABASE.get(code)


@cache.cached("regions:{region}:visitors")
def count_visitors(region: str) -> int:
    return sum(store.visitors for store in DATABASE.values() if store.region == region)


@app.get("/stores/<code>")
def read_store(code: str) -> Response:
    """With ``?at_least=`` and the stamp of a change: nothing older, whichever worker answers."""
    stamp = request.args.get("at_least", type=Stamp.parse)  # Flask passes over what can not be parsed
    store = find_store.at_least(stamp, code) if stamp else find_store(code)
    if store is None:
        abort(404, f"there is no store {code}")
    return jsonify(store)


@app.get("/regions/<region>/visitors")
def read_visitors(region: str) -> Response:
    return jsonify(count_visitors(region))


@app.put("/admin/stores/<code>")
def change_store(code: str) -> Response:
    """First commit, then invalidate: whoever asks after this has returned is not given what was before."""
    visitors = request.get_json().get("visitors")
    if code not in DATABASE or not isinstance(visitors, int):
        abort(400, 'send {"visitors": 50} for a store that exists')
    DATABASE[code] = replace(DATABASE[code], visitors=visitors)
    stamp = cache.invalidate(find_store.key(code), tags=["stores"])
    return jsonify(stamp=str(stamp))


@app.get("/admin/cache")
def read_cache() -> Response:
    total = cache.stats().total
    return jsonify(calls=total.calls, computed=total.computed, hit_rate=total.hit_rate)
