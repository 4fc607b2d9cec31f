"""Python runs this at start where its folder is on ``PYTHONPATH``: programs of docs and examples run beside other tests.

On a busy machine Redis may need longer than the usual budget for a call, and then a page would not show what it says.
"""

from __future__ import annotations

from cachesync.core.settings import CoordinationSettings

defaults = CoordinationSettings.__init__.__kwdefaults__
assert defaults is not None
defaults["budget"] = 30.0
