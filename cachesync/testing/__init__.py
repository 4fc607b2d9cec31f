"""For tests of code that caches, and of layers that others write: a clock that is moved by hand, and the contracts of layers."""

from cachesync.testing.fake_clock import FakeClock
from cachesync.testing.local_contract import LocalLayerContract
from cachesync.testing.shared_contract import Listening, SharedLayerContract, SharedTalk
from cachesync.testing.together import run_together

__all__ = ["FakeClock", "Listening", "LocalLayerContract", "SharedLayerContract", "SharedTalk", "run_together"]
