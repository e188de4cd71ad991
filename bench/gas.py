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
        collateral = {"collateral": platform.collateral().to_text()}
        update = chain.call(main, "register.test", "update_collateral", collateral, gas=_GAS)
        approved = {"measurements": measurements.to_json()}
        chain.call(main, "register.test", "add_measurement_set", approved, gas=_GAS)
        key = str(KeyPair.generate().public_key)
        quote = platform.quote(measurements, registration_report_data(key))
        registration = chain.call(
            caller,
            "register.test",
            "register_worker_key",
            {"public_key": key, "tdx_quote_hex": quote.hex()},
            gas=_GAS,
        )
        if registration.json()["status"] != "approved":
            raise RuntimeError(f"the register contract answered {registration.json()}")
        source = {"WasmUrl": {"url": "http://127.0.0.1/echo", "hash": "00" * 32}}
        wanted = {"source": source, "resource_limits": {}, "input_data": '{"hello":"gas"}'}
        request = chain.call(
            caller, "main.test", "request_execution", wanted, gas=_GAS, deposit=NEAR, wait_until="INCLUDED"
        )
        chain.fast_forward(2)
        requested = chain.tx(request.hash)
    return {
        "update_collateral": _parts(update.raw),
        "register_worker_key": {
            **_parts(registration.raw),
            "ratio_to_mainnet_verify_quote": round(
                _parts(registration.raw)["contract"] / MAINNET_VERIFY_QUOTE_TGAS, 4
            ),
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
