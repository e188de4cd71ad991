# SPDX-License-Identifier: MIT
"""Account keys in files, in the JSON layout of near-cli: ``account_id``, ``public_key``, ``private_key``."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from outlayer_near.errors import CodecError, CredentialsError
from outlayer_near.primitives import KeyPair


@dataclass(frozen=True)
class Credentials:
    """An account and a key that signs for it."""

    account_id: str
    key_pair: KeyPair


def load_credentials(path: Path) -> Credentials:
    """Read a credentials file. Raises ``CredentialsError``, which never shows the key."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CredentialsError(f"{path} cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise CredentialsError(f"{path} is not a credentials file", hint="it must hold a JSON object")
    account_id, secret = value.get("account_id"), value.get("private_key", value.get("secret_key"))
    if not isinstance(account_id, str) or not isinstance(secret, str):
        raise CredentialsError(f"{path} lacks account_id or private_key")
    try:
        key_pair = KeyPair.from_secret(secret)
    except CodecError as error:
        raise CredentialsError(f"{path}: {error}", hint=error.hint) from None
    stated = value.get("public_key")
    if stated is not None and stated != str(key_pair.public_key):
        raise CredentialsError(f"{path}: public_key does not belong to private_key")
    return Credentials(account_id, key_pair)


def save_credentials(path: Path, credentials: Credentials) -> None:
    """Write a credentials file that only its owner can read, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "account_id": credentials.account_id,
        "public_key": str(credentials.key_pair.public_key),
        "private_key": credentials.key_pair.secret,
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
