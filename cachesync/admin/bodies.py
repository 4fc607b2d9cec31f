"""What is sent to the admin app, and what it answers: the models that requests are checked by and the OpenAPI document is made of.

Names are in camel case, as JSON has them; durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from cachesync.core.keys import MAX_KEY_LENGTH

MOST_TEXTS: Final = 1_000
"""Patterns of one request, and tags of one request."""
MOST_SHOWN: Final = 1_000
"""Records of the log in one answer."""

_Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_LENGTH)]
Texts = Annotated[list[_Text], Field(max_length=MOST_TEXTS)]


def _one_is_not_empty(schema: dict[str, Any]) -> None:
    """Say in the schema, too, that something has to be named."""
    named = ({"required": [name], "properties": {name: {"minItems": 1}}} for name in ("patterns", "tags"))
    schema["anyOf"] = list(named)


class Body(BaseModel):
    """A JSON object of a request: exactly as it is described, and nothing besides."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)
    sample: ClassVar[str]


class InvalidateBody(Body):
    """What is to be made out of date."""

    model_config = ConfigDict(json_schema_extra=_one_is_not_empty)
    sample = '{"patterns": ["stores:*"]}'

    patterns: Texts = Field(default=[], description="Keys, prefixes (stores:*) and globs (*:stats); * is everything.")
    tags: Texts = Field(default=[], description="Names that entries were tagged with.")
    soft: bool = Field(default=False, description="The old value may be served stale while it is refreshed, as its policy says.")
    dry_run: bool = Field(default=False, description="Nothing is changed: tell what would be.")
    sweep: bool = Field(default=False, description="Delete what is dead from Redis afterwards, and count it. It takes time.")


class KeyBody(Body):
    """What is to be looked at."""

    sample = '{"key": "stores:JKT"}'

    key: _Text = Field(description="A key as it is written: stores:JKT.")


class SwitchBody(Body):
    """What is to be switched, in every process."""

    sample = '{"target": "all", "value": "ttl"}'

    target: str = Field(max_length=200, description="all, the name of a policy, local, or redis.")
    value: str = Field(max_length=20, description="full, ttl, headers or off; for local and redis on or off.")
    dry_run: bool = Field(default=False, description="Nothing is switched: tell whether it could be.")


class SweepBody(Body):
    """An empty object: there is nothing to say, but that it is JSON."""

    sample = "{}"


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True)


class Invalidated(Answer):
    """What was made out of date. Texts are shown without what policies mask."""

    patterns: list[str]
    tags: list[str]
    soft: bool
    dry_run: bool
    stamp: str | None = Field(description="The position in the log, epoch:number; it ends with ~ while it waits for Redis.")
    pending: bool = Field(description="Redis could not be told yet, and will be: it holds in this process.")
    policies: list[str] = Field(description="The policies whose keys it may concern. A tag may concern those of any.")
    total_invalidated: int | None = Field(description="How many entries a sweep has deleted; null where none was asked for.")


class Switched(Answer):
    """What is switched, by target; empty where everything is as the policies say."""

    effective: dict[str, str] = Field(description="What that comes to in this process.")
    everywhere: dict[str, str] = Field(description="For all processes.")
    here: dict[str, str] = Field(description="By calls in this process.")
    environment: dict[str, str] = Field(description="By the environment of this process.")
    targets: list[str] = Field(description="All that can be switched.")
    dry_run: bool = False


class SweptUp(Answer):
    """What a sweep has found."""

    examined: int
    deleted: int
    unjudged: int = Field(description="Entries whose bytes could not be read.")


class Record(Answer):
    """One record of the log, as this process knows it. Texts are shown without what policies mask."""

    number: int | None = Field(description="null while it waits for Redis.")
    patterns: list[str]
    tags: list[str]
    mode: Literal["hard", "soft", "value"]
    at: float = Field(description="When it was made: seconds since 1970.")


class Records(Answer):
    """The last records, the newest first."""

    position: str = Field(description="How far the log is applied here: epoch:number.")
    records: list[Record]


class KeyState(Answer):
    """What is cached under a key. The value itself is not shown."""

    key: str = Field(description="As it may be shown.")
    policy: str | None
    found: bool
    stamp: str | None = None
    age: float | None = Field(default=None, description="Seconds since its computation began.")
    ttl: float | None = Field(default=None, description="Seconds for which its policy lets it be fresh.")
    is_stale: bool | None = None
    etag: str | None = None
    layer: Literal["local", "shared"] | None = None


class Check(Answer):
    """Something the application has asked to be checked, such as its database."""

    ok: bool
    seconds: float
    error: str | None = Field(default=None, description="The class of what was raised.")


class Problem(Answer):
    """Why a cache is not well."""

    name: str
    text: str
    seconds: float | None


class HealthState(Answer):
    """How this process's cache is."""

    status: Literal["ok", "degraded", "down"]
    reasons: list[Problem]
    breaker: Literal["closed", "open", "half-open"]
    round_trip: float | None = Field(description="Seconds that the shared layer took to answer; null where it did not.")
    lag: float | None = Field(description="Seconds since the log was last known to be heard up to its end.")
    is_heard: bool = Field(description="Whether the log was heard within max_lag.")
    position: str | None
    checks: dict[str, Check]


class ErrorText(Answer):
    """What is wrong, and what to do."""

    code: str
    message: str


class Failure(Answer):
    """The answer to a request that was refused. Nothing has changed."""

    success: Literal[False]
    error: ErrorText
