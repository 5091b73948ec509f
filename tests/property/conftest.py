"""How hard hypothesis tries: enough to find every planted bug, little enough to run before each commit.

A failure prints a blob; put the history into the test as @example, or the blob as @reproduce_failure, and keep it.
WATTBOOK_EXAMPLES=2000 searches longer.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "wattbook",
    max_examples=int(os.environ.get("WATTBOOK_EXAMPLES", "100")),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("wattbook")
