"""The OpenAPI 3.1 document of the admin app, made of the models that requests are checked by."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cachesync.admin.bodies import (
    MOST_SHOWN,
    Failure,
    HealthState,
    InvalidateBody,
    Invalidated,
    KeyBody,
    KeyState,
    Records,
    SweepBody,
    SweptUp,
    SwitchBody,
    Switched,
)

_REFERENCE: Final = "#/components/schemas/{model}"
_BODIES: Final[tuple[type[BaseModel], ...]] = (InvalidateBody, SwitchBody, SweepBody, KeyBody)
_ANSWERS: Final[tuple[type[BaseModel], ...]] = (Invalidated, Switched, SweptUp, Records, KeyState, HealthState, Failure)

_REFUSALS: Final = {
    "400": "The request is malformed: nothing has changed.",
    "403": "You may not, or a page of another site has sent this.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "429": "Too many requests: Retry-After says when to come again.",
    "503": "Redis can not be asked.",
}
_OF_READS: Final = ("400", "403", "429")


def document() -> dict[str, Any]:
    """The document."""
    _, schemas = models_json_schema(
        [*((model, "validation") for model in _BODIES), *((model, "serialization") for model in _ANSWERS)],
        ref_template=_REFERENCE,
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cachesync admin",
            "version": "1",
            "description": "Look at a running cache, and change what it holds. Durations are seconds.",
        },
        "paths": {
            "/invalidate": {"post": _change("invalidate", "Make copies out of date, everywhere.", InvalidateBody, Invalidated)},
            "/switch": {
                "get": _read("switches", "What is switched.", _data(_ref(Switched))),
                "post": _change("switch", "Turn caching down, or up again, in every process.", SwitchBody, Switched),
            },
            "/sweep": {"post": _change("sweep", "Delete from Redis what was invalidated, and count it.", SweepBody, SweptUp)},
            "/stats": {"get": _read("stats", "What this process has done so far, in numbers.", _data({"type": "object"}))},
            "/health": {"get": _health()},
            "/policies.json": {
                "get": _read(
                    "policies",
                    "The policies with an http table, as a front end knows them: query key, staleTime and gcTime in milliseconds.",
                    _data({"type": "object"}),
                )
            },
            "/entry": {"post": _change("entry", "What is cached under a key. Nothing is changed.", KeyBody, KeyState)},
            "/log": {"get": _read("log", "The last records of the log.", _data(_ref(Records)), _parameter("last", _LAST))},
            "/openapi.json": {"get": _read("openapi", "This document.", {"type": "object"})},
        },
        "components": {"schemas": schemas["$defs"]},
    }


_LAST: Final = {"type": "integer", "minimum": 1, "maximum": MOST_SHOWN, "default": 100}


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _data(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"success": {"const": True}, "data": schema},
        "required": ["success", "data"],
    }


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _refused(*statuses: str) -> dict[str, Any]:
    return {status: {"description": _REFUSALS[status], "content": _content(_ref(Failure))} for status in statuses}


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _read(name: str, about: str, schema: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": about,
        "parameters": list(parameters),
        "responses": {"200": {"description": about, "content": _content(schema)}, **_refused(*_OF_READS)},
    }


def _health() -> dict[str, Any]:
    found = _read("health", "How this process's cache is.", _data(_ref(HealthState)))
    down = {"description": "Neither layer answers.", "content": _content(_data(_ref(HealthState)))}
    return {**found, "responses": {**found["responses"], "503": down}}


def _change(name: str, about: str, body: type[BaseModel], answer: type[BaseModel]) -> dict[str, Any]:
    found = _read(name, about, _data(_ref(answer)))
    content = {"required": True, "content": _content(_ref(body))}
    return {**found, "requestBody": content, "responses": {**found["responses"], **_refused(*_REFUSALS)}}
