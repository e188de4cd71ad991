# SPDX-License-Identifier: MIT
"""Gas of the contracts' costly methods on the localnet, with their parts; the unit is Tgas."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import registration_report_data
from outlayer_attestation.simulated import predict
from outlayer_localnet.testing import NEAR, TGAS, localnet
from outlayer_near.primitives import KeyPair

ARTIFACTS = Path(__file__).resolve().parents[1] / "contracts" / "artifacts"
# near.md §8.1: what a stock verification costs on mainnet, the baseline of this comparison
MAINNET_VERIFY_QUOTE_TGAS = 175.81
_GAS = 300 * TGAS


def measure_gas() -> dict[str, Any]:
    """Register a worker's key by a simulated quote, and request an execution, on a chain of its own."""
    platform = SoftwarePlatform.generate()
    measurements = predict("worker")
    with tempfile.TemporaryDirectory() as folder, localnet(Path(folder)) as chain:
        main, register, caller = (
            chain.create_account(name, 1_000 * NEAR) for name in ("main.test", "register.test", "caller.test")
        )
        chain.deploy(
            main,
            ARTIFACTS / "outlayer.wasm",
            "new",
            {"owner_id": "main.test", "operator_id": "register.test"},
        )
        arguments = {
            "owner_id": "main.test",
            "init_worker_account": "caller.test",
            "outlayer_contract_id": "main.test",
            "root_ca_der_hex": platform.root_der.hex(),
            "key_ttl_seconds": None,
        }
        chain.deploy(register, ARTIFACTS / "register.wasm", "new", arguments)
        key = str(KeyPair.generate().public_key)
        quote = platform.quote(measurements, registration_report_data(key))

        def register_key(expected: str, data: bytes = quote) -> dict[str, Any]:
            """A registration that ends where ``expected`` says: "approved", or a reason code."""
            wanted = {"public_key": key, "tdx_quote_hex": data.hex()}
            result = chain.call(caller, "register.test", "register_worker_key", wanted, gas=_GAS)
            answer = result.json()
            if answer.get("reason", answer["status"]) != expected:
                raise RuntimeError(f"expected {expected}, the register contract answered {answer}")
            return result.raw

        # each ends one step later than the one before, so the differences are the steps
        stages = [register_key("quote_malformed", b""), register_key("collateral_missing")]
        collateral = {"collateral": platform.collateral().to_text()}
        update = chain.call(main, "register.test", "update_collateral", collateral, gas=_GAS)
        stages.append(register_key("measurements_not_approved"))
        approved = {"measurements": measurements.to_json()}
        chain.call(main, "register.test", "add_measurement_set", approved, gas=_GAS)
        registration = register_key("approved")
        stages.append(registration)
        source = {"WasmUrl": {"url": "http://127.0.0.1/echo", "hash": "00" * 32}}
        wanted = {"source": source, "resource_limits": {}, "input_data": '{"hello":"gas"}'}
        request = chain.call(
            caller, "main.test", "request_execution", wanted, gas=_GAS, deposit=NEAR, wait_until="INCLUDED"
        )
        chain.fast_forward(2)
        requested = chain.tx(request.hash)
        chain.set_time(31 * 86_400)
        chain.produce_block()
        stages.insert(2, register_key("collateral_expired"))
    return {
        "update_collateral": _parts(update.raw),
        "register_worker_key": {
            **_parts(registration),
            "ratio_to_mainnet_verify_quote": round(
                _parts(registration)["contract"] / MAINNET_VERIFY_QUOTE_TGAS, 4
            ),
            "breakdown": _breakdown(stages),
        },
        "request_execution": _parts(requested.raw),
    }


def _parts(outcome: dict[str, Any]) -> dict[str, float]:
    """Gas of the transaction, of the first receipt (the contract's own run), and of all."""
    receipts = [int(item["outcome"]["gas_burnt"]) for item in outcome["receipts_outcome"]]
    transaction = int(outcome["transaction_outcome"]["outcome"]["gas_burnt"])
    return {
        "transaction": round(transaction / TGAS, 3),
        "contract": round(receipts[0] / TGAS, 3),
        "all": round((transaction + sum(receipts)) / TGAS, 3),
    }


def _breakdown(stages: list[dict[str, Any]]) -> dict[str, float]:
    """Where the gas of a registration goes: the steps, host functions for signatures and hashes apart.

    ``stages``: outcomes that end after loading, parsing, the check of the collateral, verification, and admission.
    """
    loaded, parsed, checked, verified, admitted = (_parts(outcome)["contract"] for outcome in stages)
    signatures, hashes = (_profile(stages[4], prefix) for prefix in ("P256_", "SHA256_"))
    parts = _parts(stages[4])
    steps = {
        "load_and_state": loaded,
        "parse_quote": parsed - loaded,
        "read_and_check_collateral": checked - parsed,
        "signatures": signatures,
        "hashes": hashes,
        "chain_tcb_and_crls": verified - checked - signatures - hashes,
        "policy_and_admission": admitted - verified,
        "transaction": parts["transaction"],
        "receipts": parts["all"] - parts["contract"] - parts["transaction"],
    }
    return {name: round(value, 3) for name, value in steps.items()} | {
        "of_which_storage": round(_profile(stages[4], "STORAGE_"), 3)
    }


def _profile(outcome: dict[str, Any], prefix: str) -> float:
    """Tgas of the contract's own run whose cost has this prefix."""
    rows = outcome["receipts_outcome"][0]["outcome"]["metadata"]["gas_profile"]
    return sum(int(row["gas_used"]) for row in rows if row["cost"].startswith(prefix)) / TGAS
