# SPDX-License-Identifier: MIT
"""The contracts' JSON as typed models: what views return, what events carry, what methods take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

DEFAULT_MAX_INSTRUCTIONS = 1_000_000_000
DEFAULT_MAX_MEMORY_MB = 128
DEFAULT_MAX_EXECUTION_SECONDS = 60
DEFAULT_BUILD_TARGET = "wasm32-wasip1"


def _amount(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("an amount is a string of decimal digits")  # noqa: TRY004 - pydantic wants ValueError
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise ValueError("an amount is a string of decimal digits")
    number = int(value)
    if not 0 <= number < 2**128:
        raise ValueError("an amount is an unsigned 128-bit number")
    return number


U128 = Annotated[int, BeforeValidator(_amount), PlainSerializer(str, return_type=str)]
"""An amount: an int here, a string of decimal digits in JSON."""


ResponseFormat = Literal["Bytes", "Text", "Json"]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if item is not None}
    return value


class _Model(BaseModel):
    # what contracts of a later version add must not break an older reader
    model_config = ConfigDict(frozen=True, extra="ignore")


class GitHubSource(_Model):
    repo: str
    commit: str
    build_target: str | None = None


class WasmUrlSource(_Model):
    """``hash`` is the SHA-256 of the code, 64 lower-case hex digits."""

    url: str
    hash: str
    build_target: str | None = None


class ProjectSource(_Model):
    project_id: str
    version_key: str | None = None


class ExecutionSource(_Model):
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

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude_none=True)


def wasm_url_source(url: str, sha256: str) -> ExecutionSource:
    return ExecutionSource(WasmUrl=WasmUrlSource(url=url, hash=sha256))


def project_source(project_id: str, version_key: str | None = None) -> ExecutionSource:
    return ExecutionSource(Project=ProjectSource(project_id=project_id, version_key=version_key))


class ResourceLimits(_Model):
    """Limits of one run. R10: what is absent or null takes the contract's default."""

    max_instructions: int = Field(default=DEFAULT_MAX_INSTRUCTIONS, ge=0, lt=2**64)
    max_memory_mb: int = Field(default=DEFAULT_MAX_MEMORY_MB, ge=0, lt=2**32)
    max_execution_seconds: int = Field(default=DEFAULT_MAX_EXECUTION_SECONDS, ge=0, lt=2**64)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {} if value is None else _without_nulls(value)


class SecretsReference(_Model):
    profile: str
    account_id: str


class RequestData(_Model):
    """``request_data`` of an ``execution_requested`` event (a JSON text inside the event's JSON)."""

    request_id: int = Field(ge=0, lt=2**64)
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
        return _without_nulls(value)

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls.model_validate_json(text)


class PendingRequest(_Model):
    """What the main contract's ``get_request`` shows. ``sender_id`` is the caller (predecessor), not the signer.

    ``input_data`` is set only when the input is too large for the event.
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
    timestamp: int = 0
    output_submitted: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return _without_nulls(value)


class Project(_Model):
    project_id: str
    uuid: str
    owner: str
    name: str
    active_version: str
    created_at: int = 0
    storage_deposit: U128 = 0


class Version(_Model):
    """``wasm_hash`` is really the version key (the contract's name for it is historical)."""

    wasm_hash: str
    source: ExecutionSource
    added_at: int = 0
    is_active: bool = False


class Pricing(_Model):
    """NEAR fees in yoctoNEAR, USD fees in micro-USD."""

    base_fee: U128
    per_million_instructions_fee: U128
    per_ms_fee: U128
    per_compile_ms_fee: U128
    base_fee_usd: U128
    per_million_instructions_fee_usd: U128
    per_sec_fee_usd: U128
    per_compile_ms_fee_usd: U128


class MeasurementSet(_Model):
    """Times are unix seconds; None means no bound on that side."""

    id: int
    name: str | None = None
    measurements: dict[str, str]
    not_before: int | None = None
    not_after: int | None = None
    added_at: int = 0

    def active_at(self, now: int) -> bool:
        return (self.not_before is None or self.not_before <= now) and (
            self.not_after is None or now < self.not_after
        )


class WorkerKey(_Model):
    public_key: str
    measurement_set: int
    measurements: dict[str, str]
    tcb_status: str
    fmspc: str
    verified_at: int
    expires_at: int
    quote_report_sha256: str | None = None


class RegisterResult(_Model):
    """Answer of ``register_worker_key``: ``approved``, or ``rejected`` with a reason code."""

    status: Literal["approved", "rejected"]
    public_key: str | None = None
    measurement_set: int | None = None
    tcb_status: str | None = None
    fmspc: str | None = None
    verified_at: int | None = None
    expires_at: int | None = None
    reason: str | None = None
    detail: str | None = None


class CollateralInfo(_Model):
    """What the register contract holds for one platform. Times are unix seconds."""

    fmspc: str
    sha256: str
    tcb_evaluation_data_number: int
    issue_date: int
    next_update: int
    stored_at: int


class RootCa(_Model):
    """The root that quotes must chain to; ``simulated`` when it is not Intel's."""

    sha256: str
    simulated: bool


class RegisterConfig(_Model):
    owner_id: str
    init_worker_account: str
    outlayer_contract_id: str
    key_ttl_seconds: int


class RequestParams(_Model):
    """``params`` of ``request_execution``. A caller cannot name a storage namespace (R1), so there is no uuid."""

    force_rebuild: bool = False
    store_on_fastfs: bool = False
    compile_only: bool = False
    attached_usd: U128 | None = None

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class ResourceMetrics(_Model):
    instructions: int = Field(ge=0, lt=2**64)
    time_ms: int = Field(ge=0, lt=2**64)
    compile_time_ms: int | None = None


class ExecutionResponse(_Model):
    """What a worker resolves a request with. ``output`` is externally tagged: Bytes, Text or Json."""

    success: bool
    output: dict[str, Any] | None = None
    error: str | None = None
    resources_used: ResourceMetrics
    compilation_note: str | None = None
    refund_usd: int | None = None


def to_json_text(value: Any) -> str:
    """Compact JSON, not ASCII-escaped: the one form in which we send JSON to contracts."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
