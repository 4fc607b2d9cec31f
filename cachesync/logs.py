"""Structured logs: one JSON object in a line, for the logging of the standard library.

The envelope is that of ECS logging (Elastic Common Schema, ``@timestamp``, ``log.level``, ``message``, ``ecs.version``). What an event says
stands in fields of its own: those of the conventions where there are any (``event.name`` of OpenTelemetry, ``error.message`` and
``error.stack_trace`` of ECS), else ``cachesync.`` and the name of the field.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Final

ECS_VERSION: Final = "8.11"
_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Makes a line of JSON of any log record. Fields given by ``extra=`` are kept; values that JSON does not know become texts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "@timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
            "process.pid": record.process,
            "process.thread.name": record.threadName,
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _OF_EVERY_RECORD and not name.startswith("_"))
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, _ = record.exc_info
            line["error.type"] = f"{kind.__module__}.{kind.__qualname__}"
            line["error.message"] = str(error)
            line["error.stack_trace"] = "".join(traceback.format_exception(error))
        return json.dumps(line, default=str, ensure_ascii=False)
