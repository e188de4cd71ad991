# SPDX-License-Identifier: MIT
"""Data of the contracts' events: one item of ``data`` each (outlayer.md §1.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from outlayer_near.errors import ModelError
from outlayer_near.models.base import (
    U32,
    U64,
    U128,
    WHAT_TO_DO,
    Model,
    Variant,
    first_problem,
    read_variant,
    write_variant,
)
from outlayer_near.models.execution import ExecutionSource, RequestData, ResourceMetrics


def _data_id(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            value = bytes.fromhex(value)
        except ValueError:
            raise ValueError("a data id is 32 numbers or 64 hex digits") from None
    if isinstance(value, list | tuple) and all(type(item) is int and 0 <= item < 256 for item in value):
        value = bytes(value)
    if not isinstance(value, bytes) or len(value) != 32:
        raise ValueError("a data id is 32 numbers or 64 hex digits")
    return value


DataId = Annotated[bytes, BeforeValidator(_data_id), PlainSerializer(list, return_type=list[int])]
"""What a yield is resumed by: 32 bytes here, 32 numbers in JSON."""


def _request_data(value: Any) -> RequestData:
    if isinstance(value, RequestData):
        return value
    if not isinstance(value, str):
        raise ValueError("request_data is JSON text")  # noqa: TRY004 - pydantic wants ValueError
    try:
        return RequestData.model_validate_json(value)
    except ValidationError as error:
        raise ValueError(first_problem("request_data", error)) from None


class ExecutionRequested(Model):
    """``execution_requested``; the request is a JSON text inside the event's JSON."""

    request_data: Annotated[
        RequestData,
        BeforeValidator(_request_data),
        PlainSerializer(lambda value: value.model_dump_json(by_alias=True)),
    ]
    data_id: DataId
    timestamp: U64


class ExecutionCompleted(Model):
    """``execution_completed``: on success and on a failure that the worker reported, never on a timeout.

    ``record_sha256`` is the leaf of the task record that the operator gave with the result, if it gave one.
    """

    sender_id: str
    code_source: ExecutionSource
    resources_used: ResourceMetrics
    success: bool
    error_message: str | None = None
    payment_charged: U128
    payment_refunded: U128
    compilation_note: str | None = None
    timestamp: U64
    record_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class TopUpPaymentKey(Variant):
    """Work for the operator: add ``amount`` (micro-USD) to a key, or, with 0 and a zero id, note a new key."""

    tag: ClassVar[str] = "TopUpPaymentKey"
    data_id: DataId
    owner: str
    nonce: U32
    amount: U128
    encrypted_data: str


class DeletePaymentKey(Variant):
    tag: ClassVar[str] = "DeletePaymentKey"
    data_id: DataId
    owner: str
    nonce: U32


class ProjectStorageCleanup(Variant):
    """A project is gone, so what its storage holds may go."""

    tag: ClassVar[str] = "ProjectStorageCleanup"
    project_id: str
    project_uuid: str
    timestamp: U64


SystemEvent: TypeAlias = Annotated[
    TopUpPaymentKey | DeletePaymentKey | ProjectStorageCleanup,
    read_variant("a system event", (TopUpPaymentKey, DeletePaymentKey, ProjectStorageCleanup)),
    write_variant,
]

EventKinds: TypeAlias = Mapping[str, TypeAdapter[tuple[Any, ...]]]
"""How the items of each event of a contract are read, by the event's name."""

MAIN_EVENTS: EventKinds = {
    "execution_requested": TypeAdapter(tuple[ExecutionRequested, ...]),
    "execution_completed": TypeAdapter(tuple[ExecutionCompleted, ...]),
    "system_event": TypeAdapter(tuple[SystemEvent, ...]),
}


def read_event(kinds: EventKinds, name: str, data: Any) -> tuple[Any, ...] | None:
    """The items of an event's ``data``; None for an event of another name. Raises ``ModelError``."""
    adapter = kinds.get(name)
    if adapter is None:
        return None
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise ModelError(first_problem(name, error), hint=WHAT_TO_DO) from None
