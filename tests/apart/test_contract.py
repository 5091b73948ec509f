"""The running exchange against its own description: schemathesis asks what it permits, and what it forbids.

On an installation of its own, because it halts markets, changes costs and suspends people. All checks and all routes
but one check: `positive_data_acceptance` wants every well-formed value accepted, and ours must also be true (a cursor
that was given, a price that goes with its kind of order), which no schema can say.

Seen to fail for: a 405 without `Allow`, an OPTIONS that forgets methods,
the word `null` in a query, a body that is said to be required and is not.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.installation import ADMIN_EMAIL, ADMIN_PASSWORD, Installation
from tests.support.patience import HUNG_SECONDS

ROOT = Path(__file__).parents[2]
EXAMPLES = 2  # by chance, of each operation; what its schema bounds is tried in full
CASES_MIN = 5_000
SECONDS_MAX = 900.0  # it has hung


@pytest.fixture
def own_installation() -> Iterator[Installation]:
    own = Installation()
    try:
        own.start()
        yield own
    finally:
        own.remove()


def test_the_exchange_keeps_its_contract(own_installation: Installation, tmp_path: Path) -> None:
    keeper = own_installation.person().register()
    own_installation.admin().call("PATCH", f"/admin/users/{keeper.user_id}", {"role": "admin"})
    description = _by_places(httpx.get(own_installation.url + "/schema/openapi.json", timeout=HUNG_SECONDS).json())
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(description))
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(file), "--url", own_installation.url]
    command += ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", str(EXAMPLES)]
    command += ["--continue-on-failure", "--no-shrink", "--warnings", "off", "--seed", "4"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.support.contract_hooks",
        "CONTRACT_URL": own_installation.url,
        "CONTRACT_EMAIL": ADMIN_EMAIL,
        "CONTRACT_PASSWORD": ADMIN_PASSWORD,
        "CONTRACT_KEEPER": keeper.email,
        "CONTRACT_KEEPER_PASSWORD": keeper.password,
    }

    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    tested, cases = re.search(r"Tested: (\d+)", done.stdout), re.search(r"(\d+) generated", done.stdout)
    assert tested is not None
    assert cases is not None
    assert int(tested[1]) == sum(len(methods) for methods in description["paths"].values())
    assert int(cases[1]) >= CASES_MIN
    print(f"{cases[1]} cases over {tested[1]} operations")


def _by_places(part: Any) -> Any:
    """`prefixItems` as plain `items`: schemathesis 4.32 turns it into a form that it then refuses itself."""
    if isinstance(part, list):
        return [_by_places(one) for one in part]
    if not isinstance(part, dict):
        return part
    part = {name: _by_places(value) for name, value in part.items()}
    places = part.pop("prefixItems", None)
    if places is not None:
        part |= {"items": {"anyOf": places}, "minItems": len(places), "maxItems": len(places)}
    return part
