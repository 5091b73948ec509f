"""Everything that lives as long as the gateway: the ports that were handed in and what is built from them.

Its owner is the application's lifespan: `start` and `stop` are called once each. No other module keeps state.
"""

import asyncio
from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from engine.metering.records import PostedWindow
from gateway.answers import Answers, NotKept, RedisAnswers
from gateway.auth.api_keys import Secrets, Uses
from gateway.auth.callers import Callers
from gateway.auth.entrance import Entrance
from gateway.auth.keys import open_keys, open_pepper
from gateway.auth.logins import Logins
from gateway.auth.passwords import Passwords
from gateway.auth.revocations import Revocations
from gateway.auth.sessions import Sessions
from gateway.auth.tokens import AccessTokens
from gateway.barrier import Barrier
from gateway.chain_ports import ChainDesk, Oracle, Settlements
from gateway.feed import Feeds
from gateway.head_ends import HeadEnds
from gateway.health import Health
from gateway.limits import Limits, SharedBuckets
from gateway.message_rates import MessageRates
from gateway.metrics import GatewayMetrics, Gather
from gateway.ports import (
    ApiKeys,
    AuditLog,
    Catalogue,
    Clock,
    Directory,
    Elapsed,
    FirstAnswers,
    History,
    Ledger,
    Makers,
    Markets,
    Metering,
    People,
    Probe,
    Processes,
    Recurring,
    Risk,
    Supervision,
    Vault,
    Wallets,
)
from gateway.settings import GatewaySettings
from gateway.trading import Trading
from gateway.zone_flow import ZoneFlows


class Gateway:
    def __init__(
        self,
        *,
        people: People,
        wallets: Wallets,
        vault: Vault,
        directory: Directory | None,
        api_keys: ApiKeys,
        audit: AuditLog,
        catalogue: Catalogue,
        ledger: Ledger,
        history: History,
        first_answers: FirstAnswers,
        markets: Markets,
        shared: SharedBuckets,
        metering: Metering,
        settlements: Settlements,
        oracle: Oracle,
        risk: Risk,
        recurring: Recurring,
        makers: Makers,
        answers_in: Redis | None,
        chain: ChainDesk,
        clock: Clock,
        elapsed: Elapsed,
        probes: Mapping[str, Probe],
        registry: CollectorRegistry,
        gather: Gather,
        supervision: Supervision,
        processes: Processes,
        outages: tuple[type[Exception], ...],
        not_needed: frozenset[str],
        settings: GatewaySettings,
    ) -> None:
        self.people, self.catalogue, self.ledger, self.history = people, catalogue, ledger, history
        self.wallets, self.vault = wallets, vault
        self.api_keys, self.audit, self.first_answers = api_keys, audit, first_answers
        self.metering, self.chain = metering, chain
        self.settlements, self.oracle, self.risk, self.recurring = settlements, oracle, risk, recurring
        self.makers = makers
        self.head_ends = HeadEnds(api_keys, elapsed, settings.callers_fresh_seconds, settings.head_end_keys_max)
        self.markets, self.clock, self.settings = markets, clock, settings
        self.outages, self.supervision, self.processes = outages, supervision, processes
        self.metrics = GatewayMetrics(registry, gather)
        self.limits = Limits(settings, shared)
        self.keys = open_keys(settings.key_directory)
        self.tokens = AccessTokens(
            self.keys,
            clock,
            elapsed,
            issuer=settings.issuer,
            audience=settings.audience,
            seconds=settings.access_seconds,
            remembered_max=settings.tokens_max,
        )
        self.passwords = Passwords(
            settings.bcrypt_cost,
            settings.password_workers,
            settings.password_waiting_max,
            allow_low_cost=settings.bcrypt_cost_lowered_for_tests,
        )
        self.logins = Logins(people, clock, settings.login_failures_max, settings.lockout_seconds)
        self.entrance = Entrance(
            people,
            self.passwords,
            self.logins,
            directory,
            clock,
            default_zone=settings.default_zone,
            grace_seconds=settings.directory_grace_seconds,
        )
        self.sessions = Sessions(
            people,
            self.tokens,
            clock,
            access_seconds=settings.access_seconds,
            refresh_seconds=settings.refresh_seconds,
        )
        self.secrets = Secrets(settings.api_key_pepper or open_pepper(settings.key_directory))
        self.uses = Uses(api_keys, settings.api_key_uses_seconds)
        self.callers = Callers(
            people,
            api_keys,
            self.tokens,
            self.secrets,
            self.uses,
            self.entrance.stay,
            clock,
            elapsed,
            settings.access_seconds,
            settings.callers_fresh_seconds,
            settings.callers_max,
        )
        self.revocations = Revocations(
            people,
            self.tokens,
            clock,
            elapsed,
            every_seconds=settings.revocations_seconds,
            access_seconds=settings.access_seconds,
        )
        self.barrier = Barrier(
            history,
            markets,
            seconds_max=settings.barrier_seconds_max,
            poll_seconds=settings.barrier_poll_seconds,
        )
        self.message_rates = MessageRates(risk, markets, settings.message_rates_seconds, settings.limited_keys_max)
        self.trading = Trading(markets, history, ledger, self.barrier, self.message_rates, clock, settings.currency)
        self.feeds = Feeds(markets, clock, self.barrier)
        self.flows = ZoneFlows(metering.analytics, clock, outages)
        self.answers: Answers = NotKept()
        if answers_in is not None:
            self.answers = RedisAnswers(answers_in, self.metrics, settings.answers_seconds)
        self.health = Health(markets, history, self.revocations, probes, settings, not_needed)
        self.sockets = 0  # connections now
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.metering.readings.listen(self._windows_closed)
        for name, run in (
            ("revocations", self.revocations.run),
            ("keys", self.tokens.follow_keys),
            ("uses", self.uses.run),
            ("feeds", self.feeds.run),
            ("answers", self.answers.run),
            ("flows", self.flows.run),
            ("health", self._watch_health),
            ("message rates", self.message_rates.run),
        ):
            task = asyncio.create_task(run(), name=name)
            task.add_done_callback(self.health.task_ended)
            self._tasks.append(task)

    async def _watch_health(self) -> None:
        """Health as metrics, whether or not anybody asks for it."""
        while True:
            report = await self.health.report()
            states = {name: (one.state == "up", one.latency_ms / 1_000) for name, one in report.dependencies.items()}
            self.metrics.healthy(states, is_ready=not report.reasons)
            await asyncio.sleep(self.settings.health_seconds)

    def _windows_closed(self, windows: list[PostedWindow]) -> None:
        self.answers.windows_closed(windows)
        self.feeds.windows_closed(windows)
        self.flows.windows_closed(windows)

    async def stop(self) -> None:
        """Ends what was started, in turn; afterwards nothing of the gateway runs."""
        await self.feeds.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.callers.close()
        await self.head_ends.close()
        await self.barrier.close()
        self.passwords.close()
