"""The policy file: TOML or JSON in, `Settings` out, or one ``PolicyError`` with every mistake in it.

Each mistake reads ``file:line: dotted.name: "value" is not ...; write ...``. What a setting takes is not said here: the model below
is made from the rules in `cachesync.core.policy`, and adds what only a file can get wrong. The parsers of TOML and JSON tell no
positions, so `Positions` reads a text that they accepted once more and notes the line of every name.

The environment wins: ``CACHESYNC_REDIS_URL``, ``CACHESYNC_REDIS_ENABLED`` and ``CACHESYNC_ENABLED``.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema, create_model
from pydantic_core import ErrorDetails

from cachesync.core.patterns import Pattern
from cachesync.core.policies import Policies, tie, ties
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.rules import DYNAMIC, Problem, Rule, SettingPath, dotted, nearest, told
from cachesync.core.section import Section
from cachesync.core.settings import NAMESPACE, TTL, TTL_NAME, CoordinationSettings, LocalSettings, RedisSettings, Settings
from cachesync.core.units import DURATION_PATTERN, as_written, read_duration
from cachesync.errors import PolicyError

MAX_BYTES: Final = 1024 * 1024
Format = Literal["toml", "json"]
Table = dict[str, object]

_SECTIONS: Final[Mapping[str, type[Section]]] = {"redis": RedisSettings, "coordination": CoordinationSettings, "local": LocalSettings}


# --- the model ------------------------------------------------------------------------------------------------------------------


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
        f"{key}_": (_checked(rule), Field(default=usual.get(key, ...), alias=key, description=rule.about + ("" if rule.works else _SILENT)))
        for key, rule in section.rules.items()
        if key not in others and (section, key) != (Policy, "name")
    }
    return create_model(name, __config__=_CONFIG, **fields, **others)


_SILENT: Final = " No effect in this version."
_CONFIG: Final = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=False)
_HTTP: Final = _model("HttpTable", HttpPolicy)
_POLICY: Final = _model("PolicyTable", Policy, http=(_HTTP, Field(default=None, description=Policy.rules["http"].about)))
_NAMED: Final = _checked(TTL, {"anyOf": [{"type": "string", "pattern": DURATION_PATTERN}, {"type": "number", "exclusiveMinimum": 0}]})
_BY_NAME: Final[Any] = dict  # its parameters are made at run time, which type checkers do not follow
_FILE: Final = create_model(
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
    ttl=(_BY_NAME[str, _NAMED], Field(default=None, description="Names for durations.")),
    policy=(_BY_NAME[str, _POLICY], Field(description="One table for each kind of data.", min_length=1)),
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors. ``cachesync/policy.schema.json`` is this."""
    schema = json.loads(json.dumps(_FILE.model_json_schema(by_alias=True)), object_pairs_hook=_tidied)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "cachesync policy file", **schema}


def _tidied(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Without the titles and the nulls that pydantic adds: they say nothing."""
    return {key: value for key, value in pairs if not (key == "title" and isinstance(value, str)) and (key, value) != ("default", None)}


# --- reading --------------------------------------------------------------------------------------------------------------------


def load_settings(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read a policy file; ``.json`` is JSON, any other suffix is TOML. Raises ``PolicyError`` and nothing else."""
    name = os.fspath(path)
    text, problem = _read(name)
    if problem:
        raise PolicyError(f"{name}:{problem}")
    return parse_settings(text, name, "json" if Path(name).suffix.lower() == ".json" else "toml", environ)


def _read(name: str) -> tuple[str, str]:
    """The text, or why there is none. Nothing is raised from here, so that no exception carries the file's bytes along."""
    try:
        with open(name, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as wrong:
        why = wrong.strerror if isinstance(wrong, OSError) else None
        return "", f" the policy file can not be read: {why or 'this is not a path'}"
    if len(content) > MAX_BYTES:
        return "", " this is larger than 1MiB, which no policy file is"
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as wrong:
        line = content.count(b"\n", 0, wrong.start) + 1
        return "", f"{line}: byte {wrong.start} is not UTF-8; save the file as UTF-8"


def parse_settings(text: str, name: str, format: Format, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the text of a policy file. ``name`` stands in the messages; ``environ`` is empty unless given."""
    raw, lines, problems, is_read = _parse(text, format)
    switches, redis, outside = _environment(environ or {})
    if is_read:
        problems += _examine(raw, lines, needs_url=switches["CACHESYNC_REDIS_ENABLED"] and redis is None)
    if problems or outside:
        problems.sort(key=lambda problem: _line(problem.path, lines))
        raise PolicyError(*(_shown(problem, name, lines) for problem in dict.fromkeys(problems)), *outside)
    return _built(cast(Table, raw), name, switches, redis)


def _shown(problem: Problem, name: str, lines: Mapping[SettingPath, int]) -> str:
    subject = f" {dotted(problem.path)}:" if problem.path else ""
    return f"{name}:{_line(problem.path, lines)}:{subject} {problem.says}"


def _line(path: SettingPath, lines: Mapping[SettingPath, int]) -> int:
    """The line of a name, or of the innermost table around it that is written down."""
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 1)


class _Parsed(NamedTuple):
    """A document, and the line of each name in it. Without ``is_read`` there is none, and one problem says why."""

    raw: object
    lines: dict[SettingPath, int]
    problems: list[Problem]
    is_read: bool = False


def _parse(text: str, format: Format) -> _Parsed:
    if _ENDLESS_NAME.search(text):
        return _Parsed(None, {}, [Problem((), "a dotted name has hundreds of parts; a policy file needs four")])
    try:
        raw: object = json.loads(text) if format == "json" else tomllib.loads(text)
        positions = Positions(text, format)
    except json.JSONDecodeError as wrong:
        return _Parsed(None, {(): wrong.lineno}, [Problem((), f"this is not JSON: {wrong.msg} (column {wrong.colno})")])
    except tomllib.TOMLDecodeError as wrong:
        found = re.search(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$", str(wrong))
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        where = f"column {found[2]}" if found and found[2] else "at the end of the file"
        return _Parsed(None, {(): line}, [Problem((), f"this is not TOML: {str(wrong)[: found.start() if found else None]} ({where})")])
    except RecursionError:
        return _Parsed(None, {}, [Problem((), "tables or arrays are nested too deeply; a policy file needs three levels")])
    except ValueError:  # a number with thousands of digits
        return _Parsed(None, {}, [Problem((), _ENDLESS_NUMBER)])
    return _Parsed(raw, positions.lines, positions.repeats, is_read=True)


_ENDLESS_NAME: Final = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){200}""")
"""The parser of TOML takes time with the square of the number of parts."""


# --- examining ------------------------------------------------------------------------------------------------------------------


def _examine(raw: object, lines: Mapping[SettingPath, int], *, needs_url: bool) -> list[Problem]:
    """Every mistake in a document. Names of durations are replaced by their seconds on the way, in place."""
    if unreadable := _unreadable(raw):
        return unreadable
    problems = _name_durations(raw)
    known = {problem.path for problem in problems}
    try:
        _FILE.model_validate(raw)
    except ValidationError as wrong:
        found = (problem for error in wrong.errors(include_url=False) for problem in _problems(error))
        problems += [problem for problem in found if problem.path not in known]
    for path, section, table in _tables(raw):
        _, others = section.examine({key: value for key, value in table.items() if value is not None and key not in ("name", "http")})
        problems += [problem for inner in others if (problem := Problem((*path, *inner.path), inner.says)).path not in known]
        if section is RedisSettings and "url" not in table and needs_url:
            problems.append(Problem((*path, "url"), 'missing; write url = "redis://localhost:6379/0", or set CACHESYNC_REDIS_URL'))
    return problems + _policy_problems(raw, lines)


def _tables(raw: object) -> Iterator[tuple[SettingPath, type[Section], Table]]:
    """The tables of a document that have rules, each with its path."""
    document = _table(raw)
    for key, section in _SECTIONS.items():
        if _is_table(table := document.get(key)):
            yield (key,), section, _table(table)
    for name, policy in _table(document.get("policy")).items():
        if _is_table(policy):
            yield ("policy", name), Policy, _table(policy)
        if _is_table(http := _table(policy).get("http")):
            yield ("policy", name, "http"), HttpPolicy, _table(http)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _table(value: object) -> Table:
    return cast(Table, value) if isinstance(value, dict) else {}


def _unreadable(raw: object) -> list[Problem]:
    """What parses but can not be shown or stored: half a character, which JSON can spell, and a number of thousands of digits."""
    try:
        json.dumps(raw, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return [Problem((), "a text holds half of a surrogate pair; write the whole character")]
    except ValueError:
        return [Problem((), _ENDLESS_NUMBER)]
    return []


_ENDLESS_NUMBER: Final = "a number has too many digits to be read"


def _name_durations(raw: object) -> list[Problem]:
    """Replace the names of durations by seconds; what looks like a name and is none is a problem."""
    problems: list[Problem] = []
    names: dict[str, float | None] = {}
    for name, value in _table(_table(raw).get("ttl")).items():
        names[name] = _read_or_none(TTL, value)
        try:
            TTL_NAME.read(name)
        except ValueError as wrong:
            problems.append(Problem(("ttl", name), str(wrong)))
    for path, section, table in _tables(raw):
        for key, rule in section.rules.items():
            value = table.get(key)
            if not rule.is_duration or not isinstance(value, str) or value[:1].isdigit() or (key == "ttl" and value == DYNAMIC):
                continue
            known = names.get(value)
            if known is not None:
                table[key] = known
            elif value in names:
                problems.append(Problem((*path, key), f"{as_written(value)} is wrong in [ttl]; write a duration there"))
            elif near := nearest(value, [*names, DYNAMIC] if key == "ttl" else names):
                problems.append(
                    Problem((*path, key), f"{as_written(value)} is neither a duration nor a name in [ttl]; write {as_written(near)}")
                )
    return problems


def _read_or_none(rule: Rule, value: object) -> float | None:
    try:
        return cast("float | None", rule.read(value))
    except ValueError:
        return None


def _problems(error: ErrorDetails) -> list[Problem]:
    """What pydantic found, in our words."""
    path: SettingPath = error["loc"]
    rule_says = error.get("ctx", {}).get("error")
    if isinstance(rule_says, ValueError):
        return told(rule_says, path)
    return [Problem(path, _shape_says(path, error["type"], error["input"]))]


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
        return [name for name in _FILE.model_fields if name != "schema_"]
    section = _SECTIONS.get(str(path[0])) or (Policy if len(path) == 2 else HttpPolicy)
    return [name for name in section.rules if (section, name) != (Policy, "name")]


def _policy_problems(raw: object, lines: Mapping[SettingPath, int]) -> list[Problem]:
    """Names of policies that are none, and patterns that tie."""
    problems: list[Problem] = []
    patterns: dict[str, Pattern] = {}
    for name, policy in _table(_table(raw).get("policy")).items():
        _, wrong = Policy.examine({"name": name})
        problems += [Problem(("policy", name), problem.says) for problem in wrong]
        values, _ = Policy.examine({"match": _table(policy).get("match")})
        if "match" in values:
            patterns[name] = Pattern.parse(str(values["match"]))
    for other, name in ties(patterns):
        where = f" (line {_line(('policy', other, 'match'), lines)})"
        problems.append(tie(patterns[name], name, patterns[other], other, where))
    return problems


# --- the environment, and building -----------------------------------------------------------------------------------------------

_SWITCHES: Final = ("CACHESYNC_ENABLED", "CACHESYNC_REDIS_ENABLED")
_WORDS: Final = {**dict.fromkeys(("true", "1", "yes", "on"), True), **dict.fromkeys(("false", "0", "no", "off"), False)}


def _environment(environ: Mapping[str, str]) -> tuple[dict[str, bool], RedisSettings | None, list[str]]:
    """The switches (True unless set), the Redis that the environment names, and what is wrong with either."""
    problems: list[str] = []
    switches: dict[str, bool] = {}
    for name in _SWITCHES:
        value = environ.get(name, "true")
        if value.casefold() not in _WORDS:
            problems.append(f"environment: {name}: {as_written(value)} is not a switch; write true or false")
        switches[name] = _WORDS.get(value.casefold(), True)
    url = environ.get("CACHESYNC_REDIS_URL")
    if url is None:
        return switches, None, problems
    _, wrong = RedisSettings.examine({"url": url})
    problems += [f"environment: CACHESYNC_REDIS_URL: {problem.says}" for problem in wrong]
    return switches, None if wrong else RedisSettings(url), problems


def _built(raw: Table, name: str, switches: Mapping[str, bool], redis: RedisSettings | None) -> Settings:
    """Settings from a document without mistakes."""

    def fields(table: object) -> Any:
        return _table(table)

    if redis is None and "url" in _table(raw.get("redis")):
        redis = RedisSettings(**fields(raw["redis"]))
    policies: list[Policy] = []
    for policy, table in _table(raw["policy"]).items():
        http = {"http": HttpPolicy(**fields(_table(table)["http"]))} if "http" in _table(table) else {}
        policies.append(Policy(**fields({**_table(table), **http, "name": policy})))
    return Settings(
        **({"namespace": cast(str, raw["namespace"])} if "namespace" in raw else {}),
        redis=redis if switches["CACHESYNC_REDIS_ENABLED"] else None,
        coordination=CoordinationSettings(**fields(raw.get("coordination"))),
        local=LocalSettings(**fields(raw.get("local"))),
        ttl={key: read_duration(value) for key, value in _table(raw.get("ttl")).items()},
        policies=Policies(policies),
        file=name,
        enabled=switches["CACHESYNC_ENABLED"],
    )


# --- positions ------------------------------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(
    r"""[ \t\r]+ | \#[^\n]*                                # nothing
    | (?P<token> \n
      | \"{3} (?: \\. | [^\\] )*? \"{3,5} (?!\")          # a text over several lines
      | '{3} .*? '{3,5} (?!')
      | " (?: \\. | [^"\\\n] )* " | '[^'\n]*'             # a text
      | [^\s\[\]{}=,.:"'\#]+                              # a bare word, or a part of a number or a date
      | . )""",
    re.VERBOSE | re.DOTALL,
)


class Positions:
    """The line of every name and array element in a text that its parser has accepted, so that little can be wrong with it.

    ``lines`` is by path: ``("policy", "stores", "tags", 0)``. ``repeats`` tells the names that an object of JSON has twice; its
    parser silently drops one of them.
    """

    def __init__(self, text: str, format: Format) -> None:
        self.lines: dict[SettingPath, int] = {}
        self.repeats: list[Problem] = []
        self._tokens: list[tuple[str, int]] = []
        self._at = 0
        self._read_name: Callable[[str], str] = json.loads if format == "json" else _toml_name
        self._paired: set[SettingPath] = set()
        self._elements: dict[SettingPath, int] = {}  # how many tables an array of tables has so far
        line = 1
        for found in _TOKEN.finditer(text):
            if found["token"]:
                self._tokens.append((found["token"], line))
            line += found[0].count("\n")
        self._tokens.append(("", line))
        if format == "json":
            self._value(())
        else:
            self._document()

    def _document(self) -> None:
        table: SettingPath = ()
        while token := self._skip("\n"):
            if token == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, *tokens: str) -> str:
        """The next token that is none of these; empty at the end."""
        while self._tokens[self._at][0] in tokens:
            self._at += 1
        return self._tokens[self._at][0]

    def _names(self) -> SettingPath:
        """The parts of ``a."b c".d``."""
        names: SettingPath = ()
        while True:
            names = (*names, self._read_name(self._tokens[self._at][0]))
            self._at += 1
            if self._tokens[self._at][0] != ".":
                return names
            self._at += 1

    def _header(self) -> SettingPath:
        """``[a.b]`` or ``[[a.b]]``: the path that the pairs below it stand under."""
        line = self._tokens[self._at][1]
        is_array = self._tokens[self._at + 1][0] == "["
        self._at += 1 + is_array
        parts: list[str | int] = []
        names = self._names()
        for count, name in enumerate(names, 1):
            parts.append(name)
            path = tuple(parts)
            self.lines.setdefault(path, line)
            if is_array and count == len(names):
                self._elements[path] = self._elements.get(path, 0) + 1
            if path in self._elements:
                parts.append(self._elements[path] - 1)
                self.lines.setdefault(tuple(parts), line)
        self.lines[tuple(parts)] = line  # a table below it may have been first
        self._at += 1 + is_array
        return tuple(parts)

    def _pair(self, table: SettingPath) -> None:
        """``name = value``, or ``"name": value`` in JSON."""
        line = self._tokens[self._at][1]
        names = self._names()
        for end in range(1, len(names)):
            self.lines.setdefault((*table, *names[:end]), line)
        path = (*table, *names)
        first = self.lines.setdefault(path, line)
        if path in self._paired:
            self.repeats.append(Problem(path, f"this name stands twice, in lines {first} and {line}; keep one of them"))
        self._paired.add(path)
        self._at += 1  # the sign between them
        self._value(path)

    def _value(self, path: SettingPath) -> None:
        opening = self._skip("\n")
        if opening == "{":
            self._at += 1
            while self._skip("\n", ",") not in ("}", ""):
                self._pair(path)
        elif opening == "[":
            self._at += 1
            count = 0
            while self._skip("\n", ",") not in ("]", ""):
                self.lines.setdefault((*path, count), self._tokens[self._at][1])
                self._value((*path, count))
                count += 1
        else:
            while self._tokens[self._at][0] not in _ENDS:
                self._at += 1
            return
        self._at += 1


_ENDS: Final = frozenset((",", "]", "}", "\n", ""))


def _toml_name(token: str) -> str:
    return str(tomllib.loads(f"name = {token}")["name"]) if token[0] in "\"'" else token
