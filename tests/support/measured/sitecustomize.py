"""Coverage of actors: on SIGUSR2 a process that coverage measures writes down what it has run so far.

Python imports this at start when this folder is on PYTHONPATH. Ray ends its workers without running anything of
theirs, so that they would be measured and then forgotten.
"""

import signal
from types import FrameType

import coverage

measured = coverage.Coverage.current()
if measured is not None:

    def save(_number: int, _frame: FrameType | None) -> None:
        assert measured is not None
        measured.save()

    signal.signal(signal.SIGUSR2, save)
