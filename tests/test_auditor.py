"""The auditor: it asks every process what it would serve, and notices one whose mechanism fails."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from cachesync import Cache, MemoryShared, Policy, RedisShared, Settings
from cachesync.coordination import auditor
from cachesync.coordination.auditor import Auditor
from cachesync.core.auditing import Question, is_question, read_question
from cachesync.core.bans import BanIndex
from cachesync.core.records import EVERYTHING, KEY, TAG, Kind, Targets, to_fields
from cachesync.core.settings import CoordinationSettings
from cachesync.core.stamps import Stamp
from cachesync.protocols import Shared
from support.nodes import engine_of, operations_of, until
from support.servers import Servers

Load = Callable[[int], int]


@pytest.fixture(autouse=True)
def _ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions come after a tenth of a second, and twice."""
    monkeypatch.setattr(auditor, "DELAYS", (0.1, 0.2))
    monkeypatch.setattr(auditor, "ANSWER_TIME", 0.1)


@contextmanager
def _nodes(shared: Callable[[], Shared]) -> Generator[tuple[tuple[Cache, Load], tuple[Cache, Load]]]:
    """Two processes of one system, of which the first audits everything."""
    made: list[tuple[Cache, Load]] = []
    for share in (1.0, 0.0):
        coordination = CoordinationSettings(audit=share, max_lag=2.0)
        policies = [Policy(name="items", match="items:*", ttl="1h")]
        cache = Cache(Settings(coordination=coordination), policies=policies, namespace="audit", shared=shared())

        @cache.cached("items:{number}", tags=["all"])
        def load(number: int) -> int:
            return number

        made.append((cache, load))
    try:
        yield made[0], made[1]
    finally:
        for cache, _ in made:
            cache.close()


def _redis(servers: Servers) -> Callable[[], Shared]:
    servers.flush("audit")
    return lambda: RedisShared(servers["valkey9"].url, namespace="audit")


def _audits_of(cache: Cache) -> int:
    auditing: Auditor = getattr(operations_of(cache), "_auditor")  # noqa: B009 - private
    audits: list[object] = getattr(auditing, "_audits")  # noqa: B009
    return len(audits)


@pytest.mark.parametrize("on_redis", [False, True])
@pytest.mark.parametrize("target", ["items:1", "tag", "*"])
def test_a_process_that_goes_on_serving_is_a_violation(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, target: str, *, on_redis: bool
) -> None:
    """A process whose index forgets what it is told serves the old copy: the audit of the process that invalidated counts it."""
    monkeypatch.setattr(auditor, "DELAYS", tuple(0.1 * time for time in range(1, 100)))  # a process that is held up answers a later one
    memory = MemoryShared()
    with _nodes(_redis(servers) if on_redis else lambda: memory) as ((first, load), (second, other)):
        violations: list[str] = []
        first.on_event(lambda event: violations.append(event.fields["served"]) if event.name == "violation" else None)
        warm = first.invalidate("items:0")
        until(lambda: second.stamp() == warm)  # it listens
        assert (load(1), other(1)) == (1, 1)
        broken, add = engine_of(second).ledger.bans, BanIndex.add

        def add_to_others(index: BanIndex, kind: Kind, text: str, number: int) -> None:
            if index is not broken:
                add(index, kind, text, number)

        monkeypatch.setattr(BanIndex, "add", add_to_others)
        stamp = first.invalidate(tags=["all"]) if target == "tag" else first.invalidate(target)
        until(lambda: second.stamp() == stamp)
        assert other(1) == 1  # it serves what was invalidated
        assert second.peek("items:1") is not None
        until(lambda: (other(1), first.stats().log.violations >= 1)[1])  # it goes on serving it
        assert violations[0].startswith("1 by ")
        assert second.stats().log.violations == 0


@pytest.mark.parametrize("on_redis", [False, True])
def test_a_system_that_works_has_no_violations(servers: Servers, *, on_redis: bool) -> None:
    """Two audits of each invalidation, with copies that were computed anew since then, find nothing."""
    memory = MemoryShared()
    with _nodes(_redis(servers) if on_redis else lambda: memory) as ((first, load), (second, other)):
        for round_ in range(3):
            assert (load(1), other(1), load(round_), other(round_)) == (1, 1, round_, round_)
            first.invalidate("items:1", tags=["all"])
        assert _audits_of(first) == 3
        until(lambda: (other(1), _audits_of(first))[1] == 0)
        assert first.stats().log.violations == second.stats().log.violations == 0


def test_what_is_not_hard_or_has_no_key_is_not_audited() -> None:
    """Soft invalidations, prefixes and values that were set are not asked for."""
    memory = MemoryShared()
    with _nodes(lambda: memory) as ((first, load), _):
        load(1)
        first.invalidate("items:1", soft=True)
        first.invalidate("items:*")
        first.set("items:1", 5)
        assert _audits_of(first) == 0
        first.invalidate("items:*", "items:1")
        assert _audits_of(first) == 1


@pytest.mark.parametrize("kind", [KEY, TAG, EVERYTHING])
def test_a_question_comes_back_as_it_was_asked(kind: str) -> None:
    """It is told apart from a record, whatever stands in its texts."""
    question = Question("0a", Targets(kind, ('q"', "é\x00", "{q}")), Stamp("ab" * 8, 7))  # type: ignore[arg-type]  # a literal
    message = question.to_message()
    assert is_question(message)
    assert read_question(message) == question
    assert not is_question(to_fields(question.targets, nonce="", origin="")[3])
