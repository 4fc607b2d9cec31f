"""What the environment says over the head of the policy file: switches, where Redis is, and secrets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from cachesync.core.encryption_keys import VARIABLE, EncryptionKeys
from cachesync.core.settings import RedisSettings, problem_of_secret
from cachesync.core.switches import read_switches
from cachesync.core.units import as_written
from cachesync.errors import PolicyError, SwitchError

SWITCH: Final = "CACHESYNC_SWITCH"
"""The variable that switches several things in one process: ``all=ttl,stores=off``."""
SECRET: Final = "CACHESYNC_SECRET"
"""The variable that holds what groups are made opaque with."""
_WORDS: Final = {**dict.fromkeys(("true", "1", "yes", "on"), True), **dict.fromkeys(("false", "0", "no", "off"), False)}


class Environment(NamedTuple):
    """The two switches, on unless thrown; the Redis and the keys that the environment names, if any; what it switches besides, by target;
    the secret, if any; and what is wrong with all of that.
    """

    enabled: bool
    redis_enabled: bool
    redis: RedisSettings | None
    encryption_keys: EncryptionKeys | None
    switches: Mapping[str, str]
    secret: str | None
    problems: tuple[str, ...]


def read_environment(environ: Mapping[str, str], policies: Collection[str] | None = None) -> Environment:
    """What the variables say. An empty one is wrong too: it would silently mean something.

    ``policies`` are the names that can be switched; ``None`` where they are not known, and then nothing is read about them.
    """
    problems: list[str] = []

    def switch(name: str) -> bool:
        value = environ.get(name, "true")
        if value.casefold() not in _WORDS:
            problems.append(f"environment: {name}: {as_written(value)} is not a switch; write true or false")
        return _WORDS.get(value.casefold(), True)

    enabled, redis_enabled = switch("CACHESYNC_ENABLED"), switch("CACHESYNC_REDIS_ENABLED")
    redis = None
    if "CACHESYNC_REDIS_URL" in environ:
        url = environ["CACHESYNC_REDIS_URL"]
        _, wrong = RedisSettings.examine({"url": url})
        problems += [f"environment: CACHESYNC_REDIS_URL: {problem.says}" for problem in wrong]
        redis = None if wrong else RedisSettings(url)
    keys = None
    if VARIABLE in environ:
        try:
            keys = EncryptionKeys(environ[VARIABLE], where=f"environment: {VARIABLE}")
        except PolicyError as wrong:
            problems += wrong.problems
    switches: Mapping[str, str] = {}
    if SWITCH in environ and policies is not None:
        try:
            switches = read_switches(environ[SWITCH], policies)
        except SwitchError as wrong:
            problems += (f"environment: {SWITCH}: {problem}" for problem in str(wrong).splitlines())
    secret = environ.get(SECRET)
    if secret is not None and (problem := problem_of_secret(secret)):
        problems.append(f"environment: {SECRET}: {problem}")
    return Environment(enabled, redis_enabled, redis, keys, switches, secret, tuple(problems))
