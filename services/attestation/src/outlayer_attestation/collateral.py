# SPDX-License-Identifier: MIT
"""Quote collateral: the endorsements (TCB info, QE identity, CRLs, their chains) that a quote is judged by.

The JSON is the one of ``QuoteCollateralV3``: byte fields in hex, TCB info and QE identity as the exact
text that Intel signed. A PCK chain never travels in collateral: the quote's own decides. One that is
found is dropped here, before anything else looks at it.

Collateral has one canonical form: lower-case hex, and chains of PEM as RFC 7468 generates it (lines of 64
characters, LF, nothing around the blocks, unused bits zero). A source's other spelling of the same bytes is
rewritten on reading; evidence must hold the canonical form already.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

from outlayer_attestation.errors import CollateralError
from outlayer_attestation.memory import remembered

MAX_COLLATERAL_SIZE: Final = 1024 * 1024
MAX_CHAIN_LENGTH: Final = 10
_HEX_FIELDS: Final = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_PEM_FIELDS: Final = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
_HEX: Final = re.compile(r"[0-9a-fA-F]*")
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_PEM_BLOCK: Final = re.compile(rf"\s*{_BEGIN}\s([A-Za-z0-9+/=\s]*){_END}\s*")


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
    def from_json(cls, value: object, *, canonical: bool = False) -> Collateral:
        """Read a JSON object (or its text; bytes are UTF-8 without a byte order mark).

        ``pck_certificate_chain`` is dropped, and other spellings of hex and PEM are rewritten to the
        canonical form; with ``canonical`` both are refused: the value must be what ``to_json`` writes. Any
        other unknown or missing field is an error.

        Raises:
            CollateralError: not such an object.
        """
        if isinstance(value, str | bytes):
            value = _loads(value)
        if not isinstance(value, Mapping):
            raise CollateralError("collateral is not a JSON object")
        names = [field.name for field in fields(cls)]
        given = {name: item for name, item in value.items() if canonical or name != "pck_certificate_chain"}
        if set(given) != set(names):
            wrong = sorted(map(str, set(names).symmetric_difference(given)))
            raise CollateralError(f"collateral has unknown or missing fields: {wrong[:9]}")
        read = {name: _checked(name, given[name]) for name in names}
        changed = [name for name in names if read[name] != given[name]]
        if canonical and changed:
            raise CollateralError(
                f"collateral fields are not in canonical form: {', '.join(changed)}",
                hint="hex is lower case; PEM has lines of 64 characters, LF, and nothing around its blocks",
            )
        return cls(**read)

    @property
    def size(self) -> int:
        """Characters of all fields together."""
        return sum(map(len, _texts(self)))

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
        return fmspc_of(self.tcb_info_json())


_texts: Final = attrgetter(*Collateral.__slots__)


def fmspc_of(tcb_info: Mapping[str, Any]) -> str:
    """The FMSPC of parsed TCB info, 12 lower-case hex digits."""
    value = tcb_info.get("fmspc")
    if not isinstance(value, str) or len(value) != 12:
        raise CollateralError("tcb_info names no FMSPC")
    return value.lower()


def certificates_der(pem: str) -> tuple[bytes, ...]:
    """The certificates of a chain in canonical PEM, as DER; nothing is parsed or verified.

    Raises:
        CollateralError: PEM in another form.
    """
    found = _read_chain(pem)
    if found is None:
        raise CollateralError(f"not PEM of 1 to {MAX_CHAIN_LENGTH} certificates")
    if found[0] != pem:
        raise CollateralError("PEM that is not in canonical form")
    return found[1]


_Chain = tuple[str, tuple[bytes, ...]]


@remembered()
def _read_chain(pem: str) -> _Chain | None:
    """Canonical PEM and DER of a chain; None when it is anything else than PEM blocks and white space.
    Intel's chains are the same in all collateral."""
    found: list[bytes] = []
    position = 0
    while position < len(pem):
        match = _PEM_BLOCK.match(pem, position)
        if match is None or len(found) == MAX_CHAIN_LENGTH:
            return None
        try:
            found.append(base64.b64decode("".join(match.group(1).split()), validate=True))
        except ValueError:
            return None
        position = match.end()
    return (_pem(found), tuple(found)) if found else None


def _pem(certificates: list[bytes]) -> str:
    """Canonical PEM of these certificates."""
    lines: list[str] = []
    for der in certificates:
        text = base64.b64encode(der).decode()
        lines += [_BEGIN, *(text[start : start + 64] for start in range(0, len(text), 64)), _END]
    return "\n".join([*lines, ""])


def _checked(name: str, value: object) -> str:
    """The field in canonical form. A chain that cannot be read stays as it is: a check will say so."""
    if not isinstance(value, str):
        raise CollateralError(f"collateral field {name} is not text")
    if len(value) > MAX_COLLATERAL_SIZE or not value.isascii():
        raise CollateralError(f"collateral field {name} is too long or not ASCII")
    if name in _PEM_FIELDS:
        found = _read_chain(value)
        return value if found is None else found[0]
    if name not in _HEX_FIELDS:
        return value
    if len(value) % 2 or _HEX.fullmatch(value) is None:
        raise CollateralError(f"collateral field {name} is not hex")
    return value.lower()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CollateralError("a JSON object in the collateral has a key twice")
    return found


def _no_constant(name: str) -> Any:
    raise CollateralError(f"{name} is not JSON")


def _loads(text: str | bytes) -> Any:
    if len(text) > MAX_COLLATERAL_SIZE:
        raise CollateralError("collateral is too large")
    try:
        # json.loads would take UTF-16 and UTF-32 bytes too
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CollateralError(f"collateral is not JSON: {error}") from error


def _object(name: str, text: str) -> dict[str, Any]:
    value = _loads(text)
    if not isinstance(value, dict):
        raise CollateralError(f"{name} is not a JSON object")
    return value
