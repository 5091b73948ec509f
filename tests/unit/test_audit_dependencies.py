"""What `make lint` makes of pip-audit's answers."""

import json

from tests.support.audit_dependencies import verdict


def test_a_weak_package_fails_and_is_named() -> None:
    weak = {"name": "old", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
    report = {"dependencies": [weak, {"name": "good", "version": "2", "vulns": []}], "fixes": []}

    status, lines = verdict(json.dumps(report), "Found 1 known vulnerability")

    assert status == 1
    assert lines[1:] == ["old 1.0: CVE-1, mended in 1.1"]


def test_what_the_index_does_not_know_is_said() -> None:
    status, lines = verdict('{"dependencies": [{"name": "ours", "skip_reason": "not found"}]}', "")

    assert (status, lines) == (0, ["pip-audit: 0 packages looked at, 1 that the index does not know, 0 weak"])


def test_without_an_index_it_says_so_and_goes_on() -> None:
    status, lines = verdict("", "Traceback\nConnectionError: no route to host")

    assert status == 0
    assert "no route to host" in lines[0]
