# SPDX-License-Identifier: MIT
"""Main contract: requests, results, projects, prices (outlayer.md §1.2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from outlayer_near.models.base import U32, U64, U128, Model, without_nulls

DEFAULT_MAX_INSTRUCTIONS = 1_000_000_000
DEFAULT_MAX_MEMORY_MB = 128
DEFAULT_MAX_EXECUTION_SECONDS = 60
DEFAULT_BUILD_TARGET = "wasm32-wasip1"
STORAGE_BYTE_PRICE = 10**19
"""YoctoNEAR for which a byte of state stands (near.md: ``storage_amount_per_byte``)."""

ResponseFormat = Literal["Bytes", "Text", "Json"]


def _one_output(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) != 1 or not value.keys() <= {"Bytes", "Text", "Json"}:
        raise ValueError("an output is exactly one of Bytes, Text and Json")
    return value


ExecutionOutput = Annotated[dict[str, Any], AfterValidator(_one_output)]
"""An output as the contract writes it: externally tagged, Bytes and Text as numbers, Json as it is."""


class GitHubSource(Model):
    repo: str
    commit: str
    build_target: str | None = None


class WasmUrlSource(Model):
    """``hash`` is the SHA-256 of the code, 64 lower-case hex digits."""

    url: str
    hash: str
    build_target: str | None = None


class ProjectSource(Model):
    project_id: str
    version_key: str | None = None


class ExecutionSource(Model):
    """Externally tagged: exactly one of the three is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    github: GitHubSource | None = Field(default=None, alias="GitHub")
    wasm_url: WasmUrlSource | None = Field(default=None, alias="WasmUrl")
    project: ProjectSource | None = Field(default=None, alias="Project")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(item is not None for item in (self.github, self.wasm_url, self.project)) != 1:
            raise ValueError("a source is exactly one of GitHub, WasmUrl and Project")
        return self

    @model_serializer(mode="wrap")
    def _only_the_one(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: item for name, item in write(self).items() if item is not None}

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude_none=True)


def wasm_url_source(url: str, sha256: str) -> ExecutionSource:
    return ExecutionSource(WasmUrl=WasmUrlSource(url=url, hash=sha256))


def project_source(project_id: str, version_key: str | None = None) -> ExecutionSource:
    return ExecutionSource(Project=ProjectSource(project_id=project_id, version_key=version_key))


class ResourceLimits(Model):
    """Limits of one run. R10: what is absent or null takes the contract's default."""

    max_instructions: U64 = DEFAULT_MAX_INSTRUCTIONS
    max_memory_mb: U32 = DEFAULT_MAX_MEMORY_MB
    max_execution_seconds: U64 = DEFAULT_MAX_EXECUTION_SECONDS

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {} if value is None else without_nulls(value)


class SecretsReference(Model):
    profile: str
    account_id: str


class RequestData(Model):
    """``request_data`` of an ``execution_requested`` event (a JSON text inside the event's JSON)."""

    request_id: U64
    sender_id: str
    predecessor_id: str
    code_source: ExecutionSource
    resource_limits: ResourceLimits = ResourceLimits()
    input_data: str = ""
    input_data_in_state: bool = False
    secrets_ref: SecretsReference | None = None
    response_format: ResponseFormat = "Text"
    payment: U128 = 0
    attached_usd: U128 = 0
    timestamp: int = 0
    compile_only: bool = False
    force_rebuild: bool = False
    store_on_fastfs: bool = False
    project_uuid: str | None = None
    project_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return without_nulls(value)


class PendingRequest(Model):
    """What the main contract's ``get_request`` shows. ``sender_id`` is the caller (predecessor), not the signer.

    ``input_data`` is None where only the event has it. ``pending_output`` is an answer that was handed in and not
    delivered yet, as the contract holds it. Amounts come as numbers or as decimal text.
    """

    request_id: int
    sender_id: str
    data_id: list[int] = Field(default_factory=list)
    execution_source: ExecutionSource | None = None
    resolved_source: ExecutionSource | None = None
    resource_limits: ResourceLimits = ResourceLimits()
    secrets_ref: SecretsReference | None = None
    response_format: ResponseFormat = "Text"
    input_data: str | None = None
    payer_account_id: str | None = None
    payment: U128 = 0
    attached_usd: U128 = 0
    timestamp: U128 = 0
    pending_output: ExecutionOutput | None = None
    output_submitted: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return without_nulls(value)


class SizeLimits(Model):
    """What a request's input and answer may be, in bytes, and what they cost, in yoctoNEAR for each byte.

    An answer counts as its caller gets it: JSON text. ``free_output_bytes`` of it are in the base price.
    """

    max_input_bytes: U64
    max_output_bytes: U64
    free_output_bytes: U64
    output_byte_price: U128
    input_byte_price: U128

    def output_price(self, size: int) -> int:
        """YoctoNEAR that a request's payment must cover for an answer of this many bytes."""
        return max(0, size - self.free_output_bytes) * self.output_byte_price


class NearBooks(Model):
    """Of the contract's NEAR, in yoctoNEAR: payments of waiting requests, and fees that were not withdrawn."""

    held_payments: U128
    fees: U128


class StablecoinPools(Model):
    """Whose the contract's stablecoin is, in micro-USD: each unit is in exactly one of these."""

    users: U128
    developers: U128
    payment_keys: U128
    fees: U128


class Project(Model):
    project_id: str
    uuid: str
    owner: str
    name: str
    active_version: str
    created_at: int = 0
    storage_deposit: U128 = 0


class Version(Model):
    """``wasm_hash`` is really the version key (the contract's name for it is historical)."""

    wasm_hash: str
    source: ExecutionSource
    added_at: int = 0
    is_active: bool = False


class Pricing(Model):
    """NEAR fees in yoctoNEAR, USD fees in micro-USD."""

    base_fee: U128
    per_million_instructions_fee: U128
    per_ms_fee: U128
    per_compile_ms_fee: U128
    base_fee_usd: U128
    per_million_instructions_fee_usd: U128
    per_sec_fee_usd: U128
    per_compile_ms_fee_usd: U128


class RequestParams(Model):
    """``params`` of ``request_execution``. A caller cannot name a storage namespace (R1), so there is no uuid."""

    force_rebuild: bool = False
    store_on_fastfs: bool = False
    compile_only: bool = False
    attached_usd: U128 | None = None

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class ResourceMetrics(Model):
    instructions: U64
    time_ms: U64
    compile_time_ms: int | None = None


class ExecutionResponse(Model):
    """What a worker resolves a request with. ``output`` is externally tagged: Bytes, Text or Json."""

    success: bool
    output: dict[str, Any] | None = None
    error: str | None = None
    resources_used: ResourceMetrics
    compilation_note: str | None = None
    refund_usd: int | None = None


class CallerAnswer(Model):
    """What the example contract got in its callback; ``ok`` is false for a failed or refused execution."""

    request_tx_input: str
    value: Any = None
    ok: bool
