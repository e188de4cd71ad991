# SPDX-License-Identifier: MIT
"""The first state: who exists, what they hold, and the key that opens all of it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from outlayer_localnet.errors import StoreError
from outlayer_localnet.params import Params
from outlayer_localnet.state import Account, Overlay, access_key_storage
from outlayer_near.primitives import AccessKey, CodecError, KeyPair, PublicKey

NEAR = 10**24
TEST_ACCOUNT = "test"
KEY_FILE = "genesis_key.json"
DATABASE_FILE = "chain.sqlite"
GENESIS_BALANCES = {
    TEST_ACCOUNT: 1_000_000_000 * NEAR,
    "near": 1_000_000 * NEAR,
    "registrar": 1_000_000 * NEAR,
}


def write_genesis(state: Overlay, public_key: PublicKey, params: Params) -> int:
    """Create the genesis accounts, each with this full-access key; returns the total supply in yocto."""
    key = AccessKey()
    usage = params.num_bytes_account + access_key_storage(public_key, key)
    for account_id, balance in GENESIS_BALANCES.items():
        state.set_account(account_id, Account(balance, storage_usage=usage))
        state.set_access_key(account_id, public_key, key)
    return sum(GENESIS_BALANCES.values())


def load_or_create_key(folder: Path) -> KeyPair:
    """The genesis key of the chain in ``folder``, from its credentials file.

    A folder without a chain gets a new key (mode 0600); one whose key is lost raises StoreError.
    """
    path = folder / KEY_FILE
    if path.exists():
        try:
            return KeyPair.from_secret(str(json.loads(path.read_text())["private_key"]))
        except (ValueError, KeyError, TypeError, CodecError) as error:
            raise StoreError(
                f"{path} is not a credentials file",
                hint="Restore it, or begin with an empty state directory.",
            ) from error
    if (folder / DATABASE_FILE).exists():
        raise StoreError(
            f"the chain in {folder} has lost its genesis key",
            hint=f"Restore {KEY_FILE}, or begin with an empty state directory.",
        )
    pair = KeyPair.generate()
    write_credentials(path, TEST_ACCOUNT, pair)
    return pair


def write_credentials(path: Path, account_id: str, pair: KeyPair) -> None:
    """Write a near-cli credentials file that only its owner can read; whole or not at all."""
    body = {"account_id": account_id, "public_key": str(pair.public_key), "private_key": pair.secret}
    part = path.with_name(path.name + ".part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(body, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
