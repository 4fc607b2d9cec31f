"""The soak: a short one is part of the suite, and its checker finds every kind of broken promise in a history that holds one.

A checker that can not fail proves nothing, so each rule has a history that keeps the promise and one that breaks it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachesync import CodecError, Event, LayerError, OverdueError, RestingError
from cachesync.core.entry import Held
from cachesync.testing import LocalLayerContract
from soak.chaos import Chaos, excuses
from soak.checker import RECOVERY, Rule, Verdict, check
from soak.crew import CrewError, Member
from soak.diary import Diary, recall
from soak.history import HOWS, Cut, Failover, Happened, History, Life, Read, Shown, Slow, Trouble, maker_number, maker_of
from soak.origin import OriginError
from soak.report import CHAOS, stories, story, table
from soak.run import Outcome, Soak, Wanted
from soak.watch import Watch
from soak.world import BY_TEXT, SHORT_TTL, STALE_WINDOW, THINGS, concerned, parts_of

EPOCH = "9f86d081884c7d65"
ITEM = BY_TEXT["items:a:1"]
MAX_LAG = 0.5


def read(
    text: str = "items:a:1", *, at: float, computed: float, how: str = "call", slot: int = 1, maker: int = 7, shows: str = "", **said: Any
) -> Read:
    """A read that began at ``at`` and showed what had been computed from ``computed`` on."""
    thing = BY_TEXT[shows or text].number
    given: dict[str, Any] = {"epoch": 0, "number": 0, "given": False, "is_stale": False, "is_final": False, "life": 0}
    return Read(
        began=at,
        ended=at + 0.01,
        shown_began=computed,
        maker=maker,
        version=3,
        thing=thing,
        via=BY_TEXT[text].number,
        slot=slot,
        how=HOWS.index(how),
        **(given | said),
    )


def cut(
    *patterns: str, began: float, ended: float | None = None, number: int | None = 5, slot: int = 0, how: str = "key", **said: Any
) -> Cut:
    """An acknowledged invalidation; without a number it is one that nobody was told of."""
    given: dict[str, Any] = {"life": 0, "tags": (), "stamp": None if number is None else f"{EPOCH}:{number}", "is_pending": number is None}
    return Cut(
        slot=slot,
        how=how,
        patterns=patterns or ("items:a:1",),
        began=began,
        ended=began + 0.01 if ended is None else ended,
        **(given | said),
    )


def judge(*found: Read | Cut | Life | Failover | Happened) -> Verdict:
    """What the checker says of a history."""
    history = History(
        reads=[one for one in found if isinstance(one, Read)],
        cuts=[one for one in found if isinstance(one, Cut)],
        lives=[one for one in found if isinstance(one, Life)],
        failovers=[one for one in found if isinstance(one, Failover)],
        faults=[one for one in found if isinstance(one, Happened)],
        max_lag=MAX_LAG,
    )
    return check(history)


def broken(verdict: Verdict) -> set[Rule]:
    """Which rules were broken."""
    assert {violation.rule for violation in verdict.violations} == {rule for rule, count in verdict.broken.items() if count}
    return {violation.rule for violation in verdict.violations}


# --- the rules --------------------------------------------------------------------------------------------------------------------


def test_the_invalidating_process_never_shows_an_older_value_once_the_call_returned() -> None:
    """Also while the log could not be told; before the call returned, and in another process, it may."""
    pending = cut(began=10.0, number=None, slot=1)
    assert broken(judge(pending, read(at=10.02, computed=9.9))) == {"own process"}
    assert not broken(judge(pending, read(at=10.005, computed=9.9)))
    assert not broken(judge(pending, read(at=10.02, computed=10.001)))
    assert not broken(judge(pending, read(at=99.0, computed=9.9, slot=2)))


def test_another_process_knows_of_an_acknowledged_cut_after_max_lag() -> None:
    """Within ``max_lag`` of the call's return it may not know yet, and the lag is measured."""
    known = cut(began=10.0, ended=10.1)
    assert broken(judge(known, read(at=10.61, computed=9.9))) == {"other process"}
    verdict = judge(known, read(at=10.5, computed=9.9))
    assert not broken(verdict)
    assert verdict.longest_lag == pytest.approx(0.4)


def test_a_process_that_begins_after_a_cut_knows_it_at_once() -> None:
    """There is no lag to wait for: what a new process reads, it reads from a log that has the cut."""
    known, born = cut(began=10.0), Life(slot=1, life=0, began=10.1)
    assert broken(judge(known, born, read(at=10.2, computed=9.9))) == {"other process"}


def test_a_strict_read_shows_nothing_older_than_any_cut_that_returned_before_it() -> None:
    """Without ``max_lag``; a cut that has not returned yet may be missed."""
    known = cut("exact:1", began=10.0)
    assert broken(judge(known, read("exact:1", at=10.02, computed=9.9, how="strict"))) == {"strict"}
    assert broken(judge(known, read("exact:1", at=10.02, computed=9.9, how="get"))) == {"strict"}
    assert not broken(judge(known, read("exact:1", at=10.005, computed=9.9, how="strict")))


def test_a_read_that_asks_for_a_stamp_shows_nothing_that_a_cut_up_to_it_concerns() -> None:
    """Whenever that was, and what had returned before that cut began; a higher number, or one of another epoch, does not bind it."""
    known = cut(began=10.0, ended=20.0, number=5)
    epoch = int(EPOCH, 16)
    assert broken(judge(known, read(at=11.0, computed=9.9, how="at_least", epoch=epoch, number=5))) == {"stamp"}
    assert not broken(judge(known, read(at=11.0, computed=9.9, how="at_least", epoch=epoch, number=4)))
    assert not broken(judge(known, read(at=11.0, computed=9.9, how="at_least", epoch=epoch + 1, number=9)))
    newer = cut("exact:1", began=20.1, ended=20.2, stamp="9f86d081884c7d66:9")
    assert broken(judge(known, newer, read(at=20.3, computed=9.9, how="at_least", epoch=epoch + 1, number=9))) == {"stamp"}


def test_when_all_is_quiet_cuts_that_had_to_wait_hold_everywhere() -> None:
    """A pending cut binds other processes then; that of a process that was killed may be lost."""
    waited = cut(began=10.0, number=None)
    late = read(at=99.0, computed=9.9, is_final=True)
    assert broken(judge(waited, late)) == {"final"}
    assert not broken(judge(waited, late, Life(slot=0, life=0, began=1.0, killed=11.0)))


def test_what_refresh_returns_was_computed_for_it() -> None:
    """A value from before the call is no refreshed one."""
    assert broken(judge(read(at=10.0, computed=9.9, how="refresh"))) == {"refresh"}
    assert not broken(judge(read(at=10.0, computed=10.1, how="refresh")))


def test_nothing_is_older_than_its_ttl_and_its_stale_window() -> None:
    """Age counts from when the computation began; a read that says its value is fresh has no window."""
    longest = SHORT_TTL + STALE_WINDOW
    assert broken(judge(read("short:0", at=10.0, computed=9.9 - longest))) == {"age"}
    assert not broken(judge(read("short:0", at=10.0, computed=10.0 - longest)))
    assert broken(judge(read("short:0", at=10.0, computed=10.0 - longest, how="peek"))) == {"age"}
    assert not broken(judge(read("short:0", at=10.0, computed=10.0 - longest, how="peek", is_stale=True)))


def test_a_number_is_given_once_and_in_order() -> None:
    """A stamp that was given twice, or that is lower than one that had been returned, orders nothing."""
    assert broken(judge(cut(began=10.0, number=5), cut(began=20.0, number=5))) == {"stamps"}
    assert broken(judge(cut(began=10.0, number=6), cut(began=20.0, number=5))) == {"stamps"}
    assert not broken(judge(cut(began=10.0, ended=20.1, number=6), cut(began=20.0, number=5)))
    assert not broken(judge(cut(began=10.0, number=6), cut(began=20.0, number=7)))


# --- what excuses -----------------------------------------------------------------------------------------------------------------


def test_a_soft_cut_lets_the_old_value_live_through_its_stale_window_and_no_longer() -> None:
    """A plain call may show it; one that says the value is fresh, or asks for more, may not."""
    soft = cut(began=10.0, ended=10.0, slot=1, is_soft=True)
    within, after = 10.0 + STALE_WINDOW / 2, 10.0 + STALE_WINDOW + 0.01
    assert not broken(judge(soft, read(at=within, computed=9.9)))
    assert broken(judge(soft, read(at=after, computed=9.9))) == {"own process"}
    assert broken(judge(soft, read(at=within, computed=9.9, how="peek"))) == {"own process"}
    assert not broken(judge(soft, read(at=within, computed=9.9, how="peek", is_stale=True)))
    assert broken(judge(soft, read(at=within, computed=9.9, how="at_least", epoch=int(EPOCH, 16), number=5))) == {"own process", "stamp"}


def test_a_process_that_hears_nothing_may_serve_stale_where_its_policy_says_so() -> None:
    """For a window beyond ``max_lag``; what is shown as fresh has none, nor has the process that made the cut."""
    known = cut("short:0", began=10.0, ended=10.0)
    within, after = 10.0 + MAX_LAG + STALE_WINDOW / 2, 10.0 + MAX_LAG + STALE_WINDOW + 0.01
    assert not broken(judge(known, read("short:0", at=within, computed=9.9)))
    assert broken(judge(known, read("short:0", at=after, computed=9.9))) == {"other process"}
    assert broken(judge(known, read("short:0", at=within, computed=9.9, how="peek"))) == {"other process"}
    assert broken(judge(known, read("short:0", at=10.01, computed=9.9, slot=0))) == {"own process"}


def test_a_value_that_was_set_counts_from_when_its_call_returned() -> None:
    """A cut that a ``set`` overlaps may be ordered before it; one that began later was not."""
    gave = cut(began=10.0, ended=11.0, number=4, how="set", own=7)
    shown = read(at=20.0, computed=9.9, given=True)
    assert not broken(judge(gave, cut(began=10.5), shown))
    assert broken(judge(gave, cut(began=11.5), shown)) == {"other process"}
    assert not broken(judge(cut(began=11.5), shown)), "nobody knows when a call returned whose process was killed"


def test_an_update_does_not_cut_its_own_value() -> None:
    """But it cuts older ones, and another cut that began after its value was obtained wins."""
    gave = cut(began=10.0, number=4, how="update", own=7)
    shown = read(at=20.0, computed=9.9, given=True)
    assert not broken(judge(gave, shown))
    assert broken(judge(gave, read(at=20.0, computed=9.9, maker=8))) == {"other process"}
    assert broken(judge(gave, cut(began=9.95, number=3), shown)) == {"other process"}


def test_a_failover_suspends_cuts_until_they_can_be_announced_again() -> None:
    """What was acknowledged after the replica heard no more is owed again some seconds later, unless who made it was killed, or in
    trouble itself; earlier cuts, and the process that made one, are not excused.
    """
    lost, earlier = cut(began=10.0), cut(began=5.0, number=4)
    failover = Failover(cut_off=9.0, ended=11.0)
    at_once, later = read(at=12.0, computed=9.9), read(at=11.0 + RECOVERY + MAX_LAG + 0.1, computed=9.9)
    assert not broken(judge(lost, failover, at_once))
    assert broken(judge(lost, failover, later)) == {"other process"}
    assert not broken(judge(lost, failover, later, Life(slot=0, life=0, began=1.0, killed=10.5)))
    assert not broken(judge(lost, failover, later, Happened(what="freeze", targets=frozenset({"worker 0"}), began=10.0, ended=12.0)))
    assert broken(judge(lost, failover, later, Happened(what="freeze", targets=frozenset({"worker 3"}), began=10.0, ended=12.0)))
    assert broken(judge(earlier, failover, read(at=12.0, computed=4.9))) == {"other process"}
    assert broken(judge(lost, failover, read(at=12.0, computed=9.9, slot=0))) == {"own process"}


# --- what an invalidation concerns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "tags", "text", "is_concerned"),
    [
        (("items:a:1",), (), "items:a:1", True),
        (("items:a:1",), (), "items:ab:1", False),
        (("items:a:*",), (), "items:ab:1", False),
        (("items:a*",), (), "items:ab:1", True),
        (("*s:a:1",), (), "items:a:1", True),
        (("it*:1",), (), "items:z:1", True),
        (("*",), (), "reports:2", True),
        ((), ("group:a",), "items:a:3", True),
        ((), ("group:a",), "items:ab:3", False),
        (("items:a:1",), (), "pages:1", True),
        (("items:a:1",), (), "pages:2", False),
        (("items:z:0",), (), "books:0", True),
        ((), ("number:2",), "pages:2", True),
        (("items:a:3",), (), "reports:0", True),
        (("items:a:3",), (), "reports:1", False),
        ((), ("group:a",), "reports:1", True),
        ((), ("group:a",), "reports:2", True),
        ((), ("group:a",), "reports:0", False),
    ],
)
def test_an_invalidation_concerns_what_it_matches_and_what_was_made_of_it(
    patterns: tuple[str, ...], tags: tuple[str, ...], text: str, is_concerned: bool
) -> None:
    """By key, pattern or tag; a page by the items that it calls, a report by what it says that it depends on."""
    assert (BY_TEXT[text].number in concerned(patterns, tags)) == is_concerned


def test_each_part_of_a_value_is_judged_by_itself() -> None:
    """A page that shows an old item breaks the promise about the item, however young the page is."""
    verdict = judge(cut(began=10.0), read("pages:1", shows="items:a:1", at=20.0, computed=9.9), read("pages:1", at=20.0, computed=15.0))
    assert [violation.read and THINGS[violation.read.thing].text for violation in verdict.violations] == ["items:a:1"]
    assert verdict.reads["call"] == 1


def test_the_parts_of_a_report_are_cut_with_the_report() -> None:
    """They are cached nowhere else."""
    report = BY_TEXT["reports:1"]
    assert parts_of(report)
    assert {part.number for part in parts_of(report)} < concerned(("reports:1",), ())


# --- what is written down ---------------------------------------------------------------------------------------------------------


def test_a_history_is_what_was_written_down(tmp_path: Path) -> None:
    """Reads, cuts, lives, troubles and counts come back from the files; a line that was torn by a kill is left out."""
    diary = Diary(tmp_path, slot=3, life=2)
    maker = diary.next_maker()
    made = cut(began=1.0, slot=3, life=2, versions=(1, 2))
    diary.life(began=0.5, shape="loop")
    diary.cut(made)
    diary.trouble("warning", "a coroutine was never awaited")
    diary.counts({"computed": 4})
    diary.slowest(Slow(0.25, 1.0, "call items:a:1"))
    diary.read("peek", ITEM.number, [Shown(ITEM.number, 9, 0.75, maker, given=True)], began=1.5, ended=1.75, is_stale=True)
    diary.flush()
    with (tmp_path / "3.2.notes").open("a") as torn:
        torn.write('["cut", {"slo')
    history = recall(tmp_path, max_lag=1.0, slack=0.0)
    assert history.cuts == [made]
    assert history.lives == [Life(slot=3, life=2, began=0.5, shape="loop")]
    assert [(trouble.slot, trouble.what) for trouble in history.troubles] == [(3, "warning")]
    assert history.counts == {"computed": 4}
    assert history.slowest == Slow(0.25, 1.0, "call items:a:1")
    expected = read(at=1.5, computed=0.75, how="peek", maker=maker, slot=3, life=2, given=True, is_stale=True)
    assert list(history.reads) == [expected._replace(ended=1.75, version=9)]
    assert maker_of(maker) == (3, 2, 1)
    assert maker_of(maker_number(255, 65_535, 5)) == (255, 65_535, 5)


def test_a_story_tells_who_read_what_and_what_happened_around_it() -> None:
    """The key, the versions, who made the value, the cuts with their stamps, and the faults."""
    known = cut(began=10.0, versions=tuple(range(100, 100 + len(THINGS))))
    fault = Happened(what="freeze", targets=frozenset({"worker 1"}), began=9.5, ended=10.5)
    history = History(reads=[read(at=10.7, computed=9.9, maker=maker_number(4, 1, 33))], cuts=[known], faults=[fault], max_lag=MAX_LAG)
    verdict = check(history)
    told = story(verdict.violations[0], history)
    for said in ("items:a:1", "version 3", f"version {100 + ITEM.number}", "worker 4.1", f"{EPOCH}:5", "freeze (worker 1)"):
        assert said in told
    assert stories(history, verdict.violations).startswith("--- other process")
    assert "violations 1" in table(history, verdict)


def test_a_hung_caller_an_exception_and_a_warning_are_trouble(tmp_path: Path) -> None:
    """What a watch sees of them is written down."""
    watch = Watch(Diary(tmp_path, slot=0, life=0), tmp_path / "stacks", limit=-1.0)

    def call() -> None:
        watch.look(time.monotonic())
        raise LookupError("surprise")

    with watch.over(), watch.call("call items:a:1"):
        call()
    watch.warned("a coroutine was never awaited", RuntimeWarning, "shop.py", 3)
    troubles = [trouble.what for trouble in recall(tmp_path, max_lag=1.0, slack=0.0).troubles]
    assert troubles == ["hung caller", "exception: LookupError", "warning: RuntimeWarning"]
    assert (tmp_path / "stacks").read_text()


def test_what_is_excused_is_told_from_what_is_not(tmp_path: Path) -> None:
    """In chaos computations take too long and rest, and a value may not be written; a plain call that says so is trouble, and so is a
    layer that failed.
    """
    watch = Watch(Diary(tmp_path, slot=0, life=0), tmp_path / "stacks", limit=60.0)
    watch.expect(excuses, events=frozenset({"unreadable"}))

    def end(what: str, error: Exception) -> None:
        with watch.over(), watch.call(what):
            raise error

    for error in (OriginError(), OverdueError("late"), RestingError("left alone")):
        end("call items:a:1", error)
    end("set items:a:1", CodecError("not written"))
    watch.event(Event("unreadable", {}))
    assert watch.failed == 4
    end("call items:a:1", CodecError("not written"))
    end("call items:a:1", LayerError("Redis, fetch: no answer in time"))
    watch.event(Event("reader_failed", {}))
    troubles = [trouble.what for trouble in recall(tmp_path, max_lag=1.0, slack=0.0).troubles]
    assert troubles == ["exception: CodecError", "exception: LayerError", "event reader_failed"]


def test_local_memory_in_chaos_is_local_memory(tmp_path: Path) -> None:
    """It loses copies and refuses some, and what it holds it holds. Nothing of it happens when all is to be quiet."""
    chaos = Chaos("redis://127.0.0.1:1/0", namespace="soak", seed="1.2.3", max_entries=100)
    shelf = chaos.local.shelf()
    made: list[Held] = []

    def put(number: int) -> None:
        with suppress(MemoryError):
            made.append(shelf.put(number, LocalLayerContract.make_held(number)))

    for number in range(300):
        put(number % 50)
    assert chaos.counts["local copy refused"]
    assert chaos.counts["local copies forgotten"]
    assert len(shelf) == chaos.local.usage().entries
    chaos.end()
    before = dict(chaos.counts)
    for number in range(300):
        put(number % 50)
    assert dict(chaos.counts) == before
    assert len(shelf) == 50
    assert chaos.told()["chaos, local copy refused"] == before["local copy refused"]


def test_a_worker_that_ends_of_itself_is_trouble(tmp_path: Path) -> None:
    """One that can not begin says so on its stderr, and whoever waits for it is told."""
    member = Member(tmp_path, 0, url="redis://127.0.0.1:1/0", shape="no such shape", options=("1", "--slots", "1"))
    member.start()
    with pytest.raises(CrewError, match="before it said 'ready'"):
        member.wait_for("ready")


def test_a_soak_is_clean_without_violations_and_without_trouble() -> None:
    """Each of the two is a failure."""
    trouble = Trouble(slot=0, life=0, at=1.0, what="hung caller", detail="call items:a:1")
    assert Outcome(History(), Verdict()).is_clean
    assert not Outcome(History(troubles=[trouble]), Verdict()).is_clean
    assert not Outcome(History(), judge(cut(began=10.0), read(at=99.0, computed=9.9))).is_clean


# --- the whole --------------------------------------------------------------------------------------------------------------------


def test_a_short_soak_in_chaos_keeps_every_promise(tmp_path: Path) -> None:
    """Layers, codecs and origins fail too, inside of every worker: steps, what is heard, local copies, values and computations."""
    said: list[str] = []
    wanted = Wanted(seconds=5.0, seed=3, workers=3, max_lag=0.3, every=1.5, limit=60.0, chaos=True)
    outcome = Soak(wanted, tmp_path, said.append).run()
    history, verdict = outcome.history, outcome.verdict
    assert outcome.is_clean, "\n".join((*said, stories(history, verdict.violations[:3])))
    assert verdict.reused
    assert verdict.final_reads
    for what in ("step", "what is heard", "origin", "local", "value"):
        assert any(what in name for name in history.counts if name.startswith(CHAOS)), what


def test_a_short_soak_keeps_every_promise(tmp_path: Path) -> None:
    """Real processes under faults: nothing is broken, nobody is in trouble, and there was something to break.

    The same history with one more cut, that nobody obeyed, is not clean: the checker has seen what was read.
    """
    said: list[str] = []
    outcome = Soak(Wanted(seconds=6.0, seed=7, workers=3, every=0.4, limit=60.0), tmp_path, said.append).run()
    history, verdict = outcome.history, outcome.verdict
    assert outcome.is_clean, "\n".join((*said, stories(history, verdict.violations[:3])))
    assert verdict.reused
    assert verdict.final_reads
    assert history.faults
    reused = next(read for read in history.reads if read.is_final and read.shown_began < read.began and not read.given)
    when = (reused.shown_began + reused.began) / 2
    unheard = replace(
        history.cuts[0],
        how="everything",
        patterns=("*",),
        tags=(),
        began=when,
        ended=when,
        stamp=f"{EPOCH}:1",
        slot=99,
        own=0,
        is_soft=False,
    )
    assert "final" in broken(check(replace(history, cuts=[*history.cuts, unheard])))
