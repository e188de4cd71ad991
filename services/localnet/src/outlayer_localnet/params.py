# SPDX-License-Identifier: MIT
"""Protocol parameters: gas of host functions and actions, limits, economics, per protocol version.

The tables are data files in the shape that ``EXPERIMENTAL_protocol_config`` returns, plus the fees that
this view leaves out. Gas is in gas units, amounts are in yoctoNEAR, sizes in bytes.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from outlayer_localnet.errors import LocalnetError

__all__ = ["Fee", "Limits", "Params", "ParamsError", "load"]

# where each fee lives in the "transaction_costs" of the protocol config
_FEE_PATHS: Final[dict[str, tuple[str, ...]]] = {
    "new_action_receipt": ("action_receipt_creation_config",),
    "new_data_receipt_base": ("data_receipt_creation_config", "base_cost"),
    "new_data_receipt_byte": ("data_receipt_creation_config", "cost_per_byte"),
    "create_account": ("action_creation_config", "create_account_cost"),
    "deploy_contract_base": ("action_creation_config", "deploy_contract_cost"),
    "deploy_contract_byte": ("action_creation_config", "deploy_contract_cost_per_byte"),
    "function_call_base": ("action_creation_config", "function_call_cost"),
    "function_call_byte": ("action_creation_config", "function_call_cost_per_byte"),
    "transfer": ("action_creation_config", "transfer_cost"),
    "stake": ("action_creation_config", "stake_cost"),
    "add_full_access_key": ("action_creation_config", "add_key_cost", "full_access_cost"),
    "add_function_call_key_base": ("action_creation_config", "add_key_cost", "function_call_cost"),
    "add_function_call_key_byte": ("action_creation_config", "add_key_cost", "function_call_cost_per_byte"),
    "delete_key": ("action_creation_config", "delete_key_cost"),
    "delete_account": ("action_creation_config", "delete_account_cost"),
    "delegate": ("action_creation_config", "delegate_cost"),
}


class ParamsError(LocalnetError):
    """No parameters for the protocol version asked for."""


@dataclass(frozen=True, slots=True)
class Fee:
    """Gas of one action cost: to send to oneself, to send to another account, to execute."""

    send_sir: int
    send_not_sir: int
    execution: int

    def send(self, *, sir: bool) -> int:
        """Gas to send; ``sir``: the sender is the receiver."""
        return self.send_sir if sir else self.send_not_sir


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of nearcore's ``LimitConfig``, same names; counts, bytes, gas or blocks."""

    max_gas_burnt: int
    max_stack_height: int
    initial_memory_pages: int
    max_memory_pages: int
    registers_memory_limit: int
    max_register_size: int
    max_number_registers: int
    max_number_logs: int
    max_total_log_length: int
    max_total_prepaid_gas: int
    max_actions_per_receipt: int
    max_deploy_actions_per_receipt: int
    max_number_bytes_method_names: int
    max_length_method_name: int
    max_arguments_length: int
    max_length_returned_data: int
    max_contract_size: int
    max_transaction_size: int
    max_receipt_size: int
    max_length_storage_key: int
    max_length_storage_value: int
    max_promises_per_function_call_action: int
    max_number_input_data_dependencies: int
    max_functions_number_per_contract: int
    max_locals_per_contract: int
    max_params_per_contract: int
    max_params_per_function: int
    max_operand_stack_bytes_per_function: int
    max_tables_per_contract: int
    max_elements_per_contract_table: int
    max_function_body_size: int
    max_instrumented_code_size: int
    max_blocks_per_function: int
    max_blocks_per_contract: int
    max_types_per_contract: int
    yield_timeout_length_in_blocks: int
    max_yield_payload_size: int
    per_receipt_storage_proof_size_limit: int


@dataclass(frozen=True)
class Params:
    """All parameters of one protocol version; read-only. ``digest`` identifies the table's content."""

    protocol_version: int
    ext_costs: Mapping[str, int]
    fees: Mapping[str, Fee]
    limits: Limits
    features: frozenset[str]
    regular_op_cost: int
    linear_op_base_cost: int
    linear_op_unit_cost: int
    storage_amount_per_byte: int
    num_bytes_account: int
    num_extra_bytes_record: int
    burnt_gas_reward: tuple[int, int]
    min_gas_price: int
    max_gas_price: int
    gas_price_adjustment_rate: tuple[int, int]
    gas_limit: int
    transaction_validity_period: int
    min_gas_purchase_price: int
    account_creation_charge: int
    global_contract_storage_amount_per_byte: int
    zero_balance_account_bytes: int
    min_allowed_top_level_account_length: int
    registrar_account_id: str
    digest: str
    raw_runtime_config: Mapping[str, Any]

    def fee(self, name: str) -> Fee:
        """The action fee with nearcore's ``ActionCosts`` name."""
        return self.fees[name]

    def to_runtime_config(self) -> dict[str, Any]:
        """The ``runtime_config`` object of ``EXPERIMENTAL_protocol_config``; a fresh copy."""
        return copy.deepcopy(dict(self.raw_runtime_config))


def _fee(data: Mapping[str, int]) -> Fee:
    return Fee(int(data["send_sir"]), int(data["send_not_sir"]), int(data["execution"]))


def _dig(data: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        data = data[name]
    return data


def _parse(document: Mapping[str, Any], digest: str) -> Params:
    config = document["runtime_config"]
    wasm, costs, economics = config["wasm_config"], config["transaction_costs"], document["economics"]
    fees = {name: _fee(_dig(costs, path)) for name, path in _FEE_PATHS.items()}
    fees |= {name: _fee(data) for name, data in document["fees_outside_view"].items()}
    limits = wasm["limit_config"]
    min_price = int(economics["min_gas_price"])
    return Params(
        protocol_version=document["protocol_version"],
        ext_costs=MappingProxyType(dict(wasm["ext_costs"])),
        fees=MappingProxyType(fees),
        limits=Limits(**{field.name: limits[field.name] for field in fields(Limits)}),
        features=frozenset(name for name, value in wasm.items() if value is True),
        regular_op_cost=wasm["regular_op_cost"],
        linear_op_base_cost=wasm["linear_op_base_cost"],
        linear_op_unit_cost=wasm["linear_op_unit_cost"],
        storage_amount_per_byte=int(config["storage_amount_per_byte"]),
        num_bytes_account=costs["storage_usage_config"]["num_bytes_account"],
        num_extra_bytes_record=costs["storage_usage_config"]["num_extra_bytes_record"],
        burnt_gas_reward=(costs["burnt_gas_reward"][0], costs["burnt_gas_reward"][1]),
        min_gas_price=min_price,
        max_gas_price=min_price * economics["max_gas_price_factor"],
        gas_price_adjustment_rate=(
            economics["gas_price_adjustment_rate"][0],
            economics["gas_price_adjustment_rate"][1],
        ),
        gas_limit=economics["gas_limit"],
        transaction_validity_period=economics["transaction_validity_period"],
        min_gas_purchase_price=int(config["min_gas_purchase_price"]),
        account_creation_charge=int(config["account_creation_charge"]),
        global_contract_storage_amount_per_byte=int(economics["global_contract_storage_amount_per_byte"]),
        zero_balance_account_bytes=economics["zero_balance_account_bytes"],
        min_allowed_top_level_account_length=config["account_creation_config"][
            "min_allowed_top_level_account_length"
        ],
        registrar_account_id=config["account_creation_config"]["registrar_account_id"],
        digest=digest,
        raw_runtime_config=MappingProxyType(config),
    )


def versions() -> list[int]:
    """The protocol versions there are tables for, ascending."""
    names = (entry.name for entry in (resources.files(__package__) / "params").iterdir())
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"pv(\d+)\.json", name)))


@functools.lru_cache(maxsize=8)
def load(protocol_version: int = 86) -> Params:
    """The parameters of a protocol version; the same object each time. Raises :class:`ParamsError`."""
    path = resources.files(__package__) / "params" / f"pv{protocol_version}.json"
    if not path.is_file():
        known = ", ".join(map(str, versions()))
        raise ParamsError(
            f"no parameters for protocol version {protocol_version}", hint=f"Known versions: {known}."
        )
    data = path.read_bytes()
    return _parse(json.loads(data), hashlib.sha256(data).hexdigest())
