# SPDX-License-Identifier: MIT
"""Quote collateral: the endorsements (TCB info, QE identity, CRLs, their chains) that a quote is judged by.

The JSON is the one of ``QuoteCollateralV3``: byte fields in hex, TCB info and QE identity as the exact
text that Intel signed. A PCK chain never travels in collateral: the quote's own decides. One that is
found is dropped here, before anything else looks at it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from outlayer_attestation.errors import CollateralError

MAX_COLLATERAL_SIZE: Final = 1024 * 1024
_HEX_FIELDS: Final = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """Collateral as text fields; certificates in PEM, CRLs and signatures in lower-case hex."""

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str

    @classmethod
    def from_json(cls, value: object) -> Collateral:
        """Read a JSON object (or its text).

        ``pck_certificate_chain`` is dropped; any other unknown or missing field is an error.

        Raises:
            CollateralError: not such an object.
        """
        if isinstance(value, str | bytes):
            value = _loads(value)
        if not isinstance(value, Mapping):
            raise CollateralError("collateral is not a JSON object")
        names = [field.name for field in fields(cls)]
        given = {name: item for name, item in value.items() if name != "pck_certificate_chain"}
        if set(given) != set(names):
            wrong = sorted(map(str, set(names).symmetric_difference(given)))
            raise CollateralError(f"collateral has unknown or missing fields: {wrong[:9]}")
        for name in names:
            given[name] = _checked(name, given[name])
        return cls(**given)

    def to_json(self) -> dict[str, str]:
        """The JSON object."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_text(self) -> str:
        """The one JSON text of this collateral: keys sorted, no spaces. What is stored and hashed."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def sha256(self) -> str:
        """SHA-256 of ``to_text()`` in lower-case hex: how approvals name collateral."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def tcb_info_json(self) -> dict[str, Any]:
        """TCB info, parsed. Duplicate keys are refused: two readers could see two values."""
        return _object("tcb_info", self.tcb_info)

    def qe_identity_json(self) -> dict[str, Any]:
        """QE identity, parsed."""
        return _object("qe_identity", self.qe_identity)

    def fmspc(self) -> str:
        """The FMSPC which the TCB info is for, 12 lower-case hex digits."""
        value = self.tcb_info_json().get("fmspc")
        if not isinstance(value, str) or len(value) != 12:
            raise CollateralError("tcb_info names no FMSPC")
        return value.lower()


def _checked(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise CollateralError(f"collateral field {name} is not text")
    if len(value) > MAX_COLLATERAL_SIZE or not value.isascii():
        raise CollateralError(f"collateral field {name} is too long or not ASCII")
    if name not in _HEX_FIELDS:
        return value
    try:
        bytes.fromhex(value)
    except ValueError as error:
        raise CollateralError(f"collateral field {name} is not hex") from error
    if any(character.isspace() for character in value):
        raise CollateralError(f"collateral field {name} is not hex")
    return value.lower()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise CollateralError("a JSON object in the collateral has a key twice")
    return dict(pairs)


def _loads(text: str | bytes) -> Any:
    if len(text) > MAX_COLLATERAL_SIZE:
        raise CollateralError("collateral is too large")
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise CollateralError(f"collateral is not JSON: {error}") from error


def _object(name: str, text: str) -> dict[str, Any]:
    value = _loads(text)
    if not isinstance(value, dict):
        raise CollateralError(f"{name} is not a JSON object")
    return value
