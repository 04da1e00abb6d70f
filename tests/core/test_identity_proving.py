"""Which keys prove a signature, and which signatures they prove: held against pyjwt, which none of it uses."""

import base64
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from buspass.identity.jws import Untrusted, check_signature, read
from buspass.identity.proving import public_key

P256, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
RSA = rsa.generate_private_key(65537, 2048)
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of P-256."""


def jwk(key, algorithm):
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": "k1"}


EC_JWK, RSA_JWK = jwk(P256, "ES256"), jwk(RSA, "RS256")
KEYS = {"ES256": (P256, EC_JWK), "RS256": (RSA, RSA_JWK)}


def proves(token, found, algorithms=("ES256", "RS256")):
    try:
        check_signature(read(token), found, algorithms)
    except Untrusted:
        return False
    return True


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_what_pyjwt_signs_is_proven_and_nothing_that_differs_in_a_bit(algorithm):
    private, public = KEYS[algorithm]
    token = jwt.encode({"sub": "a"}, private, algorithm=algorithm, headers={"kid": "k1"})
    found = public_key(public, algorithm)
    assert proves(token, found)
    assert not proves(token, found, ("none",))
    signing, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    for at in range(0, len(raw) * 8, 7):
        wrong = bytearray(raw)
        wrong[at // 8] ^= 1 << at % 8
        assert not proves(f"{signing}.{base64.urlsafe_b64encode(wrong).rstrip(b'=').decode()}", found)
    head, _, claims = signing.partition(".")
    assert not proves(f"{head}.{claims[:-4]}AAAA.{signature}", found)


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_the_algorithm_is_the_keys_whatever_the_header_says(algorithm):
    private, public = KEYS[algorithm]
    found = public_key(public, algorithm)
    signing = jwt.encode({"sub": "a"}, private, algorithm=algorithm).rpartition(".")[0]
    claims = signing.partition(".")[2]
    for said in (
        "none",
        "HS256",
        "ES384",
        "RS512",
        "PS256",
        "ES256" if algorithm == "RS256" else "RS256",
        None,
        5,
        ["ES256"],
    ):
        head = base64.urlsafe_b64encode(json.dumps({"alg": said}).encode()).rstrip(b"=").decode()
        data = f"{head}.{claims}".encode()
        signature = jwt.get_algorithm_by_name(algorithm).sign(data, private)
        token = f"{data.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        assert found.proves(data, signature)
        assert not proves(token, found)


def test_a_kid_that_is_no_text_makes_a_token_untrusted():
    head = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":5}').rstrip(b"=").decode()
    data = f"{head}.e30"
    signature = jwt.get_algorithm_by_name("ES256").sign(data.encode(), P256)
    token = f"{data}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert not proves(token, public_key(EC_JWK, "ES256"))


def test_a_signature_of_es256_is_64_bytes_of_two_numbers_in_range():
    found, data = public_key(EC_JWK, "ES256"), b"data"
    good = jwt.get_algorithm_by_name("ES256").sign(data, P256)
    r, s = int.from_bytes(good[:32]), int.from_bytes(good[32:])
    der = P256.sign(data, ec.ECDSA(jwt.algorithms.hashes.SHA256()))

    def pair(r, s):
        return r.to_bytes(32) + s.to_bytes(32)

    assert found.proves(data, good)
    assert found.proves(data, pair(r, N - s))  # the same signature, as ECDSA has it
    wrong = (
        b"",
        good[:63],
        good + b"\0",
        b"\0" + good,
        der,
        pair(0, 0),
        pair(0, s),
        pair(r, 0),
        pair(N, s),
        pair(r, N),
    )
    for each in (*wrong, pair(s, r), pair(1, 1), b"\xff" * 64):
        assert not found.proves(data, each), each
    assert not public_key(jwk(OTHER, "ES256"), "ES256").proves(data, good)


@pytest.mark.parametrize(
    "broken",
    [
        (EC_JWK, "RS256"),
        (RSA_JWK, "ES256"),
        (EC_JWK, ""),
        (EC_JWK, "none"),
        (EC_JWK, "HS256"),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}, "HS256"),
        ({**EC_JWK, "kty": "RSA"}, "ES256"),
        ({**EC_JWK, "crv": "P-384"}, "ES256"),
        ({**EC_JWK, "crv": "secp256k1"}, "ES256"),
        ({**EC_JWK, "x": EC_JWK["y"]}, "ES256"),
        ({**EC_JWK, "x": "AA" + EC_JWK["x"]}, "ES256"),
        ({**EC_JWK, "x": EC_JWK["x"][:-1] + "!"}, "ES256"),
        ({**EC_JWK, "x": 5}, "ES256"),
        ({**EC_JWK, "kid": 5}, "ES256"),
        ({name: value for name, value in EC_JWK.items() if name != "y"}, "ES256"),
        ({**EC_JWK, "x": "A" * 43, "y": "A" * 43}, "ES256"),
        ({**RSA_JWK, "kty": "EC"}, "RS256"),
        ({**RSA_JWK, "e": "Ag"}, "RS256"),
        ({**RSA_JWK, "e": "AQ"}, "RS256"),
        ({**RSA_JWK, "n": RSA_JWK["n"][:200]}, "RS256"),
        ({**RSA_JWK, "n": None}, "RS256"),
    ],
)
def test_what_is_no_key_for_the_algorithm_is_refused(broken):
    with pytest.raises(ValueError):
        public_key(*broken)


def test_a_short_rsa_key_proves_nothing():
    short = jwk(rsa.generate_private_key(65537, 1024), "RS256")
    with pytest.raises(ValueError, match="2048"):
        public_key(short, "RS256")


def test_a_padded_member_is_read_as_it_is_meant():
    padded = {
        name: value + "=" * (-len(value) % 4) if name in {"x", "y", "n", "e"} else value
        for name, value in EC_JWK.items()
    }
    data = b"data"
    assert public_key(padded, "ES256").proves(data, jwt.get_algorithm_by_name("ES256").sign(data, P256))
