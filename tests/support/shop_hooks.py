"""How gunicorn serves `support.shop` in tests: its configuration, ``-c python:support.shop_hooks``.

A worker is known by its age, the number of its fork. The master can be held before a fork (``pre_fork-2``) and a worker after it, before
it serves (``post_fork-2``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from support.desk import Desk
from support.nodes import LONG

bind = f"unix:{os.environ['SHOP_FOLDER']}/socket"
preload_app = True
timeout = 10 * round(LONG)
graceful_timeout = round(LONG)
control_socket_disable = True

_desk = Desk(Path(os.environ["SHOP_FOLDER"]))


def pre_fork(_server: Any, worker: Any) -> None:
    """In the master."""
    _desk.stand(f"pre_fork-{worker.age}")


def post_fork(_server: Any, worker: Any) -> None:
    """In the worker."""
    _desk.stand(f"post_fork-{worker.age}")


def post_worker_init(worker: Any) -> None:
    """In the worker, which serves from now on."""
    _desk.note("workers", f"{worker.age}:{worker.pid}")
