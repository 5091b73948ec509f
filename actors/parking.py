"""Commands that wait for the ledger, each with what its participant sent after it.

A command whose funds are short is parked while the ledger is asked, and everything later of its participant waits
behind it; others go on (docs/decisions/0007). What is drawn covers those behind it as well, as far as they need the
same asset. Who draws again and again is lent ahead (docs/decisions/0020).
"""

from collections import deque
from time import monotonic
from typing import Final

from msgspec import Struct

from actors.asked import Traced
from actors.dataplane import Connection
from engine.messages import CURRENCY, Command, Fund, ParticipantId
from engine.records import Draw, Want
from engine.units import FUND_MAX
from engine.views import Query

DRAWS_BEFORE_AHEAD: Final = 2
BUSY_SECONDS: Final = 5.0  # without a draw, and a participant is no longer busy
DRAW_AHEAD: Final = 64  # times the shortfall, and twice that with each further draw
DRAW_AHEAD_MAX: Final = 4_096


class Item(Struct):
    """A command or query on its way: where its answer goes (nowhere for the market's own), and what it is."""

    connection: Connection | None
    request_id: int
    body: Command | Query | Traced
    came: float = 0.0
    parent: str = ""  # the span in which a gateway asks for it, when that is traced
    drawn: bool = False  # the ledger has been asked: what is short now stays short


class Parked(Struct):
    """One participant's: the command that is short, and what came after it."""

    items: deque[Item]
    asset: str
    short: int
    ahead: int
    behind: int = 0  # what those behind it will need of the same asset


class Parking:
    def __init__(self, currency: str) -> None:
        self._currency = currency
        self._parked: dict[ParticipantId, Parked] = {}
        self._asked: set[ParticipantId] = set()  # the ledger is being asked for them
        self._busy: dict[ParticipantId, tuple[float, int]] = {}  # when the last draw was, how many came before it
        self.count = 0
        self.drawn = 0  # number of the last draw that the ledger made for this market

    def of(self, participant_id: ParticipantId) -> Parked | None:
        return self._parked.get(participant_id)

    @property
    def has_wants(self) -> bool:
        return len(self._parked) > len(self._asked)

    def park(self, item: Item, participant_id: ParticipantId, asset: str, short: int) -> None:
        """The first of its participant: it is short of so much."""
        self._parked[participant_id] = Parked(deque([item]), asset, short, self._ahead(participant_id, short))
        self.count += 1

    def park_behind(self, item: Item, parked: Parked, need: tuple[str, int] | None) -> None:
        """A later one of a participant who is parked; `need` is what it will reserve."""
        if need is not None and need[0] == parked.asset:
            parked.behind += need[1]
        parked.items.append(item)
        self.count += 1

    def take_wants(self, limit: int) -> list[Want]:
        """What the ledger is to be asked for now; it must be resumed or released before they are asked for again."""
        wants: list[Want] = []
        for participant_id, parked in self._parked.items():
            if participant_id in self._asked:
                continue
            if len(wants) == limit:
                break
            at_most = min(max(parked.ahead, parked.short + parked.behind), FUND_MAX)
            wants.append(Want(participant_id, self._in_ledger(parked.asset), parked.short, at_most))
        self._asked.update(want.participant_id for want in wants)
        return wants

    def resume(self, wants: list[Want], granted: list[int], first: deque[Item]) -> deque[Item]:
        """What goes on, in order: `first` was let go on before, and a large batch has left it behind.

        Funds come first, then what waited for them, then what its participant had in `first`: that was sent later.
        """
        parked = {want.participant_id: self._parked.pop(want.participant_id) for want in wants}
        self._asked.difference_update(parked)
        self.count -= sum(len(one.items) for one in parked.values())
        goes_on: deque[Item] = deque()
        for item in first:
            one = parked.get(getattr(item.body, "participant_id", 0))
            (goes_on if one is None or isinstance(item.body, Fund) else one.items).append(item)
        for want, amount in zip(wants, granted, strict=True):
            if amount:
                self.drawn += 1
                goes_on.append(self.fund(Draw(self.drawn, want.participant_id, want.asset, amount)))
            items = parked[want.participant_id].items
            items[0].drawn = True
            goes_on.extend(items)
        return goes_on

    def items(self) -> list[Item]:
        """All that is parked, each participant's in order."""
        return [item for parked in self._parked.values() for item in parked.items]

    def release(self) -> list[Item]:
        """All that is parked, and no more: nothing of what was asked for is known."""
        items = self.items()
        self._parked.clear()
        self._asked.clear()
        self.count = 0
        return items

    def fund(self, draw: Draw) -> Item:
        """What the ledger has moved, as the market's own command."""
        asset = CURRENCY if draw.asset == self._currency else draw.asset.removeprefix("energy:")
        return Item(None, 0, Fund(draw.number, draw.participant_id, asset, draw.amount))

    def forget_quiet(self) -> None:
        """Who has not drawn for a while is busy no more."""
        stale = monotonic() - BUSY_SECONDS
        self._busy = {who: (last, count) for who, (last, count) in self._busy.items() if last > stale}

    def _ahead(self, participant_id: ParticipantId, short: int) -> int:
        """How much may be drawn beyond what is short: nothing, but for one who draws again and again."""
        now = monotonic()
        last, count = self._busy.get(participant_id, (now, 0))
        count = count + 1 if now - last < BUSY_SECONDS else 1
        self._busy[participant_id] = (now, count)
        if count <= DRAWS_BEFORE_AHEAD:
            return 0
        return short * min(DRAW_AHEAD << min(count - DRAWS_BEFORE_AHEAD - 1, 16), DRAW_AHEAD_MAX)

    def _in_ledger(self, asset: str) -> str:
        return self._currency if asset == CURRENCY else f"energy:{asset}"
