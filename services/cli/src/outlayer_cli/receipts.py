# SPDX-License-Identifier: MIT
"""Receipts of HTTPS calls: what this client itself sent and got, to compare a record with.

A record of an HTTPS call proves that a measured worker ran this input of this project. That it is the input which
*you* sent, under your key and limits, only you can know: the coordinator in between could have changed it. A
receipt is written before the request leaves, completed by the answer, and holds no secret.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from outlayer_attestation.checks import Check, Outcome, decide, failed, stated, unproven
from outlayer_attestation.record import sha256_hex
from outlayer_cli.embedded import write_secret
from outlayer_cli.errors import CliError, UsageError
from outlayer_cli.payment_keys import PaymentKey

RECEIPT_FORMAT: Final = "outlayer/call-receipt/v1"
MAX_RECEIPT_BYTES: Final = 64 * 1024
MOST_RECEIPTS: Final = 10_000
"""How many are kept, under 10 MB; the oldest are removed first."""

CLOCK_SKEW_SECONDS: Final = 300
"""How far the clocks of a client and of a worker may differ, as everywhere in a verdict."""

LIMITS: Final = ("max_instructions", "max_memory_mb", "max_execution_seconds")
DEFAULT_LIMITS: Final = {
    "max_instructions": 10_000_000_000,
    "max_memory_mb": 128,
    "max_execution_seconds": 60,
}
"""What the HTTPS API documents for limits that a call leaves out (docs/reference/http-api.md)."""


class ReceiptError(CliError):
    """A receipt's file cannot be written."""


Status = Literal["sent", "pending", "completed", "failed"]
_STATUSES: Final = ("sent", "pending", "completed", "failed")
_CALL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One call as its client knows it. Times are unix seconds by the client's clock, money is micro-USD.

    ``input_sha256`` is of the exact bytes that the guest reads. ``output_sha256`` holds every reading of what was
    delivered (see ``replies.delivered_digests``); it is empty until the result came. ``requested_limits`` are null
    where the call left them to their defaults, ``version_key`` is null for the active version. ``call_id`` is null,
    and ``status`` "sent", as long as no answer came: the coordinator gives a call its id.
    """

    call_id: str | None
    status: Status
    project_id: str
    version_key: str | None
    requested_limits: dict[str, int | None]
    payment_key_owner: str
    payment_key_nonce: int
    secrets_ref: str | None
    attached_usd: int
    compute_limit_usd: int | None
    input_sha256: str
    input_size: int
    output_sha256: tuple[str, ...]
    coordinator: str
    asynchronous: bool
    sent_at: int
    received_at: int | None

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        value = asdict(self)
        return {"format": RECEIPT_FORMAT, **value, "output_sha256": list(self.output_sha256)}

    @classmethod
    def from_json(cls, value: object) -> Receipt:
        """Strict inverse of ``to_json``. Raises ``UsageError`` that names the member."""
        if not isinstance(value, Mapping) or value.get("format") != RECEIPT_FORMAT:
            raise UsageError(
                f"this is not a call receipt; its format would be {RECEIPT_FORMAT!r}",
                hint="outlayer call writes receipts",
            )
        wrong = sorted(map(str, set(value).symmetric_difference(("format", *cls.__slots__))))
        if wrong:
            raise UsageError(f"the receipt has missing or unknown members: {wrong[:5]}")
        for name, is_right in _MEMBERS.items():
            if not is_right(value[name]):
                raise UsageError(f"the receipt's {name} is not what it has to be")
        given = {name: value[name] for name in cls.__slots__}
        given["output_sha256"] = tuple(value["output_sha256"])
        if (given["call_id"] is None) != (given["status"] == "sent"):
            raise UsageError("the receipt's call_id and status contradict each other")
        return cls(**given)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_text(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= 4096 and value.isprintable()


def _is_hash(value: object) -> bool:
    return type(value) is str and _HASH.fullmatch(value) is not None


def _are_limits(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != set(LIMITS):
        return False
    return all(item is None or _is_count(item) for item in value.values())


_MEMBERS: Final[dict[str, Callable[[Any], bool]]] = {
    "call_id": lambda value: value is None or (type(value) is str and _CALL_ID.fullmatch(value) is not None),
    "status": lambda value: type(value) is str and value in _STATUSES,
    "project_id": _is_text,
    "version_key": lambda value: value is None or _is_text(value),
    "requested_limits": _are_limits,
    "payment_key_owner": _is_text,
    "payment_key_nonce": _is_count,
    "secrets_ref": lambda value: value is None or _is_text(value),
    "attached_usd": _is_count,
    "compute_limit_usd": lambda value: value is None or _is_count(value),
    "input_sha256": _is_hash,
    "input_size": _is_count,
    "output_sha256": lambda value: isinstance(value, list) and len(value) <= 2 and all(map(_is_hash, value)),
    "coordinator": _is_text,
    "asynchronous": lambda value: type(value) is bool,
    "sent_at": _is_count,
    "received_at": lambda value: value is None or _is_count(value),
}


def new_receipt(
    *,
    project: str,
    version_key: str | None,
    limits: Mapping[str, int],
    key: PaymentKey,
    attached_usd: int | None,
    compute_limit_usd: int | None,
    input_bytes: bytes,
    coordinator: str,
    asynchronous: bool,
    now: int,
) -> Receipt:
    """The receipt of a call that is about to be sent."""
    return Receipt(
        call_id=None,
        status="sent",
        project_id=project,
        version_key=version_key,
        requested_limits={name: limits.get(name) for name in LIMITS},
        payment_key_owner=key.owner,
        payment_key_nonce=key.nonce,
        secrets_ref=None,
        attached_usd=attached_usd or 0,
        compute_limit_usd=compute_limit_usd,
        input_sha256=sha256_hex(input_bytes),
        input_size=len(input_bytes),
        output_sha256=(),
        coordinator=coordinator,
        asynchronous=asynchronous,
        sent_at=now,
        received_at=None,
    )


def answered(receipt: Receipt, call_id: str, status: str, output_sha256: Iterable[str], now: int) -> Receipt:
    """The receipt with what the coordinator answered. A failed call delivers nothing: the hash of no bytes."""
    done = status in ("completed", "failed")
    return replace(
        receipt,
        call_id=call_id,
        status=cast("Status", status),
        output_sha256=(sha256_hex(b""),) if status == "failed" else tuple(output_sha256),
        received_at=now if done else None,
    )


# --- the folder ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReceiptFolder:
    """Receipts in files of mode 0600: ``<call id>.json``, or ``unanswered-<time>-<random>.json`` before the answer."""

    path: Path

    def begin(self, receipt: Receipt) -> Path:
        """Write a receipt before its request is sent; gives its file. Raises ``ReceiptError``."""
        file = self.path / f"unanswered-{receipt.sent_at}-{secrets.token_hex(4)}.json"
        self._write(file, receipt)
        self._keep_the_newest(file.name)
        return file

    def finish(self, begun: Path, receipt: Receipt) -> Path:
        """Put the answered receipt in the place of the one that was begun, under its call's id.

        Raises ``CliError`` when there is a receipt of that id already: then the coordinator answered with the id of
        another call, whose receipt must not be lost. Raises ``ReceiptError`` when it cannot be written.
        """
        file = self.of(str(receipt.call_id))
        self._write(begun, receipt)
        try:
            os.link(begun, file)
        except FileExistsError as error:
            raise CliError(
                f"the coordinator gave this call the id of another one, {receipt.call_id}",
                hint=f"do not trust this answer; this call's receipt is {begun}",
            ) from error
        except OSError as error:
            raise _not_written(file, error) from error
        begun.unlink()
        return file

    def update(self, receipt: Receipt) -> None:
        """Write a receipt that has its id anew, with what came since."""
        self._write(self.of(str(receipt.call_id)), receipt)

    def drop(self, begun: Path) -> None:
        """Remove a receipt whose request was refused: nothing ran."""
        begun.unlink(missing_ok=True)

    def of(self, call_id: str) -> Path:
        """The file for a call. Raises ``UsageError`` for what is not an id."""
        if _CALL_ID.fullmatch(call_id) is None:
            raise UsageError(
                f"{call_id[:60]!r} is not a call's id", hint="it is a UUID: outlayer call shows it"
            )
        return self.path / f"{call_id}.json"

    def find(self, call_id: str) -> Receipt | None:
        """This client's receipt of a call, or None. Raises ``UsageError`` for a file that is damaged."""
        file = self.of(call_id.lower())
        return load(file) if file.is_file() else None

    def unanswered(self) -> list[Path]:
        """Receipts of calls whose answer never came, the newest last."""
        return sorted(self.path.glob("unanswered-*.json"))

    def _write(self, file: Path, receipt: Receipt) -> None:
        try:
            write_secret(file, json.dumps(receipt.to_json(), indent=1) + "\n")
        except OSError as error:
            raise _not_written(file, error) from error

    def _keep_the_newest(self, begun: str) -> None:
        """Remove the oldest beyond the limit; never the one just begun, wherever a clock was set to."""
        files = [entry for entry in os.scandir(self.path) if entry.name.endswith(".json")]
        if len(files) <= MOST_RECEIPTS:
            return
        others = [entry for entry in files if entry.name != begun]
        by_age = sorted(others, key=lambda entry: (_written_at(entry), entry.name))
        for entry in by_age[: len(files) - MOST_RECEIPTS]:
            Path(entry.path).unlink(missing_ok=True)


def _written_at(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_mtime_ns
    except FileNotFoundError:  # another call has just removed it
        return 0


def _not_written(file: Path, error: OSError) -> ReceiptError:
    return ReceiptError(
        f"the receipt {file} cannot be written: {error.strerror}",
        hint="make room, or call with --no-receipt",
    )


def receipt_folder(state: Path) -> ReceiptFolder:
    """Where the receipts of a stack's calls are: in its state, so every command finds them from any folder."""
    return ReceiptFolder(state / "receipts")


def load(file: Path) -> Receipt:
    """Read a receipt's file. Raises ``UsageError``."""
    from outlayer_cli.replies import read_json

    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the receipt {file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_RECEIPT_BYTES:
        raise UsageError(f"{file} is too large for a receipt", hint=f"at most {MAX_RECEIPT_BYTES} bytes")
    try:
        return Receipt.from_json(read_json(content, str(file)))
    except CliError as error:
        raise UsageError(f"{file}: {error}", hint=error.hint) from error


# --- comparing ----------------------------------------------------------------------------------------


def compare_receipt(
    receipt: Receipt, record: Mapping[str, Any], active_version: str | None = None
) -> list[Check]:
    """A record (JSON of V2) against what this client knows of its call: one check for each thing.

    ``active_version``: the project's version that was active on chain when the record was made, for a call that
    named none. Without it, the version of such a call is stated by the record alone.
    """
    checks = [
        _same("input", record.get("input_sha256"), receipt.input_sha256),
        _same("project", record.get("project_id"), receipt.project_id),
        _version(receipt, record, active_version),
        _limits(receipt, record),
        _same("caller", record.get("caller"), receipt.payment_key_owner),
        _same(
            "payment_key",
            f"{record.get('payment_key_owner')}:{record.get('payment_key_nonce')}",
            f"{receipt.payment_key_owner}:{receipt.payment_key_nonce}",
        ),
        _same("secrets", record.get("secrets_ref"), receipt.secrets_ref),
        _same("deposit", record.get("attached_usd"), receipt.attached_usd),
        _call_id(receipt, record),
        _time(receipt, record),
    ]
    return [*checks, *_outcome(receipt, record)]


def _same(name: str, found: object, sent: object) -> Check:
    detail = f"the record says {found}, the receipt {sent}"
    return decide(
        f"receipt_{name}", found == sent and type(found) is type(sent), "differs_from_receipt", detail
    )


def _version(receipt: Receipt, record: Mapping[str, Any], active_version: str | None) -> Check:
    found = record.get("version_key")
    if receipt.version_key is not None:
        return _same("version", found, receipt.version_key)
    name, detail = "receipt_version", f"the call named no version, the record is of {found}"
    if active_version is None:
        return stated(name, detail)
    if found == active_version:
        return _same("version", found, active_version)
    # it may have been activated, or replaced, while the call ran
    return unproven(name, "not_the_active_version", f"{detail}; active on chain then: {active_version}")


def _limits(receipt: Receipt, record: Mapping[str, Any]) -> Check:
    """The limits as requested: a worker's own lower ones cut a run short, and are not in its record."""
    found = {name: record.get(name) for name in LIMITS}
    asked = {
        name: DEFAULT_LIMITS[name] if value is None else value
        for name, value in receipt.requested_limits.items()
    }
    left = [name for name, value in receipt.requested_limits.items() if value is None]
    detail = ", ".join(f"{name} {found[name]}, asked {asked[name]}" for name in LIMITS)
    if left:
        detail += f" (by default: {', '.join(left)})"
    return decide("receipt_limits", found == asked, "differs_from_receipt", detail)


def _call_id(receipt: Receipt, record: Mapping[str, Any]) -> Check:
    if receipt.call_id is None:
        detail = f"no answer came that told the call's id; the record says {record.get('call_id')}"
        return unproven("receipt_call_id", "no_answer", detail)
    return _same("call_id", record.get("call_id"), receipt.call_id)


def _time(receipt: Receipt, record: Mapping[str, Any]) -> Check:
    """The record's own time and that of its anchor, between sending and receiving by the client's clock."""
    name = "receipt_time"
    times = (record.get("anchor_time"), record.get("timestamp"))
    start, end = receipt.sent_at, receipt.received_at
    bound = f"received {end}" if end is not None else "no result was received, so nothing bounds it above"
    detail = f"anchor {times[0]}, record {times[1]}; sent {start}, {bound}"
    if any(type(time) is not int for time in times):
        return decide(name, False, "no_time", detail)
    known = cast("tuple[int, int]", times)
    if min(known) < start - CLOCK_SKEW_SECONDS:
        return decide(name, False, "older_than_the_call", detail)
    late = end is not None and max(known) > end + CLOCK_SKEW_SECONDS
    return decide(name, not late, "newer_than_the_answer", detail)


def _outcome(receipt: Receipt, record: Mapping[str, Any]) -> list[Check]:
    """Success and output as they were delivered; nothing for a call whose result this client has not got."""
    if receipt.received_at is None:
        return []
    success, output = record.get("success"), record.get("output_sha256")
    delivered = f"the record says {output}, delivered was {' or '.join(receipt.output_sha256)}"
    return [
        _same("success", success, receipt.status == "completed"),
        decide("receipt_output", output in receipt.output_sha256, "differs_from_receipt", delivered),
    ]


def compare_stated(value: object, record: Mapping[str, Any]) -> list[Check]:
    """A record against a receipt that came inside of its own bundle: what agrees is no more than stated.

    Whoever wrote the bundle wrote both. A receipt that cannot be read is a failed check.
    """
    try:
        receipt = Receipt.from_json(value)
    except UsageError as error:
        return [failed("receipt_format", "malformed", str(error))]
    return [
        stated(check.name, check.detail) if check.outcome is Outcome.PASS else check
        for check in compare_receipt(receipt, record)
    ]


_CHANGEABLE: Final = {
    "input": "the input: another one may have been run",
    "project": "the project: another one may have been run",
    "version": "the version: an older one may have been run",
    "limits": "the limits: lower ones may have cut the run short",
    "caller": "the caller's name: the app may have been told another",
    "payment_key": "the payment key that the record names",
    "secrets": "the secrets: the app may have been given other ones",
    "deposit": "the deposit that the record names",
    "time": "the time: the run may be older than the call",
}


def without_receipt() -> list[Check]:
    """One undecided check for each thing that a lying coordinator could have changed in an HTTPS call."""
    hint = "; a receipt would tell: outlayer call keeps one"
    return [unproven(f"receipt_{name}", "no_receipt", text + hint) for name, text in _CHANGEABLE.items()]
