# SPDX-License-Identifier: MIT
"""Main contract: secrets, who may use them, and payment keys (outlayer.md §1.2, §1.6, §1.8).

The contract stores access conditions and ciphertext; a keystore evaluates and decrypts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from outlayer_near.errors import ModelError
from outlayer_near.models.base import (
    U32,
    U64,
    U128,
    Model,
    UnitVariant,
    Variant,
    first_problem,
    read_variant,
    write_variant,
)
from outlayer_near.primitives import encode_string

MAX_CONDITION_DEPTH = 16
"""Levels of Logic and Not that a condition may have; what is deeper is refused before it is read."""


class _Exact(Variant):
    """Who may read a secret hangs on it, so a member that is not known is not passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# -- what a secret belongs to ----------------------------------------------------------------------------


class RepoSecret(_Exact):
    """A repository; without a branch, every branch that has no secret of its own."""

    tag: ClassVar[str] = "Repo"
    repo: str
    branch: str | None = None


class WasmHashSecret(_Exact):
    """Code by its SHA-256, 64 hex digits."""

    tag: ClassVar[str] = "WasmHash"
    hash: str


class ProjectSecret(_Exact):
    tag: ClassVar[str] = "Project"
    project_id: str


class SystemSecret(_Exact):
    """Secrets of the system itself; the profile of a payment key is its nonce."""

    tag: ClassVar[str] = "System"
    kind: Literal["PaymentKey"] = "PaymentKey"

    @classmethod
    def from_body(cls, body: Any) -> SystemSecret:
        return cls(kind=body)

    def to_json(self) -> Any:
        return {self.tag: self.kind}


# this order is the contract's: it is part of a borsh storage key
_ACCESSORS = (RepoSecret, WasmHashSecret, ProjectSecret, SystemSecret)
SecretAccessor: TypeAlias = Annotated[
    RepoSecret | WasmHashSecret | ProjectSecret | SystemSecret,
    read_variant("a secret's accessor", _ACCESSORS),
    write_variant,
]
PAYMENT_KEY = SystemSecret()

# -- who may use a secret --------------------------------------------------------------------------------

Comparison = Literal["Gte", "Lte", "Gt", "Lt", "Eq", "Ne"]


class AllowAll(UnitVariant):
    tag: ClassVar[str] = "AllowAll"


class Whitelist(_Exact):
    tag: ClassVar[str] = "Whitelist"
    accounts: tuple[str, ...]


class AccountPattern(_Exact):
    """A regular expression that must match the whole account id (R19)."""

    tag: ClassVar[str] = "AccountPattern"
    pattern: str


class NearBalance(_Exact):
    """``value`` in yoctoNEAR."""

    tag: ClassVar[str] = "NearBalance"
    operator: Comparison
    value: U128


class FtBalance(_Exact):
    """``value`` in the token's smallest unit."""

    tag: ClassVar[str] = "FtBalance"
    contract: str
    operator: Comparison
    value: U128


class NftOwned(_Exact):
    """Without a token id: any token of the contract."""

    tag: ClassVar[str] = "NftOwned"
    contract: str
    token_id: str | None = None


class DaoMember(_Exact):
    """A role of a Sputnik DAO's policy."""

    tag: ClassVar[str] = "DaoMember"
    dao_contract: str
    role: str


class Logic(_Exact):
    tag: ClassVar[str] = "Logic"
    operator: Literal["And", "Or"]
    conditions: tuple[AccessCondition, ...]


class Not(_Exact):
    tag: ClassVar[str] = "Not"
    condition: AccessCondition


def _not_too_deep(value: Any) -> Any:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_CONDITION_DEPTH:
            raise ValueError(f"an access condition has at most {MAX_CONDITION_DEPTH} levels")
        level = [inner for item in level for inner in _inner_conditions(item)]
    return value


def _inner_conditions(value: Any) -> list[Any]:
    if isinstance(value, Logic):
        return list(value.conditions)
    if isinstance(value, Not):
        return [value.condition]
    if not isinstance(value, Mapping):
        return []
    bodies = [body for tag, body in value.items() if tag in ("Logic", "Not") and isinstance(body, Mapping)]
    inner: list[Any] = [body["condition"] for body in bodies if "condition" in body]
    for body in bodies:
        conditions = body.get("conditions")
        inner += conditions if isinstance(conditions, list | tuple) else []
    return inner


_CONDITIONS: tuple[type[Variant], ...] = (
    AllowAll,
    Whitelist,
    AccountPattern,
    NearBalance,
    FtBalance,
    NftOwned,
    DaoMember,
    Logic,
    Not,
)
AccessCondition: TypeAlias = Annotated[
    AllowAll | Whitelist | AccountPattern | NearBalance | FtBalance | NftOwned | DaoMember | Logic | Not,
    read_variant("an access condition", _CONDITIONS),
    BeforeValidator(_not_too_deep),
    write_variant,
]
for _model in (Logic, Not):
    _model.model_rebuild()


_condition: TypeAdapter[AccessCondition] = TypeAdapter(AccessCondition)
_accessor: TypeAdapter[SecretAccessor] = TypeAdapter(SecretAccessor)


def read_condition(value: Any) -> AccessCondition:
    """An access condition from parsed JSON. Raises ``ModelError``."""
    try:
        return _condition.validate_python(value)
    except ValidationError as error:
        hint = 'the simplest conditions are "AllowAll" and {"Whitelist":{"accounts":["alice.near"]}}'
        raise ModelError(first_problem("access condition", error), hint=hint) from None


def read_accessor(value: Any) -> SecretAccessor:
    """A secret's accessor from parsed JSON. Raises ``ModelError``."""
    try:
        return _accessor.validate_python(value)
    except ValidationError as error:
        hint = 'for a project: {"Project":{"project_id":"alice.near/app"}}'
        raise ModelError(first_problem("secret accessor", error), hint=hint) from None


# -- what is stored --------------------------------------------------------------------------------------


class SecretKey(Model):
    """What names a secret in the contract's state."""

    accessor: SecretAccessor
    profile: str
    owner: str

    def to_bytes(self) -> bytes:
        """Borsh, as in the contract's storage key: variant, its texts, profile, owner."""
        accessor = self.accessor
        match accessor:
            case RepoSecret():
                branch = b"\0" if accessor.branch is None else b"\1" + encode_string(accessor.branch)
                body = encode_string(accessor.repo) + branch
            case WasmHashSecret():
                body = encode_string(accessor.hash)
            case ProjectSecret():
                body = encode_string(accessor.project_id)
            case SystemSecret():
                body = b"\0"
        variant = bytes([_ACCESSORS.index(type(accessor))])
        return variant + body + encode_string(self.profile) + encode_string(self.owner)


PAYMENT_KEY_TASK_BYTES = 310
"""What a payment key's price holds for the top-ups of others: what one occupies while it is under way."""
_ENTRY = 40
"""Bytes that the protocol counts for an entry of state beside its key and value."""


def secret_storage_bytes(key: SecretKey, encrypted: str, access: AccessCondition) -> int:
    """Bytes that an entry is charged for: its record, its item in the owner's list, a payment key's task (§1.6, R5).

    A record is ciphertext, condition (borsh behind a version byte), two times and the deposit.
    """
    value = len(encode_string(encrypted)) + 1 + _stored_bytes(access) + 8 + 8 + 16
    record = _ENTRY + 1 + len(key.to_bytes()) + value
    owner = 1 + len(encode_string(key.owner))
    item = len(key.to_bytes()) - len(encode_string(key.owner))
    listed = _ENTRY + owner + 4 + item + _ENTRY + owner + 16 + 4
    return record + listed + (PAYMENT_KEY_TASK_BYTES if key.accessor == PAYMENT_KEY else 0)


def secret_list_bytes(owner: str) -> int:
    """Bytes that an owner's first secret is charged for beside its own; they come back with the last one."""
    return _ENTRY + 1 + len(encode_string(owner)) + 8


def _stored_bytes(access: AccessCondition) -> int:
    """Length of a condition in borsh."""
    variant, operator, amount, count = 1, 1, 16, 4
    match access:
        case Whitelist():
            body = count + sum(len(encode_string(account)) for account in access.accounts)
        case AccountPattern():
            body = len(encode_string(access.pattern))
        case NearBalance():
            body = operator + amount
        case FtBalance():
            body = len(encode_string(access.contract)) + operator + amount
        case NftOwned():
            token = b"" if access.token_id is None else encode_string(access.token_id)
            body = len(encode_string(access.contract)) + 1 + len(token)
        case DaoMember():
            body = len(encode_string(access.dao_contract)) + len(encode_string(access.role))
        case Logic():
            body = operator + count + sum(_stored_bytes(condition) for condition in access.conditions)
        case Not():
            body = _stored_bytes(access.condition)
        case AllowAll():
            body = 0
    return variant + body


class SecretProfile(Model):
    """``get_secrets``: ciphertext (base64), who may use it, and under which accessor it was found."""

    encrypted_secrets: str
    access: AccessCondition
    created_at: U64
    updated_at: U64
    storage_deposit: U128
    accessor: SecretAccessor


class UserSecret(Model):
    """One row of ``list_user_secrets``."""

    accessor: SecretAccessor
    profile: str
    created_at: U64
    updated_at: U64
    storage_deposit: U128
    access: AccessCondition


# -- payment keys ----------------------------------------------------------------------------------------


class PaymentKeyRecord(Model):
    """What the ciphertext of a payment key holds; amounts in micro-USD. Empty ``project_ids``: every project."""

    key: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z"), Field(repr=False)]
    initial_balance: U128
    project_ids: tuple[str, ...] = ()
    max_per_call: U128 | None = None

    def to_json(self) -> dict[str, Any]:
        value = self.model_dump(mode="json")
        return (
            value
            if self.max_per_call is not None
            else {k: v for k, v in value.items() if k != "max_per_call"}
        )


class TopUpMessage(Model):
    """``msg`` of a token transfer that tops a payment key up; without owner, the sender's own key."""

    action: Literal["top_up_payment_key"] = "top_up_payment_key"
    nonce: U32
    owner: str | None = None

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class DepositMessage(Model):
    """``msg`` of a token transfer that credits the sender's balance for ``attached_usd``."""

    action: Literal["deposit_balance"] = "deposit_balance"


class Success(Variant):
    """The operator's word that a system task is done; a top-up carries the key's new ciphertext."""

    tag: ClassVar[str] = "Success"
    new_encrypted_data: str


class Done(UnitVariant):
    """The operator's word that a key is deleted off chain."""

    tag: ClassVar[str] = "Success"


class Failed(Variant):
    tag: ClassVar[str] = "Error"
    message: str


TopUpResult: TypeAlias = Annotated[
    Success | Failed, read_variant("a top-up result", (Success, Failed)), write_variant
]
DeleteResult: TypeAlias = Annotated[
    Done | Failed, read_variant("a delete result", (Done, Failed)), write_variant
]
