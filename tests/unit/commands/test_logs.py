"""`wattbook logs` shows what was logged, in order, and nothing twice or lost over a rotation.

Seen to fail for: a rotation taken for the same file, older files left out, a request's id compared in part.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

import cli
from commands.logs import Following, newest, parsed, shown
from config import logs
from config.logs import log_to


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


@pytest.fixture
def root() -> Iterator[None]:
    """The logging of this process as it was."""
    handlers, level, config = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    for handler in logging.root.handlers:
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**config)


def entry(second: int, event: str, level: str = "info", **fields: object) -> str:
    at = f"2026-11-22T10:00:{second:02d}.000000Z"
    return json.dumps({"event": event, "level": level, "timestamp": at, **fields}) + "\n"


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["logs", *arguments], env={"WATTBOOK_DATA_DIR": str(folder.parent)})


def told(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_parts_are_one_story_in_the_order_of_their_times(folder: Path) -> None:
    (folder / "gateway-1.log.2").write_text(entry(1, "first"))
    (folder / "gateway-1.log.1").write_text(entry(3, "third"))
    (folder / "gateway-1.log").write_text(entry(5, "fifth"))
    (folder / "market-M.log").write_text(entry(2, "second") + entry(4, "fourth"))
    (folder / "ray.log").write_text("words of Ray\n")

    lines = told(run(folder))

    assert [line.split()[-1] for line in lines] == ["first", "second", "third", "fourth", "fifth"]
    assert lines[1].startswith("11-22 10:00:02.000  market-M")
    assert [line.split()[-1] for line in told(run(folder, "--lines", "2"))] == ["fourth", "fifth"]
    assert "words of Ray" in told(run(folder, "--process", "ray"))[0]


def test_filters_by_level_part_request_and_text(folder: Path) -> None:
    (folder / "gateway-1.log").write_text(
        entry(1, "quiet", "debug") + entry(2, "failed", "error", request_id="a-1") + entry(3, "late", request_id="a-12")
    )
    (folder / "market-M.log").write_text(entry(4, "replays", "warning", why="the disk"))

    def events(*arguments: str) -> list[str]:
        return [line.split()[4] for line in told(run(folder, *arguments))]

    assert events() == ["failed", "late", "replays"]
    assert events("--level", "debug") == ["quiet", "failed", "late", "replays"]
    assert events("--level", "warning") == ["failed", "replays"]
    assert events("--process", "market-*") == ["replays"]
    assert events("--request", "a-1") == ["failed"]
    assert events("--text", "the disk") == ["replays"]


def test_a_traceback_is_shown_below_its_line() -> None:
    line = parsed("gateway-1", entry(1, "request failed", "error", exception="Traceback:\n  here").encode())

    assert shown(line).plain.endswith("request failed\nTraceback:\n  here")


def test_what_cannot_be_read_is_shown_as_it_is(folder: Path) -> None:
    (folder / "daemon.log").write_bytes(b'{"event": "half\n\xff not text\n')

    assert len(newest(folder, "*", lambda _: True, 10)) == 2


def test_without_a_data_directory_it_says_so(tmp_path: Path) -> None:
    assert "nothing has been started" in str(run(tmp_path / "nowhere" / "logs").exception)
    assert run(tmp_path, "--level", "loud").exit_code == 1


@pytest.mark.usefixtures("root")
def test_following_loses_and_repeats_nothing_over_rotations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 2_000)
    log_to(folder, "gateway-1", "info")
    log = structlog.get_logger()
    log.info("before")
    following, seen = Following(folder, "*"), list[int]()

    for number in range(200):
        log.info("event", number=number)
        if number % 7 == 0:
            seen += [line.fields["number"] for line in following.new()]
    seen += [line.fields["number"] for line in following.new()]

    assert seen == list(range(200))
    assert (folder / "gateway-1.log.2").exists(), "it was rotated"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3 * 2_000 + 500


def test_half_a_line_waits_for_its_end_and_a_new_part_is_heard(folder: Path) -> None:
    path = folder / "daemon.log"
    path.write_text("")
    following = Following(folder, "*")
    whole = entry(1, "whole")

    path.write_text(whole[:10])
    assert following.new() == []
    path.write_text(whole)
    (folder / "market-M.log").write_text(entry(2, "new"))

    assert [line.fields["event"] for line in following.new()] == ["whole", "new"]
    assert following.new() == []


def test_what_others_print_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 1_000)

    with logs.BoundedText(folder / "ray.log") as words, contextlib.redirect_stdout(words):
        for number in range(500):
            print(f"worker {number} died")

    kept = (folder / "ray.log.1").read_text() + (folder / "ray.log").read_text()
    assert kept.endswith("worker 498 died\nworker 499 died\n")
    assert max(path.stat().st_size for path in folder.iterdir()) <= 1_000
