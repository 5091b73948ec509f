"""What a run came to: percentiles within their digits, seconds by when a request was meant to leave, one safe page.

Seen to fail for: seconds by when the answer came, a title that becomes markup.
"""

import re

import pytest

from bench.report import Recorder, Report, page, plot

MS = 1_000_000
SECOND = 1_000 * MS


def recorded() -> Recorder:
    """A thousand answers of 1 to 1,000 ms, a hundred in a second, the last one broken."""
    recorder = Recorder()
    for number in range(1_000):
        status = "broken" if number == 999 else "201"
        recorder.observe(number // 100 * SECOND + number % 100 * MS, (number + 1) * MS, status)
    return recorder


def test_percentiles_are_those_of_the_answers() -> None:
    shown = recorded().percentiles_ms()

    for at in (50.0, 95.0, 99.0, 100.0):
        assert shown[at] == pytest.approx(at * 10, rel=0.002)


def test_an_answer_counts_in_the_second_in_which_its_request_was_meant_to_leave() -> None:
    recorder = recorded()

    timeline = recorder.timeline()

    assert [one.answers for one in timeline] == [100] * 10
    assert [one.errors for one in timeline] == [0] * 9 + [1]
    assert [one.max_ms for one in timeline] == [100.0 * number for number in range(1, 11)]
    assert recorder.errors == 1


def test_the_page_needs_nothing_from_elsewhere_and_shows_what_it_is_given() -> None:
    recorder = recorded()
    report = Report(
        title="<script>alert(1)</script>",
        about="about",
        machine="here",
        at="now",
        plan={"users": "3"},
        statuses=dict(recorder.statuses),
        beside={"slow readers": 5},
        percentiles_ms=recorder.percentiles_ms(),
        timeline=recorder.timeline(),
    )

    shown = page(report)

    assert "<script>" not in shown
    assert not re.search(r"(src|href|url)\s*[=(]", shown)
    assert shown.count("<svg") == 3
    for expected in ("slow readers", "p99.9", "broken"):
        assert expected in shown


def test_a_plot_of_nothing_is_a_sentence() -> None:
    assert plot({"p50": []}, "ms", "s") == "<p>nothing was answered</p>"
