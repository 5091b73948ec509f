"""Is this signed by that key? Ed25519 for readings and batches, ECDSA over named curves for OCMF records.

False means: not signed so. What cannot be decided raises, and is never taken for a forgery.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

_CURVES: Final = {
    "ECDSA-secp192r1-SHA256": "secp192r1",
    "ECDSA-secp256k1-SHA256": "secp256k1",
    "ECDSA-secp256r1-SHA256": "secp256r1",
    "ECDSA-secp384r1-SHA256": "secp384r1",
    "ECDSA-brainpool256r1-SHA256": "brainpoolP256r1",
    "ECDSA-brainpoolP256r1-SHA256": "brainpoolP256r1",
    "ECDSA-brainpool384r1-SHA256": "brainpoolP384r1",
    "ECDSA-brainpoolP384r1-SHA256": "brainpoolP384r1",
}
_ECDSA: Final = ec.ECDSA(SHA256())


class Claim(NamedTuple):
    """public_key: 32 bytes for Ed25519 (no algorithm), DER for the others; None: there is no such key."""

    public_key: bytes | None
    signature: bytes
    message: bytes
    algorithm: str = ""


def check(claims: Sequence[Claim]) -> list[bool]:
    """One answer each; some 85 us each."""
    return [_is_signed(claim) for claim in claims]


def _is_signed(claim: Claim) -> bool:
    if claim.public_key is None:
        return False
    try:
        if claim.algorithm:
            key = load_der_public_key(claim.public_key)
            if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVES.get(claim.algorithm):
                return False
            key.verify(claim.signature, claim.message, _ECDSA)
        else:
            Ed25519PublicKey.from_public_bytes(claim.public_key).verify(claim.signature, claim.message)
    except InvalidSignature:
        return False
    return True
