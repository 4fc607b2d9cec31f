"""``cachesync doctor``: what it finds wrong, on real servers, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cachesync.cli import main
from support.rights import CLUSTER, OLD, listed
from support.servers import Server

Found = list[dict[str, str]]
Doctor = Callable[..., tuple[int, Found]]
POLICIES: Final = """\
namespace = "{namespace}"
[coordination]
{coordination}
[policy.stores]
match = "stores:*"
ttl = "10m"
{policy}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that runs the tests matters."""
    for name in list(os.environ):
        if name.startswith("CACHESYNC_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
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
