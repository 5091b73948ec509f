"""What counts as signed: RFC 8032's own vectors, and nothing that only looks like a signature.

Seen to fail for: OpenSSL's verification, which takes keys of small order.
"""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from actors.verification import Claim, check

ORDER = 2**252 + 27742317777372353535851937790883648493
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
MESSAGE = b"a reading"
SIGNATURE = KEY.sign(MESSAGE)
# RFC 8032, section 7.1: secret key, message, signature
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655"
        "141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00"
        "d291612bb0c00",
    ),
]
# Points of small order, of which every multiple is one of eight: with S = 0 they would sign about anything.
SMALL = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize(("secret", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032_are_signed(secret: str, message: str, signature: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)).public_key().public_bytes_raw()

    assert check([Claim(key, bytes.fromhex(signature), bytes.fromhex(message))]) == [True]


def test_whoever_changes_a_bit_has_not_signed() -> None:
    flipped = [
        Claim(PUBLIC, SIGNATURE[:place] + bytes([SIGNATURE[place] ^ 1]) + SIGNATURE[place + 1 :], MESSAGE)
        for place in range(64)
    ]

    assert check([*flipped, Claim(PUBLIC, SIGNATURE, MESSAGE + b"!"), Claim(PUBLIC, SIGNATURE, MESSAGE)]) == [
        *([False] * 65),
        True,
    ]


def test_a_second_form_of_a_signature_is_none() -> None:
    scalar = int.from_bytes(SIGNATURE[32:], "little") + ORDER

    assert check([Claim(PUBLIC, SIGNATURE[:32] + scalar.to_bytes(32, "little"), MESSAGE)]) == [False]


@pytest.mark.parametrize("point", SMALL)
def test_a_key_with_which_anybody_signs_is_none(point: str) -> None:
    small = bytes.fromhex(point)
    forgeries = [Claim(small, bytes.fromhex(one) + bytes(32), bytes([n])) for one in SMALL for n in range(8)]

    assert not any(check(forgeries))


def test_lengths_that_are_none_are_no_error() -> None:
    claims = [
        Claim(PUBLIC, b"", MESSAGE),
        Claim(PUBLIC, SIGNATURE[:-1], MESSAGE),
        Claim(PUBLIC, SIGNATURE + b"a", MESSAGE[1:]),
        Claim(PUBLIC[:-1], SIGNATURE, MESSAGE),
        Claim(None, SIGNATURE, MESSAGE),
    ]

    assert check(claims) == [False] * 5


def test_a_curve_that_was_not_named_is_none() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(MESSAGE, ec.ECDSA(SHA256()))

    told = check(
        [
            Claim(der, signature, MESSAGE, "ECDSA-secp256r1-SHA256"),
            Claim(der, signature, MESSAGE, "ECDSA-secp384r1-SHA256"),
            Claim(der, signature, MESSAGE + b"!", "ECDSA-secp256r1-SHA256"),
        ]
    )

    assert told == [True, False, False]
