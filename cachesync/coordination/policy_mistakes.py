"""Every mistake in the document of a policy file: what a rule refuses, what only a file can get wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard, cast

from pydantic import ValidationError

from cachesync.coordination.policy_lines import line_of
from cachesync.coordination.policy_model import FILE
from cachesync.core.patterns import Pattern
from cachesync.core.policies import tie, ties
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.rules import DYNAMIC, Problem, SettingPath, dotted, nearest, told
from cachesync.core.section import Section
from cachesync.core.settings import TTL, TTL_NAME, CoordinationSettings, LocalSettings, RedisSettings, WarmingSettings
from cachesync.core.units import as_written

Table = dict[str, object]
_SECTIONS: Final[Mapping[str, type[Section]]] = {
    "redis": RedisSettings,
    "coordination": CoordinationSettings,
    "local": LocalSettings,
    "warming": WarmingSettings,
}


def find_mistakes(raw: object, lines: Mapping[SettingPath, int], *, needs_url: bool) -> list[Problem]:
    """Every mistake in a document, some of them twice. ``needs_url``: a table for Redis without a URL is one.

    Names of durations are replaced by their seconds on the way, in place. What is wrong with a name is told instead of what else may
    be wrong in its place.
    """
    misnamed = _name_durations(raw)
    settled = {problem.path for problem in misnamed}
    others = [*_misshapen(raw), *_against_rules(raw), *_among_policies(raw, lines)]
    redis = _table(raw).get("redis")
    if needs_url and _is_table(redis) and "url" not in redis:
        others.append(Problem(("redis", "url"), 'missing; write url = "redis://localhost:6379/0", or set CACHESYNC_REDIS_URL'))
    return misnamed + [problem for problem in others if problem.path not in settled]


def _tables(raw: object) -> Iterator[tuple[SettingPath, type[Section], Table]]:
    """The tables of a document that have rules, each with its path."""
    document = _table(raw)
    places: list[tuple[SettingPath, type[Section], object]] = [((key,), section, document.get(key)) for key, section in _SECTIONS.items()]
    for name, policy in _table(document.get("policy")).items():
        places += [(("policy", name), Policy, policy), (("policy", name, "http"), HttpPolicy, _table(policy).get("http"))]
    return ((path, section, found) for path, section, found in places if _is_table(found))


def _table(value: object) -> Table:
    """The table; an empty one for what is none."""
    return value if _is_table(value) else {}


def _is_table(value: object) -> TypeGuard[Table]:
    return isinstance(value, dict)


# --- what only a file can get wrong ---------------------------------------------------------------------------------------------


def _name_durations(raw: object) -> list[Problem]:
    """Replace the names of durations by seconds; what looks like a name and is none is a problem."""
    problems: list[Problem] = []
    names: dict[str, float | None] = {}
    for name, value in _table(_table(raw).get("ttl")).items():
        seconds, _ = TTL.examine(value, ())
        names[name] = cast("float | None", seconds)
        problems += TTL_NAME.examine(name, ("ttl", name))[1]
    for path, section, table in _tables(raw):
        for key, rule in section.rules.items():
            value = table.get(key)
            if not rule.is_duration or not isinstance(value, str) or value[:1].isdigit() or (key == "ttl" and value == DYNAMIC):
                continue
            seconds = names.get(value)
            if seconds is not None:
                table[key] = seconds
            elif value in names:
                problems.append(Problem((*path, key), f"{as_written(value)} is wrong in [ttl]; write a duration there"))
            elif near := nearest(value, [*names, DYNAMIC] if key == "ttl" else names):
                says = f"{as_written(value)} is neither a duration nor a name in [ttl]; write {as_written(near)}"
                problems.append(Problem((*path, key), says))
    return problems


def _against_rules(raw: object) -> Iterator[Problem]:
    """What the rules of each table say, also about its settings taken together. What is null or a table is left to the model."""
    for path, section, table in _tables(raw):
        given = {key: value for key, value in table.items() if value is not None and key not in ("name", "http")}
        if section is Policy and _is_table(http := table.get("http")):
            given["http"] = HttpPolicy(**cast("dict[str, Any]", HttpPolicy.examine(http)[0]))  # what is right of it; the rest is told apart
        _, wrong = section.examine(given)
        yield from (problem.within(path) for problem in wrong)


def _among_policies(raw: object, lines: Mapping[SettingPath, int]) -> Iterator[Problem]:
    """Names of policies that are none, and patterns that tie."""
    patterns: dict[str, Pattern] = {}
    for name, policy in _table(_table(raw).get("policy")).items():
        yield from Policy.rules["name"].examine(name, ("policy", name))[1]
        match, wrong = Policy.rules["match"].examine(_table(policy).get("match"), ())
        if not wrong:
            patterns[name] = Pattern.parse(cast(str, match))
    for other, name in ties(patterns):
        yield tie(patterns[name], name, patterns[other], other, f" (line {line_of(('policy', other, 'match'), lines)})")


# --- what the model finds, in our words -----------------------------------------------------------------------------------------


def _misshapen(raw: object) -> Iterator[Problem]:
    """What is missing, unknown, or no table where one is due; also what the rules say."""
    try:
        FILE.model_validate(raw)
    except ValidationError as wrong:
        for error in wrong.errors(include_url=False):
            refused = error.get("ctx", {}).get("error")
            if isinstance(refused, ValueError):
                yield from told(refused, error["loc"])
            else:
                yield Problem(error["loc"], _shape_says(error["loc"], error["type"], error["input"]))


def _shape_says(path: SettingPath, kind: str, value: object) -> str:
    if path == ("policy",) and kind in ("missing", "too_short"):
        return 'there is no policy; write [policy.<name>] with at least match = "stores:*" and ttl = "5m"'
    if kind == "missing":
        return f"missing; write {path[-1]} = {as_written(_EXAMPLES.get(str(path[-1])))}"
    if kind == "extra_forbidden":
        return _unknown(path, value)
    if not path:
        return f"{as_written(value)} is not a policy file; write an object with at least a policy in it"
    shown = "this" if path[0] == "redis" else as_written(value)  # it may be a URL with a password
    return f"{shown} is not a table; write [{dotted(path)}{'.<name>' if path == ('policy',) else ''}]"


_EXAMPLES: Final = {"match": "stores:*", "ttl": "5m"}


def _unknown(path: SettingPath, value: object) -> str:
    """An unknown name, and the nearest known one."""
    name = str(path[-1])
    if len(path) == 1 and "match" in _table(value):
        return f"{as_written(name)} is not a section; write [{dotted(('policy', name))}]"
    known = _known(path[:-1])
    near = nearest(name, known)
    return f"{as_written(name)} is not a setting; " + (f"write {as_written(near)}" if near else f"known here: {', '.join(known)}")


def _known(path: SettingPath) -> list[str]:
    if not path:
        return [name for name in FILE.model_fields if name != "schema_"]
    section = _SECTIONS.get(str(path[0])) or (Policy if len(path) == 2 else HttpPolicy)
    return [name for name in section.rules if (section, name) != (Policy, "name")]
