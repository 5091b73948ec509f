"""What a round of submissions comes to: quorum, outliers, median, spread, and which providers stray too often.

All in integers, so that everybody computes the same. A value is an outlier when it is further from the median than
three scaled median absolute deviations; the scale 1.4826 makes that deviation a standard deviation where values are
normally distributed. Source: Leys et al. (2013), doi:10.1016/j.jesp.2013.03.013.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from engine.oracle.submissions import FRESH_US
from engine.units import TimeUs

DEVIATIONS_MAX: Final = 3
MAD_SCALE: Final = 14_826  # ten-thousandths
_SCALE_UNIT: Final = 10_000
FLAG_ROUNDS: Final = 20  # of the last so many rounds in which a provider took part,
FLAG_OUTLIERS: Final = 5  # so many with an outlier flag it


class Round(Struct, frozen=True):
    """value: the median of those that count, rounded down; spread: from the lowest to the highest of them."""

    value: int
    spread: int
    is_outlier: tuple[bool, ...]

    @property
    def used(self) -> int:
        return self.is_outlier.count(False)


def quorum_of(active: int, single_provider: bool) -> int:
    """How many submissions a round needs: more than half of the active providers, and two unless one is declared."""
    return max(1 if single_provider else 2, active // 2 + 1)


def is_fresh(observed_us: TimeUs, at_us: TimeUs) -> bool:
    return at_us - observed_us <= FRESH_US


def close(values: Sequence[int], quorum: int) -> Round | None:
    """The round of these values, one of each provider; None below the quorum."""
    if not values or len(values) < quorum:
        return None
    strays = outliers(values)
    kept = sorted(value for value, stray in zip(values, strays, strict=True) if not stray)
    return Round(_middle_twice(kept) // 2, kept[-1] - kept[0], tuple(strays))


def outliers(values: Sequence[int]) -> list[bool]:
    """|value - median| > 3 x 1.4826 x MAD, exactly: medians are doubled, so that no half is lost."""
    middle_2 = _middle_twice(sorted(values))
    away_2 = [abs(2 * value - middle_2) for value in values]
    mad_4 = _middle_twice(sorted(away_2))
    return [2 * _SCALE_UNIT * away > DEVIATIONS_MAX * MAD_SCALE * mad_4 for away in away_2]


def is_stale(now_us: TimeUs, at_us: TimeUs, round_us: int, *, missed: bool) -> bool:
    """Of the value published at `at_us`: a later round came to nothing, or none came."""
    return missed or now_us - at_us >= 2 * round_us


def note(history: int, stray: bool) -> int:
    """history: a bit per round in which the provider took part, the newest lowest; set for an outlier."""
    return (history << 1 | stray) & (1 << FLAG_ROUNDS) - 1


def is_flagged(history: int) -> bool:
    return history.bit_count() >= FLAG_OUTLIERS


def _middle_twice(ordered: Sequence[int]) -> int:
    """Twice the median."""
    return ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
