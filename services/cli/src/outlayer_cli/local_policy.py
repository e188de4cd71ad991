# SPDX-License-Identifier: MIT
"""The signed policy file of a local stack: what ``verify`` judges approval by when it opens no connection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from outlayer_attestation import policy as policies
from outlayer_attestation.errors import AttestationError
from outlayer_attestation.measurements import Measurements
from outlayer_attestation.policy import Policy
from outlayer_cli.embedded import write_secret
from outlayer_cli.layout import Layout
from outlayer_near.primitives import b58encode

LIFE_SECONDS = 365 * 24 * 3600
RENEWAL_SECONDS = 60 * 24 * 3600


def maintainer_key(place: Layout) -> Ed25519PrivateKey:
    """The key that signs this stack's policy; made at first use, its public half beside the policy."""
    path = place.credential("policy-maintainer.key")
    if not path.exists():
        write_secret(path, Ed25519PrivateKey.generate().private_bytes_raw().hex() + "\n")
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    place.policy.mkdir(parents=True, exist_ok=True)
    public = place.policy / "maintainer.pub"
    text = f"ed25519:{b58encode(key.public_key().public_bytes_raw())}\n"
    if not public.exists() or public.read_text() != text:
        public.write_text(text)
    return key


def load_policy(path: Path, key_file: Path) -> Policy:
    """Read and check a signed policy. Raises ``AttestationError``."""
    return policies.load(path, policies.read_public_keys(key_file))


def write_local_policy(
    place: Layout, sets: Sequence[tuple[str, Measurements]], *, fmspc: str, not_before: int
) -> None:
    """Write the policy as its next version, unless the one that is there says the same and lives long enough.

    ``sets`` are all measurement sets that the chain ever approved here: old results stay provable.
    """
    key = maintainer_key(place)
    path = place.policy / "worker.json"
    now = int(time.time())
    version = 1
    current = _current(place, path)
    if current is not None:
        version = current.document.version
        names = [entry.name for entry in current.document.measurements]
        lives = policies.unix_time(current.document.valid.not_after) - now > RENEWAL_SECONDS
        same = names == [name for name, _ in sets] and current.document.platform.fmspc == [fmspc]
        if same and lives:
            return
        version += 1
    document = policies.local_document(
        sets, fmspc=[fmspc], not_before=not_before, not_after=now + LIFE_SECONDS, version=version
    )
    policies.write_signed(path, document, [key])


def _current(place: Layout, path: Path) -> Policy | None:
    if not path.exists():
        return None
    try:
        return load_policy(path, place.policy / "maintainer.pub")
    except AttestationError:
        # a damaged local policy is written anew: its contents all come from the chain
        return None
