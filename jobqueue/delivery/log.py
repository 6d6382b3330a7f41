"""Log lines of workers and schedulers."""

from __future__ import annotations

import logging
import sys

import structlog

from jobqueue.settings import Settings


def configure_logging(settings: Settings) -> None:
    """One line an event on stderr, readable or as JSON, from ``log_level`` on."""
    shape: structlog.typing.Processor
    if settings.log_format == "json":
        shape = structlog.processors.JSONRenderer()
    else:
        shape = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            shape,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
