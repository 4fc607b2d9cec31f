"""Masking: fields of keys that no event, log record, error or command shows, while keys work as before."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import (
    MISSING,
    Cache,
    CodecError,
    KeyArgumentError,
    KeyTemplateError,
    MemoryShared,
    OverdueError,
    Policy,
    RestingError,
    Settings,
)
from cachesync.cli import main
from cachesync.command_line.tail import JsonLines, Lines
from cachesync.coordination.events import CATALOGUE, Event, EventName, Events
from cachesync.coordination.masking import Masking
from cachesync.core.masking import MASK, of_pattern
from cachesync.core.patterns import Pattern
from cachesync.core.policies import Policies
from cachesync.core.records import Record, Targets
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Failed, Fetch
from cachesync.errors import LayerError
from cachesync.layers.redis_line import failed
from cachesync.layers.redis_wire import WireError
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, engine_of, operations_of, read_log, until
from support.servers import Server

PHONE = "0812-5550"
MASKED = Policy(name="contacts", match="contacts:*", ttl="1h", mask=["phone"], tags=["people"])
PLAIN = Policy(name="stores", match="stores:*", ttl="1h", tags=["shops"])


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


def cache_of(*policies: Policy, **others: Any) -> Cache:
    patient = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=10_000.0))
    return Cache(patient, policies=policies, listen=False, **others)


def masking_of(cache: Cache) -> Masking:
    masking = engine_of(cache).events.masking
    assert masking is not None
    return masking


# --- fields -----------------------------------------------------------------------------------------------------------------------------


class Person:
    phone = PHONE
    name = "ida"


@pytest.mark.parametrize(
    ("template", "masks", "shown"),
    [
        ("contacts:{phone}", ["phone"], "contacts:***"),
        ("contacts:{phone}", ["phone", "phone"], "contacts:***"),
        ("contacts:{name}:by-{phone}-x", ["phone"], "contacts:ida:by-***-x"),
        ("contacts:{name}:{phone}", ["phone", "name"], "contacts:***:***"),
        ("contacts:{person.name}:{person.phone}", ["phone"], "contacts:ida:***"),
        ("contacts:{person.name}:{person.phone}", ["person.phone"], "contacts:ida:***"),
        ("contacts:{person.name}:{person.phone}", ["person"], "contacts:***:***"),
    ],
)
def test_a_policy_names_fields_of_its_keys(template: str, masks: list[str], shown: str) -> None:
    """As a placeholder, or as one part of its path; the others are shown."""
    cache = cache_of(Policy(name="contacts", match="contacts:*", ttl="1h", mask=masks))
    if "person" in template:

        @cache.cached(template)
        def by_person(person: Person) -> str:
            return ""

        key = by_person.key(Person())
    elif "name" in template:

        @cache.cached(template)
        def by_both(name: str, phone: str) -> str:
            return ""

        key = by_both.key("ida", PHONE)
    else:

        @cache.cached(template)
        def by_phone(phone: str) -> str:
            return ""

        key = by_phone.key(PHONE)
    assert PHONE in key
    assert masking_of(cache).key(key) == shown


def test_a_name_that_is_no_field_is_refused_at_decoration() -> None:
    """A misspelled one would be shown."""
    cache = cache_of(Policy(name="contacts", match="contacts:*", ttl="1h", mask=["phone", "mail"]))
    with pytest.raises(KeyTemplateError) as wrong:

        @cache.cached("contacts:{phone}:{kind}")
        def contact(phone: str, kind: str) -> str:
            return ""

    assert str(wrong.value).endswith(
        "policy 'contacts' masks 'mail', which is no field of 'contacts:{phone}:{kind}' (its fields: \"phone\", \"kind\");"
        " mend the name, or give keys without that field a policy of their own"
    )


def test_a_key_of_no_function_shows_what_its_policy_says() -> None:
    """Where its fields are is not known, so all that a star stands for is masked."""
    masking = Masking(Policies([MASKED, PLAIN, Policy(name="deep", match="deep:*:x:*", ttl=1, mask=["a"])]))
    assert masking.key(f"contacts:{PHONE}") == "contacts:***"
    assert masking.key("deep:a:x:b") == "deep:***:x:***"
    assert masking.key("stores:JKT") == "stores:JKT"
    assert masking.key(f"contact:{PHONE}") == MASK, "a slip: no policy has it, and nobody knows what it holds"


def test_a_key_that_does_not_fit_its_function_shows_what_its_policy_says() -> None:
    """As one that was written by hand."""
    cache = cache_of(MASKED)

    @cache.cached("contacts:{number}:{phone}")
    def contact(number: int, phone: str) -> str:
        return ""

    assert masking_of(cache).key(contact.key(1, PHONE)) == "contacts:1:***"
    assert masking_of(cache).key(f"contacts:{PHONE}:1") == "contacts:***"
    assert masking_of(cache).key(f"contacts:{PHONE}") == "contacts:***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("*", "*"),
        ("contacts:*", "contacts:*"),
        ("cont*", "cont*"),
        (f"contacts:{PHONE}*", "contacts:***"),
        (f"contacts:*{PHONE}", "contacts:***"),
        (f"cont*{PHONE}", "cont***"),
        (f"*{PHONE}", MASK),
        ("*:stats", MASK),
        ("stores:J*", "stores:J*"),
        (f"contact-{PHONE}:*", MASK),
        (f"contacts:{PHONE}", "contacts:***"),
        ("stores:JKT", "stores:JKT"),
        ("stores:\x00*", MASK),
    ],
)
def test_a_pattern_shows_what_the_policy_file_says_anyway(text: str, shown: str) -> None:
    """What it has in common with the patterns of the policies that mask; all of it, where none of its keys is masked."""
    assert Masking(Policies([MASKED, PLAIN])).pattern(text) == shown


@given(st.text("ab:*", min_size=1), st.text("ab:*", min_size=1))
def test_no_pattern_shows_more_than_its_policy(match: str, text: str) -> None:
    """Letters that are shown are those with which the policy's own pattern begins."""
    policy, pattern = Policy(name="a", match=match, ttl=1, mask=["a"]), Pattern.parse(text)
    shown = of_pattern(pattern, [policy])
    assert policy.pattern.prefix.startswith(shown.rstrip("*"))
    assert shown == pattern.text or shown.endswith(MASK)


@given(st.text("0123456789 :%é", min_size=1), st.text("0123456789 :%é", min_size=1))
def test_what_is_shown_does_not_depend_on_what_is_hidden(one: str, other: str) -> None:
    """Two phones make one text: of keys, patterns, tags, events."""
    cache = cache_of(MASKED, PLAIN)

    @cache.cached("contacts:{phone}:{kind}", tags=["phone:{phone}"])
    def contact(phone: str, kind: str) -> str:
        return ""

    shown = []
    for phone in (one, other):
        masking, key = masking_of(cache), contact.key(phone, "private")
        texts = [masking.key(key), masking.pattern(key + "*"), masking.pattern("contacts:" + phone.replace("*", "") + "*")]
        texts += [masking.tag(tag) for tag in contact.tags(phone, "private")]
        event = masking.fields({"key": key, "policy": "contacts", "error": f"what of {key}?", "patterns": [key], "tags": [phone]})
        shown.append((texts, event))
    assert shown[0] == shown[1]


def test_tags_are_shown_where_it_is_known_what_they_are_made_of() -> None:
    """Those of the policy file, and those of functions without what is masked there. Others may be made of anything."""
    cache = cache_of(MASKED, PLAIN)

    @cache.cached("contacts:{name}:{phone}", tags=["name:{name}", "phone:{phone}", "both:{phone}-x", "known"])
    def contact(name: str, phone: str) -> str:
        return ""

    @cache.cached("stores:{code}", tags=["region:{code}", "phone:{code}"])
    def store(code: str) -> str:
        return ""

    masking = masking_of(cache)
    shown = {tag: masking.tag(tag) for tag in ("people", "shops", "known", "name:ida", "region:java", f"both:{PHONE}-x")}
    assert shown == {
        **{tag: tag for tag in ("people", "shops", "known", "name:ida", "region:java")},
        f"both:{PHONE}-x": "both:***-x",
    }
    assert masking.tag(f"phone:{PHONE}") == MASK, "two functions have it, and one of them masks"
    assert masking.tag(PHONE) == MASK
    assert Masking(Policies([MASKED, PLAIN])).tag("name:ida") == MASK, "a command knows no function"


def test_where_nothing_is_masked_everything_is_shown() -> None:
    """And nobody looks at it."""
    cache = cache_of(PLAIN)
    assert engine_of(cache).events.masking is None
    masking = Masking(Policies([PLAIN]))
    fields = {"key": "a", "tags": ["b"], "patterns": ["x:*"], "error": "a"}
    assert masking.fields(fields) == fields
    assert (masking.key("a"), masking.pattern("x:*"), masking.tag("b"), masking.text("a", "a")) == ("a", "x:*", "b", "a")


# --- events -----------------------------------------------------------------------------------------------------------------------------


FIELDS = {name: about.rpartition(". ")[2].split(", ") for name, (_, about) in CATALOGUE.items()}


@pytest.mark.parametrize("name", [name for name, fields in FIELDS.items() if {"key", "patterns"} & set(fields)])
def test_every_event_about_a_key_is_masked(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its fields are: for listeners, and in the log."""
    caplog.set_level(logging.DEBUG, logger="cachesync")
    cache = cache_of(MASKED, PLAIN)

    @cache.cached("contacts:{phone}", tags=["phone:{phone}"])
    def contact(phone: str) -> str:
        return ""

    events, told = Events(), list[Event]()
    events.masking = masking_of(cache)
    events.add(told.append)
    holding = {
        "key": contact.key(PHONE),
        "patterns": [contact.key(PHONE), f"contacts:{PHONE}*"],
        "tags": list(contact.tags(PHONE)),
        "error": f"ValueError({PHONE!r} is not known)",
        "policy": "contacts",
    }
    events.send(cast("EventName", name), **{field: holding.get(field, 7) for field in FIELDS[name]})
    assert PHONE not in repr(told) + str(told[0]) + caplog.text
    assert set(told[0].fields) == set(FIELDS[name])


class Raising:
    """A codec of a program's own."""

    name = "raising"

    def encode(self, value: object, /) -> bytes:
        if value == PHONE:
            raise ValueError(f"{value!r} is a phone")
        return str(value).encode()

    def decode(self, payload: bytes | memoryview, /) -> Any:
        raise CodecError(f"{bytes(payload).decode()} of {PHONE} can not be read")


class World:
    """Two caches on one layer, whose function does what it is told; every event and every log record is kept."""

    def __init__(self, colour: Colour, loop: LoopThread, **options: Any) -> None:
        self.clock, self.events = FakeClock(), list[Event]()
        self.shared = MemoryShared(self.clock.monotonic)
        policy = Policy(name="contacts", match="contacts:*", ttl=10, mask=["phone"], **options)
        self.callers = [
            Caller(cache_of(policy, shared=self.shared, clock=self.clock, on_event=self.events.append), colour, loop) for _ in range(2)
        ]
        self.answer: Any = 1
        self.contacts = [self._contact(caller) for caller in self.callers]

    def _contact(self, caller: Caller) -> Any:
        @caller.cached("contacts:{kind}:{phone}", codec=Raising())
        async def contact(kind: str, phone: str) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return contact

    def read(self, which: int = 0) -> Any:
        return self.callers[which].do(self.contacts[which], "private", PHONE)

    def told(self, name: str) -> dict[str, Any]:
        """The last event of a name."""
        return dict([event.fields for event in self.events if event.name == name][-1])


def test_what_happens_to_a_masked_key_is_told_without_it(colour: Colour, loop: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    """A spare, a computation that is left alone, a refresh that fails, bytes that can not be read, a value that is not stored."""
    caplog.set_level(logging.DEBUG, logger="cachesync")
    world = World(colour, loop, stale_while_revalidate=10, stale_if_error=100, errors=1)
    world.read()
    world.clock.advance(15)
    world.answer = ValueError(f"{PHONE} is not known")
    assert world.read() == 1, "stale, and refreshed behind the caller's back"
    until(lambda: any(event.name == "refresh_failed" for event in world.events), "the refresh")
    assert world.told("refresh_failed") == {"key": "contacts:private:***", "policy": "contacts", "error": "ValueError"}
    assert world.told("left_alone")["error"] == "ValueError"
    world.clock.advance(20)
    assert world.read() == 1
    assert world.told("spare_served")["key"] == "contacts:private:***"
    assert world.told("spare_served")["error"] == "ValueError"
    with pytest.raises(RestingError) as resting:
        world.read(1)
    assert world.told("unreadable")["error"] == "CodecError"
    assert str(resting.value).startswith("contacts:private:***: its computation failed")
    world.clock.advance(200)
    world.answer = PHONE
    assert world.read() == PHONE
    assert world.told("not_stored")["error"] == "ValueError"
    stamp = world.callers[0].drop(f"contacts:private:{PHONE}", f"contacts:private:{PHONE[:4]}*", tags=[PHONE])
    assert not stamp.pending
    assert world.told("invalidated") == {"patterns": ["contacts:private:***", "contacts:***"], "tags": [MASK], "stamp": str(stamp)}
    assert PHONE[:4] not in caplog.text + repr([str(event) for event in world.events])


def test_masking_changes_nothing_of_what_is_done(colour: Colour, loop: LoopThread) -> None:
    """Redis has the keys as they are: values are found, and invalidations reach them."""
    world = World(colour, loop)
    key = world.contacts[0].key("private", PHONE)
    assert key == f"contacts:private:{PHONE}"
    world.read()
    world.callers[1].drop(key)
    assert read_log(world.callers[0].cache)
    world.answer = 2
    assert world.read() == 2


def test_errors_do_not_show_what_is_masked(colour: Colour, loop: LoopThread) -> None:
    """Those that a caller is given, because programs log them."""
    world = World(colour, loop)
    caller = world.callers[0]
    wrong: list[tuple[type[Exception], Any, tuple[Any, ...]]] = [
        (CodecError, world.contacts[0].set, (PHONE, "private", PHONE)),
        (KeyArgumentError, world.contacts[0], (object(), PHONE)),
        (KeyArgumentError, world.contacts[0], ("private", Unwritable())),
        (KeyArgumentError, caller.get, (f"contacts:{PHONE}*",)),
        (KeyArgumentError, caller.get, (f"contact:{PHONE}",)),
        (KeyArgumentError, caller.put, (f"contacts:{PHONE}*", 1)),
    ]
    for kind, ask, arguments in wrong:
        with pytest.raises(kind) as told:
            ask(*arguments) if ask in (caller.get, caller.put) else caller.do(ask, *arguments)
        assert PHONE not in str(told.value)
        assert told.value.__suppress_context__ or told.value.__context__ is None or kind is not KeyArgumentError


class Unwritable:
    """An argument that says too much when it is asked for its key."""

    def __cachesync_key__(self) -> str:
        raise ValueError(f"{PHONE} can not be written")


def test_a_computation_that_takes_too_long_is_told_without_its_key(colour: Colour, loop: LoopThread) -> None:
    """The error's text begins with the key."""
    world = World(colour, loop, hard_timeout=0.02)

    @world.callers[0].cache.cached("contacts:slow:{phone}:{kind}")
    async def slow(phone: str, kind: str) -> int:
        gate = loop.loop.create_future()
        loop.loop.call_later(0.2, gate.set_result, 1)
        return int(await gate)

    with pytest.raises(OverdueError, match=r"^contacts:slow:\*\*\*:private: its computation takes longer"):
        loop.run(slow(PHONE, "private"))


def test_what_a_layer_says_of_a_key_is_masked(colour: Colour, loop: LoopThread) -> None:
    """The text of a failure, where it holds the key; what a server sent is not shown at all."""
    world = World(colour, loop)
    engine, key = engine_of(world.callers[0].cache), f"contacts:private:{PHONE}"
    engine.failed(Fetch((key,)), Failed(LayerError(f"no {key} ({PHONE}) here")))
    assert world.told("layer_failed")["error"] == "no contacts:private:*** (***) here"
    engine.failed(Fetch((key,)), failed(Fetch((key,)), WireError(f"what is {PHONE!r}?")))
    assert world.told("layer_failed")["error"] == "what was sent can not be read"


def test_a_mistake_of_ours_is_told_by_where_it_is(colour: Colour, loop: LoopThread) -> None:
    """Its text may be about a key."""
    world = World(colour, loop)

    def wrong() -> None:
        raise KeyError(PHONE)

    operations_of(world.callers[0].cache).reader.told(wrong)
    assert world.told("reader_failed")["error"] == "KeyError"
    assert "in wrong" in world.told("reader_failed")["traceback"]
    assert PHONE not in world.told("reader_failed")["traceback"]


def test_what_failed_does_not_say_why_to_other_processes(colour: Colour, loop: LoopThread) -> None:
    """Its text would lie in Redis, and be shown by them."""
    world = World(colour, loop, errors=60)
    world.answer = ValueError(f"{PHONE} is not known")
    with pytest.raises(ValueError, match=PHONE):
        world.read()
    with pytest.raises(RestingError) as told:
        world.read(1)
    assert str(told.value).endswith(": ValueError")
    assert PHONE not in str(told.value)


# --- the command line -------------------------------------------------------------------------------------------------------------------

FILE = """\
namespace = "{namespace}"
[policy.contacts]
match = "contacts:*"
ttl = "1h"
mask = ["phone"]
tags = ["people"]
[policy.stores]
match = "stores:*"
ttl = "1h"
"""


@pytest.fixture
def file(tmp_path: Path, namespace: str) -> str:
    path = tmp_path / "cachesync.toml"
    path.write_text(FILE.format(namespace=namespace))
    return str(path)


def test_commands_show_what_the_policy_file_lets_them(
    server: Server, namespace: str, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tail``, for people and for programs, and ``invalidate``, where it says that it knows no policy for a text."""
    monkeypatch.setenv("CACHESYNC_REDIS_URL", server.url)
    assert (
        main(["invalidate", f"contacts:{PHONE}", f"contacts:{PHONE}*", "stores:JKT", f"contcts:{PHONE}", "--tag", PHONE, "--file", file])
        == 0
    )
    said = capsys.readouterr()
    assert f'matches "{MASK}"' in said.err
    for form in ([], ["--json"]):
        assert main(["tail", "--no-follow", "--file", file, *form]) == 0
        shown = capsys.readouterr()
        assert "contacts:***" in shown.out
        assert "stores:JKT" in shown.out
        assert PHONE not in shown.out + shown.err + said.out + said.err


def test_explain_and_check_say_what_is_masked(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``explain`` shows a key to whoever has typed it, and how others see it."""
    assert main(["explain", f"contacts:{PHONE}", "--file", file]) == 0
    assert 'in logs and events: "contacts:***"' in capsys.readouterr().out
    assert main(["explain", "stores:JKT", "--file", file]) == 0
    assert "in logs and events" not in capsys.readouterr().out
    assert main(["check", file]) == 0
    assert "mask phone" in capsys.readouterr().out


def test_a_record_is_printed_whole_where_nothing_is_masked() -> None:
    """Both printers, as before."""
    record, out = Record("e", 1, "c", "p", Targets("k", (f"contacts:{PHONE}",)), "o", 1), io.StringIO()
    Lines(out, out).record(record)
    JsonLines(out).record(record)
    assert out.getvalue().count(PHONE) == 2


def test_nothing_is_found_under_a_masked_text() -> None:
    """What is shown is no key: it can not be mistaken for one."""
    with pytest.raises(KeyArgumentError, match="is a pattern"):
        cache_of(MASKED).get("contacts:***", MISSING)
