"""Django's own tests of cache backends, on ours: ``python -m django_suite.run TESTS [REDIS_URL]``, with Django's ``tests`` folder.

The parts: ``def``, the tests of backends; ``async``, the same with the methods for ``async def`` code; and ``middleware``, those of what
Django builds on a cache. Nobody sleeps: time is a `FakeClock`, which Django's sleeps advance, and what lies in the server grows older
with it. So no test depends on how quick the machine is. Prints one JSON object, by part.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import sys
import time
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

import django
import redis
from asgiref.sync import async_to_sync
from django.conf import settings

from cachesync import Cache, Policy, RedisShared, Settings
from cachesync.core.settings import CoordinationSettings
from cachesync.testing import FakeClock
from support.nodes import HoldingShared

FOLDER, URL = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else None)
NAMESPACE = "django-suite"
NOT_APPLICABLE = dict.fromkeys(
    ("test_cull", "test_zero_cull", "test_cull_delete_when_store_empty"),
    "MAX_ENTRIES and CULL_FREQUENCY are refused: [local] of the policy file bounds what is held, by entries and bytes",
)
"""Django's own way to say so: these tests skip themselves where there is no alias ``cull``."""

clock = FakeClock(time.monotonic())
patient = Settings(namespace=NAMESPACE, coordination=CoordinationSettings(budget="1h", max_lag="1h"))  # deadlines are times of that clock
policy = Policy(name="django", match="django:*", ttl="dynamic", min_ttl="1ms", max_ttl="365d")
layer = None if URL is None else HoldingShared(RedisShared(URL, namespace=NAMESPACE))
shared = Cache(patient, policies=[policy], shared=layer, clock=clock)
BACKEND = {"BACKEND": "cachesync.django.CachesyncCache", "LOCATION": shared}


def sleep(seconds: float) -> None:
    """Let time pass, here and in the server: each key has so much less to live."""
    clock.advance(seconds)
    if URL is not None:
        server: Any
        with redis.Redis.from_url(URL) as server:
            for name in server.scan_iter(match=f"*{NAMESPACE}*"):
                if (left := server.pttl(name)) >= 0:
                    server.pexpire(name, max(0, left - round(seconds * 1000)))


class Colour:
    """Django's ``cache`` with the methods for ``async def`` code behind the names of the others."""

    def __init__(self, of: Callable[[], Any]) -> None:
        self.__dict__["_of"] = of

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._of(), f"a{name}", None)
        if method is None or not inspect.iscoroutinefunction(method):
            return getattr(self._of(), name)
        return async_to_sync(method)  # each call in an event loop of its own, as WSGI servers run asynchronous views

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._of(), name, value)

    def __contains__(self, key: str) -> bool:
        return bool(self.has_key(key))


def parts() -> dict[str, list[type[unittest.TestCase]]]:
    """Django's classes, under settings with our backend."""
    tests: Any = importlib.import_module("cache.tests")
    from django.test import TestCase, override_settings

    options = {"OPTIONS": {"PICKLE": True}}
    ours = tests.caches_setting_for_tests(base=BACKEND, exclude={"cull", "zero_cull"}, **options)
    base: Any = override_settings(CACHES=ours)(type("CachesyncTests", (tests.BaseCacheTests, TestCase), {}))

    def set_up(self: Any) -> None:
        handler = tests.caches
        coloured = {"cache": Colour(lambda: handler["default"]), "caches": Aliases(handler)}
        patches = [mock.patch.object(tests, name, value) for name, value in coloured.items()]
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)

    class Aliases:
        def __init__(self, handler: Any) -> None:
            self._handler = handler

        def __getitem__(self, alias: str) -> Any:
            self._handler[alias]  # as Django's own, it raises where there is none
            return Colour(lambda: self._handler[alias])

    of_middleware = {"default": BACKEND | options, "other": BACKEND | options | {"TIMEOUT": 1, "KEY_PREFIX": "other"}}
    names: tuple[str, ...] = (
        "CacheUtils",
        "PrefixedCacheUtils",
        "CacheHEADTest",
        "CacheI18nTest",
        "PrefixedCacheI18nTest",
        "TestWithTemplateResponse",
    )
    names = (*names, "CacheMiddlewareTest")
    over = override_settings(CACHES=of_middleware)
    of_django: list[Any] = [over(type(f"Our{name}", (getattr(tests, name),), {})) for name in names]
    return {"def": [base], "async": [type("AsyncTests", (base,), {"setUp": set_up})], "middleware": of_django}


def outcome_of(classes: list[type[unittest.TestCase]]) -> dict[str, Any]:
    """Run them, and say what came of it."""
    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, classes))
    with mock.patch.object(time, "sleep", sleep):
        result = unittest.TextTestRunner(stream=io.StringIO(), verbosity=0).run(suite)
    skipped = {test.id().rpartition(".")[2]: reason for test, reason in result.skipped}
    wrong = [f"{test.id()}\n{text}" for test, text in (*result.failures, *result.errors)]
    unlisted = {name: why for name, why in skipped.items() if name not in NOT_APPLICABLE}
    reasons = {name: NOT_APPLICABLE[name] for name in skipped if name in NOT_APPLICABLE}
    return {"ran": result.testsRun, "wrong": wrong, "unlisted": unlisted, "not_applicable": reasons}


def main() -> None:
    sys.path.insert(0, FOLDER)
    settings.configure(
        SECRET_KEY="of-tests",
        INSTALLED_APPS=["cache"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CACHES={"default": BACKEND | {"OPTIONS": {"PICKLE": True}}},
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [], "APP_DIRS": True}],
        ROOT_URLCONF=[],
        LANGUAGE_CODE="en",
        USE_TZ=False,
    )
    django.setup()
    from django.core.management import call_command
    from django.test.utils import setup_test_environment

    setup_test_environment()
    call_command("migrate", run_syncdb=True, verbosity=0)
    print(json.dumps({part: outcome_of(classes) for part, classes in parts().items()}))
    shared.close()


if __name__ == "__main__":
    main()
