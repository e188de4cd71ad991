# SPDX-License-Identifier: MIT
"""JSON-RPC errors as neard shapes them; ``data`` is always there because py-near reads it."""

from __future__ import annotations

from typing import Any

from outlayer_localnet.errors import LocalnetError


class RpcError(LocalnetError):
    """An error answer: what goes into ``error``, and the HTTP status that carries it."""

    def __init__(
        self, name: str, cause: str, *, data: Any, info: Any = None, code: int = -32000,
        message: str = "Server error", status: int = 200,
    ) -> None:  # fmt: skip
        super().__init__(f"{cause}: {data}")
        self.status = status
        self.body = {
            "name": name,
            "cause": {"name": cause, "info": {} if info is None else info},
            "code": code,
            "message": message,
            "data": data,
        }


def handler_error(cause: str, data: Any, info: Any = None, *, status: int = 200) -> RpcError:
    """The method was understood and cannot be answered."""
    return RpcError("HANDLER_ERROR", cause, data=data, info=info, status=status)


def parse_error(detail: str) -> RpcError:
    """The parameters are not what the method takes."""
    return RpcError(
        "REQUEST_VALIDATION_ERROR",
        "PARSE_ERROR",
        data=detail,
        info={"error_message": detail},
        code=-32700,
        message="Parse error",
        status=400,
    )


def method_not_found(method: str) -> RpcError:
    """There is no such method."""
    return RpcError(
        "REQUEST_VALIDATION_ERROR",
        "METHOD_NOT_FOUND",
        data=method,
        info={"method_name": method},
        code=-32601,
        message="Method not found",
        status=400,
    )


def invalid_transaction(detail: Any) -> RpcError:
    """The transaction cannot enter the chain; ``detail`` is nearcore's InvalidTxError."""
    return handler_error("INVALID_TRANSACTION", {"TxExecutionError": {"InvalidTxError": detail}})


def internal_error(detail: str) -> RpcError:
    """The node is at fault."""
    return RpcError(
        "INTERNAL_ERROR", "INTERNAL_ERROR", data=detail, info={"error_message": detail}, status=500
    )


def timeout_error() -> RpcError:
    """The answer did not come about in time."""
    return RpcError("HANDLER_ERROR", "TIMEOUT_ERROR", data="Timeout", status=408)
