"""What every local layer must do, as tests."""

from __future__ import annotations

import gc
from collections.abc import Hashable
from functools import partial
from typing import Any

from cachesync.core.entry import SIZE_UNIT, Dependency, Held
from cachesync.core.records import TAG
from cachesync.core.stamps import Stamp
from cachesync.protocols import LocalLayer, Shelf
from cachesync.testing.together import run_together


class LocalLayerContract:
    """What every local layer must do, as tests: subclass it in a test module, name it ``Test...`` and say how to make the layer.

    ::

        class TestMine(LocalLayerContract):
            def make_layer(self) -> LocalLayer:
                return MyLayer(max_entries=100)

    The layer is new and empty, holds between 20 and 1,000 copies of one unit (64 bytes) each, and none of them expires in it by time.
    """

    def make_layer(self) -> LocalLayer:
        """A new, empty layer for one test."""
        raise NotImplementedError("return a new, empty layer that holds between 20 and 1,000 small copies")

    @staticmethod
    def make_held(value: Any = "value", *, size: int = 1) -> Held:
        """A copy that is fresh for ever. Override it when the layer needs more to be told."""
        forever = float("inf")
        return Held(value, until=forever, mark=None, made=0.0, deadline=forever, stamp=Stamp("0" * 16, 0), checked=0, size=size)

    @staticmethod
    def read(shelf: Shelf, raw: Hashable) -> Held | None:
        """A hit as a cached function does it: look, count, serve. ``None`` for a miss."""
        try:
            held = shelf.copies[raw]
        except KeyError:
            return None
        held.hits += 1
        return held

    def test_a_new_shelf_is_empty(self) -> None:
        """It has no copies, no hits and nothing to drop."""
        shelf = self.make_layer().shelf()
        assert len(shelf) == 0
        assert list(shelf) == []
        assert shelf.hits == 0
        assert self.read(shelf, "nothing") is None
        assert shelf.drop("nothing") is False

    def test_a_copy_that_was_put_is_found_under_its_key(self) -> None:
        """The very same object, which from then on knows its key and its shelf."""
        shelf = self.make_layer().shelf()
        held = self.make_held()
        assert shelf.put(("a", 1), held) is held
        assert self.read(shelf, ("a", 1)) is held
        assert held.raw == ("a", 1)
        assert held.shelf is not None
        assert len(shelf) == 1
        assert list(shelf) == [held]

    def test_a_copy_of_none_is_a_copy(self) -> None:
        """``None`` is a value and a key like any other."""
        shelf = self.make_layer().shelf()
        shelf.put(None, self.make_held(None))
        found = self.read(shelf, None)
        assert found is not None
        assert found.value is None

    def test_copies_say_which_keys_they_have(self) -> None:
        """``copies`` is a mapping: ``in``, iteration, length and ``get`` agree."""
        shelf = self.make_layer().shelf()
        shelf.put("a", self.make_held())
        shelf.put("b", self.make_held())
        assert "a" in shelf.copies
        assert "c" not in shelf.copies
        assert sorted(map(str, shelf.copies)) == ["a", "b"]
        assert len(shelf.copies) == 2
        assert shelf.copies.get("c") is None

    def test_shelves_do_not_see_each_other(self) -> None:
        """One key on two shelves is two copies."""
        layer = self.make_layer()
        one, other = layer.shelf(), layer.shelf()
        held = one.put("key", self.make_held("one"))
        assert self.read(other, "key") is None
        assert other.drop("key") is False
        other.put("key", self.make_held("other"))
        assert self.read(one, "key") is held
        assert len(one) == len(other) == 1

    def test_a_second_put_renews_in_place(self) -> None:
        """The standing copy takes over what is newer and keeps its count of hits."""
        shelf = self.make_layer().shelf()
        first = shelf.put("key", self.make_held("old"))
        self.read(shelf, "key")
        newer = self.make_held("new", size=2)
        newer.checked = 7
        newer.deadline, newer.stale, newer.spare = 1e12, 2e12, 3e12
        newer.dependencies = (Dependency(TAG, "t"),)
        assert shelf.put("key", newer) is first
        found = self.read(shelf, "key")
        assert found is first
        assert (first.value, first.checked, first.size) == ("new", 7, 2)
        assert (first.deadline, first.stale, first.spare) == (1e12, 2e12, 3e12)
        assert first.dependencies == (Dependency(TAG, "t"),)
        assert first.hits == 2
        assert shelf.hits == 2
        assert len(shelf) == 1

    def test_putting_what_stands_there_changes_nothing(self) -> None:
        """A copy is not renewed by itself."""
        layer = self.make_layer()
        shelf = layer.shelf()
        held = shelf.put("key", self.make_held())
        assert shelf.put("key", held) is held
        assert held.until == float("inf")
        assert layer.usage().entries == 1

    def test_a_dropped_copy_is_gone_and_knows_it(self) -> None:
        """Who still refers to it sees that it left, and a reader refuses it."""
        shelf = self.make_layer().shelf()
        held = shelf.put("key", self.make_held())
        assert shelf.drop("key") is True
        assert self.read(shelf, "key") is None
        assert held.raw is None
        assert held.shelf is None
        assert held.until <= 0
        assert len(shelf) == 0
        assert shelf.drop("key") is False

    def test_a_copy_leads_to_its_shelf(self) -> None:
        """Whoever holds a copy can drop it."""
        shelf = self.make_layer().shelf()
        held = shelf.put("key", self.make_held())
        assert held.shelf.drop(held.raw) is True
        assert len(shelf) == 0

    def test_a_key_can_come_back(self) -> None:
        """After a drop a key is as good as new."""
        shelf = self.make_layer().shelf()
        shelf.put("key", self.make_held("old"))
        shelf.drop("key")
        held = shelf.put("key", self.make_held("new"))
        found = self.read(shelf, "key")
        assert found is held
        assert held.value == "new"
        assert len(shelf) == 1

    def test_hits_of_the_departed_still_count(self) -> None:
        """Neither ``drop`` nor ``clear`` takes hits from a shelf."""
        layer = self.make_layer()
        shelf = layer.shelf()
        for raw in ("dropped", "cleared"):
            shelf.put(raw, self.make_held())
            for _ in range(5):
                self.read(shelf, raw)
        assert shelf.hits == 10
        shelf.drop("dropped")
        assert shelf.hits == 10
        layer.clear()
        assert shelf.hits == 10

    def test_clear_empties_every_shelf(self) -> None:
        """Every copy leaves, and the layer can be used again."""
        layer = self.make_layer()
        shelves = [layer.shelf(), layer.shelf()]
        copies = [shelf.put(raw, self.make_held()) for shelf in shelves for raw in range(5)]
        layer.clear()
        assert [len(shelf) for shelf in shelves] == [0, 0]
        assert all(held.raw is None and held.shelf is None for held in copies)
        assert layer.usage().entries == 0
        shelves[0].put("again", self.make_held())
        assert layer.usage().entries == 1

    def test_usage_counts_entries_over_all_shelves(self) -> None:
        """Entries and bytes are those of the copies that stand."""
        layer = self.make_layer()
        one, other = layer.shelf(), layer.shelf()
        assert layer.usage().entries == layer.usage().bytes == layer.usage().evictions == 0
        one.put("a", self.make_held())
        other.put("a", self.make_held())
        usage = layer.usage()
        assert usage.entries == 2
        assert usage.bytes == 2 * SIZE_UNIT
        other.drop("a")
        assert layer.usage().entries == 1

    def test_a_layer_stays_within_its_bounds(self) -> None:
        """5,000 puts over two shelves; what the shelves say and what the layer says agree all along."""
        layer = self.make_layer()
        shelves = [layer.shelf(), layer.shelf()]
        for number in range(5_000):
            shelf = shelves[number % 2]
            held = shelf.put(number, self.make_held(number))
            assert self.read(shelf, number) is held, "a copy that was just put is there"
            if number % 100 == 0:
                usage = layer.usage()
                assert usage.entries == len(shelves[0]) + len(shelves[1])
                assert not usage.max_entries or usage.entries <= usage.max_entries
                assert not usage.max_bytes or usage.bytes <= usage.max_bytes
        usage = layer.usage()
        assert 20 <= usage.entries <= 1_000
        assert usage.evictions == 5_000 - usage.entries
        assert shelves[0].hits + shelves[1].hits == 5_000

    def test_an_evicted_copy_knows_that_it_left(self) -> None:
        """A copy either stands under its key or has neither key nor shelf."""
        shelf = self.make_layer().shelf()
        copies = [shelf.put(number, self.make_held(number)) for number in range(2_000)]
        here = set(map(id, shelf))
        for number, held in enumerate(copies):
            if id(held) in here:
                assert held.raw == number
                assert shelf.copies[number] is held
            else:
                assert held.raw is None
                assert held.shelf is None
                assert number not in shelf.copies
        assert 0 < len(here) < 2_000

    def test_a_shelf_nobody_holds_takes_its_copies_along(self) -> None:
        """Copies of a function that was collected do not fill the layer."""
        layer = self.make_layer()
        stays = layer.shelf()
        stays.put("a", self.make_held())
        leaves = layer.shelf()
        leaves.put("a", self.make_held())
        del leaves
        gc.collect()
        assert layer.usage().entries == 1
        assert len(stays) == 1

    def test_threads_leave_a_layer_whole(self) -> None:
        """Four threads put, read and drop the same keys; afterwards the books are right and every hit was counted."""
        layer = self.make_layer()
        shelves = [layer.shelf(), layer.shelf()]
        served = [0, 0, 0, 0]
        failures: list[BaseException] = []

        def work(me: int) -> None:
            state: int = me * 7_919 + 1
            for _ in range(3_000):
                state = (state * 1_103_515_245 + 12_345) % 2**31
                shelf = shelves[state >> 8 & 1]
                raw = state >> 10 & 1_023
                if (state >> 20) % 10 == 0:
                    shelf.drop(raw)
                    continue
                held = shelf.copies.get(raw)
                if held is None:
                    shelf.put(raw, self.make_held(raw))
                # A reader's two tests and its count, with no call in between.
                elif held.until > 0.0:
                    held.hits += 1
                    served[me] += 1
                    assert held.value == raw

        def guarded(me: int) -> None:
            try:
                work(me)
            except BaseException as error:
                failures.append(error)

        run_together([partial(guarded, me) for me in range(4)])
        assert failures == []
        assert shelves[0].hits + shelves[1].hits == sum(served)
        usage = layer.usage()
        assert usage.entries == len(shelves[0]) + len(shelves[1])
        assert usage.entries == sum(1 for shelf in shelves for held in shelf if shelf.copies.get(held.raw) is held)
        assert usage.bytes == usage.entries * SIZE_UNIT
