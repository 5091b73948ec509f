"""Tables as CSV (RFC 4180) that a spreadsheet may open: no cell that somebody wrote becomes a formula there."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.requests import GatewayRequest, WireResponse

MEDIA_TYPE: Final = "text/csv; charset=utf-8"
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a cell begins with that spreadsheets compute


def wants_csv(request: GatewayRequest) -> bool:
    """Does the caller accept CSV, and not JSON rather?"""
    accepted = [one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")]
    return "text/csv" in accepted and "application/json" not in accepted


def csv_response(
    request: GatewayRequest, name: str, header: Sequence[str], rows: Iterable[Sequence[str | None]]
) -> WireResponse:
    request.add_header(b"content-disposition", f'attachment; filename="{name}.csv"'.encode())
    return WireResponse(csv_bytes(header, rows), media_type=MEDIA_TYPE)


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[str | None]]) -> bytes:
    """A header and rows; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)  # its default is RFC 4180: commas, CRLF, quotes where they are needed
    writer.writerow(header)
    writer.writerows([_cell(one) for one in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: str | None) -> str:
    if value is None:
        return ""
    return f"'{value}" if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value) else value
