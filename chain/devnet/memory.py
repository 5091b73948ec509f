"""Memory that the machine has freed stays with the process: it needs as much again for the next transaction.

LiteSVM keeps the registers of every instruction that it runs, megabytes a transaction, in blocks that glibc returns to
the system at once. Fetched anew, page by page, they cost more than the transaction itself.
"""

import ctypes
from typing import Final

TRIM_THRESHOLD: Final = -1  # mallopt(3)
MMAP_THRESHOLD: Final = -3
MMAP_THRESHOLD_MAX: Final = 32 * 2**20  # what glibc takes at most
KEPT_MAX: Final = 256 * 2**20


def keep_freed_memory() -> None:
    """For the whole process; where the C library is another one, nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, MMAP_THRESHOLD_MAX)
        mallopt(TRIM_THRESHOLD, KEPT_MAX)
