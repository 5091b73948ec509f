"""How hard hypothesis tries: enough to find every planted bug, little enough to run before each commit.

A failure prints a blob; put the history into the test as @example, or the blob as @reproduce_failure, and keep it.
WATTBOOK_EXAMPLES=2000 searches longer.
"""

from hypothesis import HealthCheck, settings

from tests.property.histories import EXAMPLES

settings.register_profile(
    "wattbook",
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("wattbook")
