"""``cachesync doctor``: what it finds wrong, on real servers, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import cachesync
from cachesync.cli import main
from cachesync.command_line.doctor_here import VARIABLES, satisfies
from support.commands import forget_settings
from support.rights import CLUSTER, OLD, listed
from support.servers import Server

Found = list[dict[str, str]]
Doctor = Callable[..., tuple[int, Found]]
POLICIES: Final = """\
namespace = "{namespace}"
[coordination]
budget = "20s"
{coordination}
[policy.stores]
match = "stores:*"
ttl = "10m"
{policy}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that runs the tests matters."""
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(namespace: str) -> Callable[..., None]:
    """Writes the policy file that the doctor is shown."""

    def written(coordination: str = "", policy: str = "") -> None:
        Path("cachesync.toml").write_text(POLICIES.format(namespace=namespace, coordination=coordination, policy=policy))

    written()
    return written


@pytest.fixture
def doctor(write: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Calls ``cachesync doctor --json``, and returns the exit code and what was found. ``url`` is where Redis is."""

    def called(url: str | None = None) -> tuple[int, Found]:
        if url is not None:
            monkeypatch.setenv("CACHESYNC_REDIS_URL", url)
        code = main(["doctor", "--json"])
        printed = capsys.readouterr()
        told = json.loads(printed.out)
        assert printed.err == "" and told["ok"] == (code == 0)
        return code, told["findings"]

    return called


def of(found: Found, status: str, name: str = "") -> str:
    """What was found of a status, with the advice, as one text."""
    return "\n".join(f"{one['says']} -> {one['advice']}" for one in found if one["status"] == status and one["name"].startswith(name))


# --- servers ----------------------------------------------------------------------------------------------------------------------


def test_a_server_that_is_well_is_found_well(doctor: Doctor, every_server: Server, namespace: str) -> None:
    """Everything is looked at, nothing is wrong, and what was written for that is gone."""
    code, found = doctor(every_server.url)
    assert (code, of(found, "wrong")) == (0, "")
    names = {one["name"] for one in found}
    assert names >= {
        "policy file",
        "environment",
        "python",
        "packages",
        "redis",
        "memory",
        "persistence",
        "rights",
        "latency",
        "clock",
        "log",
    }
    client: Any = every_server.client()
    assert [name for name in client.keys("*") if b"doctor" in name or namespace.encode() in name] == []


def test_what_can_not_be_reached_is_told_with_advice(doctor: Doctor) -> None:
    """The address is told without its password, the exit code is 1, and nothing else is asked of Redis."""
    code, found = doctor("redis://somebody:hunter2@127.0.0.1:1/0")
    assert code == 1
    assert "redis://127.0.0.1:1/0" in of(found, "wrong", "redis") and "does the server run" in of(found, "wrong", "redis")
    assert "hunter2" not in str(found) and "log" not in {one["name"] for one in found}


def test_settings_of_a_server_that_harm_are_told(doctor: Doctor, write: Callable[..., None], fresh_server: Server) -> None:
    """What evicts the log, refuses entries, or has no replica to wait for."""
    client: Any = fresh_server.client()
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    code, found = doctor(fresh_server.url)
    assert code == 0 and "volatile" in of(found, "warning", "memory")
    client.config_set("maxmemory-policy", "noeviction")
    assert "nothing new is cached" in of(doctor()[1], "warning", "memory")
    client.config_set("maxmemory-policy", "volatile-lru")
    assert of(doctor()[1], "warning", "memory") == ""
    write(coordination="durable = true")
    code, found = doctor()
    assert code == 1 and "no replica" in of(found, "wrong", "replicas")


def test_a_server_that_follows_another_is_wrong(doctor: Doctor, fresh_server: Server) -> None:
    """A cache needs the master's word; the advice names sentinels."""
    client: Any = fresh_server.client()
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    code, found = doctor(fresh_server.url)
    assert code == 1 and "follows another" in of(found, "wrong", "master")


def test_what_is_switched_for_all_is_told(doctor: Doctor, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A switch that somebody has forgotten."""
    doctor(server.url)
    assert main(["switch", "stores", "off"]) == 0
    capsys.readouterr()
    assert "policy.stores off" in of(doctor()[1], "warning", "switches")


# --- rights -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def user(server: Server, namespace: str) -> Iterator[Callable[[list[str]], str]]:
    """Makes a user who may use one namespace by these commands. Returns the url for it."""
    name = f"user{secrets.token_hex(4)}"
    admin: Any = server.client()

    def make(commands: list[str], keys: str = "") -> str:
        patterns = [f"~{{{namespace}}}:*", f"~{namespace}:e:*", f"~{namespace}:l:*"]
        rules = [*(one for one in patterns if one != keys), "resetchannels", f"&{{{namespace}}}:log", f"&{namespace}:l:*"]
        admin.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rules, *(f"+{command}" for command in commands))
        return server.url.replace("redis://", f"redis://{name}:secret@")

    yield make
    admin.execute_command("ACL", "DELUSER", name)


def rights() -> list[str]:
    """What the reference lists for this server, in database 0."""
    of_others = (OLD, CLUSTER, "a database other than 0")
    return [command for what, commands in listed().items() if what not in of_others for command in commands]


def test_each_right_that_is_missing_is_named(doctor: Doctor, write: Callable[..., None], user: Callable[[list[str]], str]) -> None:
    """With the rights of the reference nothing is wrong; without any of them a finding names what is missing."""
    write(coordination="audit = 0.1", policy='consistency = "strict"')
    assert of(doctor(user(rights()))[1], "wrong") == ""
    for command in rights():
        code, found = doctor(user([other for other in rights() if other != command]))
        said = (of(found, "wrong") + of(found, "warning")).lower()
        name = command.partition("|")[0]
        assert name in said, (command, found)
        optional = {*listed()["`sweep`"], *listed()["`cachesync stats`"], *listed()["`durable = true`"]}
        assert code == (0 if command in optional else 1), (command, found)


def test_keys_that_a_user_may_not_use_are_named(doctor: Doctor, user: Callable[..., str], namespace: str) -> None:
    """A pattern of keys that is missing is told, with the rights to give."""
    for pattern in (f"~{{{namespace}}}:*", f"~{namespace}:e:*", f"~{namespace}:l:*"):
        code, found = doctor(user(rights(), pattern))
        assert code == 1 and "key" in of(found, "wrong", "rights"), found


# --- this machine -----------------------------------------------------------------------------------------------------------------


def test_mistakes_of_the_policy_file_are_findings(doctor: Doctor, write: Callable[..., None]) -> None:
    """Each is told, and nothing else can be looked at then; a file that is not there is told with a way out."""
    write(policy='colour = "red"\nshape = "round"')
    code, found = doctor()
    assert code == 1 and [one["name"] for one in found] == ["policy file", "policy file"]
    Path("cachesync.toml").unlink()
    assert "CACHESYNC_FILE" in of(doctor()[1], "wrong", "policy file")


def test_the_environment_is_looked_at(doctor: Doctor, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is misspelled, one that switches off, a key that is missing, a secret that others guess."""
    monkeypatch.setenv("CACHESYNC_RDIS_URL", "redis://x")
    monkeypatch.setenv("CACHESYNC_ENABLED", "false")
    write(policy="encrypt = true\n[policy.stores.http]")
    code, found = doctor()
    told = of(found, "warning", "environment")
    assert "write CACHESYNC_REDIS_URL" in told and "nothing is cached at all" in told and "CACHESYNC_SECRET" in told
    assert code == 1 and "cachesync key" in of(found, "wrong", "environment")


def test_every_variable_of_the_package_is_known() -> None:
    """What the package reads means something to the doctor."""
    files = Path(cachesync.__file__).parent.rglob("*.py")
    assert {name for file in files for name in re.findall(r"\bCACHESYNC_[A-Z_]*[A-Z]\b", file.read_text())} == set(VARIABLES)


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("5.2", ">=5.2,<9", True),
        ("5.1.9", ">=5.2,<9", False),
        ("9.0.0b1", "<9,>=5.2", False),
        ("8.99", "redis[hiredis]<9,>=5.2", True),
        ("1!2", "", True),
        ("2026.1.1", ">=20240101", False),
        ("nonsense", ">=1", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, bounds: str, fits: bool) -> None:
    """As far as the bounds of this package need it."""
    assert satisfies(version, bounds) is fits


def test_an_application_is_asked_where_it_is_named(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does not answer is wrong; for people each finding is a line, and its advice the next one."""
    monkeypatch.setenv("CACHESYNC_ADMIN_URL", "http://127.0.0.1:1/")
    code, found = doctor()
    assert code == 1 and "does not answer" in of(found, "wrong", "application")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "\nwrong    application  http://127.0.0.1:1/ does not answer" in out and "-> is the application running" in out
    assert "\n1 thing is wrong, " in out
