"""The pydantic model of the policy file, made from the rules of its tables, and the JSON Schema that editors read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, create_model

from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.rules import Rule
from cachesync.core.section import Section
from cachesync.core.settings import NAMESPACE, TTL, CoordinationSettings, LocalSettings, RedisSettings, Settings, WarmingSettings
from cachesync.core.units import DURATION_PATTERN


def _checked(rule: Rule, schema: Mapping[str, object] | None = None) -> Any:
    """The type of a field that is read by a rule. JSON's null is never right: a setting without a value is left out."""

    def read(value: object) -> object:
        if value is None:
            raise ValueError("null is not a value; leave the setting out")
        return rule.read(value)

    return Annotated[object, PlainValidator(read), WithJsonSchema(dict(schema or rule.schema))]


def _model(name: str, section: type[Section], **others: Any) -> type[BaseModel]:
    """A table of the file, made from the rules of the section. ``others`` are fields that no rule reads.

    The fields go by their aliases, because a plain ``copy`` would hide a method of the model.
    """
    usual = section.defaults()
    fields: dict[str, Any] = {
        f"{key}_": (_checked(rule), Field(default=usual.get(key, ...), alias=key, description=rule.about))
        for key, rule in section.rules.items()
        if key not in others and (section, key) != (Policy, "name")
    }
    return create_model(name, __config__=_CONFIG, **fields, **others)


_CONFIG: Final = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=False)
_HTTP: Final = _model("HttpTable", HttpPolicy)
_POLICY: Final = _model("PolicyTable", Policy, http=(_HTTP, Field(default=None, description=Policy.rules["http"].about)))
_NAMED: Final = _checked(TTL, {"anyOf": [{"type": "string", "pattern": DURATION_PATTERN}, {"type": "number", "exclusiveMinimum": 0}]})
_BY_NAME: Final[Any] = dict  # its parameters are made at run time, which type checkers do not follow
FILE: Final = create_model(
    "PolicyFile",
    __config__=_CONFIG,
    schema_=(_checked(Rule(str, {"type": "string"}, "")), Field(default=None, alias="$schema", description="For editors; not read.")),
    namespace=(_checked(NAMESPACE), Field(default=Settings().namespace, description=NAMESPACE.about)),
    redis=(
        _model(
            "RedisTable",
            RedisSettings,
            url=(_checked(RedisSettings.rules["url"]), Field(default=None, description="CACHESYNC_REDIS_URL wins.")),
        ),
        Field(default=None, description="Left out: no Redis, one process."),
    ),
    coordination=(_model("CoordinationTable", CoordinationSettings), Field(default=None, description="How processes keep in step.")),
    local=(_model("LocalTable", LocalSettings), Field(default=None, description="How much local memory may hold.")),
    warming=(_model("WarmingTable", WarmingSettings), Field(default=None, description="How keys are computed before anybody asks.")),
    ttl=(_BY_NAME[str, _NAMED], Field(default=None, description="Names for durations.")),
    policy=(_BY_NAME[str, _POLICY], Field(description="One table for each kind of data.", min_length=1)),
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors. ``cachesync/policy.schema.json`` is this."""
    schema = json.loads(json.dumps(FILE.model_json_schema(by_alias=True)), object_pairs_hook=_tidied)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "cachesync policy file", **schema}


def _tidied(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Without the titles and the nulls that pydantic adds: they say nothing."""
    return {key: value for key, value in pairs if not (key == "title" and isinstance(value, str)) and (key, value) != ("default", None)}
