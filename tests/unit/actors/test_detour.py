"""Connections go astray only in processes that were started for it, and only while somebody wants it.

Seen to fail for: a file that is read without the variable.
"""

from pathlib import Path

import pytest

from actors import detour

ADDRESS = "127.0.0.1:4111"


def test_a_process_that_was_not_started_for_it_dials_what_it_means(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(detour.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detour").write_text("127.0.0.1:1")

    assert detour.around(ADDRESS) == (ADDRESS, b"")


def test_while_the_file_is_there_connections_go_where_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "detour"
    monkeypatch.setenv(detour.VARIABLE, str(file))

    before = detour.around(ADDRESS)
    file.write_text("127.0.0.1:1\n")

    assert before == (ADDRESS, b"")
    assert detour.around(ADDRESS) == ("127.0.0.1:1", b"127.0.0.1:4111\n")
