"""A headless Chromium for tests, driven over its debugging socket: run a script in the page, wait, take a picture."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.patience import HUNG_SECONDS

MESSAGE_BYTES_MAX: Final = 32 * 2**20


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.complaints: list[str] = []  # of the page's console and security policy

    async def say(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its answer."""
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(HUNG_SECONDS):
            while True:
                message = json.loads(await self._socket.recv())
                if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                    self.complaints.append(json.dumps(message["params"]))
                if message.get("id") == number:
                    assert "error" not in message, (method, message["error"])
                    return dict(message["result"])

    async def value(self, script: str) -> Any:
        """What the script evaluates to; promises are awaited."""
        answer = await self.say("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait_for(self, script: str) -> None:
        """Until it is true."""
        async with asyncio.timeout(HUNG_SECONDS):
            while not await self.value(script):  # noqa: ASYNC110 - the page tells nobody
                await asyncio.sleep(0.05)

    async def show(self, url: str, width: int, height: int, *, is_phone: bool = False) -> None:
        await self.say(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        await self.say("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete'")

    async def picture(self, path: Path) -> None:
        answer = await self.say("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """A browser of its own; the test is skipped where none is installed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed, so nobody looked at the page")
    process = _start(chromium, folder)
    try:
        async with connect(await _tab(folder), max_size=MESSAGE_BYTES_MAX) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                await page.say(f"{domain}.enable")
            yield page
    finally:
        process.terminate()
        process.wait(HUNG_SECONDS)


def _start(chromium: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [*command, "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdout=said,
            stderr=said,
        )


async def _tab(folder: Path) -> str:
    """Where the first tab listens; the browser writes its port to a file."""
    port_file = folder / "profile" / "DevToolsActivePort"
    async with asyncio.timeout(HUNG_SECONDS), httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(OSError, IndexError, httpx.TransportError):
                port = port_file.read_text().splitlines()[0]
                tabs = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
                found = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
                if found:
                    return str(found[0])
            await asyncio.sleep(0.05)
