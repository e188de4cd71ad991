# SPDX-License-Identifier: MIT
"""Attestation policy, format ``attestation-policy/v1``: which measurements and platforms are trusted.

A policy is data: one immutable JSON file per version, signed (detached) by its maintainers over its
exact bytes. Loading is strict, because a field that is silently ignored is a rule that is silently
off: unknown fields, absent fields, duplicate keys and any other formatting than the one canonical
form are refused. Evaluation is pure and gives named checks. ``DEFAULT_STATUSES`` without advisories
is rule R12.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from outlayer_attestation.base58 import decode_ed25519_key, encode_ed25519_key
from outlayer_attestation.checks import Check, decide, failed, passed, unproven
from outlayer_attestation.errors import AttestationError, PolicyError
from outlayer_attestation.measurements import Measurements, describe
from outlayer_attestation.quote import TdReport

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from outlayer_attestation.appraisal import Appraisal

FORMAT: Final = "attestation-policy/v1"
SIGNATURES_FORMAT: Final = "attestation-policy-signatures/v1"
SIGNATURE_TAG: Final = b"outlayer/attestation-policy/v1\0"
BATCH_SCHEME: Final = "outlayer/batch/v2"
DEFAULT_STATUSES: Final = ("UpToDate",)
MAX_POLICY_SIZE: Final = 1024 * 1024
_DAY: Final = 86_400


def _hex(size: int) -> StringConstraints:
    return StringConstraints(pattern=rf"^[0-9a-f]{{{2 * size}}}$")


Register = Annotated[str, _hex(48)]
Hex8 = Annotated[str, _hex(8)]
Fmspc = Annotated[str, _hex(6)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Count = Annotated[int, Field(ge=0, le=2**32)]
Time = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Validity(_Model):
    """When the policy counts, UTC; the end is exclusive. Old and new versions overlap: that is the grace."""

    not_before: Time
    not_after: Time

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if unix_time(self.not_before) >= unix_time(self.not_after):
            raise ValueError("not_before is not before not_after")
        return self

    def covers(self, moment: int) -> bool:
        """Whether unix time ``moment`` is inside."""
        return unix_time(self.not_before) <= moment < unix_time(self.not_after)


class QuoteRules(_Model):
    """What a quote's fixed fields must be. Where "any" is allowed, its reason must be written down."""

    versions: list[Literal[4, 5]] = Field(min_length=1)
    td_attributes: Hex8
    td_attributes_mask: Hex8
    xfam: Hex8
    mr_seam: Register | Literal["any"]
    mr_seam_why: Text | None = None
    mr_owner: Register | Literal["zero"]
    mr_owner_config: Register | Literal["zero"]
    mr_service_td: Literal["zero"]

    @model_validator(mode="after")
    def _why(self) -> Self:
        if (self.mr_seam == "any") != (self.mr_seam_why is not None):
            raise ValueError('mr_seam_why is written if and only if mr_seam is "any"')
        return self


class PlatformRules(_Model):
    """Which machines and TCB levels are accepted.

    ``newest_collateral`` says what the newest collateral known decides about a record of an earlier time:
    "must_hold" (the default) asks the platform to be accepted by it as well, "revocation_only" lets the
    collateral of the record's time decide about TCB levels. Revocation always counts.
    """

    fmspc: list[Fmspc] = Field(min_length=1)
    statuses: list[Status] = Field(min_length=1)
    advisories_allowed: list[Text]
    advisory_prefix_informational: list[Annotated[str, StringConstraints(pattern=r"^INTEL-[A-Z]+-$")]]
    out_of_date_grace_days: Count
    min_tcb_evaluation_data_number: Count
    max_collateral_age_days: Annotated[int, Field(ge=1, le=3650)]
    dynamic_platform: bool
    cached_keys: bool
    smt: bool
    newest_collateral: Literal["must_hold", "revocation_only"] = "must_hold"

    @model_validator(mode="after")
    def _security_advisories_are_never_informational(self) -> Self:
        if "INTEL-SA-" in self.advisory_prefix_informational:
            raise ValueError("INTEL-SA- advisories are security advisories; allow them one by one")
        return self


class VmShape(_Model):
    """The VM that the measurements were predicted for."""

    vcpu: Annotated[int, Field(ge=1, le=4096)]
    memory_mib: Annotated[int, Field(ge=1, le=2**32)]
    qemu: Text


class Source(_Model):
    """Where the image came from."""

    image_digest: Text
    commit: Text
    provenance: Text


class ApprovedMeasurements(_Model):
    """One image on one VM shape. The registers are one tuple; they are never mixed between entries."""

    name: Text
    mrtd: Register
    rtmr0: Register
    rtmr1: Register
    rtmr2: Register
    rtmr3: Register | Literal["replay"]
    mr_config_id: Register | Literal["zero"]
    vm: VmShape
    source: Source

    def matches(self, measurements: Measurements) -> bool:
        """Whether all registers that this entry pins are equal."""
        wanted = self.model_dump(include=set(measurements.to_json()))
        return all(wanted[name] in (value, "replay") for name, value in measurements.to_json().items())


class EventRules(_Model):
    """Rules for a replayed event log."""

    register_: Literal[3] = Field(alias="register")
    type_: Literal[134217729] = Field(alias="type")
    exactly: list[Text]
    values: dict[Text, list[Text]]
    forbid_unknown: bool
    forbid_duplicates: bool


class ReportDataRules(_Model):
    """What REPORTDATA must commit to; ``max_age_seconds`` is how much older than a record its anchor may be."""

    scheme: Text
    max_age_seconds: Annotated[int, Field(ge=1)]


class SigstoreIdentity(_Model):
    """Who may have built the image."""

    issuer: Text
    identity: Text
    source_repository: Text
    source_ref: Text
    runner: Text
    predicate: Text
    builder: Text


class SoftwareRules(_Model):
    """Provenance; judged by ``outlayer audit``."""

    sigstore: list[SigstoreIdentity]


class PolicyDocument(_Model):
    """The file. Every field must be there; ``events`` is null when no entry has ``rtmr3: "replay"``."""

    format: Literal["attestation-policy/v1"]
    role: Text
    version: Annotated[int, Field(ge=1)]
    supersedes: Annotated[int, Field(ge=1)] | None
    valid: Validity
    quote: QuoteRules
    platform: PlatformRules
    measurements: list[ApprovedMeasurements] = Field(min_length=1)
    events: EventRules | None
    report_data: ReportDataRules
    software: SoftwareRules

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        replays = any(entry.rtmr3 == "replay" for entry in self.measurements)
        if replays != (self.events is not None):
            raise ValueError('events are written if and only if a measurement has rtmr3 "replay"')
        names = [entry.name for entry in self.measurements]
        if len(set(names)) != len(names):
            raise ValueError("two measurements have the same name")
        if self.supersedes is not None and self.supersedes >= self.version:
            raise ValueError("supersedes is not an earlier version")
        return self


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was loaded: the document, the digest of its exact bytes, and who signed it."""

    document: PolicyDocument
    sha256: str
    signers: tuple[str, ...]


# --- reading and signing ------------------------------------------------------------------------------


def unix_time(text: str) -> int:
    """``2026-12-01T00:00:00Z`` to unix seconds."""
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def time_text(moment: int) -> str:
    """Unix seconds to the form of the file."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def canonical_bytes(document: dict[str, Any]) -> bytes:
    """The one form of a policy file: keys sorted, one value per line, LF, UTF-8."""
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise PolicyError("a key occurs twice in one object")
    return dict(pairs)


def _no_number(text: str) -> Any:
    raise PolicyError(f"{text} is not an integer", hint="the format has no fractions")


def parse(data: bytes) -> PolicyDocument:
    """Read the exact bytes of a policy file.

    Raises:
        PolicyError: whatever is not exactly of the format.
    """
    value = _strict_json(data, "the policy")
    try:
        if canonical_bytes(value) != data:
            raise PolicyError(
                "the policy is not in its canonical form",
                hint="keys sorted, two spaces of indentation, one value per line, LF, UTF-8, newline at the end",
            )
        return PolicyDocument.model_validate_json(data)
    except (ValidationError, UnicodeEncodeError) as error:
        raise PolicyError(f"the policy is not valid: {_first_problem(error)}") from error


def _strict_json(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_POLICY_SIZE:
        raise PolicyError(f"{what} is larger than {MAX_POLICY_SIZE} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{what} is not UTF-8 JSON: {error}") from error
    if not isinstance(value, dict):
        raise PolicyError(f"{what} is not a JSON object")
    return value


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        return f"{place}: {first['msg']}"
    return str(error)


def signature_path(path: Path) -> Path:
    """Where the detached signatures of a policy file are: ``worker.json`` → ``worker.json.sig``."""
    return path.with_name(path.name + ".sig")


def sign(data: bytes, keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """The signature file for these exact policy bytes."""
    signatures = [
        {
            "public_key": encode_ed25519_key(key.public_key().public_bytes_raw()),
            "signature": key.sign(SIGNATURE_TAG + data).hex(),
        }
        for key in keys
    ]
    sha256 = hashlib.sha256(data).hexdigest()
    return canonical_bytes({"format": SIGNATURES_FORMAT, "policy_sha256": sha256, "signatures": signatures})


def verify_signatures(data: bytes, signature_file: bytes, trusted_keys: Sequence[str]) -> tuple[str, ...]:
    """Trusted keys that signed these bytes, in order. A signature of an unknown key counts for nothing;
    a wrong signature under a trusted key is an error.

    Raises:
        PolicyError: malformed, for other bytes, or a signature that does not verify.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    document = _strict_json(signature_file, "the signature file")
    if document.get("format") != SIGNATURES_FORMAT or not isinstance(document.get("signatures"), list):
        raise PolicyError("the signature file is not of the format " + SIGNATURES_FORMAT)
    if document.get("policy_sha256") != hashlib.sha256(data).hexdigest():
        raise PolicyError("the signatures are for another policy file", hint="was the policy edited?")
    signers: list[str] = []
    for entry in document["signatures"]:
        if not isinstance(entry, dict) or entry.get("public_key") not in trusted_keys:
            continue
        key = entry["public_key"]
        signature = entry.get("signature")
        try:
            if not isinstance(signature, str) or re.fullmatch(r"[0-9a-f]{128}", signature) is None:
                raise ValueError("a signature is 128 lower-case hex digits")
            raw = bytes.fromhex(signature)
            Ed25519PublicKey.from_public_bytes(decode_ed25519_key(key)).verify(raw, SIGNATURE_TAG + data)
        except (InvalidSignature, ValueError, AttestationError) as error:
            raise PolicyError(f"the signature of {key} does not verify") from error
        if key not in signers:
            signers.append(key)
    return tuple(signers)


def load(path: Path, trusted_keys: Sequence[str], *, threshold: int = 1) -> Policy:
    """Load a policy file with its detached signatures.

    Args:
        path: the policy; its signatures are at ``signature_path(path)``.
        trusted_keys: maintainers' keys, "ed25519:<base58>".
        threshold: how many different maintainers must have signed.

    Raises:
        PolicyError: unreadable, not of the format, or not signed by enough of them.
    """
    try:
        data, signatures = path.read_bytes(), signature_path(path).read_bytes()
    except OSError as error:
        raise PolicyError(f"cannot read the policy {path}: {error.strerror}") from error
    if threshold < 1:
        raise PolicyError("at least one signature is always needed")
    signers = verify_signatures(data, signatures, trusted_keys)
    if len(signers) < threshold:
        raise PolicyError(
            f"{path} is signed by {len(signers)} of the trusted maintainers, {threshold} are needed",
            hint="check the trusted keys, and that the signature file belongs to this policy",
        )
    return Policy(parse(data), hashlib.sha256(data).hexdigest(), signers)


def write_signed(path: Path, document: dict[str, Any], keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """Write a policy and its signatures; gives the policy's bytes. The document is checked first."""
    data = canonical_bytes(document)
    parse(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, content in ((signature_path(path), sign(data, keys)), (path, data)):
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(content)
        temporary.replace(target)
    return data


def local_document(
    measurements: Sequence[tuple[str, Measurements]],
    *,
    fmspc: Sequence[str],
    not_before: int,
    not_after: int,
    version: int = 1,
) -> dict[str, Any]:
    """The policy of a local (simulated) stack for the role worker: rule R12, one machine, these sets."""
    source = {
        "image_digest": "none (simulated)",
        "commit": "installed code",
        "provenance": "none (simulated)",
    }
    shape = {"vcpu": 1, "memory_mib": 1024, "qemu": "none (simulated)"}
    extra: dict[str, Any] = {"mr_config_id": "zero", "vm": shape, "source": source}
    return {
        "format": FORMAT,
        "role": "worker",
        "version": version,
        "supersedes": version - 1 or None,
        "valid": {"not_before": time_text(not_before), "not_after": time_text(not_after)},
        "quote": {
            "versions": [4, 5],
            "td_attributes": "0000001000000000",
            "td_attributes_mask": "ffffffffffffffff",
            "xfam": "e702060000000000",
            "mr_seam": "any",
            "mr_seam_why": "the module's identity is checked through TCB info",
            "mr_owner": "zero",
            "mr_owner_config": "zero",
            "mr_service_td": "zero",
        },
        "platform": {
            "fmspc": list(fmspc),
            "statuses": list(DEFAULT_STATUSES),
            "advisories_allowed": [],
            "advisory_prefix_informational": [],
            "out_of_date_grace_days": 0,
            "min_tcb_evaluation_data_number": 1,
            "max_collateral_age_days": 31,
            "dynamic_platform": True,
            "cached_keys": True,
            "smt": True,
        },
        "measurements": [{"name": name, **values.to_json(), **extra} for name, values in measurements],
        "events": None,
        "report_data": {"scheme": BATCH_SCHEME, "max_age_seconds": 300},
        "software": {"sigstore": []},
    }


def chain_sets(document: PolicyDocument) -> list[dict[str, Any]]:
    """The compact tuples of a version, as the register contract's ``propose_policy`` takes them.

    Raises:
        PolicyError: the file says something that the contract has no rule for; the chain must not say less.
    """
    rules = document.platform
    for name in ("advisories_allowed", "out_of_date_grace_days"):
        if getattr(rules, name):
            raise PolicyError(
                f"platform.{name} cannot be put on chain: the register contract has no such rule",
                hint="leave it empty, or use advisory_prefix_informational and statuses",
            )
    replayed = [entry.name for entry in document.measurements if entry.rtmr3 == "replay"]
    if replayed:
        raise PolicyError(
            f"{', '.join(replayed)}: rtmr3 is replayed; on chain it is a constant",
            hint="name the value that the event log leads to",
        )
    platform = {
        "statuses": list(rules.statuses),
        "advisory_prefix_informational": list(rules.advisory_prefix_informational),
        "min_tcb_evaluation_data_number": rules.min_tcb_evaluation_data_number,
    }
    return [
        {
            "role": document.role,
            "name": entry.name,
            "measurements": {name: getattr(entry, name) for name in Measurements.__dataclass_fields__},
            "not_before": unix_time(document.valid.not_before),
            "not_after": unix_time(document.valid.not_after),
            "platform": platform,
        }
        for entry in document.measurements
    ]


# --- evaluation ---------------------------------------------------------------------------------------


def tcb_checks(appraisal: Appraisal, rules: PlatformRules | None = None) -> list[Check]:
    """TCB status and advisories. Without rules it is R12: UpToDate and no advisory at all."""
    status, advisory_ids = appraisal.status, appraisal.advisory_ids
    statuses: Sequence[str] = rules.statuses if rules else DEFAULT_STATUSES
    if status is None:
        return [
            unproven("tcb_status", "quote_not_verified", "a quote that does not verify has no TCB status"),
            unproven("advisories", "quote_not_verified"),
        ]
    detail = f"{status}; accepted: {', '.join(statuses)}"
    if status not in statuses:
        detail = "; ".join([detail, *map(str, appraisal.tcb_shortfall)])
    checks = [decide("tcb_status", status in statuses, "tcb_status", detail)]
    informational = [
        name for name in advisory_ids if rules and name.startswith(tuple(rules.advisory_prefix_informational))
    ]
    allowed = rules.advisories_allowed if rules else []
    refused = [name for name in advisory_ids if name not in allowed and name not in informational]
    if refused:
        checks.append(failed("advisories", "advisories", ", ".join(refused)))
    else:
        checks.append(
            passed("advisories", f"informational: {', '.join(informational)}" if informational else "")
        )
    return checks


def platform_checks(rules: PlatformRules, appraisal: Appraisal) -> list[Check]:
    """The section ``platform`` on an appraised quote, as of the appraisal's time."""
    if appraisal.quote is None:
        return [unproven("tcb_status", "quote_not_verified")]
    checks = [*_status_with_grace(rules, appraisal), collateral_age_check(rules, appraisal)]
    number, floor = appraisal.evaluation_data_number, rules.min_tcb_evaluation_data_number
    if number is None:
        checks.append(unproven("tcb_evaluation_data_number", "quote_not_verified"))
    else:
        detail = f"{number}, at least {floor}"
        checks.append(decide("tcb_evaluation_data_number", number >= floor, "evaluation_number", detail))
    return checks + _pck_checks(rules, appraisal)


def collateral_age_check(rules: PlatformRules, appraisal: Appraisal) -> Check:
    """The age of the oldest part that Intel issues at least every 30 days: TCB info, QE identity, PCK CRL."""
    age = None if appraisal.issued_at is None else appraisal.now - appraisal.issued_at
    limit = rules.max_collateral_age_days
    fresh = age is not None and age <= limit * _DAY
    days = "unknown" if age is None else f"{age / _DAY:.1f} days"
    return decide("collateral_age", fresh, "collateral_too_old", f"{days}; at most {limit}")


def _status_with_grace(rules: PlatformRules, appraisal: Appraisal) -> list[Check]:
    """A platform that is only out of date may be given some days after the date of its TCB level."""
    status = appraisal.status
    in_grace = (
        status == "OutOfDate"
        and appraisal.tcb_date is not None
        and appraisal.now - appraisal.tcb_date <= rules.out_of_date_grace_days * _DAY
        and rules.out_of_date_grace_days > 0
    )
    checks = tcb_checks(appraisal, rules)
    if in_grace and status not in rules.statuses:
        detail = f"OutOfDate, within {rules.out_of_date_grace_days} days of grace"
        checks[0] = passed("tcb_status", detail, reason="grace")
    return checks


def _pck_checks(rules: PlatformRules, appraisal: Appraisal) -> list[Check]:
    names = ("fmspc", "dynamic_platform", "cached_keys", "smt")
    try:
        if appraisal.quote is None:
            return [unproven(name, "quote_not_verified") for name in names]
        pck = appraisal.quote.pck_extension
    except AttestationError as error:
        return [failed(name, "pck_unreadable", str(error)) for name in names]
    fmspc = pck.fmspc.hex()
    flags = {
        "dynamic_platform": (pck.dynamic_platform, rules.dynamic_platform),
        "cached_keys": (pck.cached_keys, rules.cached_keys),
        "smt": (pck.smt_enabled, rules.smt),
    }
    checks = [decide("fmspc", fmspc in rules.fmspc, "fmspc_not_accepted", fmspc)]
    for name, (value, allowed) in flags.items():
        checks.append(decide(name, allowed or value is False, "not_accepted", f"{value}"))
    return checks


def quote_checks(rules: QuoteRules, appraisal: Appraisal) -> list[Check]:
    """The section ``quote``: fixed fields of the TD report."""
    quote = appraisal.quote
    if quote is None:
        return [unproven("td_attributes", "quote_not_verified")]
    if not isinstance(quote.report, TdReport):
        return [failed("quote_kind", "not_tdx", "an SGX quote")]
    report = quote.report
    mask = int(rules.td_attributes_mask, 16)
    attributes = int.from_bytes(report.td_attributes, "big") & mask == int(rules.td_attributes, 16) & mask
    return [
        decide("quote_version", quote.header.version in rules.versions, "version", f"{quote.header.version}"),
        decide("td_attributes", attributes, "td_attributes", report.td_attributes.hex()),
        decide("xfam", report.xfam.hex() == rules.xfam, "xfam", report.xfam.hex()),
        decide(
            "mr_seam",
            rules.mr_seam in ("any", report.mr_seam.hex()),
            "mr_seam",
            describe(report.mr_seam.hex()),
        ),
        _zero_or("mr_owner", report.mr_owner, rules.mr_owner),
        _zero_or("mr_owner_config", report.mr_owner_config, rules.mr_owner_config),
        _zero_or("mr_service_td", report.mr_service_td or bytes(48), rules.mr_service_td),
    ]


def _zero_or(name: str, value: bytes, wanted: str) -> Check:
    expected = bytes(len(value)).hex() if wanted == "zero" else wanted
    return decide(name, value.hex() == expected, name, describe(value.hex()))


def find_measurements(policy: Policy, measurements: Measurements) -> ApprovedMeasurements | None:
    """The entry that these five values match as a whole; None when there is none."""
    return next((entry for entry in policy.document.measurements if entry.matches(measurements)), None)


def measurement_checks(policy: Policy, appraisal: Appraisal) -> list[Check]:
    """Whether the quote's five measurements are one approved tuple, and MRCONFIGID is that entry's."""
    found = appraisal.measurements
    if appraisal.quote is None or found is None:
        return [unproven("policy_measurements", "quote_not_verified")]
    entry = find_measurements(policy, found)
    if entry is None:
        detail = f"no entry of the policy has MRTD {describe(found.mrtd)} with RTMR3 {describe(found.rtmr3)}"
        return [failed("policy_measurements", "measurements_not_approved", detail)]
    config = appraisal.quote.td_report.mr_config_id
    checks = [passed("policy_measurements", entry.name), _zero_or("mr_config_id", config, entry.mr_config_id)]
    if entry.rtmr3 == "replay":
        checks.append(unproven("rtmr3_replay", "no_event_log", "RTMR3 is judged by replaying an event log"))
    return checks


def validity_check(policy: Policy, moment: int) -> Check:
    """Whether the policy counts at this time."""
    valid = policy.document.valid
    detail = f"valid {valid.not_before} to {valid.not_after}"
    return decide("policy_valid", valid.covers(moment), "policy_not_valid_then", detail)


def evaluate(policy: Policy, appraisal: Appraisal) -> list[Check]:
    """All of a policy's questions about an appraised quote, as of the appraisal's time."""
    parts: list[Callable[[], list[Check]]] = [
        lambda: [validity_check(policy, appraisal.now)],
        lambda: quote_checks(policy.document.quote, appraisal),
        lambda: platform_checks(policy.document.platform, appraisal),
        lambda: measurement_checks(policy, appraisal),
    ]
    return [check for part in parts for check in part()]


_KEY_LINE = re.compile(r"ed25519:[1-9A-HJ-NP-Za-km-z]{32,44}")


def read_public_keys(path: Path) -> tuple[str, ...]:
    """Maintainers' keys from a text file, one "ed25519:<base58>" per line; ``#`` starts a comment."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"cannot read the trusted keys from {path}") from error
    keys = [line.partition("#")[0].strip() for line in lines]
    wrong = [key for key in keys if key and _KEY_LINE.fullmatch(key) is None]
    if wrong:
        raise PolicyError(f"{path} holds a line that is no ed25519 key")
    return tuple(key for key in keys if key)
