# SPDX-License-Identifier: MIT
"""How a contract call is built: gas, compact JSON arguments, outputs as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outlayer_near.errors import CodecError
from outlayer_near.models.base import to_json_text
from outlayer_near.primitives import FunctionCall

TGAS = 10**12
CALL_GAS = 100 * TGAS
# a request keeps gas for the callback of its yield, a registration verifies a whole quote
REQUEST_GAS = 300 * TGAS
RESOLVE_GAS = 300 * TGAS
REGISTER_GAS = 300 * TGAS
ONE_YOCTO = 1
"""What methods ask for that move value: a key that may only call functions cannot attach it."""


@dataclass(frozen=True)
class Output:
    """``ExecutionOutput`` as JSON text. Make it with ``json_output``, ``text_output`` or ``bytes_output``."""

    encoded: bytes


def json_output(value: bytes) -> Output:
    """An output that is JSON already; its bytes reach the contract unchanged."""
    if not value.strip():
        raise CodecError("a JSON output cannot be empty")
    return Output(b'{"Json":' + value + b"}")


def text_output(text: str) -> Output:
    return Output(encode({"Text": text}))


def bytes_output(data: bytes) -> Output:
    return Output(encode({"Bytes": list(data)}))


def encode(value: Any) -> bytes:
    """JSON as it is sent to contracts."""
    return to_json_text(value).encode()


def call(method: str, args: dict[str, Any], *, gas: int = CALL_GAS, deposit: int = 0) -> FunctionCall:
    """A call of a method with JSON arguments."""
    return FunctionCall(method, encode(args), gas, deposit)
