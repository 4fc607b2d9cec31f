"""The policy file: what it says is what one gets, and every mistake is told at once with its line."""

from __future__ import annotations

import json
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachesync.coordination.policy_file import MAX_BYTES, load_settings, parse_settings
from cachesync.coordination.policy_lines import Format, Lines
from cachesync.coordination.policy_model import json_schema
from cachesync.core.policy import HttpPolicy, Policy
from cachesync.core.section import Section
from cachesync.core.settings import CoordinationSettings, LocalSettings, Settings, WarmingSettings
from cachesync.errors import PolicyError

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "policies"
SMALL = '[policy.a]\nmatch = "a:*"\nttl = "5m"\n'


def read(text: str, format: Format = "toml", **environ: str) -> Settings:
    return parse_settings(text, "c.toml", format, environ)


def problems(text: str, format: Format = "toml", **environ: str) -> list[str]:
    with pytest.raises(PolicyError) as refused:
        read(text, format, **environ)
    return list(refused.value.problems)


# --- files that are right -------------------------------------------------------------------------------------------------------


def test_the_complete_example_says_what_its_comments_say() -> None:
    """Every setting arrives, in seconds and bytes, with names of durations resolved."""
    found = load_settings(EXAMPLES / "everything.toml", {})
    assert found.namespace == "dashboard"
    assert found.redis is not None
    assert found.redis.url == "redis://localhost:6379/0"
    assert found.coordination == CoordinationSettings()
    assert found.local == LocalSettings()
    assert dict(found.ttl) == {"short": 60.0, "medium": 300.0, "long": 3600.0}
    assert found.file == str(EXAMPLES / "everything.toml")
    stores, analytics = found.policies
    assert stores == Policy(
        name="stores",
        match="stores:*",
        ttl=300,
        local_ttl=30,
        stale_while_revalidate=600,
        stale_if_error=3600,
        early_refresh=0.8,
        jitter=0.1,
        soft_timeout=0.2,
        hard_timeout=5,
        negative_ttl=10,
        errors=2,
        version=3,
        tags=["stores"],
        compress_over=16384,
        shadow=0.01,
        mask=["phone"],
        warm=["stores:JKT"],
        http=HttpPolicy(max_age=300, stale_while_revalidate=60, vary=["Accept-Language"], query_key=["stores"]),
    )
    assert analytics == Policy(name="analytics", match="analytics:*", ttl="dynamic", min_ttl=10, max_ttl=3600)


def test_the_complete_example_holds_every_setting() -> None:
    """A setting that is added to the rules is added to the example."""
    document = tomllib.loads((EXAMPLES / "everything.toml").read_text("utf-8"))
    stores = document["policy"]["stores"]
    assert set(stores) | {"min_ttl", "max_ttl"} == set(Policy.rules) - {"name"}
    assert set(stores["http"]) == set(HttpPolicy.rules)
    assert set(document["coordination"]) == set(CoordinationSettings.rules)
    assert set(document["local"]) == set(LocalSettings.rules)


@pytest.mark.parametrize(
    ("key", "policy", "ttl"),
    [
        ("stores", "store-list", 300),
        ("stores:JKT", "store-detail", 300),
        ("stats:users:7", "user-stats", 60),
        ("stats:videos:7", "video-stats", 60),
        ("analytics:overview:7d", "analytics-overview", None),
        ("tiktok:user:someone", "tiktok-user", 300),
        ("tiktok:video:123", "tiktok-video", 300),
        ("roles:user:7", "user-roles", 300),
        ("roles:all", "all-roles", 3600),
    ],
)
def test_the_dashboard_has_a_policy_for_each_kind_of_data(key: str, policy: str, ttl: float | None) -> None:
    """The numbers of the real table."""
    found = load_settings(EXAMPLES / "dashboard.toml", {})
    chosen = found.policies.match(key)
    assert chosen is not None
    assert (chosen.name, chosen.ttl) == (policy, ttl)


def test_a_smallest_file_leaves_everything_else_at_its_default() -> None:
    """One policy is enough, and there is no Redis unless it is named."""
    found = read(SMALL)
    assert (found.redis, found.namespace, found.enabled) == (None, "cachesync", True)
    assert list(found.policies) == [Policy(name="a", match="a:*", ttl=300)]


def test_json_says_the_same() -> None:
    """The same document in both languages gives the same settings; ``$schema`` is for editors."""
    text = (EXAMPLES / "everything.toml").read_text("utf-8")
    as_json = json.dumps({"$schema": "./policy.schema.json", **tomllib.loads(text)}, indent=1)
    assert read(as_json, "json") == read(text)


def test_the_suffix_decides_the_language(tmp_path: Path) -> None:
    """``.json`` is JSON, anything else is TOML; a byte order mark is no matter."""
    (tmp_path / "c.JSON").write_text('{"policy": {"a": {"match": "a", "ttl": 1}}}', "utf-8-sig")
    (tmp_path / "c.conf").write_text(SMALL.replace("\n", "\r\n"), "utf-8-sig", newline="")
    assert load_settings(str(tmp_path / "c.JSON"), {}).policies.get("a") is not None
    assert load_settings(tmp_path / "c.conf", {}).policies.get("a") is not None


def test_a_name_of_a_duration_is_as_good_as_the_duration() -> None:
    """In every table, and max_age may be 0."""
    found = read('[ttl]\ns = "1s"\nm = 60\n[coordination]\nmax_lag = "s"\n' + SMALL.replace("5m", "m") + "[policy.a.http]\nmax_age = 0")
    (policy,) = found.policies
    assert (found.coordination.max_lag, policy.ttl) == (1.0, 60.0)
    assert policy.http is not None
    assert policy.http.max_age == 0.0


# --- files that are wrong -------------------------------------------------------------------------------------------------------


def test_the_message_of_the_design() -> None:
    """File, line, name, value, and what would be right."""
    text = "# one\n[policy.stores]\n\n" + 'match = "stores:*"\nttl = "5 mins"'
    assert problems(text) == ['c.toml:5: policy.stores.ttl: "5 mins" is not a duration; write "5m"']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: policy: there is no policy; write [policy.<name>]"]),
        ("# nothing\n[policy]", ["2: policy: there is no policy"]),
        ("policy = 3", ["1: policy: 3 is not a table; write [policy.<name>]"]),
        ("[policy]\na = 3", ["2: policy.a: 3 is not a table; write [policy.a]"]),
        ("[[policy]]\na = 3", ["1: policy: an array is not a table"]),
        (SMALL + "http = 3", ["4: policy.a.http: 3 is not a table; write [policy.a.http]"]),
        ("ttl = true\n" + SMALL, ["1: ttl: true is not a table; write [ttl]"]),
        ("local = 1979-05-27\n" + SMALL, ["1: local: 1979-05-27 is not a table; write [local]"]),
        (SMALL + "jitter = 07:32:00", ["4: policy.a.jitter: 07:32:00 is not a number from 0 and below 1"]),
        (SMALL.replace('"5m"', "true"), ["3: policy.a.ttl: true is not a duration"]),
        (SMALL.replace('"5m"', "[1]"), ["3: policy.a.ttl: an array is not a duration"]),
        (SMALL.replace('"5m"', "nan"), ["3: policy.a.ttl: nan is not a duration"]),
        (SMALL.replace('"5m"', "inf"), ["3: policy.a.ttl: inf is longer than ten years"]),
        (SMALL.replace('"5m"', "{ x = 1 }"), ["3: policy.a.ttl: a table is not a duration"]),
        ("[policy.a]", ["1: policy.a.match: missing; write match =", '1: policy.a.ttl: missing; write ttl = "5m"']),
        ("[policy.'A b']\nmatch = 'a'\nttl = 1", ['1: policy."A b": "A b" is not a name; write "a-b"']),
        (SMALL + 'tll = "5m"', ['4: policy.a.tll: "tll" is not a setting; write "ttl"']),
        (SMALL + "name = 'x'", ['4: policy.a.name: "name" is not a setting; known here: match, ttl']),
        (SMALL + "[policy.a.http]\nmaxage = 0", ['5: policy.a.http.maxage: "maxage" is not a setting; write "max_age"']),
        ("[coordinaton]\n" + SMALL, ['1: coordinaton: "coordinaton" is not a setting; write "coordination"']),
        ("[source.x]\ntable = 1\n" + SMALL, ['1: source: "source" is not a setting; known here: namespace, redis, ']),
        ("[stores]\nmatch = 'x'\n" + SMALL, ['1: stores: "stores" is not a section; write [policy.stores]']),
        (SMALL + "tags = [\n  'x',\n\n  3, '',\n]", ["7: policy.a.tags[1]: 3 is not a text", '7: policy.a.tags[2]: "" is not a text']),
        (SMALL + "encrypt = 'yes'", ['4: policy.a.encrypt: "yes" is not true or false; write true, without quotes']),
        (SMALL + "min_ttl = 1", ["4: policy.a.min_ttl: only a dynamic ttl has bounds"]),
        (SMALL.replace("5m", "dynamic") + "min_ttl = '1 s'", ["1: policy.a.max_ttl: missing; ttl =", "4: policy.a.min_ttl:"]),
        ("[ttl]\nmedium = '1m'\n" + SMALL.replace("5m", "medum"), ['5: policy.a.ttl: "medum" is neither a duration nor a name in [ttl]']),
        ("[ttl]\nmedium = '1 m'\n" + SMALL.replace("5m", "medium"), ["2: ttl.medium:", '5: policy.a.ttl: "medium" is wrong in [ttl]']),
        (SMALL.replace("5m", "dynamc"), ['3: policy.a.ttl: "dynamc" is neither a duration nor a name in [ttl]; write "dynamic"']),
        ("[ttl]\n5m = 1\ndynamic = 1\n" + SMALL, ['2: ttl.5m: "5m" is not a name', '3: ttl.dynamic: "dynamic" is not a name']),
        ("[redis]\n" + SMALL, ['1: redis.url: missing; write url = "redis://localhost:6379/0", or set CACHESYNC_REDIS_URL']),
        ("redis.url = 'http://x'\n" + SMALL, ['1: redis.url: "http://..." is not a Redis URL']),
        ("redis.url = 5\n" + SMALL, ["1: redis.url: this is not a Redis URL"]),
        ("a = \n b", ["1: this is not TOML: Invalid value (column 5)"]),
        ("a = 1\nb = '''", ["2: this is not TOML: "]),
        ("a = 1\na = 2", ["2: this is not TOML: Cannot overwrite a value"]),
        pytest.param("a = " + "[" * 5000, ["1: tables or arrays are nested too deeply"], id="deep"),
        pytest.param("a" + ".a" * 400_000 + "=1", ["1: a dotted name has hundreds of parts"], id="dotted"),
        pytest.param("a = " + "9" * 5000, ["1: a number has too many digits"], id="digits"),
        pytest.param("a = 0x" + "f" * 5000, ["1: a number has too many digits"], id="hex digits"),
        ("namespace = ' '\n" + SMALL, ['1: namespace: " " is not a namespace']),
        (SMALL + "[coordination]\nlease = '1ms'", ['5: coordination.lease: "1ms" is too short to work with; write at least "500ms"']),
        (
            "[ttl]\nshort = '1ms'\n" + SMALL + "[coordination]\nmax_lag = 0.001",
            ["7: coordination.max_lag: 0.001 is too short to work with"],
        ),
        (SMALL + "[coordination]\ndurable = true\nbudget = '100ms'", ["6: coordination.budget: 0.1 seconds are not enough to wait for"]),
    ],
)
def test_a_mistake_in_toml_is_told_with_its_line(text: str, expected: list[str]) -> None:
    """Line, name and advice; nothing twice."""
    told = problems(text)
    assert len(told) == len(expected)
    for found, start in zip(told, expected, strict=True):
        assert found.startswith(f"c.toml:{start}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: this is not JSON: Expecting value (column 1)"),
        ('{\n"a": 1,\n}', "3: this is not JSON: "),
        ("[]", "1: an array is not a policy file; write an object"),
        ("null", "1: null is not a policy file"),
        ('"x"', '1: "x" is not a policy file'),
        pytest.param("[" * 100_000, "1: tables or arrays are nested too deeply", id="deep"),
        ('{"policy":\n{"a":\n{"match": "a", "ttl": null}}}', "3: policy.a.ttl: null is not a value; leave the setting out"),
        ('{"policy": {"a": {"match": "a", "ttl": 1,\n"ttl": 2}}}', "1: policy.a.ttl: this name stands twice, in lines 1 and 2"),
        ('{"policy": {"\\ud800": {}}}', "1: a text holds half of a surrogate pair"),
        ('{"policy": {"a": {"match": "a", "ttl": NaN}}}', "1: policy.a.ttl: nan is not a duration"),
        ('{"redis": null, "policy": {"a": {"match": "a", "ttl": 1}}}', "1: redis: this is not a table; write [redis]"),
    ],
)
def test_a_mistake_in_json_is_told_with_its_line(text: str, expected: str) -> None:
    """Also a name that stands twice, of which the parser would silently take the last."""
    assert problems(text, "json")[0].startswith(f"c.toml:{expected}")


def test_all_mistakes_are_told_at_once_in_the_order_of_lines() -> None:
    """Wrong names, wrong values, contradictions, ties and the environment in one error."""
    text = """namespace = 1
[policy.one]
match = "a*:x"
ttl = "5 m"
jiter = 0.1
soft_timeout = "2s"
hard_timeout = "1s"
[policy.two]
match = "a:*x"
[policy.two.http]
etag = "stmap"
"""
    told = problems(text, CACHESYNC_ENABLED="perhaps")
    assert [found.split(": ")[:2] for found in told] == [
        ["c.toml:1", "namespace"],
        ["c.toml:4", "policy.one.ttl"],
        ["c.toml:5", "policy.one.jiter"],
        ["c.toml:6", "policy.one.soft_timeout"],
        ["c.toml:8", "policy.two.ttl"],
        ["c.toml:9", "policy.two.match"],
        ["c.toml:11", "policy.two.http.etag"],
        ["environment", "CACHESYNC_ENABLED"],
    ]
    assert '"a:*x" ties with "a*:x" of policy.one (line 3)' in told[5]


# --- files that are none --------------------------------------------------------------------------------------------------------


def told_about(path: Path | str) -> str:
    with pytest.raises(PolicyError) as refused:
        load_settings(path, {})
    assert refused.value.__context__ is None
    return str(refused.value)


def test_what_contradicts_the_table_for_http_is_told_with_its_line_beside_what_is_wrong_in_it() -> None:
    """A name that is none of a header field would be a field that no answer can have."""
    text = '[policy.a]\nmatch = "a:*"\nttl = "5m"\n[policy.a.http]\nrespond_from_cache = true\nvary = ["Accept", "no name", "\u0436"]\n'
    contradiction, *wrong = problems(text)
    assert contradiction.startswith("c.toml:5: policy.a.http.respond_from_cache: each answer says how long it is fresh")
    names = ((1, "no name"), (2, "\u0436"))
    hint = 'is not the name of a header field; write one, such as "Accept-Language"'
    assert wrong == [f'c.toml:6: policy.a.http.vary[{index}]: "{name}" {hint}' for index, name in names]


def test_what_can_not_be_read_is_a_policy_error(tmp_path: Path) -> None:
    """Missing, a directory, no path at all: the file is named and the reason given."""
    assert told_about(tmp_path / "none.toml") == f"{tmp_path}/none.toml: the policy file can not be read: No such file or directory"
    assert told_about(tmp_path) == f"{tmp_path}: the policy file can not be read: Is a directory"
    assert told_about("a\0b").endswith("can not be read: this is not a path")


def test_what_is_not_utf_8_is_a_policy_error(tmp_path: Path) -> None:
    """With the line of the first wrong byte."""
    path = tmp_path / "c.toml"
    path.write_bytes(b"# caf\xc3\xa9\n# caf\xe9\n")
    assert told_about(path) == f"{path}:2: byte 13 is not UTF-8; save the file as UTF-8"


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    """Ten megabytes are something else by mistake; one mebibyte of comments is still read."""
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xff" * 10_000_000)
    assert told_about(path).endswith("larger than 1MiB, which no policy file is")
    path.write_text(SMALL.ljust(MAX_BYTES, "#"), "utf-8")
    assert load_settings(path, {}).policies.get("a") is not None


@given(st.binary(max_size=200), st.sampled_from([".toml", ".json"]))
def test_any_bytes_are_settings_or_a_policy_error(content: bytes, suffix: str) -> None:
    """Nothing else comes out of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"c{suffix}"
        path.write_bytes(content)
        told: tuple[str, ...] = ("nothing is wrong",)
        try:
            assert isinstance(load_settings(path, {}), Settings)
        except PolicyError as refused:
            told = refused.problems
        assert told


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["5m", "dynamic", "a:*", "m", "1KiB"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from([*Policy.rules, *HttpPolicy.rules, "http", "x"])
TABLES = st.dictionaries(NAMES, VALUES, max_size=6).map(lambda table: {"match": "a:*", "ttl": "m", **table})
DOCUMENTS = st.fixed_dictionaries(
    {"policy": st.dictionaries(st.text("ab \x00", max_size=2), TABLES | VALUES, max_size=3) | VALUES},
    optional={
        "ttl": st.dictionaries(st.sampled_from(["m", "5m", "", "Ä"]), VALUES, max_size=2) | VALUES,
        "redis": st.dictionaries(st.sampled_from(["url", "x"]), VALUES | st.text("redis:/@#[]?", max_size=20)) | VALUES,
        "coordination": st.dictionaries(st.sampled_from(list(CoordinationSettings.rules)), VALUES) | VALUES,
        "local": st.dictionaries(st.sampled_from(list(LocalSettings.rules)), VALUES) | VALUES,
        "namespace": VALUES,
        "$schema": VALUES,
    },
)


@settings(max_examples=300)
@given(DOCUMENTS | VALUES)
def test_any_document_is_settings_or_a_policy_error(document: object) -> None:
    """Every type in every place; each message has a line and is printable."""
    try:
        found = read(json.dumps(document, indent=1), "json")
        assert len(found.policies) > 0
    except PolicyError as refused:
        for problem in refused.problems:
            assert problem.startswith("c.toml:")
            assert problem.isprintable()


# --- the environment ------------------------------------------------------------------------------------------------------------

REDIS = 'redis.url = "redis://file/0"\n' + SMALL


def test_the_url_of_the_environment_wins() -> None:
    """It also makes Redis exist where the file has none, or an empty table."""
    for text in (REDIS, SMALL, "[redis]\n" + SMALL):
        found = read(text, CACHESYNC_REDIS_URL="redis://environment/1").redis
        assert found is not None
        assert found.url == "redis://environment/1"


@pytest.mark.parametrize("off", ["false", "0", "no", "OFF"])
def test_the_switches_turn_redis_or_everything_off(off: str) -> None:
    """For a roll-back without touching the file; true is the same as leaving them out."""
    assert read(REDIS, CACHESYNC_REDIS_ENABLED=off).redis is None
    assert read("[redis]\n" + SMALL, CACHESYNC_REDIS_ENABLED=off).redis is None
    assert read(REDIS, CACHESYNC_REDIS_ENABLED=off, CACHESYNC_REDIS_URL="redis://h").redis is None
    assert read(REDIS, CACHESYNC_ENABLED=off).enabled is False
    assert read(REDIS, CACHESYNC_ENABLED=off).redis is not None
    assert read(REDIS, CACHESYNC_ENABLED="true", CACHESYNC_REDIS_ENABLED="1") == read(REDIS)


def test_a_wrong_value_in_the_environment_is_a_policy_error() -> None:
    """An empty one too: it would silently mean something."""
    told = problems(SMALL, CACHESYNC_ENABLED="", CACHESYNC_REDIS_ENABLED="maybe", CACHESYNC_REDIS_URL="")
    assert told == [
        'environment: CACHESYNC_ENABLED: "" is not a switch; write true or false',
        'environment: CACHESYNC_REDIS_ENABLED: "maybe" is not a switch; write true or false',
        'environment: CACHESYNC_REDIS_URL: this is not a Redis URL; write one such as "redis://localhost:6379/0"',
    ]


def test_the_process_environment_is_asked_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to pass it."""
    (tmp_path / "c.toml").write_text(SMALL)
    monkeypatch.setenv("CACHESYNC_REDIS_URL", "redis://environment")
    assert load_settings(tmp_path / "c.toml").redis is not None


@pytest.mark.parametrize(
    "text",
    [
        "redis = 'redis://:s3cret@h'",
        "redis = ['redis://:s3cret@h']",
        "redis.url = ['redis://:s3cret@h']",
        "redis.url = 'redis://:s3cret@h:port'",
        "redis.url = 'http://:s3cret@h'",
        "redis.uri = 'redis://:s3cret@h'",
        "redis.url = ':s3cret@h'",
        "redis = ':s3cret@h'",
        "redis.'redis://:s3cret@h' = 1",
        "namespace = 'redis://:s3cret@h'\nttl = 'redis://:s3cret@h'",
        'redis.url = "redis://:s3cret@h\\q"',
        "redis.url = redis://:s3cret@h",
        "redis.url = 'redis://:s3cret@h",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    """Neither its text nor what is chained to it."""
    with pytest.raises(PolicyError) as refused:
        read(text)
    assert "s3cret" not in "".join(traceback.format_exception(refused.value)).replace(repr(text), "")
    assert refused.value.__context__ is None


# --- lines ----------------------------------------------------------------------------------------------------------------------


def paths_of(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield from paths_of(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[object]", value)):
            yield from paths_of(inner, (*path, index))


PAIRS = [
    "K = 1 # = [no]",
    "K.x.y = 1.5",
    '"K" = "a # \\" b"',
    "'K'.\"u\\u0061 . b\" = '\\'",
    'K = """\n[no]\nx = 1\\\n  \\""" " "" """""',
    "K = '''\n[no]\n''' # '''",
    "K = ''''it''s'''''",
    'K = ["a", [1, 2], { x = 1, y.z = [3] }, # , ]\n "]", ]',
    "K = {}",
    "K = { a = '}', 'b c' = { d = [ { e = 1 } ] } }",
    "K = 1979-05-27 07:32:00.5-07:00",
    "K = 07:32:00",
    "K = -inf",
    "K = [\n\n]",
    'K = ""',
    'K = """"""',
    "K\t=\t0xff",
]
HEADERS = ["[K]", "[ K . 'x y' ]# c", "[[K]]", "[[last]]", "[last.K]", "[[last.K]]", '[last."K".x]']


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PAIRS + HEADERS + ["", "# comment = 1", "\t"]), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_every_name_in_toml_has_its_line(pieces: list[str], end: str) -> None:
    """Whatever stands around it: comments, quotes, tables within lines, texts and arrays over several lines."""
    lines: list[str] = []
    starts: dict[str, int] = {}
    last = "k"
    for number, piece in enumerate(pieces):
        name = f"k{number}"
        starts[name] = sum(line.count("\n") for line in lines) + len(lines) + 1
        lines.append(piece.replace("K", name).replace("last", last))
        last = name if piece == "[[K]]" else last
    text = end.join(lines).replace("\r\n", "\n").replace("\n", end)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = Lines(text, "toml").lines
    assert set(found) == set(paths_of(document))
    for path, line in found.items():
        if path[-1] in starts:
            assert line == starts[str(path[-1])] or path[-1] == last
    values = list(paths_of(document))
    assert all(found[path[:-1]] <= found[path] for path in values if len(path) > 1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=12,
    ),
    st.sampled_from([None, 0, 1]),
)
def test_every_name_in_json_has_its_line(document: object, indent: int | None) -> None:
    """On one line or on many."""
    text = json.dumps(document, indent=indent)
    found = Lines(text, "json")
    assert set(found.lines) == set(paths_of(document))
    assert found.repeats == []
    lines = text.split("\n")
    for path, line in found.lines.items():
        if isinstance(path[-1], str):
            assert json.dumps(path[-1]) + ":" in lines[line - 1]


# --- the schema -----------------------------------------------------------------------------------------------------------------


def test_the_shipped_schema_is_the_one_of_the_rules() -> None:
    """Editors complete what the library accepts. When the rules change, write the file anew from ``json_schema()``."""
    shipped = (ROOT / "cachesync" / "policy.schema.json").read_text("utf-8")
    assert shipped == json.dumps(json_schema(), indent=2) + "\n"


@pytest.mark.parametrize(
    ("table", "section"),
    [("PolicyTable", Policy), ("HttpTable", HttpPolicy), ("LocalTable", LocalSettings), ("WarmingTable", WarmingSettings)],
)
def test_the_schema_describes_every_setting(table: str, section: type[Section]) -> None:
    """With a sentence for each, and its default."""
    properties: dict[str, dict[str, Any]] = json_schema()["$defs"][table]["properties"]
    assert set(properties) == set(section.rules) - {"name"}
    usual = section.defaults()
    for name, described in properties.items():
        assert described["description"].startswith(section.rules[name].about)
        if usual.get(name) is not None:
            assert described["default"] == json.loads(json.dumps(usual[name]))


def test_the_schema_knows_the_least_durations() -> None:
    """An editor underlines what the library would refuse."""
    properties: dict[str, dict[str, Any]] = json_schema()["$defs"]["CoordinationTable"]["properties"]
    least = {
        name: described["minimum"] for name, described in properties.items() if described.get("minimum", 0) and "examples" in described
    }
    assert least == {"max_lag": 0.05, "budget": 0.005, "lease": 0.5}
