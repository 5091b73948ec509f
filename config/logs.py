"""How every process of ours writes its log: one JSON object a line, one file a process, bounded."""

import io
import logging
import logging.handlers
from pathlib import Path
from typing import Any, Final

import structlog

FILE_BYTES_MAX: Final = 10_000_000
OLD_FILES: Final = 2


class BoundedText(io.TextIOBase):
    """A file for what others print, such as Ray: with one older file beside it, and each of so many bytes at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w", buffering=1)
        self._bytes = 0

    def write(self, text: str) -> int:
        self._bytes += len(text.encode())
        if self._bytes > FILE_BYTES_MAX:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file, self._bytes = self._path.open("w", buffering=1), len(text.encode())
        return self._file.write(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        self._file.close()
        super().close()


def log_to(folder: Path, name: str, level: str) -> None:
    """Everything that this process logs, ours and libraries', into folder/<name>.log; three files of 10 MB at most."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.handlers.RotatingFileHandler(
        folder / f"{name}.log", maxBytes=FILE_BYTES_MAX, backupCount=OLD_FILES
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it tells of every WebSocket with its query at info
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request at info
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
