# SPDX-License-Identifier: MIT
"""Random contract calls for tests: sequences of host functions with arguments that mostly make sense."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import coincurve
import localnet_wasmgen as gen
import nacl.signing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from outlayer_localnet.hostctx import VMContext
from outlayer_localnet.hostfns import FUNCTIONS
from outlayer_localnet.replay import Call

SIGNATURES = {name: (f.params, f.result) for name, f in FUNCTIONS.items()}
UNSUPPORTED = {
    "promise_batch_action_state_init",
    "promise_batch_action_state_init_by_account_id",
    "set_state_init_data_entry",
    "promise_batch_action_transfer_to_gas_key",
    "promise_batch_action_add_gas_key_with_full_access",
    "promise_batch_action_add_gas_key_with_function_call",
}


def make_context(**changes: Any) -> VMContext:
    """A call of alice.test by bob.test with 100 Tgas."""
    fields: dict[str, Any] = {
        "current_account_id": "alice.test",
        "signer_account_id": "bob.test",
        "signer_account_pk": bytes(33),
        "predecessor_account_id": "bob.test",
        "refund_to_account_id": "bob.test",
        "input": b"{}",
        "block_height": 10,
        "block_timestamp": 10**18,
        "epoch_height": 1,
        "account_balance": 10**25,
        "account_locked_balance": 0,
        "storage_usage": 10**6,
        "attached_deposit": 0,
        "prepaid_gas": 10**14,
        "random_seed": bytes([7]) * 32,
    }
    return VMContext(**(fields | changes))


_MESSAGE = b"hello message"
_DIGEST = hashlib.sha256(_MESSAGE).digest()
_ED = nacl.signing.SigningKey(bytes([5]) * 32)
_SECP = coincurve.PrivateKey(bytes([7]) * 32)
_SECP_SIGNATURE = _SECP.sign_recoverable(_DIGEST, hasher=None)


# ECDSA signatures are random, so this one was made once
P256_SIGNATURE = bytes.fromhex(
    "de449e041d0a9789c9820e52dfd3b976886ab5b92778ba143268f3749fe75a6a"
    "a701ffcea69b2f98e04a8fd8a3d49c156801f97f22f612c39d9ddd37018532b4"
)

_P256_KEY = (
    ec.derive_private_key(12345, ec.SECP256R1())
    .public_key()
    .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
)

# what the contract's memory begins with
BLOBS = [
    b"bob.test",
    b"alice.test",
    b"some_method",
    b'{"a":1}',
    (1).to_bytes(16, "little"),
    (5 * 10**24).to_bytes(16, "little"),
    bytes(16),
    b"\0" + bytes(range(32)),
    b"\1" + _SECP.public_key.format(compressed=False)[1:],
    b"a,b,ccc",
    _ED.sign(_MESSAGE).signature,
    _MESSAGE,
    bytes(_ED.verify_key),
    P256_SIGNATURE,
    _DIGEST,
    _P256_KEY,
    _SECP_SIGNATURE[:64],
    b"h\0e\0l\0\0\0",
    b"\xff\xfe\xfd",
    (0).to_bytes(8, "little") + (1).to_bytes(8, "little"),
    b"x" * 64,
    b"f" * 64,
    b"0x" + b"a" * 40,
    b"cstring\0",
    bytes(64),
]
SPANS = []
for _blob in BLOBS:
    SPANS.append((sum(length for _, length in SPANS), len(_blob)))
DATA = b"".join(BLOBS) + b"\xaa" * 2100


def _span(index: int) -> list[int]:
    start, length = SPANS[index]
    return [length, start]


def _any_args(rng: random.Random, count: int) -> list[int]:
    out: list[int] = []
    while len(out) < count:
        if len(out) + 1 < count and rng.randrange(10) < 7:
            out += _span(rng.randrange(len(SPANS)))
            continue
        out.append(
            rng.choice(
                [
                    rng.randrange(4),
                    rng.choice([gen.MAX_U64, gen.MAX_U64 - 1]),
                    rng.choice([1 << 26, (1 << 26) - 8, 1 << 40, 4096, 2049]),
                    rng.choice([5 * 10**12, 10**13, 1 << 62]),
                    SPANS[rng.randrange(len(SPANS))][0],
                    rng.choice([16, 32, 64, 33, 65, 96, 10]),
                ]
            )
        )
    return out


def _sensible(rng: random.Random, name: str) -> list[int] | None:
    reg, promise = rng.randrange(4), rng.choice([0, 0, 1, 1, 1, 2])
    amount = SPANS[rng.choice([4, 5, 6, 4])][0]
    account, method, args = _span(rng.choice([0, 1, 0, 21, 22, 20])), _span(2), _span(rng.choice([3, 24, 12]))
    gas, key = rng.choice([0, 10**12, 10**13]), _span(rng.choice([7, 8, 7, 12]))
    storage_key = _span(rng.choice([0, 1, 2]))
    call = [*method, *args, amount, gas]
    table = {
        "promise_create": [*account, *call],
        "promise_then": [promise, *account, *call],
        "promise_batch_create": account,
        "promise_batch_then": [promise, *account],
        "promise_and": [SPANS[19][0], rng.choice([1, 2])],
        "promise_batch_action_function_call": [promise, *call],
        "promise_batch_action_function_call_weight": [promise, *call, rng.randrange(3)],
        "promise_batch_action_transfer": [promise, amount],
        "promise_batch_action_stake": [promise, amount, *key],
        "promise_batch_action_add_key_with_full_access": [promise, *key, rng.randrange(9)],
        "promise_batch_action_add_key_with_function_call": [
            promise,
            *key,
            7,
            amount,
            *account,
            *_span(rng.choice([9, 24, 2])),
        ],
        "promise_batch_action_delete_key": [promise, *key],
        "promise_batch_action_delete_account": [promise, *account],
        "promise_batch_action_deploy_contract": [promise, *args],
        "promise_batch_action_use_global_contract": [promise, *_span(14)],
        "promise_batch_action_use_global_contract_by_account_id": [promise, *account],
        "promise_set_refund_to": [promise, *account],
        "promise_return": [promise],
        "promise_result": [promise, reg],
        "promise_yield_create": [*method, *args, gas, rng.randrange(3), reg],
        "promise_yield_create_with_id": [*call, 1, *_span(14)],
        "promise_yield_resume": [*_span(14), *args],
        "promise_yield_resume_with_yield_id": [*_span(14), *args],
        "storage_write": [*storage_key, *_span(rng.choice([3, 10, 11])), reg],
        "storage_read": [*storage_key, reg],
        "storage_remove": [*storage_key, reg],
        "ed25519_verify": [*_span(10), *_span(rng.choice([11, 11, 3])), *_span(12)],
        "p256_verify": [*_span(13), *_span(rng.choice([14, 14, 11, 3])), *_span(15)],
        "ecrecover": [*_span(14), *_span(16), _SECP_SIGNATURE[64], rng.randrange(2), reg],
        "log_utf8": _span(rng.choice([0, 3, 18])),
        "log_utf16": _span(rng.choice([17, 0, 18])),
        "read_register": [reg, 3000],
        "write_register": [reg, *_span(3)],
    }
    return table.get(name)


def _weight(name: str) -> float:
    if name.startswith(("promise", "storage")):
        return 6
    return 0.3 if name in ("panic", "abort") or name.startswith(("alt", "bls")) else 2


_NAMES = [name for name in SIGNATURES if name not in UNSUPPORTED]
_WEIGHTS = [_weight(name) for name in _NAMES]


def random_host_calls(seed: int) -> list[tuple[str, list[int]]]:
    """Up to a dozen host function calls."""
    rng = random.Random(seed)
    calls: list[tuple[str, list[int]]] = []
    if rng.randrange(9):
        calls = [("promise_batch_create", _span(0)), ("promise_batch_create", _span(1))]
    for _ in range(rng.randrange(1, 12)):
        name = rng.choices(_NAMES, _WEIGHTS)[0]
        sensible = _sensible(rng, name) if rng.randrange(14) else None
        calls.append((name, sensible or _any_args(rng, len(SIGNATURES[name][0]))))
    return calls


def host_call(calls: list[tuple[str, list[int]]], seed: int) -> Call:
    """A contract that makes these calls, in circumstances chosen by the seed."""
    rng = random.Random(~seed)
    context = make_context(
        prepaid_gas=rng.choice([3 * 10**14, 10**15, 5 * 10**12]),
        view_max_gas=3 * 10**14 if rng.randrange(8) == 0 else None,
        attached_deposit=rng.choice([0, 5]),
        account_balance=rng.choice([0, 10**25]),
        output_data_receivers=rng.choice([(), ("bob.test", "alice.test")]),
    )
    return Call(
        code=gen.host_module(SIGNATURES, calls, DATA),
        method="go",
        context=context,
        storage={b"bob.test": b"v" * 5000},
        promise_results=(b"abc", None),
        trie_nodes=(rng.randrange(3),),
    )


def program_call(seed: int) -> Call:
    """A random program; every fourth may recurse without end."""
    code = gen.random_program(seed, recursion=seed % 4 == 0).plain()
    return Call(code=code, method="go", context=make_context(prepaid_gas=2 * 10**12))


def mutated_module(seed: int) -> bytes:
    """A module with a few bytes changed; most are no longer valid."""
    rng = random.Random(seed)
    code = bytearray(gen.random_program(seed).plain())
    for _ in range(rng.randrange(1, 4)):
        position = rng.randrange(8, len(code))
        choice = rng.randrange(3)
        if choice == 0:
            code[position] = rng.randrange(256)
        elif choice == 1:
            del code[position]
        else:
            code.insert(position, rng.randrange(256))
    return bytes(code)
