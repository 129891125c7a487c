"""Logs of a server process: one JSON object a line on stderr, the libraries' lines included."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from controlplane.errors import SettingsError

LEVELS = ("debug", "info", "warning", "error")

_SECRET_NAMES = frozenset({"authorization", "cookie", "password", "secret", "token"})
_SECRETS = re.compile(r"(pm_[0-9a-f]{12}_)[\w-]+|(://[^\s:/@]*:)[^\s/@]+(?=@)")


def configure(level: str = "info") -> None:
    """Send structlog's and the standard library's log records to stderr, as JSON.

    Raises:
        SettingsError: The level is none of LEVELS.
    """
    if level.lower() not in LEVELS:
        raise SettingsError(f"log level {level!r}: give one of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(default=str)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_of_the_logger, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    # Libraries tell their own story at INFO: only what goes wrong is ours to keep.
    quiet = logging.INFO if number == logging.DEBUG else max(number, logging.WARNING)
    logging.basicConfig(handlers=[handler], level=quiet, force=True)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank what is named like a secret or looks like one: an API key, a password in a URL."""
    for name, value in event.items():
        if name.lower() in _SECRET_NAMES:
            event[name] = "…"
        elif isinstance(value, str):
            event[name] = _SECRETS.sub(lambda found: f"{found[1] or found[2]}…", value)
    return event


def _name_of_the_logger(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A library's message becomes a value; the event is the library's own name."""
    record = event.get("_record")
    if record is not None:
        event["message"] = event["event"]
        event["event"] = record.name
    return event
