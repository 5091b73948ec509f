"""A block of megabytes that comes again and again costs its pages once. Seen to fail without the first setting."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from chain.devnet.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_freed_memory()
bytes(4 << 20)
before = faults()
for _ in range(20):
    bytearray(b"x" * (4 << 20))
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such setting")
def test_freed_blocks_are_used_again() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 20 * 1024 // 2, "each page of each round was fetched anew"
