# SPDX-License-Identifier: MIT
"""The worker's key pair: made once, kept in its state folder, never leaves the VM."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from outlayer_near.errors import NearError
from outlayer_near.primitives import KeyPair
from outlayer_worker.errors import ConfigError

KEY_FILE = "worker-key.json"
SESSION_TAG = b"outlayer/tee-session/v1\0"
_CACHE_TAG = b"outlayer/compiled-code-key/v1"


@dataclass(frozen=True)
class Identity:
    """The attested key. ``public_key`` is "ed25519:<base58>"."""

    key: KeyPair

    @property
    def public_key(self) -> str:
        return str(self.key.public_key)

    def default_name(self) -> str:
        """A label for logs and the coordinator, where the operator gave none."""
        return f"worker-{hashlib.sha256(self.public_key.encode()).hexdigest()[:12]}"

    def sign_challenge(self, challenge: bytes) -> bytes:
        """The 64-byte signature that opens a TEE session; domain-separated from everything else it signs."""
        return self.key.sign(SESSION_TAG + challenge).data

    def cache_key(self) -> bytes:
        """32 bytes for the MAC of compiled code, derived so that the signing key itself goes nowhere else."""
        return hmac.digest(self.key.secret.encode(), _CACHE_TAG, "sha256")


def load_or_create(folder: Path, measurements: Mapping[str, str]) -> Identity:
    """The key of this state folder, made at the first start and again when the measured code is another.

    A key stands for one set of measurements: were it registered again with others, the records that it signed
    before would no longer match what the chain says about it. Raises ``ConfigError`` for an unusable file.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / KEY_FILE
    if not path.exists():
        _write_new(path, KeyPair.generate(), measurements)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"others may read {path}", hint=f"chmod 600 {path}")
    try:
        content = json.loads(path.read_text())
        key = KeyPair.from_secret(str(content["private_key"]))
        measured = dict(content["measurements"])
    except (ValueError, KeyError, TypeError, NearError) as error:
        raise ConfigError(
            f"{path} does not hold a worker key",
            hint="remove it and the worker makes and registers a new one",
        ) from error
    if measured != dict(measurements):
        key = KeyPair.generate()
        _write_new(path, key, measurements)
    return Identity(key)


def forget(folder: Path, identity: Identity) -> None:
    """Give a key up that counts no more, so that the next start makes another; one that was made since stays."""
    path = folder / KEY_FILE
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        if json.loads(path.read_text())["private_key"] == identity.key.secret:
            path.unlink()


def _write_new(path: Path, key: KeyPair, measurements: Mapping[str, str]) -> None:
    content = {
        "public_key": str(key.public_key),
        "private_key": key.secret,
        "measurements": dict(measurements),
    }
    text = json.dumps(content)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
