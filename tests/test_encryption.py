"""Encryption at rest: what lies in Redis of a policy with ``encrypt = true``, and what becomes of it elsewhere or with another key.

Caches of one test stand for processes; each may have other keys.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import MISSING, Cache, MemoryShared, Policy, PolicyError, RestingError, Settings
from cachesync.cli import main
from cachesync.command_line.invalidate import Manner, Named, invalidate
from cachesync.command_line.sweep import sweep
from cachesync.coordination.events import Event
from cachesync.coordination.policy_file import parse_settings
from cachesync.core.encryption_keys import KEY_BYTES, LARGEST_NUMBER, EncryptionKeys, new_key
from cachesync.core.entry import NO_DEPENDENCIES, Dependency
from cachesync.core.envelope import COMPRESSED, ENCRYPTED, IDENTITY, EnvelopeError, Header, digest_of, seal, unseal
from cachesync.core.names import Names
from cachesync.core.settings import CoordinationSettings, RedisSettings
from cachesync.layers.codecs import codec_for
from cachesync.layers.encryption import NONCE_BYTES, TAG_BYTES, Keyring, opened
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, read_log
from support.servers import Server

ONE, TWO, THREE = (f"{number}:{base64.b64encode(bytes([number]) * KEY_BYTES).decode()}" for number in (1, 2, 3))
SECRET = "the-secret-of-contact"
READS: dict[bytes, Callable[[bytes], tuple[Any, ...]]] = {
    b"string": lambda name: ("GET", name),
    b"hash": lambda name: ("HGETALL", name),
    b"zset": lambda name: ("ZRANGE", name, 0, -1),
    b"stream": lambda name: ("XRANGE", name, "-", "+"),
}
"""The command that reads all of a value, by its type."""
HEAD = Header(0, b"\x00" * 8, 7, 0, 1, 2, 3, 4, 5, 0, b"\x00" * 16)


@dataclass(frozen=True)
class Contact:
    name: str
    note: str = ""


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


class Process(Caller):
    """A cache of contacts with its own keys. ``contact(number)`` is computed from ``origin``, and its events are kept."""

    def __init__(
        self, url: str, namespace: str, keys: str | None, colour: Colour, loop: LoopThread, *, failing: bool = False, **options: Any
    ) -> None:
        settings = Settings(namespace=namespace, redis=RedisSettings(url), coordination=CoordinationSettings(budget=LONG, max_lag=60.0))
        chosen: dict[str, Any] = {"encrypt": True, **options}
        policy = Policy(name="contacts", match="contacts:*", ttl="1h", **chosen)
        self.events: list[Event] = []
        cache = Cache(settings, policies=[policy], encryption_keys=keys, listen=False, on_event=self.events.append)
        super().__init__(cache, colour, loop)
        self.computed = 0

        @self.cached("contacts:{number}", tags=["region:{number}"])
        async def contact(number: int) -> Contact:
            self.computed += 1
            if failing:
                raise ValueError(f"{SECRET}-{number} is not known")
            return Contact(f"{SECRET}-{number}", "x" * 200)

        self.contact = contact

    def read(self, number: int = 7) -> Contact:
        return cast("Contact", self.do(self.contact, number))

    def found(self, number: int = 7) -> Any:
        """What is cached, without computing."""
        return self.get(f"contacts:{number}", MISSING)

    def unreadable(self) -> list[str]:
        """Why stored bytes could not be read."""
        return [str(event.fields["error"]) for event in self.events if event.name == "unreadable"]


class Processes:
    """Makes processes around one server, and looks into it."""

    def __init__(self, server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
        self.server, self.namespace, self.loop = server, namespace, loop
        self.colour: Colour = colour
        self.names = Names.of(namespace)
        self.client = server.client()
        self._made: list[Process] = []

    def new(self, keys: str | None = ONE, *, namespace: str | None = None, **options: Any) -> Process:
        self._made.append(Process(self.server.url, namespace or self.namespace, keys, self.colour, self.loop, **options))
        return self._made[-1]

    def blob(self, number: int = 7) -> bytes:
        return cast("bytes", self.client.get(self.names.entry(f"contacts:{number}")))

    def put(self, blob: bytes, number: int = 7, *, namespace: str | None = None) -> None:
        names = self.names if namespace is None else Names.of(namespace)
        self.client.set(names.entry(f"contacts:{number}"), blob, px=3_600_000)

    def everything(self) -> bytes:
        """All that lies in Redis of the namespace, in one piece."""
        found = [b""]
        for name in cast("Iterator[bytes]", self.client.scan_iter(match=f"*{self.namespace}*")):
            kind = cast("bytes", self.client.type(name))
            value: Any = cast("Any", self.client).execute_command(*READS[kind](name))
            found += [name, value if isinstance(value, bytes) else repr(value).encode()]
        return b"\n".join(found)

    def close(self) -> None:
        for process in self._made:
            process.close()
        self.client.close()


@pytest.fixture
def processes(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> Iterator[Processes]:
    made = Processes(server, namespace, colour, loop)
    yield made
    made.close()


# --- what lies in Redis ---------------------------------------------------------------------------------------------------------------


def test_redis_holds_nothing_of_a_value(processes: Processes) -> None:
    """Not the value, nor a hash of it that guesses could be tried on. The text of the key and the tags are there, as documented."""
    writer = processes.new(compress_over="1B")
    contact = writer.read()
    digest = digest_of(codec_for(Contact).encode(contact))
    lying = processes.everything()
    assert SECRET.encode() not in lying
    assert digest not in lying
    sealed, _ = unseal(processes.blob())
    assert sealed.flags == COMPRESSED | ENCRYPTED
    assert sealed.key_id == 1
    assert sealed.dependencies == (Dependency("t", "region:7"),)
    assert processes.new().read() == contact


def test_other_processes_read_it(processes: Processes) -> None:
    """With the same key, whichever way it was stored, and nobody computes it again."""
    writer, reader = processes.new(), processes.new()
    assert writer.read() == reader.read()
    assert reader.computed == 0
    writer.do(writer.contact.set, Contact("set"), 8)
    assert reader.found(8) == Contact("set")
    writer.do(writer.contact.refresh, 9)
    assert reader.found(9) == Contact(f"{SECRET}-9", "x" * 200)
    with writer.update("contacts:10") as put:
        put(Contact("updated"))
    assert reader.found(10) == Contact("updated")
    assert writer.do(writer.contact.many, [(7,), (11,)])[1] == reader.found(11)
    for number in (7, 8, 9, 10, 11):
        assert unseal(processes.blob(number))[0].flags & ENCRYPTED
        assert SECRET.encode() not in processes.blob(number)
    assert reader.unreadable() == []


def test_the_same_value_is_never_the_same_bytes(processes: Processes) -> None:
    """A nonce is new for each fill, and names the fill where the content hash would."""
    writer = processes.new()
    blobs: list[bytes] = []
    for _ in range(20):
        writer.do(writer.contact.refresh, 7)
        blobs.append(processes.blob())
    assert len({blob[:IDENTITY] for blob in blobs}) == 20
    assert len({unseal(blob)[0].digest[:NONCE_BYTES] for blob in blobs}) == 20
    assert len({bytes(unseal(blob)[1][:16]) for blob in blobs}) == 20


def test_a_policy_that_does_not_encrypt_pays_nothing(processes: Processes) -> None:
    """Its entries are as before, though there are keys; and it reads what was encrypted before it was switched off."""
    encrypting, plain = processes.new(), processes.new(encrypt=False)
    contact = encrypting.read()
    assert plain.found() == contact
    plain.read(8)
    header, payload = unseal(processes.blob(8))
    assert (header.flags, header.key_id, header.digest) == (0, 0, digest_of(payload))


def test_what_failed_does_not_say_why_in_redis(processes: Processes) -> None:
    """The text of an exception may hold the value: other processes are told its class only."""
    failing, other = processes.new(failing=True, errors="1m"), processes.new(errors="1m")
    with pytest.raises(ValueError, match=SECRET):
        failing.read()
    lying = processes.everything()
    assert b"ValueError" in lying
    assert SECRET.encode() not in lying
    with pytest.raises(RestingError, match=r"left alone for 60 s: ValueError$"):
        other.read()


# --- keys ---------------------------------------------------------------------------------------------------------------------------


def test_keys_are_rotated_while_everybody_reads(processes: Processes) -> None:
    """First all learn the new key, then they write with it, then the old one goes: at no step a fresh value is computed again."""
    old, learnt = processes.new(ONE), processes.new(f"{ONE},{TWO}")
    contact = old.read()
    assert learnt.read() == contact
    switched = processes.new(f"{TWO},{ONE}")
    assert switched.read() == contact, "the new key encrypts, and the old one decrypts"
    switched.read(8)
    assert unseal(processes.blob(8))[0].key_id == 2
    assert learnt.read(8) == switched.read(8), "who has learnt it reads it"
    last = processes.new(TWO)
    assert last.read(8) == switched.read(8)
    assert (learnt.computed, switched.computed, last.computed) == (0, 1, 0)
    assert learnt.unreadable() == switched.unreadable() == last.unreadable() == []


def test_an_entry_of_a_retired_key_is_a_miss_with_an_event(processes: Processes) -> None:
    """Its caller gets a value; the new entry takes its place."""
    processes.new(ONE).read()
    late = processes.new(TWO)
    assert late.found() is MISSING
    assert late.read() == Contact(f"{SECRET}-7", "x" * 200)
    assert late.computed == 1
    assert set(late.unreadable()) == {"it is encrypted with key 1, which is not known here (CACHESYNC_ENCRYPTION_KEYS)"}
    assert unseal(processes.blob())[0].key_id == 2


def test_a_number_that_was_given_to_another_key_is_noticed(processes: Processes) -> None:
    """The wrong key opens nothing."""
    processes.new(ONE).read()
    other = processes.new("1:" + TWO.partition(":")[2])
    assert other.found() is MISSING
    assert ["it was changed" in told for told in other.unreadable()] == [True]


def test_without_any_key_encrypted_entries_are_misses(processes: Processes) -> None:
    """A process whose policy does not encrypt may have none."""
    processes.new(ONE).read()
    keyless = processes.new(None, encrypt=False)
    assert keyless.found() is MISSING
    assert keyless.unreadable() == ["it is encrypted with key 1, which is not known here (CACHESYNC_ENCRYPTION_KEYS)"]
    keyless.read()
    assert unseal(processes.blob())[0].flags == 0


# --- whoever can write to Redis -------------------------------------------------------------------------------------------------------


def test_a_blob_that_was_moved_is_refused(processes: Processes) -> None:
    """To another key, and to another namespace: one contact is not passed off as another."""
    namespace = processes.namespace + "b"
    process, elsewhere = processes.new(), processes.new(namespace=namespace)
    process.read(7)
    elsewhere.read(1)
    processes.put(processes.blob(7), 8)
    processes.put(processes.blob(7), 7, namespace=namespace)
    for reader, number in ((process, 8), (elsewhere, 7)):
        assert reader.found(number) is MISSING
        assert ["encrypted for another key or namespace" in told for told in reader.unreadable()] == [True]


def test_every_byte_counts(processes: Processes) -> None:
    """Whichever is changed, in the header or after it, the entry is a miss, and an event says so."""
    process, reader = processes.new(), processes.new()
    process.read()
    blob = processes.blob()
    assert len(blob) > IDENTITY + TAG_BYTES
    served: list[int] = []
    for place in range(len(blob)):
        processes.put(blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :])
        if reader.found() is not MISSING:
            served.append(place)
    assert served == []
    assert len(reader.unreadable()) == len(blob)
    processes.put(blob)
    assert reader.found() == process.read(), "as it was, it is served"


def test_what_is_cut_off_or_added_counts(processes: Processes) -> None:
    """At any length."""
    process, reader = processes.new(), processes.new()
    process.read()
    blob = processes.blob()
    for other in (*(blob[:end] for end in range(len(blob))), blob + b"\x00"):
        processes.put(other)
        assert reader.found() is MISSING
    assert len(reader.unreadable()) == len(blob) + 1


def test_a_plain_entry_is_refused_where_the_policy_encrypts(processes: Processes) -> None:
    """Else whoever can write to Redis could leave the encryption out; and what lies there from before is replaced."""
    plain, process = processes.new(encrypt=False), processes.new()
    plain.do(plain.contact.set, Contact("planted"), 7)
    assert process.found() is MISSING
    assert process.unreadable() == ["it is not encrypted, and its policy says encrypt = true"]
    assert process.read().name == f"{SECRET}-7"
    assert SECRET.encode() not in processes.blob()


def test_invalidations_and_sweeps_need_no_keys(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of an operator judge what is in the header; they read no value."""
    process = processes.new()
    for number in (1, 2, 3):
        process.read(number)
    settings = Settings(namespace=processes.namespace, redis=RedisSettings(processes.server.url), policies=process.cache.settings.policies)
    named = Named(("contacts:1",), ("region:2",))
    assert invalidate(settings, named, Manner(soft=False, timeout=LONG, as_json=False), out=sys.stdout, errors=sys.stderr) == 0
    assert sweep(settings, as_json=False, out=sys.stdout, errors=sys.stderr) == 0
    assert "1 dead and deleted" in capsys.readouterr().out
    assert read_log(process.cache)
    assert [process.found(number) is MISSING for number in (1, 2, 3)] == [True, True, False]


# --- at start -------------------------------------------------------------------------------------------------------------------------


def refused(**settings: Any) -> str:
    policy = Policy(name="contacts", match="contacts:*", ttl="1h", encrypt=True)
    with pytest.raises(PolicyError) as wrong:
        Cache(policies=[policy], shared=MemoryShared(), listen=False, **settings)
    return str(wrong.value)


def test_a_policy_that_encrypts_needs_a_key() -> None:
    """At start, with what to do; not with the first value."""
    assert refused() == (
        "policy.contacts.encrypt: there is no key to encrypt with; make one with `cachesync key`, and set CACHESYNC_ENCRYPTION_KEYS"
        " (or encryption_keys=..., where a Cache is made from objects)"
    )


def test_it_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names it."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    assert refused(encryption_keys=ONE) == 'policy.contacts.encrypt: it needs the package cryptography: pip install "cachesync[crypto]"'
    plain = Policy(name="contacts", match="contacts:*", ttl="1h")
    assert Cache(policies=[plain], shared=MemoryShared(), encryption_keys=ONE, listen=False).settings.encryption_keys is not None


@pytest.mark.parametrize("switch", ["no shared layer", "off"])
def test_where_nothing_is_stored_outside_no_key_is_needed(switch: str) -> None:
    """One process alone, and the switch that bypasses every layer: a roll-back must not fail for want of a key."""
    policy = Policy(name="contacts", match="contacts:*", ttl="1h", encrypt=True)
    shared = None if switch == "no shared layer" else MemoryShared()
    cache = Cache(Settings(enabled=switch != "off"), policies=[policy], shared=shared, listen=False)

    @cache.cached("contacts:{number}")
    def contact(number: int) -> str:
        return str(number)

    assert contact(1) == "1"


def test_keys_come_from_the_environment() -> None:
    """Beside a file, and never from it."""
    text = '[policy.contacts]\nmatch = "contacts:*"\nttl = "1h"\nencrypt = true\n'
    found = parse_settings(text, "c.toml", "toml", {"CACHESYNC_ENCRYPTION_KEYS": f"{TWO}, {ONE}"})
    assert found.encryption_keys is not None
    assert found.encryption_keys.numbers == (2, 1)
    assert parse_settings(text, "c.toml", "toml").encryption_keys is None
    with pytest.raises(PolicyError, match="encryption_keys: "):
        parse_settings(f'encryption_keys = "{ONE}"\n' + text, "c.toml", "toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty; write 1:key, and make a key with `cachesync key`"),
        (" , ", "it is empty; write 1:key, and make a key with `cachesync key`"),
        (ONE.partition(":")[2], f"the key does not begin with its number and a colon; write 1:key (1 to {LARGEST_NUMBER})"),
        ("0" + ONE[1:], f"the key does not begin with its number and a colon; write 1:key (1 to {LARGEST_NUMBER})"),
        (f"{LARGEST_NUMBER + 1}" + ONE[1:], f"the key does not begin with its number and a colon; write 1:key (1 to {LARGEST_NUMBER})"),
        (f"{ONE},", f"key 2 of 2 does not begin with its number and a colon; write 1:key (1 to {LARGEST_NUMBER})"),
        ("1:hunter2", "the key has 5 bytes; AES-256 takes 32 bytes in base64, as `cachesync key` makes them"),
        ("1:hunter two", "the key is not base64; AES-256 takes 32 bytes in base64, as `cachesync key` makes them"),
        ("1:", "the key has 0 bytes; AES-256 takes 32 bytes in base64, as `cachesync key` makes them"),
        (f"{ONE},1:{TWO[2:]}", "the number 1 stands twice; give a new key a new number"),
        (f"{ONE},2:{ONE[2:]}", "key 2 of 2 is the same as an earlier one; make another with `cachesync key`"),
    ],
)
def test_a_mistake_in_the_keys_is_told_without_them(text: str, says: str) -> None:
    """Where it is, and what would be right; nothing of the secret."""
    with pytest.raises(PolicyError) as wrong:
        EncryptionKeys(text, where="environment: CACHESYNC_ENCRYPTION_KEYS")
    assert wrong.value.problems == (f"environment: CACHESYNC_ENCRYPTION_KEYS: {says}",)
    assert "hunter" not in str(wrong.value)


@given(st.text(), st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES))
def test_no_text_makes_it_show_a_key(beside: str, key: bytes) -> None:
    """Neither its mistakes nor what is printed of it hold any eight characters of it."""
    encoded = base64.b64encode(key).decode()
    try:
        shown = repr(EncryptionKeys(f"{beside},1:{encoded}"))
    except PolicyError as error:
        shown = str(error)
    assert not any(encoded[at : at + 8] in shown for at in range(len(encoded) - 7))


@given(st.integers(1, LARGEST_NUMBER))
def test_a_new_key_can_be_used(number: int) -> None:
    """With the padding or without."""
    text = new_key(number)
    assert EncryptionKeys(text).by_number == EncryptionKeys(text.rstrip("=")).by_number
    assert EncryptionKeys(text).numbers == (number,)
    assert text not in repr(EncryptionKeys(text)) + repr(Settings(encryption_keys=EncryptionKeys(text)))


def test_a_wrong_text_in_code_is_a_mistake() -> None:
    """Under the name of the argument."""
    assert refused(encryption_keys="1:short").startswith("encryption_keys: the key ")
    assert refused(encryption_keys=ONE.encode()) == "encryption_keys: they are given as a text, 1:key"


# --- the command line -----------------------------------------------------------------------------------------------------------------


def test_the_command_makes_a_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the next number, so that it can be added to those that are there."""
    monkeypatch.delenv("CACHESYNC_ENCRYPTION_KEYS", raising=False)
    made: list[str] = []
    for number in (1, 2, 3):
        assert main(["key"]) == 0
        made.append(capsys.readouterr().out.strip())
        monkeypatch.setenv("CACHESYNC_ENCRYPTION_KEYS", ",".join(made))
        assert EncryptionKeys(",".join(made)).numbers[-1] == number
    assert main(["key", "--number", "2027"]) == 0
    assert capsys.readouterr().out.startswith("2027:")


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable, or with the number."""
    monkeypatch.setenv("CACHESYNC_ENCRYPTION_KEYS", "hunter2")
    assert main(["key"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("environment: CACHESYNC_ENCRYPTION_KEYS: the key does not begin with its number")
    for number in ("0", str(LARGEST_NUMBER + 1), "one", "-1"):
        with pytest.raises(SystemExit):
            main(["key", f"--number={number}"])
        assert "is not a number of a key" in capsys.readouterr().err


def test_check_says_where_keys_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no mistake of the file: whoever checks it need not have the secret. Numbers are shown, keys are not."""
    file = tmp_path / "c.toml"
    file.write_text('[policy.contacts]\nmatch = "contacts:*"\nttl = "1h"\nencrypt = true\n')
    monkeypatch.delenv("CACHESYNC_ENCRYPTION_KEYS", raising=False)
    assert main(["check", str(file)]) == 0
    assert "CACHESYNC_ENCRYPTION_KEYS is not set here: an application needs it, to encrypt contacts." in capsys.readouterr().out
    monkeypatch.setenv("CACHESYNC_ENCRYPTION_KEYS", f"{TWO},{ONE}")
    assert main(["check", str(file)]) == 0
    assert "CACHESYNC_ENCRYPTION_KEYS" not in capsys.readouterr().out
    assert main(["check", str(file), "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown)["encryption_keys"] == [2, 1]
    assert TWO[2:] not in shown


# --- the keyring ----------------------------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=20)


def ring(namespace: str = "shop", keys: str = ONE) -> Keyring:
    return Keyring(EncryptionKeys(keys), namespace)


def opened_by(keyring: Keyring, key: str, blob: bytes) -> bytes:
    header, payload = unseal(blob)
    return opened(keyring, key, header, blob, payload)


@given(TEXTS, TEXTS, st.binary(max_size=200))
def test_what_was_sealed_is_opened_in_its_place(namespace: str, key: str, payload: bytes) -> None:
    """Whatever the texts and the payload are."""
    blob = ring(namespace).seal(key, HEAD, payload)
    assert opened_by(ring(namespace), key, blob) == payload
    header, sealed = unseal(blob)
    assert len(sealed) == len(payload) + TAG_BYTES
    assert header == HEAD._replace(flags=ENCRYPTED, key_id=1, digest=header.digest)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_no_other_place_opens_it(namespace: str, key: str, other_namespace: str, other_key: str) -> None:
    """Also where namespace and key, one after the other, are the same text."""
    blob = ring(namespace).seal(key, HEAD, b"payload")
    pairs = {(other_namespace, other_key), (namespace + key, ""), ("", namespace + key), (namespace + key[:1], key[1:])} - {
        (namespace, key)
    }
    for elsewhere, another in pairs:
        with pytest.raises(EnvelopeError):
            opened_by(ring(elsewhere), another, blob)


@given(st.integers(0, LARGEST_NUMBER), st.binary(max_size=60), st.lists(st.tuples(st.just("t"), TEXTS), max_size=3))
def test_bytes_that_nobody_has_sealed_are_refused(number: int, payload: bytes, tags: list[tuple[str, str]]) -> None:
    """Of any length, under any number, with an error that means a miss."""
    dependencies = tuple(itertools.starmap(Dependency, tags)) or NO_DEPENDENCIES
    header = HEAD._replace(flags=ENCRYPTED, key_id=number, dependencies=dependencies)
    with pytest.raises(EnvelopeError):
        opened_by(ring(), "a", seal(header, payload))


SEALED = (
    "6353010200000065000000000000000000000000000000070000000000000000000000000000000100000000000000020000000000000003"
    "00000000000000040000000500000001bfa42fe73d6216bbad3af53c000000000001740008726567696f6e3a37566d86a4dff462d373b7cd"
    "5fb9134fefecdf1d9772411e6f97"
)
"""What was sealed under ``contacts:7`` of the namespace ``shop`` with the key `ONE`."""


def test_the_format_is_fixed() -> None:
    """An entry that was written once can be read by later versions."""
    assert opened_by(ring("shop", f"{TWO},{ONE}"), "contacts:7", bytes.fromhex(SEALED)) == b"a payload"
