# SPDX-License-Identifier: MIT
"""Hashes, signatures and curves behind the host functions.

Encodings and corner cases are those of nearcore (``host.rs``, ``alt_bn128.rs``, ``bls12381.rs``), which
uses ed25519-dalek, libsecp256k1, the ``p256`` crate, zeropool-bn and blst. The pairing curves are pure
Python and only imported when a contract asks for them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import coincurve
from Crypto.Hash import RIPEMD160, keccak
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from nacl import bindings as sodium

from outlayer_localnet.vm_errors import host

if TYPE_CHECKING:
    from collections.abc import Callable

_SECP256K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ED25519_PRIME: Final = 2**255 - 19
_ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_ED25519_D: Final = -121665 * pow(121666, -1, _ED25519_PRIME) % _ED25519_PRIME


# -- hashes ----------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def keccak256(data: bytes) -> bytes:
    """Keccak with 256 bits, as Ethereum uses it."""
    return bytes(keccak.new(digest_bits=256, data=data).digest())


def keccak512(data: bytes) -> bytes:
    """Keccak with 512 bits."""
    return bytes(keccak.new(digest_bits=512, data=data).digest())


def ripemd160(data: bytes) -> bytes:
    """RIPEMD-160, 20 bytes."""
    return bytes(RIPEMD160.new(data).digest())


# -- ECDSA -----------------------------------------------------------------------------------------


def ecrecover(digest: bytes, signature: bytes, v: int, *, reject_high_s: bool) -> bytes | None:
    """The 64-byte secp256k1 key (x ‖ y) that signed ``digest``, or ``None``.

    ``signature`` is r ‖ s, ``v`` the recovery id 0-3.
    """
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    limit = _SECP256K1_ORDER // 2 + 1 if reject_high_s else _SECP256K1_ORDER
    if r >= _SECP256K1_ORDER or s >= limit:
        return None
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature + bytes([v]), digest, hasher=None)
    except Exception:  # noqa: BLE001 - coincurve raises bare Exception for an unrecoverable signature
        return None
    return key.format(compressed=False)[1:]


def p256_signature_in_range(signature: bytes) -> bool:
    """Whether r and s (32 bytes each) are in 1..order-1."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return 0 < r < _P256_ORDER and 0 < s < _P256_ORDER


def p256_verify(signature: bytes, prehash: bytes, key: bytes) -> bool:
    """ECDSA over P-256 of a prehashed message; ``key`` is compressed SEC1, 33 bytes.

    A prehash of another length than 32 is cut or zero-padded on the left as the ``ecdsa`` crate does;
    shorter than 16 bytes it is refused.
    """
    if len(prehash) < 16:
        return False
    z = prehash[:32].rjust(32, b"\0")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        public.verify(encode_dss_signature(r, s), z, ec.ECDSA(Prehashed(hashes.SHA256())))
    except (InvalidSignature, ValueError):
        return False
    return True


# -- ed25519 ---------------------------------------------------------------------------------------


def ed25519_verify(signature: bytes, message: bytes, key: bytes) -> bool:
    """Ed25519 as ed25519-dalek's ``verify`` (not strict): cofactorless, low-order keys allowed.

    libsodium answers for ordinary keys; what it refuses and dalek may accept (points of low order,
    non-canonical encodings) is decided by a slow path of our own.
    """
    try:
        sodium.crypto_sign_open(signature + message, key)
    except Exception:  # noqa: BLE001 - nacl raises its own and ValueError for refused keys
        return _ed25519_may_differ(signature, key) and _ed25519_verify_slow(signature, message, key)
    return True


def _ed25519_may_differ(signature: bytes, key: bytes) -> bool:
    """Whether libsodium may have refused for a reason that dalek does not have."""
    y_key = int.from_bytes(key, "little") & ((1 << 255) - 1)
    y_r = int.from_bytes(signature[:32], "little") & ((1 << 255) - 1)
    small = _small_order_ys()
    prime = _ED25519_PRIME
    return y_key >= prime or y_r >= prime or y_key % prime in small or y_r % prime in small


def _small_order_ys() -> frozenset[int]:
    # y coordinates of the eight points whose order divides 8
    y8 = 2707385501144840649318225287225658788936804267575313519463743609750303021636
    return frozenset((0, 1, _ED25519_PRIME - 1, y8, _ED25519_PRIME - y8))


_Point = tuple[int, int, int, int]


def _ed_decompress(data: bytes) -> _Point | None:
    prime = _ED25519_PRIME
    encoded = int.from_bytes(data, "little")
    sign, y = encoded >> 255, (encoded & ((1 << 255) - 1)) % prime
    numerator, denominator = (y * y - 1) % prime, (_ED25519_D * y * y + 1) % prime
    x2 = numerator * pow(denominator, -1, prime) % prime
    x = pow(x2, (prime + 3) // 8, prime)
    if x * x % prime != x2:
        x = x * pow(2, (prime - 1) // 4, prime) % prime
    if x * x % prime != x2:
        return None
    if x & 1 != sign:
        x = (prime - x) % prime
    return x, y, 1, x * y % prime


def _ed_add(p: _Point, q: _Point) -> _Point:
    prime = _ED25519_PRIME
    a = (p[1] - p[0]) * (q[1] - q[0]) % prime
    b = (p[1] + p[0]) * (q[1] + q[0]) % prime
    c = 2 * p[3] * q[3] * _ED25519_D % prime
    d = 2 * p[2] * q[2] % prime
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % prime, g * h % prime, f * g % prime, e * h % prime


def _ed_multiply(scalar: int, point: _Point) -> _Point:
    result: _Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _ed_add(result, point)
        point = _ed_add(point, point)
        scalar >>= 1
    return result


def _ed_compress(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _ED25519_PRIME)
    x, y = point[0] * inverse % _ED25519_PRIME, point[1] * inverse % _ED25519_PRIME
    return (y | (x & 1) << 255).to_bytes(32, "little")


_ED_BASE_Y: Final = 4 * pow(5, -1, _ED25519_PRIME) % _ED25519_PRIME


def _ed25519_verify_slow(signature: bytes, message: bytes, key: bytes) -> bool:
    s = int.from_bytes(signature[32:], "little")
    public = _ed_decompress(key)
    base = _ed_decompress(_ED_BASE_Y.to_bytes(32, "little"))
    if s >= _ED25519_ORDER or public is None or base is None:
        return False
    digest = hashlib.sha512(signature[:32] + key + message).digest()
    k = int.from_bytes(digest, "little") % _ED25519_ORDER
    minus = (-public[0] % _ED25519_PRIME, public[1], 1, -public[3] % _ED25519_PRIME)
    # dalek compares encodings, so a non-canonical R never matches
    return _ed_compress(_ed_add(_ed_multiply(s, base), _ed_multiply(k, minus))) == signature[:32]


# -- alt_bn128 -------------------------------------------------------------------------------------


def _bn() -> Any:
    from outlayer_localnet.pairing import optimized_bn128

    return optimized_bn128


def _upper_debug(raw: bytes) -> str:
    # Rust's {:X?} of a byte slice
    return "[" + ", ".join(f"{byte:X}" for byte in raw) + "]"


def _bn_bad(what: str, raw: bytes) -> Exception:
    return host("AltBn128InvalidInput", msg=f"{what}: {_upper_debug(raw)}")


def _bn_fq(raw: bytes) -> int:
    value = int.from_bytes(raw, "little")
    if value >= _bn().field_modulus:
        raise _bn_bad("invalid fq", raw)
    return value


def _bn_fr(raw: bytes) -> int:
    # the curve library reduces nothing: a scalar outside the field is refused
    value = int.from_bytes(raw, "little")
    if value >= _bn().curve_order:
        raise _bn_bad("invalid fr", raw)
    return value


def _bn_g1(raw: bytes) -> Any:
    bn = _bn()
    x, y = _bn_fq(raw[:32]), _bn_fq(raw[32:])
    if x == 0 and y == 0:
        return bn.Z1
    point = (bn.FQ(x), bn.FQ(y), bn.FQ(1))
    if not bn.is_on_curve(point, bn.b):
        raise _bn_bad("invalid g1", raw)
    return point


def _bn_g2(raw: bytes) -> Any:
    bn = _bn()
    x = bn.FQ2([_bn_fq(raw[0:32]), _bn_fq(raw[32:64])])
    y = bn.FQ2([_bn_fq(raw[64:96]), _bn_fq(raw[96:128])])
    if x == bn.FQ2.zero() and y == bn.FQ2.zero():
        return bn.Z2
    point = (x, y, bn.FQ2.one())
    if not bn.is_on_curve(point, bn.b2) or not bn.is_inf(bn.multiply(point, bn.curve_order)):
        raise _bn_bad("invalid g2", raw)
    return point


def _bn_encode(point: Any) -> bytes:
    bn = _bn()
    if bn.is_inf(point):
        return bytes(64)
    x, y = bn.normalize(point)
    return int(x).to_bytes(32, "little") + int(y).to_bytes(32, "little")


def bn128_multiexp(elements: list[bytes]) -> bytes:
    """Σ scalar·point for 96-byte elements (x, y, scalar; little-endian); the point, 64 bytes."""
    bn = _bn()
    pairs = [(_bn_g1(element[:64]), _bn_fr(element[64:])) for element in elements]
    total = bn.Z1
    for point, scalar in pairs:
        total = bn.add(total, bn.multiply(point, scalar))
    return _bn_encode(total)


def bn128_sum(elements: list[bytes]) -> bytes:
    """Signed sum of 65-byte elements (sign, x, y); the point, 64 bytes."""
    bn = _bn()
    signed = []
    for element in elements:
        if element[0] > 1:
            raise _bn_bad("invalid bool", element[:1])
        signed.append((element[0], _bn_g1(element[1:])))
    total = bn.Z1
    for sign, point in signed:
        total = bn.add(total, bn.neg(point) if sign else point)
    return _bn_encode(total)


def bn128_pairing_check(elements: list[bytes]) -> bool:
    """Whether the product of the pairings of 192-byte elements (G1, G2) is one."""
    bn = _bn()
    pairs = [(_bn_g1(element[:64]), _bn_g2(element[64:])) for element in elements]
    total = bn.FQ12.one()
    for g1, g2 in pairs:
        total = total * bn.pairing(g2, g1, final_exponentiate=False)
    return bool(bn.final_exponentiate(total) == bn.FQ12.one())


# -- BLS12-381 -------------------------------------------------------------------------------------


def _bls() -> Any:
    from outlayer_localnet.pairing import optimized_bls12_381

    return optimized_bls12_381


def _bls_items(data: bytes, size: int, name: str) -> list[bytes]:
    if len(data) % size:
        raise host(
            "BLS12381InvalidInput",
            msg=f"Incorrect input length for {name}: {len(data)} is not divisible by {size}",
        )
    return [data[i : i + size] for i in range(0, len(data), size)]


def _bls_fp(raw: bytes) -> int | None:
    value = int.from_bytes(raw, "big")
    return value if value < _bls().field_modulus else None


def _bls_fp2(raw: bytes) -> Any:
    c1, c0 = _bls_fp(raw[:48]), _bls_fp(raw[48:])
    return None if c0 is None or c1 is None else _bls().FQ2([c0, c1])


def _bls_in_subgroup(point: Any) -> bool:
    bls = _bls()
    return bool(bls.is_inf(bls.multiply(point, bls.curve_order)))


def _bls_on_curve(x: Any, y: Any, b: Any) -> Any:
    bls = _bls()
    point = (x, y, type(x).one())
    return point if bls.is_on_curve(point, b) else None


def _bls_point(raw: bytes, *, g2: bool) -> Any:
    """An uncompressed point (blst's deserialize): flags in the top bits, infinity is 0x40 and zeros.

    At this protocol version a point on the curve but outside the group is accepted, except the corner
    case (0, ±2) and its like, which blst refuses here.
    """
    bls = _bls()
    if raw[0] & 0x80:
        return None
    if raw[0] & 0x40:
        zero = raw[0] == 0x40 and not any(raw[1:])
        return (bls.Z2 if g2 else bls.Z1) if zero else None
    if raw[0] & 0x20:
        return None
    half = len(raw) // 2
    if g2:
        x, y = _bls_fp2(raw[:half]), _bls_fp2(raw[half:])
        if x is None or y is None or (x == bls.FQ2.zero()):
            return None
        return _bls_on_curve(x, y, bls.b2)
    xi, yi = _bls_fp(raw[:half]), _bls_fp(raw[half:])
    if xi is None or yi is None or xi == 0:
        return None
    return _bls_on_curve(bls.FQ(xi), bls.FQ(yi), bls.b)


def _bls_fp2_bytes(value: Any) -> bytes:
    c0, c1 = (int(c) for c in value.coeffs)
    return c1.to_bytes(48, "big") + c0.to_bytes(48, "big")


def _bls_encode(point: Any, *, g2: bool) -> bytes:
    bls = _bls()
    if bls.is_inf(point):
        return b"\x40" + bytes(191 if g2 else 95)
    x, y = bls.normalize(point)
    if g2:
        return _bls_fp2_bytes(x) + _bls_fp2_bytes(y)
    return int(x).to_bytes(48, "big") + int(y).to_bytes(48, "big")


def _bls_sum(data: bytes, name: str, *, g2: bool) -> bytes | None:
    bls = _bls()
    total = bls.Z2 if g2 else bls.Z1
    for item in _bls_items(data, 193 if g2 else 97, name):
        point = _bls_point(item[1:], g2=g2)
        if point is None or item[0] > 1:
            return None
        total = bls.add(total, bls.neg(point) if item[0] else point)
    return _bls_encode(total, g2=g2)


def bls_p1_sum(data: bytes) -> bytes | None:
    """Signed sum of 97-byte items; ``None`` for a bad item."""
    return _bls_sum(data, "bls12381_p1_sum", g2=False)


def bls_p2_sum(data: bytes) -> bytes | None:
    """Signed sum of 193-byte items; ``None`` for a bad item."""
    return _bls_sum(data, "bls12381_p2_sum", g2=True)


def _bls_multiexp(data: bytes, name: str, *, g2: bool) -> bytes | None:
    bls = _bls()
    total = bls.Z2 if g2 else bls.Z1
    size = 192 if g2 else 96
    for item in _bls_items(data, size + 32, name):
        point = _bls_point(item[:size], g2=g2)
        if point is None or not _bls_in_subgroup(point):
            return None
        total = bls.add(total, bls.multiply(point, int.from_bytes(item[size:], "little")))
    return _bls_encode(total, g2=g2)


def bls_g1_multiexp(data: bytes) -> bytes | None:
    """Σ scalar·point of 128-byte items; ``None`` for a bad item."""
    return _bls_multiexp(data, "bls12381_p1_multiexp", g2=False)


def bls_g2_multiexp(data: bytes) -> bytes | None:
    """Σ scalar·point of 224-byte items; ``None`` for a bad item."""
    return _bls_multiexp(data, "bls12381_p2_multiexp", g2=True)


def _bls_map(data: bytes, size: int, name: str, one: Callable[[bytes], bytes | None]) -> bytes | None:
    out = []
    for item in _bls_items(data, size, name):
        mapped = one(item)
        if mapped is None:
            return None
        out.append(mapped)
    return b"".join(out)


def _map_fp(raw: bytes) -> bytes | None:
    from outlayer_localnet.pairing import clear_cofactor_G1, map_to_curve_G1

    value = _bls_fp(raw)
    if value is None:
        return None
    return _bls_encode(clear_cofactor_G1(map_to_curve_G1(_bls().FQ(value))), g2=False)


def _map_fp2(raw: bytes) -> bytes | None:
    from outlayer_localnet.pairing import clear_cofactor_G2, map_to_curve_G2

    value = _bls_fp2(raw)
    return None if value is None else _bls_encode(clear_cofactor_G2(map_to_curve_G2(value)), g2=True)


def bls_map_fp_to_g1(data: bytes) -> bytes | None:
    """Field elements (48 bytes) mapped to G1, 96 bytes each."""
    return _bls_map(data, 48, "bls12381_map_fp_to_g1", _map_fp)


def bls_map_fp2_to_g2(data: bytes) -> bytes | None:
    """Field elements (96 bytes) mapped to G2, 192 bytes each."""
    return _bls_map(data, 96, "bls12381_map_fp2_to_g2", _map_fp2)


def _sqrt_fp(value: int) -> int | None:
    prime = int(_bls().field_modulus)
    root = pow(value, (prime + 1) // 4, prime)
    return root if root * root % prime == value % prime else None


def _decompress(raw: bytes, *, g2: bool) -> bytes | None:
    bls = _bls()
    if not raw[0] & 0x80:
        return None
    if raw[0] & 0x40:
        return b"\x40" + bytes(191 if g2 else 95) if raw[0] == 0xC0 and not any(raw[1:]) else None
    negative = bool(raw[0] & 0x20)
    body = bytes([raw[0] & 0x1F]) + raw[1:]
    prime = int(bls.field_modulus)
    if g2:
        from outlayer_localnet.pairing import modular_squareroot_in_FQ2

        x = _bls_fp2(body)
        y = None if x is None else modular_squareroot_in_FQ2(x * x * x + bls.b2)
        if y is None:
            return None
        c0, c1 = (int(c) for c in y.coeffs)
        greater = c1 * 2 > prime if c1 else c0 * 2 > prime
    else:
        xi = _bls_fp(body)
        yi = None if xi is None else _sqrt_fp((xi**3 + 4) % prime)
        if xi is None or yi is None:
            return None
        x, y, greater = bls.FQ(xi), bls.FQ(yi), yi * 2 > prime
    point = (x, -y if greater != negative else y, type(x).one())
    # points outside the group are fine, but blst takes x = 0 for one and refuses it
    return None if x == type(x).zero() else _bls_encode(point, g2=g2)


def bls_p1_decompress(data: bytes) -> bytes | None:
    """Compressed points (48 bytes) as uncompressed ones, 96 bytes each."""
    return _bls_map(data, 48, "bls12381_p1_decompress", lambda raw: _decompress(raw, g2=False))


def bls_p2_decompress(data: bytes) -> bytes | None:
    """Compressed points (96 bytes) as uncompressed ones, 192 bytes each."""
    return _bls_map(data, 96, "bls12381_p2_decompress", lambda raw: _decompress(raw, g2=True))


def bls_pairing_check(data: bytes) -> int:
    """Pairs of 288 bytes (G1, G2): 0 if the product of pairings is one, 2 if not, 1 for a bad point."""
    bls = _bls()
    pairs = []
    for item in _bls_items(data, 288, "bls12381_pairing_check"):
        g1, g2 = _bls_point(item[:96], g2=False), _bls_point(item[96:], g2=True)
        if g1 is None or g2 is None or not _bls_in_subgroup(g1) or not _bls_in_subgroup(g2):
            return 1
        pairs.append((g1, g2))
    total = bls.FQ12.one()
    for g1, g2 in pairs:
        total = total * bls.pairing(g2, g1, final_exponentiate=False)
    return 0 if bls.final_exponentiate(total) == bls.FQ12.one() else 2
