# SPDX-License-Identifier: MIT
"""Hashes and signatures against published vectors; the rest is in ``test_against_nearcore``."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import coincurve
import nacl.signing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlayer_localnet import crypto
from outlayer_localnet.vm_errors import HostFailure


def test_hashes_of_nothing():
    keccak = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert crypto.keccak256(b"").hex() == keccak
    assert crypto.keccak512(b"").hex().startswith("0eab42de4c3ceb9235fc91acffe746b2")
    assert crypto.ripemd160(b"").hex() == "9c1185a5c5e9fc54612808977ee8f548b2258d31"


def test_ecrecover_finds_the_signer_and_refuses_high_s():
    key = coincurve.PrivateKey(bytes([9]) * 32)
    digest = hashlib.sha256(b"x").digest()
    signature = key.sign_recoverable(digest, hasher=None)
    public = key.public_key.format(compressed=False)[1:]
    assert crypto.ecrecover(digest, signature[:64], signature[64], reject_high_s=True) == public
    s = int.from_bytes(signature[32:64], "big")
    order = crypto._SECP256K1_ORDER
    high = signature[:32] + (order - s).to_bytes(32, "big")
    assert crypto.ecrecover(digest, high, signature[64] ^ 1, reject_high_s=False) == public
    assert crypto.ecrecover(digest, high, signature[64] ^ 1, reject_high_s=True) is None


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(0, 511))
def test_ed25519_accepts_signatures_and_refuses_changed_ones(seed, message, bit):
    key = nacl.signing.SigningKey(seed)
    signature = key.sign(message).signature
    public = bytes(key.verify_key)
    assert crypto.ed25519_verify(signature, message, public)
    assert crypto._ed25519_verify_slow(signature, message, public)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    assert not crypto.ed25519_verify(bytes(changed), message, public)


def test_ed25519_low_order_key_is_accepted_as_dalek_does():
    # key and R are the neutral element, s is zero: cofactorless verification holds for any message
    neutral = (1).to_bytes(32, "little")
    assert crypto.ed25519_verify(neutral + bytes(32), b"anything", neutral)


def test_the_pairing_curves_leave_the_recursion_limit_alone():
    program = "import sys; before = sys.getrecursionlimit(); import outlayer_localnet.pairing; "
    program += "assert sys.getrecursionlimit() == before"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_pairings_hold_for_generators():
    from outlayer_localnet.pairing import optimized_bls12_381 as bls

    g1, g2 = crypto._bls_encode(bls.G1, g2=False), crypto._bls_encode(bls.G2, g2=True)
    minus = crypto._bls_encode(bls.neg(bls.G1), g2=False)
    assert crypto.bls_pairing_check(g1 + g2 + minus + g2) == 0
    assert crypto.bls_pairing_check(g1 + g2) == 2
    assert crypto.bls_pairing_check(b"\xff" * 288) == 1


def test_malformed_length_is_an_error_by_name():
    with pytest.raises(HostFailure, match="bls12381_p1_sum: 5 is not divisible by 97"):
        crypto.bls_p1_sum(bytes(5))
