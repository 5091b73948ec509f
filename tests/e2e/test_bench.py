"""The REST bench runs against a real exchange, small."""

import re
import subprocess
import sys

from tests.support.installation import Installation


def test_the_rest_bench_gets_an_answer_to_every_order(installation: Installation) -> None:
    command = [sys.executable, "-m", "bench.bench_rest", "--smoke", "--url", installation.url]

    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "answers=100 " in said
    assert re.search(r"p50=\d+\.\d\dms p99=", said)
