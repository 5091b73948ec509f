"""Something to tell to many: made once, and encoded at most once per encoding."""

from typing import Any

import msgspec

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode


class Message:
    """Encoded when the first reader of an encoding needs it."""

    __slots__ = ("_binary", "_body", "_text")

    def __init__(self, body: Any) -> None:
        self._body = body
        self._text: str | None = None
        self._binary: bytes | None = None

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = _encode_json(self._body).decode()
        return self._text

    @property
    def binary(self) -> bytes:
        if self._binary is None:
            self._binary = _encode_msgpack(self._body)
        return self._binary
