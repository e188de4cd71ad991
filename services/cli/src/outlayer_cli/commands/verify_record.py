# SPDX-License-Identifier: MIT
"""``verify record``: judge a record that the original project published. A part of ``verify``; opens no connection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlayer_cli.errors import UsageError
from outlayer_cli.session import Session

if TYPE_CHECKING:
    from outlayer_attestation.evidence import KnownCollateral, TrustAnchors, Verdict
    from outlayer_attestation.original import Published
    from outlayer_attestation.policy import Policy

MAX_FILE_BYTES = 256 * 1024 * 1024


def record(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A record as the original publishes it, or several.")],
    collateral: Annotated[
        list[Path], typer.Option(help="Collateral of the record's time, and newer ones (repeatable).")
    ],
    policy: Annotated[Path | None, typer.Option(help="A signed policy to judge approval by.")] = None,
    policy_key: Annotated[Path | None, typer.Option(help="Public keys that sign the policy.")] = None,
    root_ca: Annotated[Path | None, typer.Option(help="Root certificate (DER); default: Intel's.")] = None,
    input_file: Annotated[Path | None, typer.Option("--input", help="The input's bytes.")] = None,
    output_file: Annotated[Path | None, typer.Option("--output", help="The output's bytes.")] = None,
) -> None:
    """Prove a record that the original project published (V1). Opens no connection."""
    from outlayer_cli.commands import verify

    session: Session = context.obj
    verdicts = judge_records(
        file,
        collaterals=read_collaterals(collateral),
        trust=original_trust(root_ca),
        policy=given_policy(policy, policy_key),
        input_file=input_file,
        output_file=output_file,
        now=int(time.time()),
    )
    verify._finish(session, verdicts)  # noqa: SLF001 - this is one of its commands


def judge_records(
    file: Path,
    *,
    collaterals: Sequence[KnownCollateral],
    trust: TrustAnchors,
    policy: Policy | None,
    input_file: Path | None,
    output_file: Path | None,
    now: int,
) -> list[Verdict]:
    """A verdict on each record of a file. Raises ``UsageError`` or ``AttestationError`` for what is not records."""
    from outlayer_attestation.original import appraise_original, read_records

    found = read_records(read_file(file, "record"))
    if len(found) != 1 and (input_file is not None or output_file is not None):
        raise UsageError(f"{file} holds {len(found)} records; --input and --output are of one")
    return [
        appraise_original(_with_payload(item, input_file, output_file), trust, policy, now, collaterals)
        for item in found
    ]


def original_bundle(
    document: object,
    root_ca: Path | None,
    policy: Policy | None,
    collateral: Sequence[Path],
    now: int,
) -> Verdict:
    """The verdict on a bundle of format 1 (parsed JSON), for ``verify bundle``. Needs no stack.

    ``policy`` is one that was named for it: that of a local stack says nothing about the original's images.
    """
    from outlayer_attestation.original import appraise_original

    known = read_collaterals(collateral)
    return appraise_original(document, original_trust(root_ca), policy, now, known)


def _with_payload(published: Published, input_file: Path | None, output_file: Path | None) -> Published:
    """The record with the bytes of the files that were named."""
    import dataclasses

    from outlayer_attestation.original import Payload

    def payload(path: Path | None, what: str, before: Payload | None) -> Payload | None:
        return before if path is None else Payload(read_file(path, what), exact=True)

    return dataclasses.replace(
        published,
        input=payload(input_file, "input", published.input),
        output=payload(output_file, "output", published.output),
    )


def read_file(path: Path, what: str) -> bytes:
    """A file's bytes, up to 256 MiB. Raises ``UsageError``."""
    if not path.is_file():
        raise UsageError(f"there is no {what} file {path}")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"{path} is longer than {MAX_FILE_BYTES} bytes")
    return content


def read_collaterals(paths: Sequence[Path]) -> list[KnownCollateral]:
    """The collateral of each file. Raises ``UsageError`` for a file that holds none."""
    from outlayer_attestation.collateral import Collateral
    from outlayer_attestation.errors import CollateralError
    from outlayer_attestation.evidence import KnownCollateral

    found = []
    for path in paths:
        try:
            collateral = Collateral.from_json(read_file(path, "collateral"))
        except CollateralError as error:
            raise UsageError(
                f"{path}: {error}", hint="collateral is JSON: outlayer's or dcap-qvl's"
            ) from error
        found.append(KnownCollateral(f"the file {path}", collateral))
    return found


def original_trust(root_ca: Path | None) -> TrustAnchors:
    """What a record of the original is judged under: Intel's root, unless another is named."""
    from outlayer_attestation.evidence import TrustAnchors
    from outlayer_attestation.intel_root import INTEL_ROOT_CA_DER

    der = INTEL_ROOT_CA_DER if root_ca is None else read_file(root_ca, "root certificate")
    return TrustAnchors(root_ca_der=der)


def given_policy(policy: Path | None, policy_key: Path | None) -> Policy | None:
    """The policy that was named, checked with the keys that were named; None without one."""
    from outlayer_cli.local_policy import load_policy

    if policy is None:
        return None
    if policy_key is None:
        raise UsageError("a policy needs the keys that sign it", hint="name them with --policy-key FILE")
    for path, what in ((policy, "policy"), (policy_key, "policy key")):
        if not path.is_file():
            raise UsageError(f"there is no {what} file {path}")
    return load_policy(policy, policy_key)
