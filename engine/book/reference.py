"""The price that the dynamic band is drawn around: the volume-weighted average of the last hour that saw trades."""

from collections import deque

from engine.market import MarketSpec
from engine.units import WH_PER_KWH, EnergyWh, MoneyMicro, PriceMicro, TimeUs, floor_to_tick

MINUTE_US = 60_000_000
WINDOW_MINUTES = 60


class ReferencePrice:
    """Sums of trades by minute; the hour slides with the trades, so a quiet night keeps yesterday's last price."""

    __slots__ = ("last_price_micro", "minutes", "price_micro", "spec", "value_micro", "volume_wh")

    def __init__(self, spec: MarketSpec) -> None:
        self.minutes: deque[list[int]] = deque()  # minute since 1970, value, Wh
        self.value_micro: MoneyMicro = 0  # of all trades in the minutes
        self.volume_wh = 0
        self.last_price_micro: PriceMicro = 0
        self.price_micro: PriceMicro = 0
        self.set_spec(spec)

    def set_spec(self, spec: MarketSpec) -> None:
        """Before the first trade the spec gives the price; afterwards only its tick matters."""
        self.spec = spec
        if self.last_price_micro == 0:
            middle = (spec.price_micro_min + spec.price_micro_max) // 2
            self.price_micro = spec.reference_price_micro or floor_to_tick(middle, spec.tick_micro)

    def restart(self, price_micro: PriceMicro) -> None:
        """From now on this price, until the next trade makes one of its own."""
        self.minutes.clear()
        self.value_micro = self.volume_wh = 0
        self.price_micro = price_micro

    def add(self, price_micro: PriceMicro, energy_wh: EnergyWh, value_micro: MoneyMicro, time_us: TimeUs) -> None:
        """Count a trade at the maker's price, of that value."""
        minute = time_us // MINUTE_US
        minutes = self.minutes
        if minutes and minutes[-1][0] == minute:
            latest = minutes[-1]
            latest[1] += value_micro
            latest[2] += energy_wh
        else:
            minutes.append([minute, value_micro, energy_wh])
            while minutes[0][0] <= minute - WINDOW_MINUTES:
                _, value_gone, volume_gone = minutes.popleft()
                self.value_micro -= value_gone
                self.volume_wh -= volume_gone
        self.value_micro += value_micro
        self.volume_wh += energy_wh
        self.last_price_micro = price_micro
        self.price_micro = floor_to_tick(self.value_micro * WH_PER_KWH // self.volume_wh, self.spec.tick_micro)
