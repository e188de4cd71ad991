# SPDX-License-Identifier: MIT
"""Random inputs for the curve and signature functions, corner cases included. Only the recorder uses it."""

from __future__ import annotations

import hashlib
import random

import coincurve
import nacl.signing
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from outlayer_localnet import crypto
from outlayer_localnet.pairing import modular_squareroot_in_FQ2
from outlayer_localnet.pairing import optimized_bls12_381 as bls
from outlayer_localnet.pairing import optimized_bn128 as bn

rng = random.Random(0)


def bng1():
    k = rng.choice([0, 1, 2, rng.randrange(bn.curve_order)])
    pt = crypto._bn_encode(bn.multiply(bn.G1, k))
    c = rng.randrange(8)
    if c == 0:
        pt = bytes([pt[0] ^ 1]) + pt[1:]
    if c == 1:
        pt = b"\xff" * 32 + pt[32:]
    return pt


def bng2():
    k = rng.choice([0, 1, rng.randrange(bn.curve_order)])
    point = bn.multiply(bn.G2, k)
    if bn.is_inf(point):
        r = bytes(128)
    else:
        x, y = bn.normalize(point)
        r = b"".join(int(c).to_bytes(32, "little") for c in (*x.coeffs, *y.coeffs))
    if rng.randrange(8) == 0:
        r = bytes([r[0] ^ 1]) + r[1:]
    return r


def scalar():
    return rng.choice([0, 1, rng.randrange(2**256), bn.curve_order - 1, bn.curve_order, 2**256 - 1]).to_bytes(
        32, "little"
    )


def blsg1():
    k = rng.choice([0, 1, 2, rng.randrange(bls.curve_order)])
    r = crypto._bls_encode(bls.multiply(bls.G1, k), g2=False)
    c = rng.randrange(14)
    if c == 0:
        r = bytes([r[0] | rng.choice([0x80, 0x40, 0x20])]) + r[1:]
    if c == 1:
        r = bytes([r[0], r[1] ^ 1]) + r[2:]
    if c == 2:
        r = b"\x40" + b"\0" * 94 + b"\1"
    if c == 3:
        r = (0).to_bytes(48, "big") + (2).to_bytes(48, "big")
    if c == 4:
        # on curve, not in group
        x = rng.randrange(1, 1000)
        while crypto._sqrt_fp((x**3 + 4) % bls.field_modulus) is None:
            x += 1
        r = x.to_bytes(48, "big") + crypto._sqrt_fp((x**3 + 4) % bls.field_modulus).to_bytes(48, "big")
    if c == 5:
        r = (bls.field_modulus + 1).to_bytes(48, "big") + r[48:]
    if c == 6:
        r = b"\0" * 96
    return r


def blsg2():
    k = rng.choice([0, 1, 2, rng.randrange(bls.curve_order)])
    r = crypto._bls_encode(bls.multiply(bls.G2, k), g2=True)
    c = rng.randrange(12)
    if c == 0:
        r = bytes([r[0] | rng.choice([0x80, 0x40, 0x20])]) + r[1:]
    if c == 1:
        r = bytes([r[0], r[1] ^ 1]) + r[2:]
    if c == 2:
        r = b"\0" * 192
    if c == 3:
        x = rng.randrange(1, 1000)
        while True:
            fp2 = bls.FQ2([x, 0])
            y = modular_squareroot_in_FQ2(fp2 * fp2 * fp2 + bls.b2)
            if y is not None:
                break
            x += 1
        r = crypto._bls_fp2_bytes(fp2) + crypto._bls_fp2_bytes(y)
    return r


def fp():
    return rng.choice(
        [
            0,
            1,
            2,
            rng.randrange(bls.field_modulus),
            bls.field_modulus - 1,
            bls.field_modulus,
            rng.randrange(2**384),
        ]
    ).to_bytes(48, "big")


def comp1():
    r = blsg1()
    x = bytearray(r[:48])
    x[0] |= rng.choice([0x80, 0x80, 0xA0, 0xA0, 0xC0, 0])
    if rng.randrange(6) == 0:
        x = bytearray(48)
        x[0] = rng.choice([0x80, 0xA0, 0xC0, 0xE0])
    return bytes(x)


def comp2():
    r = blsg2()
    x = bytearray(r[:96])
    x[0] |= rng.choice([0x80, 0x80, 0xA0, 0xA0, 0xC0, 0])
    if rng.randrange(6) == 0:
        x = bytearray(96)
        x[0] = rng.choice([0x80, 0xA0, 0xC0, 0xE0])
    return bytes(x)


small = [
    0,
    1,
    2**255 - 20,
    crypto._ED25519_PRIME - 1,
    crypto._ED25519_PRIME,
    crypto._ED25519_PRIME + 1,
    2707385501144840649318225287225658788936804267575313519463743609750303021636,
    crypto._ED25519_PRIME - 2707385501144840649318225287225658788936804267575313519463743609750303021636,
]


def edkey():
    v = rng.choice(small) | (rng.randrange(2) << 255)
    return v.to_bytes(32, "little")


def ed():
    c = rng.randrange(4)
    msg = bytes(rng.randrange(256) for _ in range(rng.randrange(20)))
    if c == 0:
        k = nacl.signing.SigningKey(bytes(rng.randrange(256) for _ in range(32)))
        s = k.sign(msg).signature
        if rng.randrange(3) == 0:
            s = s[:32] + (int.from_bytes(s[32:], "little") + crypto._ED25519_ORDER).to_bytes(32, "little")
        return s, msg, bytes(k.verify_key)
    sc = rng.choice([0, 1, rng.randrange(crypto._ED25519_ORDER)])
    base = crypto._ed_decompress(crypto._ED_BASE_Y.to_bytes(32, "little"))
    commitment = crypto._ed_compress(crypto._ed_multiply(sc, base))
    if rng.randrange(2):
        commitment = edkey()
    return commitment + sc.to_bytes(32, "little"), msg, edkey()


def calls():
    """Host calls and the bytes at address 0 that they read."""
    kind = rng.choice(
        [
            "bnm",
            "bns",
            "bnp",
            "b1",
            "b2",
            "m1",
            "m2",
            "f1",
            "f2",
            "d1",
            "d2",
            "pair",
            "ed",
            "ed",
            "ed",
            "p256",
            "p256",
            "ec",
            "ec",
        ]
    )
    n = rng.randrange(3)

    def one(name, blob, reg=True):
        return [(name, [len(blob), 0] + ([1] if reg else [])), ("read_register", [1, 4000])], blob

    if kind == "bnm":
        return one("alt_bn128_g1_multiexp", b"".join(bng1() + scalar() for _ in range(n)))
    if kind == "bns":
        return one(
            "alt_bn128_g1_sum", b"".join(bytes([rng.choice([0, 1, 0, 1, 2])]) + bng1() for _ in range(n))
        )
    if kind == "bnp":
        return ([("alt_bn128_pairing_check", [192 * n, 0])], b"".join(bng1() + bng2() for _ in range(n)))
    if kind == "b1":
        return one(
            "bls12381_p1_sum", b"".join(bytes([rng.choice([0, 1, 0, 1, 2])]) + blsg1() for _ in range(n))
        )
    if kind == "b2":
        return one(
            "bls12381_p2_sum", b"".join(bytes([rng.choice([0, 1, 0, 1, 2])]) + blsg2() for _ in range(n))
        )
    if kind == "m1":
        return one("bls12381_g1_multiexp", b"".join(blsg1() + scalar() for _ in range(n)))
    if kind == "m2":
        return one("bls12381_g2_multiexp", b"".join(blsg2() + scalar() for _ in range(n)))
    if kind == "f1":
        return one("bls12381_map_fp_to_g1", b"".join(fp() for _ in range(n)))
    if kind == "f2":
        return one("bls12381_map_fp2_to_g2", b"".join(fp() + fp() for _ in range(n)))
    if kind == "d1":
        return one("bls12381_p1_decompress", b"".join(comp1() for _ in range(n)))
    if kind == "d2":
        return one("bls12381_p2_decompress", b"".join(comp2() for _ in range(n)))
    if kind == "pair":
        return ([("bls12381_pairing_check", [288 * n, 0])], b"".join(blsg1() + blsg2() for _ in range(n)))
    if kind == "ed":
        s, m, k = ed()
        return ([("ed25519_verify", [64, 0, len(m), 64, 32, 64 + len(m)])], s + m + k)
    if kind == "p256":
        pk = ec.derive_private_key(rng.randrange(1, 2**200), ec.SECP256R1())
        dig = hashlib.sha256(bytes([rng.randrange(256)])).digest()
        r, s = decode_dss_signature(pk.sign(dig, ec.ECDSA(Prehashed(hashes.SHA256()))))
        order = crypto._P256_ORDER
        c = rng.randrange(10)
        if c == 0:
            s = order - s
        if c == 1:
            s = rng.choice([0, order, order + 1, 2**256 - 1])
        if c == 2:
            r = rng.choice([0, order, r ^ 1])
        key = pk.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )
        if c == 3:
            key = bytes([rng.choice([0, 4, 5, key[0] ^ 1])]) + key[1:]
        if c == 4:
            key = b"\0" * 33
        if c == 5:
            key = key[:1] + b"\xff" * 32
        d = dig
        if c == 6:
            d = dig + b"xx"
        if c == 7:
            d = dig[: rng.randrange(33)]
        if c == 8:
            d = bytes(rng.randrange(1, 3)) * 20
            d = d[: rng.randrange(14, 21)]
            r, s = decode_dss_signature(
                pk.sign(d[:32].rjust(32, b"\0"), ec.ECDSA(Prehashed(hashes.SHA256())))
            )
        return (
            [("p256_verify", [64, 0, len(d), 64, 33, 64 + len(d)])],
            r.to_bytes(32, "big") + s.to_bytes(32, "big") + d + key,
        )
    if kind == "ec":
        dig = hashlib.sha256(bytes([rng.randrange(256)])).digest()
        sg = coincurve.PrivateKey(bytes([rng.randrange(1, 200)]) * 32).sign_recoverable(dig, hasher=None)
        order = crypto._SECP256K1_ORDER
        r, s, v = sg[:32], int.from_bytes(sg[32:64], "big"), sg[64]
        c = rng.randrange(8)
        if c == 0:
            s = order - s
            v ^= 1
        if c == 1:
            s = rng.choice([0, 1, order // 2, order // 2 + 1, order // 2 + 2, order - 1, order])
        if c == 2:
            r = rng.choice([0, 1, order - 1, order, 2**256 - 1]).to_bytes(32, "big")
        if c == 3:
            v = rng.randrange(5)
        if c == 4:
            dig = rng.choice([bytes(32), b"\xff" * 32, dig[:31]])
        return (
            [
                ("ecrecover", [len(dig), 64, 64, 0, v, rng.choice([0, 1, 1, 2]), 1]),
                ("read_register", [1, 4000]),
            ],
            r + s.to_bytes(32, "big") + dig,
        )
    raise AssertionError(kind)


def random_curve_calls(seed):
    """Calls whose result the contract returns, and the contract's data."""
    rng.seed(seed)
    made, blob = calls()
    made = [(name, list(args)) for name, args in made]
    return [*made, ("value_return", [200, 4000])], blob.ljust(4000, b"\0")
