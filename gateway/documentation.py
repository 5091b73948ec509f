"""OpenAPI 3.1 and the page that shows it, which loads nothing from any other host.

The page is one file beside this one; its script and style are inline, and the content security policy permits exactly
them, by their hashes.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any, Final

from litestar import Request
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from gateway.edge import answer_headers
from gateway.errors import error_table

_PAGE: Final = Path(__file__).with_name("documentation.html")
_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_DESCRIPTION: Final = """A peer-to-peer energy exchange. Decimals and ids are strings, instants RFC 3339 UTC.

Lists answer `{"items": [...], "next": cursor or null}`. Errors are problem details (RFC 9457) with a `code`:

"""


class DocumentationPage(OpenAPIRenderPlugin):
    def __init__(self) -> None:
        super().__init__(path="/")
        self._page = _PAGE.read_bytes()
        sources = {"script": "", "style": ""}
        for kind, text in _INLINE.findall(self._page.decode()):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            sources[kind] += f" 'sha256-{digest}'"
        self._policy = (
            f"default-src 'none'; script-src{sources['script']}; style-src{sources['style']}; "
            "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        ).encode()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        answer_headers(request.scope).append((b"content-security-policy", self._policy))
        return self._page


def openapi_config(version: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Wattbook",
        version=version,
        description=_DESCRIPTION + error_table(),
        path="/schema",
        render_plugins=[DocumentationPage()],
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
        ),
    )
