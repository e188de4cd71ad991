# SPDX-License-Identifier: MIT
"""Task records: what a quote says about one execution.

V2 is this project's format: versioned, domain-separated, every field length-prefixed with a marker
for "absent", so two different records never share a preimage (rule R15). V1 is the formula of the
records which the original publishes; it is verified, never written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, cast

from outlayer_attestation import merkle
from outlayer_attestation.base58 import decode_ed25519_key
from outlayer_attestation.errors import RecordError

RECORD_TAG: Final = b"outlayer/task-record/v2"
BATCH_TAG: Final = b"outlayer/batch/v2"
BATCH_VERSION: Final = 2
REPORT_DATA_SIZE: Final = 64

MAX_ERROR_BYTES: Final = 512
MAX_TEXT_BYTES: Final = 4096
_MAX_UINT: Final = 2**128 - 1

_HASH = re.compile(r"[0-9a-f]{64}")
Kind = Literal["text", "uint", "bool", "hash"]

# field -> (kind, may be absent), in the order in which they are hashed
_FIELDS: Final[dict[str, tuple[Kind, bool]]] = {
    "task_type": ("text", False),
    "network_id": ("text", False),
    "contract_id": ("text", True),
    "request_id": ("uint", True),
    "transaction_hash": ("text", True),
    "receipt_id": ("text", True),
    "call_id": ("text", True),
    "job_id": ("text", False),
    "caller": ("text", True),
    "signer_id": ("text", True),
    "payment_key_owner": ("text", True),
    "payment_key_nonce": ("uint", True),
    "project_id": ("text", True),
    "project_uuid": ("text", True),
    "version_key": ("text", True),
    "code_url": ("text", True),
    "wasm_sha256": ("hash", False),
    "input_sha256": ("hash", False),
    "output_sha256": ("hash", False),
    "success": ("bool", False),
    "error": ("text", True),
    "instructions": ("uint", False),
    "time_ms": ("uint", False),
    "max_instructions": ("uint", False),
    "max_memory_mb": ("uint", False),
    "max_execution_seconds": ("uint", False),
    "secrets_ref": ("text", True),
    "attached_usd": ("uint", True),
    "refund_usd": ("uint", True),
    "block_height": ("uint", True),
    "anchor_hash": ("text", False),
    "anchor_height": ("uint", False),
    "anchor_time": ("uint", False),
    "timestamp": ("uint", False),
    "worker_public_key": ("text", False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecordV2:
    """One execution, as the worker that ran it states it. ``None`` is "absent", which is hashed as such.

    Hashes are SHA-256 in lower-case hex: ``wasm_sha256`` over the bytes that were executed (rule R17),
    ``input_sha256`` over the bytes the guest read on stdin, ``output_sha256`` over the bytes delivered.
    ``attached_usd`` and ``refund_usd`` are micro-USD, ``secrets_ref`` is "account/profile". ``timestamp`` is
    unix seconds by the worker's clock, which its host can set; ``anchor_hash`` (base58), ``anchor_height`` and
    ``anchor_time`` (unix seconds, rounded down) are of a recent final block that the worker read itself, so
    the record cannot have been made before that block: the chain's word, not the host's. A failed run has
    the output ``b""`` (HTTPS) or ``b"null"`` (NEAR).
    """

    task_type: str = "execute"
    network_id: str
    contract_id: str | None = None
    request_id: int | None = None
    transaction_hash: str | None = None
    receipt_id: str | None = None
    call_id: str | None = None
    job_id: str
    caller: str | None = None
    signer_id: str | None = None
    payment_key_owner: str | None = None
    payment_key_nonce: int | None = None
    project_id: str | None = None
    project_uuid: str | None = None
    version_key: str | None = None
    code_url: str | None = None
    wasm_sha256: str
    input_sha256: str
    output_sha256: str
    success: bool
    error: str | None = None
    instructions: int
    time_ms: int
    max_instructions: int
    max_memory_mb: int
    max_execution_seconds: int
    secrets_ref: str | None = None
    attached_usd: int | None = None
    refund_usd: int | None = None
    block_height: int | None = None
    anchor_hash: str
    anchor_height: int
    anchor_time: int
    timestamp: int
    worker_public_key: str

    def __post_init__(self) -> None:
        for name, (kind, optional) in _FIELDS.items():
            _check_field(name, getattr(self, name), kind, optional)
        if self.task_type != "execute":
            raise RecordError(f"task_type {self.task_type!r} is not known", hint='V2 knows "execute"')
        if self.error is not None and len(self.error.encode()) > MAX_ERROR_BYTES:
            raise RecordError(f"error is longer than {MAX_ERROR_BYTES} bytes", hint="use clip_error()")

    def preimage(self) -> bytes:
        """Tag, then per field: presence byte, u32 big-endian length, bytes (absent: 00 and length 0)."""
        parts = [RECORD_TAG]
        for name, (kind, _) in _FIELDS.items():
            value = getattr(self, name)
            if value is None:
                parts.append(b"\x00\x00\x00\x00\x00")
                continue
            data = str(value).lower().encode() if kind == "bool" else str(value).encode()
            parts.append(b"\x01" + len(data).to_bytes(4, "big") + data)
        return b"".join(parts)

    def leaf_hash(self) -> bytes:
        """The record's leaf in its batch: SHA-256(0x00 ‖ preimage), 32 bytes."""
        return hashlib.sha256(merkle.LEAF_PREFIX + self.preimage()).digest()

    def to_json(self) -> dict[str, Any]:
        """All fields, absent ones as null, in hashing order."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_json(cls, value: object) -> TaskRecordV2:
        """Read what ``to_json`` writes. Unknown keys are refused; an optional key may be missing.

        Raises:
            RecordError: not an object, an unknown or missing key, or a value of the wrong kind.
        """
        if not isinstance(value, Mapping):
            raise RecordError("a task record is a JSON object")
        unknown = sorted(str(name) for name in value if name not in _FIELDS)
        if unknown:
            raise RecordError(
                f"unknown fields in the record: {unknown[:5]}", hint="it may be of a newer format"
            )
        missing = [name for name, (_, optional) in _FIELDS.items() if not optional and name not in value]
        if missing:
            raise RecordError(f"the record lacks {missing}")
        return cls(**cast("dict[str, Any]", dict(value)))


def _check_field(name: str, value: object, kind: Kind, optional: bool) -> None:
    if value is None:
        if not optional:
            raise RecordError(f"{name} is absent", hint=f"a record always has {name}")
        return
    if kind == "uint":
        if type(value) is not int or not 0 <= value <= _MAX_UINT:
            raise RecordError(f"{name} is not an unsigned integer")
    elif kind == "bool":
        if type(value) is not bool:
            raise RecordError(f"{name} is not a boolean")
    elif type(value) is not str:
        raise RecordError(f"{name} is not text")
    elif kind == "hash":
        if _HASH.fullmatch(value) is None:
            raise RecordError(f"{name} is not 64 lower-case hex digits")
    else:
        _check_text(name, value)


def _check_text(name: str, value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise RecordError(f"{name} is not valid Unicode") from error
    if size > MAX_TEXT_BYTES:
        raise RecordError(f"{name} is longer than {MAX_TEXT_BYTES} bytes")


def clip_error(message: str) -> str:
    """Cut an error message to what a record can carry, on a character boundary."""
    data = message.encode("utf-8", "replace")
    return data[:MAX_ERROR_BYTES].decode("utf-8", "ignore")


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex: the form of every hash in a record."""
    return hashlib.sha256(data).hexdigest()


def report_data_v2(tree_size: int, root: bytes) -> bytes:
    """REPORTDATA of a batch: SHA-512(tag ‖ u64 big-endian tree size ‖ root), 64 bytes."""
    if len(root) != merkle.HASH_SIZE:
        raise RecordError("a batch root is 32 bytes")
    return hashlib.sha512(BATCH_TAG + tree_size.to_bytes(8, "big") + root).digest()


def registration_report_data(public_key: str | bytes) -> bytes:
    """REPORTDATA of a worker's registration: raw ed25519 key (32 bytes) then 32 zero bytes.

    Takes "ed25519:<base58>" or the 32 raw bytes. The layout is the original's; all 64 bytes are checked.
    """
    raw = decode_ed25519_key(public_key) if isinstance(public_key, str) else public_key
    if len(raw) != 32:
        raise RecordError("an ed25519 public key is 32 bytes")
    return raw + bytes(32)


REVERIFICATION_TAG: Final = b"outlayer/reverification/v1\0"


def reverification_report_data(contract_id: str, public_key: str | bytes, challenge: bytes) -> bytes:
    """REPORTDATA of a later quote for a registered key: SHA-512 of a tag and three fields, each behind its length.

    ``challenge`` (32 bytes) is what the register contract shows for the key; it changes with each accepted quote.
    """
    raw = registration_report_data(public_key)[:32]
    if len(challenge) != 32:
        raise RecordError("a challenge is 32 bytes")
    fields = (contract_id.encode(), raw, challenge)
    return hashlib.sha512(
        REVERIFICATION_TAG + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    ).digest()


@dataclass(frozen=True, slots=True)
class Batch:
    """The quote over a Merkle root of records, as it travels: quote in lower-case hex on the wire."""

    tree_size: int
    root: bytes
    quote: bytes

    def to_json(self) -> dict[str, Any]:
        """``{"version": 2, "tree_size": n, "root": hex, "quote": hex}``."""
        return {
            "version": BATCH_VERSION,
            "tree_size": self.tree_size,
            "root": self.root.hex(),
            "quote": self.quote.hex(),
        }

    @classmethod
    def from_json(cls, value: object) -> Batch:
        """Strict inverse of ``to_json``; another version is refused, not guessed."""
        if not isinstance(value, Mapping):
            raise RecordError("a batch is a JSON object")
        version = value.get("version")
        if type(version) is not int or version != BATCH_VERSION:
            raise RecordError(f"batch version {version!r} is not known", hint="this program knows version 2")
        if set(value) != {"version", "tree_size", "root", "quote"}:
            raise RecordError(f"unexpected keys in the batch: {sorted(map(str, value))}")
        size = value["tree_size"]
        if type(size) is not int or not 0 < size <= merkle.MAX_LEAVES:
            raise RecordError("tree_size is out of range")
        root = unhex("root", value["root"])
        if len(root) != merkle.HASH_SIZE:
            raise RecordError("root is not 32 bytes")
        return cls(tree_size=size, root=root, quote=unhex("quote", value["quote"]))


_LOWER_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def unhex(name: str, value: object) -> bytes:
    """Lower-case hex to bytes; one text per value, so that equal bytes are equal text."""
    if type(value) is not str or _LOWER_HEX.fullmatch(value) is None:
        raise RecordError(f"{name} is not lower-case hex")
    return bytes.fromhex(value)


def batch_report_data(records: Iterable[TaskRecordV2]) -> tuple[merkle.Tree, bytes]:
    """The tree over these records, in order, and the REPORTDATA to ask a quote for."""
    tree = merkle.build([record.leaf_hash() for record in records])
    return tree, report_data_v2(tree.size, tree.root)


# --- V1: the original's records (reference: outlayer.md §5.9) ------------------------------------------

V1_CUTOFF: Final = 1_769_784_939
"""2026-01-30T14:55:39Z: records from this time on hash five more fields. Time decides, never trial."""

_V1_TEXT: Final = (
    "repo_url",
    "commit_hash",
    "build_target",
    "wasm_hash",
    "input_hash",
    "caller_account_id",
    "project_id",
    "secrets_ref",
    "attached_usd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecordV1:
    """A record as the original publishes it. Hashes enter as their hex text, absent fields not at all."""

    task_type: str
    task_id: int
    output_hash: str
    timestamp: int
    repo_url: str | None = None
    commit_hash: str | None = None
    build_target: str | None = None
    wasm_hash: str | None = None
    input_hash: str | None = None
    block_height: int | None = None
    caller_account_id: str | None = None
    project_id: str | None = None
    secrets_ref: str | None = None
    attached_usd: str | None = None

    def __post_init__(self) -> None:
        for name in ("task_type", "output_hash"):
            if type(getattr(self, name)) is not str:
                raise RecordError(f"{name} is not text")
            _check_text(name, getattr(self, name))
        for name in _V1_TEXT:
            if getattr(self, name) is not None:
                if type(getattr(self, name)) is not str:
                    raise RecordError(f"{name} is not text")
                _check_text(name, getattr(self, name))
        for name in ("task_id", "timestamp"):
            value = getattr(self, name)
            if type(value) is not int or not -(2**63) <= value < 2**63:
                raise RecordError(f"{name} is not a 64-bit integer")
        height = self.block_height
        if height is not None and (type(height) is not int or not 0 <= height < 2**64):
            raise RecordError("block_height is not an unsigned 64-bit integer")

    @classmethod
    def from_json(cls, value: object) -> TaskRecordV1:
        """Read the published JSON; keys that are not hashed (``tdx_quote``, ``id``, …) are left aside."""
        if not isinstance(value, Mapping):
            raise RecordError("a task record is a JSON object")
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{str(name): item for name, item in value.items() if name in known})
        except TypeError as error:
            raise RecordError(f"the V1 record is not complete: {error}") from error

    def commitment(self) -> bytes:
        """SHA-256 of the concatenated fields, 32 bytes."""
        texts = [self.repo_url, self.commit_hash, self.build_target, self.wasm_hash, self.input_hash]
        parts = [self.task_type.encode(), self.task_id.to_bytes(8, "little", signed=True)]
        parts += [text.encode() for text in texts if text is not None]
        parts.append(self.output_hash.encode())
        if self.block_height is not None:
            parts.append(self.block_height.to_bytes(8, "little"))
        if self.timestamp >= V1_CUTOFF:
            before = (self.caller_account_id, self.project_id, self.secrets_ref)
            parts += [text.encode() for text in before if text is not None]
            parts.append(self.timestamp.to_bytes(8, "little", signed=True))
            if self.attached_usd is not None:
                parts.append(self.attached_usd.encode())
        return hashlib.sha256(b"".join(parts)).digest()

    def report_data(self) -> bytes:
        """What the quote's REPORTDATA must be: the commitment, then 32 zero bytes."""
        return self.commitment() + bytes(32)
