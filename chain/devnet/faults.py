"""What a test can make this chain do wrong, as networks and nodes do. Off unless the server is started with faults.

| fault | what happens to the next transaction that is sent, `count` times |
| --- | --- |
| drop | it is answered with its signature and never lands |
| delay | it lands `value` slots later, or never if its blockhash is too old by then |
| duplicate | it arrives twice: the second arrival must change nothing |
| unanswered | it lands, and its sender's connection is closed without an answer |
| refuse | the node answers that it is behind (-32005) |
| slow | any request is answered after `value` seconds |

Two more happen at once: `expire` makes all blockhashes too old, `fork` drops the last `value` slots.
"""

from collections import Counter
from typing import Final, Literal, TypeAlias, get_args

Fault: TypeAlias = Literal["drop", "delay", "duplicate", "unanswered", "refuse", "slow"]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)


class Faults:
    """Counts down what is left of each."""

    def __init__(self) -> None:
        self._left: Counter[str] = Counter()
        self._values: dict[str, float] = {}

    def set(self, fault: str, count: int, value: float = 0) -> None:
        """Replaces what was left. Raises ValueError for a fault that is none."""
        if fault not in FAULTS:
            raise ValueError(f"fault {fault}: one of {', '.join(FAULTS)}")
        self._left[fault] = count
        self._values[fault] = value

    def take(self, fault: Fault) -> float | None:
        """Its value when it shall happen now, else None."""
        if self._left[fault] <= 0:
            return None
        self._left[fault] -= 1
        return self._values[fault]
