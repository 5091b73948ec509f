"""The bench of abuse, small: it starts an exchange of its own, in which one sends 20 times what he may."""

import re
import subprocess
import sys


def test_the_bench_of_abuse_does_its_work() -> None:
    command = [sys.executable, "-m", "bench.bench_abuse", "--smoke"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("alone: acknowledged=120 checksum=f1ca6c84", "beside: acknowledged=120 checksum=290d1e38"):
        assert expected in done.stdout, done.stdout
    assert re.search(r"ratio=\d+\.\d\d", done.stdout), done.stdout
