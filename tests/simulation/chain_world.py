"""A chain that drops, delays, duplicates, lands late, expires and forks, and a submitter that dies: all by one seed.

It is as small as the rules allow: a block a step, blockhashes that count for 12 blocks, blocks that are final after 5.
A leader takes bytes for one block more than endpoints say (ages of blockhashes count from the block before its own, 0
to 150), and may hold them back for the very last: whoever signs anew a block too early does it twice here.
The submitter is engine/submission.py driven as actors/chain_submitter.py drives it: what it knows is what was stored.
"""

from collections import deque
from contextlib import suppress
from random import Random
from typing import Final

from msgspec import Struct

from engine.submission import (
    FREE,
    Absent,
    Found,
    HandedOver,
    Level,
    Missing,
    NotNow,
    Refused,
    Retried,
    Seen,
    Signed,
    State,
    Submission,
    Taken,
    step,
)

VALID: Final = 12  # blocks
FINAL_AFTER: Final = 5
STEPS_OF_TROUBLE: Final = 120
STEPS_MAX: Final = 2_000
PASSED_ON_MAX: Final = 32  # sendings that a fork may bring back


class Landed(Struct):
    signature: str
    error: str


class Chain:
    """`guarded`: a second transaction of the same effect fails, as with an account that is created once.

    held_back: how much of what is sent arrives for the last block that can have it, and how often a fork comes for what
    is nearly out of date. lost: how much of what is sent never arrives. forks: how often.
    """

    def __init__(
        self, random: Random, guarded: bool, *, held_back: float = 0.0, lost: float = 0.25, forks: float = 0.12
    ) -> None:
        self._random, self.guarded = random, guarded
        self._held_back, self._lost, self._forks = held_back, lost, forks
        self.blocks: list[list[Landed]] = [[]]
        self._on_their_way: list[tuple[int, str, int]] = []  # height of arrival, signature, last height
        self._sent: deque[tuple[str, int]] = deque(maxlen=PASSED_ON_MAX)  # what is still passed on
        self.calm = False
        self.height_final = 0  # no fork goes below it

    @property
    def height(self) -> int:
        return len(self.blocks) - 1

    def chance(self, share: float) -> bool:
        return not self.calm and self._random.random() < share

    def tick(self) -> None:
        worst = self._nearly_out_of_date() if self.chance(self._held_back) else set()
        if worst or self.chance(self._forks):
            self._fork(worst)
        self.blocks.append([])
        self.height_final = max(self.height_final, self.height - FINAL_AFTER)
        arriving = [each for each in self._on_their_way if each[0] <= self.height]
        self._on_their_way = [each for each in self._on_their_way if each[0] > self.height]
        for _, signature, last_height in arriving:
            self._arrive(signature, last_height)

    def send(self, signature: str, last_height: int) -> None:
        """Raises OSError when nobody answers, whatever happened."""
        self._sent.append((signature, last_height))
        copies = 0 if self.chance(self._lost) else 2 if self.chance(0.1) else 1
        for _ in range(copies):
            late = self._random.randrange(1, VALID + 8) if self.chance(0.3) else 1
            at = self._last_of(last_height) if self.chance(self._held_back) else self.height + late
            self._on_their_way.append((at, signature, last_height))
        if self.chance(0.15):
            raise OSError("no answer")

    def landed(self, signature: str) -> tuple[int, str] | None:
        for height, block in enumerate(self.blocks):
            for each in block:
                if each.signature == signature:
                    return height, each.error
        return None

    def effects(self) -> list[str]:
        """Signatures of transactions that had the effect."""
        return [each.signature for block in self.blocks for each in block if not each.error]

    def _arrive(self, signature: str, last_height: int) -> None:
        if self.height > self._last_of(last_height) or self.landed(signature):
            return
        fails = (self.guarded and bool(self.effects())) or self.chance(0.08)
        self.blocks[-1].append(Landed(signature, "it is there already" if fails else ""))

    @staticmethod
    def _last_of(last_height: int) -> int:
        """What an endpoint calls the last block for some bytes is the last but one that takes them."""
        return last_height + 1

    def _nearly_out_of_date(self) -> set[str]:
        """What no block has, and what the next one to be final is the last to take."""
        last = self.height_final + 1
        return {one for one, height in self._sent if self._last_of(height) == last and not self.landed(one)}

    def _fork(self, worst: set[str]) -> None:
        """`worst`: what the fork that won takes up at the last moment, so far back does it begin."""
        deepest = self.height - self.height_final
        depth = deepest if worst else min(self._random.randrange(1, FINAL_AFTER + 1), deepest)
        del self.blocks[len(self.blocks) - depth :]
        for signature, last_height in self._sent:  # leaders of the fork that won may have heard of them, too
            if signature in worst:
                self._on_their_way.append((self._last_of(last_height), signature, last_height))
            elif self._random.random() < 0.5:
                self._on_their_way.append((self.height + self._random.randrange(1, 4), signature, last_height))


class Submitter:
    """Drives one effect. Between any two of its actions it may die; then only `stored` is left."""

    def __init__(self, chain: Chain, random: Random, forgetful: bool) -> None:
        self._chain, self._random = chain, random
        self._forgetful = forgetful  # an endpoint that has lost its history answers
        self.stored = Submission()
        self.signed = 0

    def act(self) -> None:
        """One action, chosen by what is stored."""
        now = self.stored
        if self._chain.chance(0.1):
            return  # it is dead, or the database is away
        if now.state in FREE:
            self.stored = step(now, Taken())
        elif now.state is State.PARKED:
            self.stored = step(now, Retried())
        elif now.state is State.BUILT:
            self._build()
        elif now.state is State.CONFIRMED and not now.signature:
            found = bool(self._chain.effects())
            self.stored = step(now, Found(self._chain.height, self._chain.height_final) if found else Missing())
        elif now.state is not State.FINALIZED:
            self._follow()

    def _build(self) -> None:
        chain = self._chain
        if chain.chance(0.1):
            self.stored = step(self.stored, NotNow("the chain is away"))
        elif chain.chance(0.05):
            self.stored = step(self.stored, Refused("something else", permanent=False))
        elif chain.guarded and chain.effects():
            self.stored = step(self.stored, Found(chain.height, chain.height_final))
        else:
            self.signed += 1
            signature = f"signature {self.signed}"
            signed = Signed(signature, chain.height + self._random.randrange(1, VALID))
            if chain.chance(0.1):
                return  # it dies before the bytes are stored, and so before they are sent
            self.stored = step(self.stored, signed)

    def _follow(self) -> None:
        now, chain = self.stored, self._chain
        if now.state is State.SIGNED or self._random.random() < 0.3:
            with suppress(OSError):  # nobody knows: as if it had been taken
                chain.send(now.signature, now.last_height)
            if chain.chance(0.2):
                return
            if now.state is State.SIGNED:
                now = self.stored = step(now, HandedOver())
        landed = None if self._forgetful and chain.chance(0.3) else chain.landed(now.signature)
        if landed is None:
            self.stored = step(now, Absent(chain.height_final))
            return
        height, error = landed
        final, confirmed = height <= chain.height_final, height < chain.height
        level = Level.FINALIZED if final else Level.CONFIRMED if confirmed else Level.PROCESSED
        self.stored = step(now, Seen(level, error))


def play(seed: int, *, guarded: bool, forgetful: bool) -> tuple[Chain, Submitter]:
    """Trouble for a while, then calm until the effect is final or the steps are used up."""
    random = Random(seed)
    chain = Chain(random, guarded)
    submitter = Submitter(chain, random, forgetful)
    for number in range(STEPS_MAX):
        chain.calm = number >= STEPS_OF_TROUBLE
        chain.tick()
        submitter.act()
        if submitter.stored.state is State.FINALIZED and chain.calm:
            break
    for _ in range(VALID + 10):  # what is still on its way lands, or never will
        chain.tick()
    return chain, submitter
