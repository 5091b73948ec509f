"""Is this signed by that key? Ed25519 for readings and batches, ECDSA over named curves for OCMF records.

False means: not signed so. What cannot be decided raises, and is never taken for a forgery. Ed25519 is libsodium's: it
takes less time than OpenSSL's, lets Python go on meanwhile, and refuses keys of small order, with which anybody could
sign (docs/decisions/0035).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from nacl.bindings import crypto_sign_BYTES, crypto_sign_open, crypto_sign_PUBLICKEYBYTES
from nacl.exceptions import BadSignatureError

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
    """One answer each; some 45 us each."""
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
            return True
        if (len(claim.public_key), len(claim.signature)) != (crypto_sign_PUBLICKEYBYTES, crypto_sign_BYTES):
            return False
        crypto_sign_open(claim.signature + claim.message, claim.public_key)
    except (InvalidSignature, BadSignatureError):
        return False
    return True
