"""How schemathesis logs in: anew whenever the session is gone, for what it tries ends sessions too.

Runs inside schemathesis's own process, which test_contract.py starts.
"""

import os
from typing import Any

import httpx
import schemathesis

URL = os.environ["CONTRACT_URL"]
EMAIL, PASSWORD = os.environ["CONTRACT_EMAIL"], os.environ["CONTRACT_PASSWORD"]
SECONDS_MAX = 60.0
KEEPER, KEEPER_PASSWORD = os.environ["CONTRACT_KEEPER"], os.environ["CONTRACT_KEEPER_PASSWORD"]


@schemathesis.auth(retry_on=[401])
class Login:
    def get(self, case: Any, context: Any) -> str:
        answer = _login(EMAIL, PASSWORD)
        if answer.status_code == 423:  # it has tried five wrong passwords of its own
            _unlock()
            answer = _login(EMAIL, PASSWORD)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


def _login(email: str, password: str) -> httpx.Response:
    return httpx.post(f"{URL}/api/v1/auth/login", json={"email": email, "password": password}, timeout=SECONDS_MAX)


def _unlock() -> None:
    """Another admin lets the locked one in again."""
    headers = {"Authorization": f"Bearer {_login(KEEPER, KEEPER_PASSWORD).raise_for_status().json()['access_token']}"}
    with httpx.Client(base_url=f"{URL}/api/v1/admin", headers=headers, timeout=SECONDS_MAX) as keeper:
        users = keeper.get("/users", params={"q": EMAIL}).raise_for_status().json()
        (locked,) = (user["id"] for user in users["items"] if user["email"] == EMAIL)
        keeper.post(f"/users/{locked}/unlock").raise_for_status()
