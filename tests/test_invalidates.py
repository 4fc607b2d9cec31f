"""Writes that announce: what a function invalidates after its success, in both colours, and when it does not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, cast

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from flask import Flask

from cachesync import Cache, Policy
from cachesync.errors import KeyArgumentError, KeyTemplateError
from support.asgi import ask
from support.nodes import COLOURS, Colour


class Told:
    """A cache, and what it was told to invalidate."""

    def __init__(self) -> None:
        self.cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")])
        self.invalidated: list[tuple[tuple[str, ...], tuple[str, ...], bool]] = []
        cache: Any = self.cache
        invalidate, ainvalidate = cache.invalidate, cache.ainvalidate

        def note(*patterns: str, tags: Any = (), soft: bool = False) -> Any:
            self.invalidated.append((patterns, tuple(tags), soft))
            return invalidate(*patterns, tags=tags, soft=soft)

        async def anote(*patterns: str, tags: Any = (), soft: bool = False) -> Any:
            self.invalidated.append((patterns, tuple(tags), soft))
            return await ainvalidate(*patterns, tags=tags, soft=soft)

        cache.invalidate, cache.ainvalidate = note, anote

    def write(self, colour: Colour, act: Callable[[], Any], *patterns: str, **how: Any) -> Callable[..., Any]:
        """A function that writes, called in its colour."""

        def change(code: str, days: int = 7, *, region: str = "java") -> Any:
            return act()

        async def achange(code: str, days: int = 7, *, region: str = "java") -> Any:
            return act()

        decorate = self.cache.invalidates(*patterns, **how)
        if colour == "def":
            return decorate(change)
        coroutine = decorate(achange)
        return lambda *args, **kwargs: asyncio.run(coroutine(*args, **kwargs))


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_invalidated_is_made_of_the_arguments(colour: Colour) -> None:
    """Defaults count as given; a star of the program is a pattern, and one of an argument is none."""
    told = Told()
    write = told.write(colour, lambda: "done", "stores:{code}", "stats:{code}:*", "*:{days}", tags=["region:{region}"])
    assert write("JKT") == "done"
    assert write("*:x", region="b*") == "done"
    assert told.invalidated == [
        (("stores:JKT", "stats:JKT:*", "*:7"), ("region:java",), False),
        (("stores:%2A%3Ax", "stats:%2A%3Ax:*", "*:7"), ("region:b%2A",), False),
    ]


@pytest.mark.parametrize("colour", COLOURS)
def test_it_is_invalidated_after_the_write_and_before_the_caller_goes_on(colour: Colour) -> None:
    """Once; softly where that is asked for."""
    told, seen = Told(), list[int]()
    told.write(colour, lambda: seen.append(len(told.invalidated)), "stores:{code}", soft=True)("JKT")
    assert (seen, told.invalidated) == ([0], [(("stores:JKT",), (), True)])


class Answer:
    """As frameworks have them."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("result", "is_told"),
    [(None, True), (404, True), (Answer(204), True), (Answer(404), False), (Answer(1000), True), (("", 500), True), (("a", "b"), True)],
)
def test_a_failure_invalidates_nothing(colour: Colour, result: object, is_told: bool) -> None:
    """Nor does an answer whose status says so."""
    told = Told()
    assert told.write(colour, lambda: result, "stores:{code}")("JKT") is result
    assert bool(told.invalidated) is is_told


@pytest.mark.parametrize("colour", COLOURS)
def test_what_the_function_raises_arrives_as_it_left(colour: Colour) -> None:
    """And nothing is invalidated."""
    told = Told()

    def act() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        told.write(colour, act, "stores:{code}")("JKT")
    assert told.invalidated == []


@pytest.mark.parametrize("colour", COLOURS)
def test_an_argument_that_can_not_stand_in_a_key_is_an_error_before_anything_is_written(colour: Colour) -> None:
    """The function is not called."""
    told, seen = Told(), list[str]()
    with pytest.raises(KeyArgumentError):
        told.write(colour, lambda: seen.append("written"), "stores:{code}")(object())
    assert (seen, told.invalidated) == ([], [])


@pytest.mark.parametrize(
    ("patterns", "tags", "says"),
    [
        ((), (), "nothing to invalidate"),
        (("stores:{city}",), (), "names no parameter"),
        (("stores:{code}{days}",), (), "need a ':' between them"),
        (("a\ue000",), (), "private use"),
        (("stores:{code}",), ("*",), "can not stand in it"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_at_decoration(patterns: tuple[str, ...], tags: tuple[str, ...], says: str) -> None:
    """With what is wrong, and the function's name."""
    with pytest.raises(KeyTemplateError, match=says):
        Told().write("def", lambda: None, *patterns, tags=tags)


def test_a_coroutine_function_behind_a_plain_one_is_awaited_first() -> None:
    """It is announced when it has ended, and not when it is called."""
    told, seen = Told(), list[int]()

    async def change(code: str) -> str:
        seen.append(len(told.invalidated))
        return code

    def behind(code: str) -> Any:
        return change(code)

    assert asyncio.run(told.cache.invalidates("stores:{code}")(behind)("JKT")) == "JKT"
    assert (seen, len(told.invalidated)) == ([0], 1)


def _nothing() -> None: ...


@pytest.mark.parametrize("thing", [classmethod(cast("Any", _nothing)), staticmethod(_nothing), Told])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    """It would not be what it was."""
    with pytest.raises(KeyTemplateError, match="right above the function"):
        Told().cache.invalidates("stores")(thing)


def test_what_does_not_end_is_refused() -> None:
    """Nobody knows when a generator has succeeded."""
    told = Told()

    def parts(code: str) -> Any:
        yield code

    with pytest.raises(KeyTemplateError, match="a function that ends"):
        told.cache.invalidates("stores:{code}")(parts)


def test_a_route_stays_a_route() -> None:
    """FastAPI reads its signature, Flask its name; an HTTPException is a failure."""
    told = Told()
    api, flask = FastAPI(), Flask(__name__)

    @api.put("/stores/{code}")
    @told.cache.invalidates("stores:{code}")
    async def change(code: str, days: int = 1) -> dict[str, int]:
        if code == "none":
            raise HTTPException(404)
        return {"days": days}

    @api.delete("/stores/{code}")
    @told.cache.invalidates("stores:{code}")
    async def remove(code: str) -> JSONResponse:
        return JSONResponse({}, 409)

    @flask.put("/stores/<code>")
    @told.cache.invalidates("stores:{code}")
    def write(code: str) -> tuple[str, int]:
        return "", 404 if code == "none" else 200

    async def story() -> None:
        for method, target, status in (
            ("PUT", "/stores/a?days=3", 200),
            ("PUT", "/stores/b?days=x", 422),
            ("PUT", "/stores/none", 404),
            ("DELETE", "/stores/c", 409),
        ):
            assert (await ask(cast("Any", api), target, method=method)).status == status

    asyncio.run(story())
    client = flask.test_client()
    assert [client.put(f"/stores/{code}").status_code for code in ("d", "none")] == [200, 404]
    assert [patterns for patterns, _, _ in told.invalidated] == [("stores:a",), ("stores:d",)]
    assert inspect.iscoroutinefunction(change) and not inspect.iscoroutinefunction(write)
