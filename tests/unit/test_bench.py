"""The engine bench runs, and its work is the same work as ever: a changed checksum is changed behaviour."""

import re
import subprocess
import sys


def test_the_engine_bench_does_the_same_work_twice() -> None:
    command = [sys.executable, "-m", "bench.bench_engine", "--smoke"]

    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))

    checksums = [re.findall(r"checksum=([0-9a-f]{8})", said) for said in (first, second)]
    assert checksums[0] == checksums[1]
    assert len(checksums[0]) == 1
    assert re.search(r"rate=\d+/s", first)
    assert re.search(r"machine: .+ cores", first)
