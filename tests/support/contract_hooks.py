"""How schemathesis logs in: anew whenever the session is gone, for what it tries ends sessions too.

Runs inside schemathesis's own process, which test_contract.py starts.
"""

import os
from typing import Any

import httpx
import schemathesis

URL = os.environ["CONTRACT_URL"]
EMAIL, PASSWORD = os.environ["CONTRACT_EMAIL"], os.environ["CONTRACT_PASSWORD"]


@schemathesis.auth(retry_on=[401])
class Login:
    def get(self, case: Any, context: Any) -> str:
        answer = httpx.post(f"{URL}/api/v1/auth/login", json={"email": EMAIL, "password": PASSWORD}, timeout=20)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}
