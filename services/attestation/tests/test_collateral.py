# SPDX-License-Identifier: MIT
"""Collateral: one canonical form, what it says about itself, whether it is genuine, and whom it revokes."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import quote as layout
from outlayer_attestation import testing
from outlayer_attestation.appraisal import (
    appraise,
    collateral_facts,
    collateral_window,
    revoked_by,
    signatures_valid,
    tcb_shortfall,
)
from outlayer_attestation.checks import Outcome
from outlayer_attestation.collateral import Collateral, certificates_der
from outlayer_attestation.errors import AttestationError, CollateralError
from outlayer_attestation.memory import forget
from outlayer_attestation.platform import pki
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.testing import Faults, collateral_with, quote_with

PEM_FIELDS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
HEX_FIELDS = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ANY_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def good(machine: SoftwarePlatform) -> Collateral:
    return collateral_with(machine, Faults())


@pytest.fixture(scope="module")
def quote(machine: SoftwarePlatform) -> bytes:
    return quote_with(machine, Faults())


def passes(machine: SoftwarePlatform, quote: bytes, collateral: Collateral) -> bool:
    result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
    return result.outcome is Outcome.PASS


# --- one canonical form ---


def other_spellings(good: Collateral) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same bytes, written in another way."""
    value: dict[str, Any] = good.to_json()
    for name in HEX_FIELDS:
        yield f"upper-case {name}", value | {name: value[name].upper()}
    for name in PEM_FIELDS:
        pem = value[name]
        yield f"CRLF in {name}", value | {name: pem.replace("\n", "\r\n")}
        yield f"no last line end in {name}", value | {name: pem[:-1]}
        yield f"an empty line in {name}", value | {name: pem + "\n"}
        yield f"a space before {name}", value | {name: " " + pem}
        yield f"one long line in {name}", value | {name: one_line(pem)}
    yield "a PCK chain", value | {"pck_certificate_chain": "-----BEGIN CERTIFICATE-----"}


def one_line(pem: str) -> str:
    blocks = [base64.b64encode(der).decode() for der in certificates_der(pem)]
    return "".join(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" for text in blocks)


def test_another_spelling_is_rewritten_from_a_source_and_refused_in_evidence(good: Collateral) -> None:
    for what, value in other_spellings(good):
        assert Collateral.from_json(value) == good, what
        with pytest.raises(CollateralError):
            Collateral.from_json(value, canonical=True)


def test_a_chain_in_another_spelling_is_never_judged_good(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    """Collateral that did not come through ``from_json`` is held to the canonical form as well."""
    for what, value in other_spellings(good):
        chains = {name: value[name] for name in PEM_FIELDS if value[name] != getattr(good, name)}
        for name, chain in chains.items():
            with pytest.raises(CollateralError):
                certificates_der(chain)
            assert not passes(machine, quote, replace(good, **{name: chain})), what


def test_the_canonical_form_is_what_to_json_writes(good: Collateral) -> None:
    assert Collateral.from_json(good.to_json(), canonical=True) == good
    assert Collateral.from_json(good.to_text(), canonical=True) == good


def test_a_refused_spelling_names_its_field_and_the_form(good: Collateral) -> None:
    value = good.to_json() | {"pck_crl": good.pck_crl.upper()}
    with pytest.raises(CollateralError, match="pck_crl") as caught:
        Collateral.from_json(value, canonical=True)
    assert "lower case" in caught.value.hint


def test_real_collateral_is_canonical(vectors: Path) -> None:
    found = [path for path in vectors.rglob("*collateral*.json") if "tcb_info_signature" in path.read_text()]
    assert len(found) >= 106
    for path in found:
        value = json.loads(path.read_text())
        value.pop("pck_certificate_chain", None)
        assert Collateral.from_json(value, canonical=True).to_json() == value, path


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-8-sig"])
@pytest.mark.parametrize("canonical", [False, True])
def test_bytes_in_another_encoding_than_utf_8_are_refused(
    good: Collateral, encoding: str, canonical: bool
) -> None:
    assert Collateral.from_json(good.to_text().encode(), canonical=canonical) == good
    with pytest.raises(CollateralError):
        Collateral.from_json(good.to_text().encode(encoding), canonical=canonical)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_is_refused_inside_signed_text_too(good: Collateral, constant: str) -> None:
    with pytest.raises(CollateralError):
        replace(good, tcb_info=f'{{"a":{constant}}}').tcb_info_json()


@pytest.mark.parametrize(
    "around",
    [
        lambda pem: "subject: somebody\n" + pem,
        lambda pem: pem + "subject: somebody\n",
        lambda pem: pem.replace("-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----\n# a note\n", 1),
        lambda pem: pem.replace("CERTIFICATE-----\nM", "CERTIFICATE-----\nProc-Type: 4\n\nM", 1),
        lambda pem: pem.replace("CERTIFICATE", "X509 CERTIFICATE"),
        lambda pem: pem * 6,
        lambda _: "",
    ],
)
@pytest.mark.parametrize("name", PEM_FIELDS)
def test_a_chain_with_anything_else_than_its_certificates_is_refused(
    machine: SoftwarePlatform, good: Collateral, quote: bytes, name: str, around: Any
) -> None:
    changed = replace(good, **{name: around(getattr(good, name))})
    assert not passes(machine, quote, changed)
    with pytest.raises(CollateralError):
        certificates_der(getattr(changed, name))


# --- what no check covers: exactly this list, which docs/reference/evidence.md gives ---


CLASSES = (string.ascii_lowercase, string.ascii_uppercase, string.digits)
"""Any other character is a class of its own."""


def class_of(character: str) -> str:
    return next((members for members in CLASSES if character in members), character)


def mutations(text: str) -> Iterator[str]:
    """For each class of characters in the text, at its first, middle and last place: other characters of
    the same and of other classes, a removal, and insertions."""
    places: dict[str, list[int]] = {}
    for place, character in enumerate(text):
        places.setdefault(class_of(character), []).append(place)
    for members, found in places.items():
        for place in {found[0], found[len(found) // 2], found[-1]}:
            same = [character for character in members if character != text[place]]
            swapped = text[place].swapcase()
            others = {*same[:1], *same[-1:], swapped, *"aA0 \n\r\t=-\x00\x7f"} - {text[place]}
            for other in sorted(others):
                yield text[:place] + other + text[place + 1 :]
            yield text[:place] + text[place + 1 :]
            for other in (" ", "\n", "\r", text[place]):
                yield text[:place] + other + text[place:]


@pytest.mark.parametrize("name", sorted(Collateral.__slots__))
def test_every_class_of_characters_of_every_field_is_covered(
    machine: SoftwarePlatform, good: Collateral, quote: bytes, name: str
) -> None:
    text = getattr(good, name)
    tried = set(mutations(text)) - {text}
    assert len(tried) > 50
    for changed in tried:
        try:
            collateral = Collateral.from_json(good.to_json() | {name: changed}, canonical=True)
        except CollateralError:
            continue
        assert not passes(machine, quote, collateral), repr(changed)


def twin(signature: bytes) -> bytes:
    """(r, n - s) verifies wherever (r, s) does: a property of ECDSA."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, P256_ORDER - s)


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    length = b"\x81" + bytes([size]) if 128 <= size < 256 else length
    return bytes([tag]) + length + content


ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def signed(tbs: bytes, signature: bytes) -> bytes:
    """A certificate or CRL of this content and signature."""
    return der(0x30, tbs + ECDSA_SHA256 + der(3, b"\0" + signature))


def as_pem(*certificates: bytes) -> str:
    texts = [base64.b64encode(item).decode() for item in certificates]
    blocks = ["\n".join(text[at : at + 64] for at in range(0, len(text), 64)) for text in texts]
    return "".join(f"-----BEGIN CERTIFICATE-----\n{block}\n-----END CERTIFICATE-----\n" for block in blocks)


def test_the_other_value_of_an_ecdsa_signature_is_free(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    for name in ("tcb_info_signature", "qe_identity_signature"):
        raw = getattr(good, name)
        other = f"{raw[:64]}{P256_ORDER - int(raw[64:], 16):064x}"
        assert passes(machine, quote, replace(good, **{name: other}))
    for name in ("root_ca_crl", "pck_crl"):
        crl = x509.load_der_x509_crl(bytes.fromhex(getattr(good, name)))
        assert signed(crl.tbs_certlist_bytes, crl.signature).hex() == getattr(good, name)
        other = signed(crl.tbs_certlist_bytes, twin(crl.signature)).hex()
        assert passes(machine, quote, replace(good, **{name: other}))
    for name in PEM_FIELDS:
        leaf, root = (x509.load_der_x509_certificate(item) for item in certificates_der(getattr(good, name)))
        leaf_twin = signed(leaf.tbs_certificate_bytes, twin(leaf.signature))
        root_twin = signed(root.tbs_certificate_bytes, twin(root.signature))
        root_der = root.public_bytes(Encoding.DER)
        assert passes(machine, quote, replace(good, **{name: as_pem(leaf_twin, root_der)}))
        # the root's own signature is not free: the trusted root is one certificate, byte for byte
        changed = as_pem(leaf.public_bytes(Encoding.DER), root_twin)
        assert not passes(machine, quote, replace(good, **{name: changed}))


def issued_again(machine: SoftwarePlatform, of: pki.Authority, path_length: int | None) -> pki.Authority:
    """A certificate of the same name and key that the root issued as well."""
    return pki.issue(
        of.certificate.subject,
        machine.root,
        datetime.fromtimestamp(testing.NOW, UTC) - timedelta(days=1),
        timedelta(days=30),
        path_length=path_length,
        key=of.key,
    )


def test_another_certificate_of_the_pck_ca_under_the_root_is_free(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    other = issued_again(machine, machine.platform_ca, 0).pem() + machine.root.pem()
    assert other != good.pck_crl_issuer_chain
    assert passes(machine, quote, replace(good, pck_crl_issuer_chain=other))


# --- the chain of the PCK CRL ---


def test_a_pck_crl_chain_of_another_issuer_is_refused(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    stranger = testing.platform()
    other_ca = pki.issue(
        machine.platform_ca.certificate.subject,
        machine.root,
        datetime.fromtimestamp(testing.NOW, UTC) - timedelta(days=1),
        timedelta(days=30),
        path_length=0,
    )
    ca, root = machine.platform_ca.pem(), machine.root.pem()
    for chain in (
        good.tcb_info_issuer_chain,
        stranger.platform_ca.pem() + stranger.root.pem(),
        ca + stranger.root.pem(),
        stranger.platform_ca.pem() + root,
        other_ca.pem() + root,
        issued_again(machine, machine.platform_ca, None).pem() + root,
        root + ca,
        root + root,
        ca,
        ca + ca + root,
    ):
        result = appraise(
            quote, replace(good, pck_crl_issuer_chain=chain), root_ca_der=machine.root_der, now=testing.NOW
        )
        assert result.failing() == ("pck_crl_issuer_chain",)


# --- what it says about itself ---


def test_facts_are_those_of_the_signed_parts(machine: SoftwarePlatform) -> None:
    faults = Faults(
        tcb_age=timedelta(hours=3),
        qe_age=timedelta(hours=5),
        crl_age=timedelta(hours=4),
        tcb_info={"tcbEvaluationDataNumber": 22},
        qe_identity={"tcbEvaluationDataNumber": 21},
    )
    found = collateral_facts(collateral_with(machine, faults))
    assert found.tcb_info_issued == testing.NOW - 3 * 3600
    assert found.qe_identity_issued == testing.NOW - 5 * 3600
    assert found.pck_crl_issued == found.root_crl_issued == testing.NOW - 4 * 3600
    assert found.pck_crl_number == found.root_crl_number == testing.NOW - 4 * 3600
    assert found.tcb_evaluation_data_number == 21
    assert (found.window_start, found.window_end) == collateral_window(collateral_with(machine, faults))


def test_the_oldest_part_gives_the_issue_time(machine: SoftwarePlatform, good: Collateral) -> None:
    day = timedelta(days=1)
    for name in ("tcb_age", "qe_age", "crl_age"):
        aged = collateral_with(machine, replace(Faults(), **{name: 10 * day}))
        assert collateral_facts(aged).issued_at == testing.NOW - 10 * 86400
        quote = quote_with(machine, Faults())
        appraisal = appraise(quote, aged, root_ca_der=machine.root_der, now=testing.NOW)
        assert appraisal.issued_at == testing.NOW - 10 * 86400


def test_an_old_root_crl_does_not_make_collateral_old(machine: SoftwarePlatform, good: Collateral) -> None:
    """Intel issues its root CRL once a year and everything else within 30 days."""
    aged = collateral_with(machine, Faults(crl_age=timedelta(days=200), crl_lifetime=timedelta(days=365)))
    found = collateral_facts(replace(good, root_ca_crl=aged.root_ca_crl))
    assert found.issued_at == testing.NOW - 3600
    assert found.oldest_issued_at == found.root_crl_issued == testing.NOW - 200 * 86400


def test_facts_of_real_collateral(vectors: Path) -> None:
    found = collateral_facts(
        Collateral.from_json((vectors / "outlayer/our_collateral.json").read_text(), canonical=True)
    )
    assert datetime.fromtimestamp(found.root_crl_issued, UTC).isoformat() == "2026-02-26T13:04:00+00:00"
    assert datetime.fromtimestamp(found.pck_crl_issued, UTC).isoformat() == "2026-08-10T00:31:19+00:00"
    assert datetime.fromtimestamp(found.issued_at, UTC).isoformat() == "2026-08-09T23:45:02+00:00"
    assert (found.root_crl_number, found.pck_crl_number, found.tcb_evaluation_data_number) == (1, 1, 19)


@pytest.mark.parametrize(
    "change",
    [
        {"tcb_info": "[]"},
        {"tcb_info": "{}"},
        {"qe_identity": '{"issueDate":"2026-01-01T00:00:00Z","nextUpdate":"2026-02-01T00:00:00Z"}'},
        {"qe_identity": '{"issueDate":1}'},
        {"root_ca_crl": "00"},
        {"pck_crl": ""},
    ],
)
def test_facts_that_cannot_be_read_are_a_collateral_error(good: Collateral, change: dict[str, str]) -> None:
    with pytest.raises(CollateralError):
        collateral_facts(replace(good, **change))


# --- whether it is genuine, without a quote ---


def test_genuine_collateral_is_valid_at_any_time(machine: SoftwarePlatform) -> None:
    old = collateral_with(machine, Faults(tcb_age=timedelta(days=400), crl_age=timedelta(days=400)))
    assert signatures_valid(old, machine.root_der) == (True, "ok")


def test_collateral_of_another_root_is_not_genuine(machine: SoftwarePlatform, good: Collateral) -> None:
    stranger = testing.platform()
    assert not signatures_valid(good, stranger.root_der)[0]
    assert not signatures_valid(good, b"no certificate")[0]
    foreign = collateral_with(stranger, Faults())
    for name in Collateral.__slots__:
        mixed = replace(good, **{name: getattr(foreign, name)})
        assert signatures_valid(mixed, machine.root_der)[0] is (mixed == good), name


def test_a_signature_that_does_not_verify_is_named(machine: SoftwarePlatform, good: Collateral) -> None:
    spoilt = replace(good, tcb_info=good.tcb_info.replace("SIM", "sim").replace("3", "4", 1))
    valid, reason = signatures_valid(spoilt, machine.root_der)
    assert not valid
    assert reason.startswith("tcb_info_signature: signature_invalid")
    assert signatures_valid(collateral_with(machine, Faults(crl_signer="stranger")), machine.root_der)[
        1
    ].startswith("crl_signature: signature_invalid")


def test_a_crl_signed_by_what_is_no_ca_is_not_genuine(machine: SoftwarePlatform, good: Collateral) -> None:
    """The root issues the TCB signing certificate too; it must not speak for PCK certificates."""
    now = datetime.fromtimestamp(testing.NOW, UTC)
    forged = replace(
        good,
        pck_crl=pki.revocation_list(machine.tcb_signing, now, now + timedelta(days=1)).hex(),
        pck_crl_issuer_chain=good.tcb_info_issuer_chain,
    )
    assert signatures_valid(forged, machine.root_der)[1].startswith("crl_signature: wrong_signer")


def test_a_crl_in_another_name_than_its_signers_is_not_genuine(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    """The right key is not enough: serial numbers mean something under their issuer's name only."""
    now = datetime.fromtimestamp(testing.NOW, UTC)
    renamed = pki.Authority(machine.tcb_signing.certificate, machine.platform_ca.key)
    crl = pki.revocation_list(renamed, now, now + timedelta(days=1), [machine.pck.certificate])
    collateral = replace(good, pck_crl=crl.hex())
    assert signatures_valid(collateral, machine.root_der)[1].startswith("crl_signature: wrong_issuer")
    assert revoked_by(layout.parse(quote), [collateral], machine.root_der) is None
    assert not passes(machine, quote, collateral)


@pytest.mark.parametrize(
    ("number", "valid"), [(None, True), (2**32 - 1, True), (2**32, False), (2**159, False)]
)
def test_a_crl_number_of_more_than_32_bits_is_refused(
    machine: SoftwarePlatform, good: Collateral, quote: bytes, number: int | None, valid: bool
) -> None:
    """The library's claims cannot hold it, so what they say could not be repeated."""
    for name, issuer in (("root_ca_crl", machine.root), ("pck_crl", machine.platform_ca)):
        collateral = replace(good, **{name: crl_numbered(issuer, number).hex()})
        assert passes(machine, quote, collateral) is valid
        assert signatures_valid(collateral, machine.root_der)[0] is valid
        result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
        assert bool(result.claims) is valid
    found = collateral_facts(replace(good, pck_crl=crl_numbered(machine.platform_ca, number).hex()))
    assert found.pck_crl_number == number


def crl_numbered(issuer: pki.Authority, number: int | None) -> bytes:
    now = datetime.fromtimestamp(testing.NOW, UTC)
    key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(now).next_update(now + timedelta(days=1)).add_extension(key, critical=False)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_real_collateral_is_genuine_under_intels_root_only(vectors: Path, machine: SoftwarePlatform) -> None:
    root = (vectors / "dcap-qvl/TrustedRootCA.der").read_bytes()
    for name in ("dcap-qvl/tdx_quote_collateral.json", "dcap-qvl/sgx_quote_collateral.json"):
        collateral = Collateral.from_json((vectors / name).read_text())
        assert signatures_valid(collateral, root) == (True, "ok")
        assert not signatures_valid(collateral, machine.root_der)[0]


def with_unused_bit(der: bytes, signature: bytes) -> bytes:
    """The same signature in a BIT STRING that calls its last bit unused: DER allows that for a zero bit."""
    return der[: -len(signature) - 1] + b"\1" + signature


def even(make: Callable[[], Any]) -> Any:
    """Something whose signature ends in a zero bit; signing again gives another signature."""
    return next(made for made in iter(make, None) if made.signature[-1] % 2 == 0)


def test_the_number_of_unused_bits_of_a_signature_is_not_free(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    """Found by mutation: no signature covers that byte, and one of the two implementations ignores it."""
    crl = even(lambda: x509.load_der_x509_crl(bytes.fromhex(collateral_with(machine, Faults()).pck_crl)))
    der = crl.public_bytes(Encoding.DER)
    assert signatures_valid(replace(good, pck_crl=der.hex()), machine.root_der) == (True, "ok")
    changed = replace(good, pck_crl=with_unused_bit(der, crl.signature).hex())
    assert signatures_valid(changed, machine.root_der)[1].startswith("crl_signature: not_canonical")
    result = appraise(quote, changed, root_ca_der=machine.root_der, now=testing.NOW)
    assert "crl_signature" in result.failing()
    for name, authority, path in (
        ("pck_crl_issuer_chain", machine.platform_ca, 0),
        ("tcb_info_issuer_chain", machine.tcb_signing, None),
    ):
        leaf = even(lambda authority=authority, path=path: issued_again(machine, authority, path).certificate)
        der = leaf.public_bytes(Encoding.DER)
        root = machine.root.pem()
        whole = replace(good, **{name: as_pem(der) + root})
        assert signatures_valid(whole, machine.root_der) == (True, "ok")
        changed = replace(good, **{name: as_pem(with_unused_bit(der, leaf.signature)) + root})
        assert not signatures_valid(changed, machine.root_der)[0]
        assert not passes(machine, quote, changed)


# --- revocation ---


REVOCATIONS = {
    "pck": Faults(platform_ca_revokes=("pck",)),
    "platform_ca": Faults(root_revokes=("platform_ca",)),
    "tcb_signing": Faults(root_revokes=("tcb_signing",)),
    "root": Faults(root_revokes=("root",)),
}
WORDS = {
    "pck": "the PCK certificate",
    "platform_ca": "the PCK CA",
    "tcb_signing": "the TCB signing certificate",
    "root": "the root CA",
}


@pytest.mark.parametrize("name", REVOCATIONS)
@pytest.mark.parametrize("age", [timedelta(hours=1), timedelta(days=400), timedelta(days=-400)])
def test_a_revocation_in_any_genuine_crl_counts_whatever_its_dates(
    machine: SoftwarePlatform, good: Collateral, quote: bytes, name: str, age: timedelta
) -> None:
    revoking = collateral_with(machine, replace(REVOCATIONS[name], crl_age=age))
    parsed = layout.parse(quote)
    for collaterals in ([revoking], [good, revoking], [revoking, good]):
        found = revoked_by(parsed, collaterals, machine.root_der)
        assert found is not None
        assert found.startswith(WORDS[name])
    assert revoked_by(parsed, [good], machine.root_der) is None
    assert revoked_by(parsed, [], machine.root_der) is None


def test_a_crl_that_its_issuer_did_not_sign_revokes_nobody(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    forged = collateral_with(machine, Faults(crl_signer="stranger", platform_ca_revokes=("pck",)))
    assert revoked_by(layout.parse(quote), [good, forged], machine.root_der) is None
    crossed = collateral_with(machine, Faults(root_revokes=("pck",)))  # the wrong issuer lists that serial
    assert revoked_by(layout.parse(quote), [crossed], machine.root_der) is None
    broken = replace(forged, pck_crl="00", root_ca_crl="")
    assert revoked_by(layout.parse(quote), [broken, good], machine.root_der) is None


def test_only_the_signers_that_a_verdict_rests_on_are_asked(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    """A retired TCB signing certificate is no fault of collateral that another one signed."""
    now = datetime.fromtimestamp(testing.NOW, UTC)
    successor = pki.issue(
        machine.tcb_signing.certificate.subject, machine.root, now - timedelta(days=9), timedelta(days=90)
    )
    signed_anew = replace(
        good,
        tcb_info_issuer_chain=successor.pem() + machine.root.pem(),
        tcb_info_signature=pki.sign(successor.key, good.tcb_info.encode()).hex(),
        qe_identity_issuer_chain=successor.pem() + machine.root.pem(),
        qe_identity_signature=pki.sign(successor.key, good.qe_identity.encode()).hex(),
        root_ca_crl=collateral_with(machine, REVOCATIONS["tcb_signing"]).root_ca_crl,
    )
    parsed, both = layout.parse(quote), [good, signed_anew]
    assert revoked_by(parsed, both, machine.root_der, endorsed_by=[signed_anew]) is None
    assert revoked_by(parsed, both, machine.root_der, endorsed_by=[good]) is not None
    assert revoked_by(parsed, both, machine.root_der) is not None


def test_a_serial_number_in_a_strangers_chain_is_not_asked_about(
    machine: SoftwarePlatform, quote: bytes
) -> None:
    stranger = testing.platform()
    revoking = collateral_with(stranger, Faults(platform_ca_revokes=("pck",), root_revokes=("tcb_signing",)))
    assert revoked_by(layout.parse(quote), [revoking], machine.root_der) is None
    assert revoked_by(layout.parse(quote), [revoking], stranger.root_der) is not None


def test_a_signing_certificate_that_the_root_did_not_issue_is_not_asked_about(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    """Anybody can write a certificate with a revoked serial number; that must not revoke a good quote."""
    now = datetime.fromtimestamp(testing.NOW, UTC)
    impostor = pki.Authority(machine.root.certificate, pki.new_key())
    forged = pki.issue(
        machine.tcb_signing.certificate.subject, impostor, now - timedelta(days=1), timedelta(days=9)
    )
    root_crl = pki.revocation_list(machine.root, now, now + timedelta(days=1), [forged.certificate])
    chain = forged.pem() + machine.root.pem()
    collateral = replace(
        good, root_ca_crl=root_crl.hex(), tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain
    )
    assert revoked_by(layout.parse(quote), [collateral, good], machine.root_der) is None


def test_a_root_that_is_no_certificate_is_a_collateral_error(quote: bytes, good: Collateral) -> None:
    with pytest.raises(CollateralError):
        revoked_by(layout.parse(quote), [good], b"")


# --- nothing is remembered that belongs to other bytes ---


def test_collateral_with_equal_parts_is_judged_under_its_own_root_and_chain(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    """Whatever was judged before, in any order: each verdict is the one that a fresh process gives."""
    stranger = testing.platform()
    foreign = collateral_with(stranger, Faults())
    foreign_quote = quote_with(stranger, Faults())
    mixed = [
        replace(good, **{name: getattr(foreign, name)}) for name in (*PEM_FIELDS, "root_ca_crl", "pck_crl")
    ]
    swapped = replace(good, tcb_info_signature=good.qe_identity_signature)
    cases = [
        (machine.root_der, quote, good, True),
        (stranger.root_der, quote, good, False),
        (stranger.root_der, foreign_quote, foreign, True),
        (machine.root_der, foreign_quote, foreign, False),
        (machine.root_der, foreign_quote, good, False),
        (machine.root_der, quote, foreign, False),
        *((machine.root_der, quote, item, False) for item in (*mixed, swapped)),
    ]
    for order in (cases, cases[::-1], cases):
        for root, given_quote, collateral, accepted in order:
            result = appraise(given_quote, collateral, root_ca_der=root, now=testing.NOW)
            assert (result.outcome is Outcome.PASS) is accepted
            assert signatures_valid(collateral, root)[0] is (
                collateral in (good, foreign)
                and root == (machine if collateral == good else stranger).root_der
            )


def test_time_is_asked_each_time(machine: SoftwarePlatform, good: Collateral, quote: bytes) -> None:
    start, end = collateral_window(good)
    outcomes = [
        appraise(quote, good, root_ca_der=machine.root_der, now=now).outcome is Outcome.PASS
        for now in (start, start - 1, start, end, end - 1)
    ]
    assert outcomes == [True, False, True, False, True]


def test_threads_that_share_the_memories_agree(
    machine: SoftwarePlatform, good: Collateral, quote: bytes
) -> None:
    stranger = testing.platform()
    spoilt = replace(good, qe_identity_signature=good.tcb_info_signature)
    cases = [
        (machine.root_der, good, True),
        (stranger.root_der, good, False),
        (machine.root_der, spoilt, False),
    ]

    def judge(case: tuple[bytes, Collateral, bool]) -> bool:
        root, collateral, _ = case
        result = appraise(quote, replace(collateral), root_ca_der=root, now=testing.NOW)
        return result.outcome is Outcome.PASS

    forget()
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(judge, cases * 30)) == [accepted for _, _, accepted in cases * 30]


# --- bytes of strangers ---


names = st.sampled_from(sorted(Collateral.__slots__))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=300) | json_values)
def test_reading_collateral_raises_nothing_but_a_collateral_error(data: Any) -> None:
    for canonical in (False, True):
        for value in (data, json.dumps(data) if not isinstance(data, bytes) else data):
            with pytest.raises(CollateralError):
                Collateral.from_json(value, canonical=canonical)


signed_objects = st.dictionaries(
    st.sampled_from(
        [
            "id", "version", "issueDate", "nextUpdate", "fmspc", "pceId", "tcbType", "tcbLevels",
            "tcbEvaluationDataNumber", "tdxModuleIdentities", "tdxModule",
        ]
    ),
    json_values
    | st.lists(
        st.fixed_dictionaries(
            {
                "tcb": st.dictionaries(
                    st.sampled_from(["sgxtcbcomponents", "tdxtcbcomponents", "pcesvn", "isvsvn"]),
                    json_values | st.lists(st.fixed_dictionaries({"svn": json_values}), max_size=17),
                ),
                "tcbStatus": st.sampled_from(["UpToDate", "OutOfDate"]) | json_values,
                "tcbDate": st.just("2026-01-01T00:00:00Z") | json_values,
            }
        ),
        max_size=3,
    ),
).map(lambda value: json.dumps(value, ensure_ascii=True))  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=ANY_FIXTURE)
@given(changes=st.dictionaries(names, st.text(max_size=200) | signed_objects, min_size=1, max_size=3))
def test_no_function_raises_anything_but_this_packages_errors(
    machine: SoftwarePlatform, good: Collateral, quote: bytes, changes: dict[str, str]
) -> None:
    try:
        collateral = Collateral.from_json(good.to_json() | changes)
    except CollateralError:
        return
    parsed = layout.parse(quote)
    tcb_shortfall(parsed, collateral)
    assert isinstance(signatures_valid(collateral, machine.root_der), tuple)
    assert revoked_by(parsed, [collateral, good], machine.root_der) is None
    result = appraise(quote, collateral, root_ca_der=machine.root_der, now=testing.NOW)
    assert result.outcome is Outcome.FAIL
    assert (result.claims == {}) is (result.status is None)
    assert result.issued_at is None or result.issued_at <= collateral_facts_or_now(collateral)
    assert result.collateral_sha256 == collateral.sha256()


def collateral_facts_or_now(collateral: Collateral) -> int:
    try:
        return collateral_facts(collateral).issued_at
    except CollateralError:
        return 2**63


@settings(max_examples=150, deadline=None, suppress_health_check=ANY_FIXTURE)
@given(data=st.data())
def test_no_function_raises_for_a_changed_quote(
    machine: SoftwarePlatform, good: Collateral, quote: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(quote) - 1))
    piece = data.draw(st.binary(min_size=1, max_size=40))
    changed = quote[:start] + piece + quote[start + data.draw(st.integers(0, 40)) :]
    appraise(changed, good, root_ca_der=machine.root_der, now=testing.NOW)
    try:
        parsed = layout.parse(changed)
        tcb_shortfall(parsed, good)
        assert revoked_by(parsed, [good], machine.root_der) is None
    except AttestationError:
        return
