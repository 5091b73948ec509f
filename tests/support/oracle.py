"""Providers with keys, and what they sign."""

import uuid

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from engine.oracle.records import NewProvider
from engine.oracle.submissions import signed_bytes


class Provider(Struct, frozen=True):
    """Its key follows from its name, so that signatures repeat."""

    name: str
    feeds: tuple[str, ...] = ("retail_price",)

    @property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.name.encode().ljust(32, b"."))

    @property
    def provider_id(self) -> bytes:
        return uuid.uuid5(uuid.NAMESPACE_DNS, self.name).bytes

    def new(self) -> NewProvider:
        return NewProvider(self.provider_id, self.name, self.key.public_key().public_bytes_raw(), self.feeds)

    def sign(self, feed: str, value: int, observed_us: int) -> bytes:
        return self.key.sign(signed_bytes(self.provider_id, feed, value, observed_us))
