# SPDX-License-Identifier: MIT
"""Change methods of the example contract that asks for executions (contracts/caller)."""

from __future__ import annotations

from collections.abc import Mapping

from outlayer_near.calls.build import REQUEST_GAS, call
from outlayer_near.models import ResponseFormat
from outlayer_near.primitives import FunctionCall


def new(outlayer_contract_id: str) -> FunctionCall:
    return call("new", {"outlayer_contract_id": outlayer_contract_id})


def ask(
    project_id: str,
    input_data: str,
    *,
    response_format: ResponseFormat | None = None,
    resource_limits: Mapping[str, int] | None = None,
    deposit: int,
) -> FunctionCall:
    """Have the contract request an execution; the deposit pays for it."""
    args = {
        "project_id": project_id,
        "input_data": input_data,
        "response_format": response_format,
        "resource_limits": resource_limits,
    }
    return call("ask", args, gas=REQUEST_GAS, deposit=deposit)
