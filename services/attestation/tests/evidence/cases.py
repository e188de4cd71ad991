# SPDX-License-Identifier: MIT
"""Bundles for the tests: true ones, made by a software platform, and the ways to change them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from outlayer_attestation import evidence, policy, testing
from outlayer_attestation.base58 import encode_ed25519_key
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import Batch, TaskRecordV2, batch_report_data, sha256_hex

REPOSITORY = Path(__file__).resolve().parents[4]
T = testing.NOW
ANCHOR, SETTLED = T - 3, T + 5
DAY = 86_400
INPUT, OUTPUT = b'{"hello":"world"}', b'{"echo":{"hello":"world"}}'
KEY = encode_ed25519_key(bytes(range(32)))
MAINTAINER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MAINTAINER_KEY = encode_ed25519_key(MAINTAINER.public_key().public_bytes_raw())
FMSPC = "53494d544458"
ANCHOR_BLOCK = (1300, "AnchorBGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX")
SETTLED_BLOCK = (1310, "SettdBGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX1")
NOW_BLOCK = (2000, "NewestGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX1")
TRANSACTION = "9Xk2oZBcGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX"
RECEIPT = "4Tk2oZBcGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX"
OF_A_CALL: dict[str, Any] = {
    "contract_id": "outlayer.test",
    "request_id": None,
    "transaction_hash": None,
    "receipt_id": None,
    "signer_id": None,
    "block_height": None,
}
"""Changes that make the record one of an HTTPS call."""


def record(number: int = 0, **changes: Any) -> TaskRecordV2:
    """A record of a contract's request with every field present."""
    values: dict[str, Any] = {
        "network_id": "localnet",
        "contract_id": "outlayer.test",
        "request_id": number,
        "transaction_hash": TRANSACTION,
        "receipt_id": RECEIPT,
        "call_id": "c0ffee00-0000-4000-8000-000000000000",
        "job_id": f"job-{number}",
        "caller": "bob.test",
        "signer_id": "alice.test",
        "payment_key_owner": "alice.test",
        "payment_key_nonce": 1,
        "project_id": "alice.test/echo",
        "project_uuid": "p0000000000000001",
        "version_key": "a" * 64,
        "code_url": "http://127.0.0.1:1/wasm/" + "a" * 64,
        "wasm_sha256": sha256_hex(b"wasm"),
        "input_sha256": sha256_hex(INPUT),
        "output_sha256": sha256_hex(OUTPUT),
        "success": True,
        "error": "none",
        "instructions": 1000,
        "time_ms": 5,
        "max_instructions": 10**9,
        "max_memory_mb": 128,
        "max_execution_seconds": 60,
        "secrets_ref": "alice.test/default",
        "attached_usd": 0,
        "refund_usd": 0,
        "block_height": 1234,
        "anchor_height": ANCHOR_BLOCK[0],
        "anchor_hash": ANCHOR_BLOCK[1],
        "anchor_time": ANCHOR,
        "timestamp": T,
        "worker_public_key": KEY,
    }
    return TaskRecordV2(**(values | changes))


def statement(block: tuple[int, str], collateral: Collateral, recorded_at: int = T + 60) -> dict[str, Any]:
    """The register contract's word at a block: set and key approved long before."""
    measurements = testing.MEASUREMENTS.to_json()
    return {
        "contract": "worker.outlayer.test",
        "network_id": "localnet",
        "measurement_set": {
            "id": 3,
            "name": "worker",
            "role": "worker",
            "measurements": measurements,
            "not_before": T - 1000,
            "not_after": T + 10**6,
            "added_at": T - 1000,
        },
        "worker_key": {
            "public_key": KEY,
            "role": "worker",
            "measurement_set": 3,
            "measurements": dict(measurements),
            "tcb_status": "UpToDate",
            "fmspc": FMSPC,
            "verified_at": T - 500,
            "expires_at": T + 10**6,
            "quote_report_sha256": "ab" * 32,
        },
        "collateral_sha256": collateral.sha256(),
        "block_height": block[0],
        "block_hash": block[1],
        "endpoint": "http://127.0.0.1:3030",
        "recorded_at": recorded_at,
    }


def chain_word(of: TaskRecordV2) -> dict[str, Any]:
    """What the chain shows of this record: its anchor, and for a request the event and the settlement."""
    settlement = {
        "transaction_hash": TRANSACTION,
        "receipt_id": "5Tk2oZBcGFR5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX",
        "block_hash": SETTLED_BLOCK[1],
        "block_height": SETTLED_BLOCK[0],
        "block_time": SETTLED,
        "record_sha256": of.leaf_hash().hex(),
    }
    request = {
        "transaction_hash": TRANSACTION,
        "receipt_id": RECEIPT,
        "request_id": of.request_id,
        "predecessor_id": "bob.test",
        "signer_id": "alice.test",
        "project_id": "alice.test/echo",
        "block_height": 1234,
        "block_hash": "Request5Q2m8Yz8Q3n4CwY6H7uG7uG7uG7uG7uGX111",
    }
    of_request = of.request_id is not None
    return {
        "endpoint": "http://127.0.0.1:3030",
        "anchor": {"height": ANCHOR_BLOCK[0], "hash": ANCHOR_BLOCK[1], "time": ANCHOR},
        "settlement": settlement if of_request else None,
        "request": request if of_request else None,
    }


def make(machine: SoftwarePlatform, faults: testing.Faults | None = None, **changes: Any) -> dict[str, Any]:
    """A bundle of the third of five records, on a platform with these faults."""
    faults = faults or testing.Faults()
    records = [record(number, **changes) for number in range(5)]
    tree, report_data = batch_report_data(records)
    quote = testing.quote_with(machine, replace(faults, td={**faults.td, "report_data": report_data}))
    collateral = testing.collateral_with(machine, faults)
    settled = records[2].request_id is not None
    return evidence.make_bundle(
        attestation={
            "record": records[2].to_json(),
            "leaf_index": 2,
            "inclusion_proof": [item.hex() for item in tree.proofs[2]],
            "batch": Batch(tree.size, tree.root, quote).to_json(),
        },
        collaterals=[evidence.KnownCollateral("the test", collateral)],
        trust=trust(machine),
        approval={
            "now": statement(NOW_BLOCK, collateral),
            "anchor": statement(ANCHOR_BLOCK, collateral),
            "settlement": statement(SETTLED_BLOCK, collateral) if settled else None,
        },
        chain=chain_word(records[2]),
        input_bytes=INPUT,
        output_bytes=OUTPUT,
    )


def of_a_call(
    machine: SoftwarePlatform, faults: testing.Faults | None = None, **changes: Any
) -> dict[str, Any]:
    """A bundle of an HTTPS call."""
    return make(machine, faults, **(OF_A_CALL | changes))


def with_collaterals(bundle: dict[str, Any], *more: Collateral) -> dict[str, Any]:
    """The bundle with more known collateral."""
    known = [evidence.KnownCollateral("later", item).to_json() for item in more]
    return bundle | {"collaterals": [*bundle["collaterals"], *known]}


def later(machine: SoftwarePlatform, days: float, **faults: Any) -> Collateral:
    """Collateral of this platform that is issued some days after ``T``."""
    age = timedelta(days=-days)
    times: dict[str, Any] = {"tcb_age": age, "qe_age": age, "crl_age": age}
    return testing.collateral_with(machine, testing.Faults(**(times | faults)))


def trust(machine: SoftwarePlatform) -> evidence.TrustAnchors:
    return evidence.TrustAnchors(
        root_ca_der=machine.root_der,
        network_id="localnet",
        contract_id="outlayer.test",
        register_contract_id="worker.outlayer.test",
    )


def document(**platform: Any) -> dict[str, Any]:
    made = policy.local_document(
        [("worker", testing.MEASUREMENTS)],
        fmspc=[FMSPC],
        not_before=T - 10**6,
        not_after=T + 10**7,
    )
    made["platform"] |= platform
    return made


def signed(made: dict[str, Any]) -> policy.Policy:
    """A policy document, signed by the maintainer."""
    data = policy.canonical_bytes(made)
    signers = policy.verify_signatures(data, policy.sign(data, [MAINTAINER]), [MAINTAINER_KEY])
    return policy.Policy(policy.parse(data), sha256_hex(data), signers)


def local_policy(**platform: Any) -> policy.Policy:
    return signed(document(**platform))


POLICY = local_policy()


def judge(
    machine: SoftwarePlatform,
    bundle: Any,
    now: int = T + 3600,
    *,
    asked: bool = True,
    by: policy.Policy | None = POLICY,
    known: Sequence[evidence.KnownCollateral] = (),
) -> evidence.Verdict:
    """As a verifier that asked the chain itself; ``asked`` False: as one who has the bundle alone."""
    return evidence.appraise(bundle, trust(machine), by, now, asked=asked, known=known)


# --- changing a bundle ---

Path_ = tuple[str | int, ...]


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every leaf with the way to it."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield path, value
    for key, item in items:
        yield from leaves(item, (*path, key))


def changed(bundle: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """The same bundle with one part replaced; only the way to it is copied."""
    result: Any = copy.copy(bundle)
    place = result
    for key in path[:-1]:
        place[key] = copy.copy(place[key])
        place = place[key]
    place[path[-1]] = value
    return result


def check_of(verdict: evidence.Verdict, name: str) -> Any:
    """The check "Layer/name" of a verdict."""
    layer, _, wanted = name.partition("/")
    return next(check for check in verdict.layer(evidence.Layer(layer)).checks if check.name == wanted)
