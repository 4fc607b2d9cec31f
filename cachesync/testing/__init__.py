"""For tests of code that caches, and of layers that others write: a clock that is moved by hand, a layer that does harm, and contracts."""

from cachesync.testing.chaos import ChaosLayer, Injected
from cachesync.testing.fake_clock import FakeClock
from cachesync.testing.local_contract import LocalLayerContract
from cachesync.testing.shared_contract import Listening, SharedLayerContract, SharedTalk
from cachesync.testing.together import run_together

__all__ = ["ChaosLayer", "FakeClock", "Injected", "Listening", "LocalLayerContract", "SharedLayerContract", "SharedTalk", "run_together"]
