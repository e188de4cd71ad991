# SPDX-License-Identifier: MIT
"""Payment keys as the client holds them: made here, in files of mode 0600; the service knows their hash."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from outlayer_cli.embedded import write_secret
from outlayer_cli.errors import UsageError
from outlayer_cli.layout import Stack

_FILE_NAME = re.compile(r"(?P<owner>.+)\.(?P<nonce>[1-9][0-9]*)\.json")


@dataclass(frozen=True)
class PaymentKey:
    """``secret`` is 64 lower-case hex digits; the service only ever stores the SHA-256 of that text."""

    owner: str
    nonce: int
    secret: str

    @classmethod
    def generate(cls, owner: str, nonce: int) -> PaymentKey:
        return cls(owner, nonce, secrets.token_hex(32))

    @classmethod
    def load(cls, path: Path) -> PaymentKey:
        try:
            key = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{path} is not a payment key file: {error}",
                hint="make one with: outlayer keys create, or name another with --payment-key-file",
            ) from error
        return key

    def save(self, path: Path) -> None:
        write_secret(path, json.dumps(asdict(self)) + "\n")

    @property
    def key_hash(self) -> str:
        return hashlib.sha256(self.secret.encode()).hexdigest()

    @property
    def header(self) -> str:
        """The value of ``X-Payment-Key``."""
        return f"{self.owner}:{self.nonce}:{self.secret}"

    def __repr__(self) -> str:
        return f"PaymentKey({self.owner}:{self.nonce})"


def key_folder(stack: Stack) -> Path:
    return Path(stack.credentials_dir) / "payment-keys"


def key_file(stack: Stack, owner: str, nonce: int) -> Path:
    return key_folder(stack) / f"{owner}.{nonce}.json"


def list_key_files(stack: Stack) -> list[tuple[str, int, Path]]:
    """Owner, nonce and file of every key that this client holds, in that order."""
    found = []
    for path in key_folder(stack).glob("*.json"):
        match = _FILE_NAME.fullmatch(path.name)
        if match:
            found.append((match["owner"], int(match["nonce"]), path))
    return sorted(found)


def first_key_file(stack: Stack, owner: str | None = None) -> Path | None:
    """The file of the lowest key of an owner (default: the stack's developer), if there is one."""
    wanted = owner or stack.developer_id
    return next((path for name, _, path in list_key_files(stack) if name == wanted), None)


def choose_key(stack: Stack, path: Path | None) -> PaymentKey:
    """The key to pay with: the one that is named, else the developer's first."""
    chosen = path or first_key_file(stack)
    if chosen is None:
        raise UsageError(
            "there is no payment key to pay with",
            hint=f"make one with: outlayer keys create --account {stack.developer_id}",
        )
    return PaymentKey.load(chosen)


def header_command(stack: Stack, path: Path, project: str, input_json: str) -> str:
    """A ``curl`` line that works when pasted and shows no secret: it reads the key from its file."""
    program = (
        'import json,sys; print("X-Payment-Key: {owner}:{nonce}:{secret}".format(**json.load(sys.stdin)))'
    )
    header = f'"$(python3 -c {shlex.quote(program)} < {shlex.quote(str(path))})"'
    body = shlex.quote(f'{{"input":{input_json}}}')
    url = shlex.quote(f"{stack.coordinator_url}/call/{project}")
    return f"curl -sS -H {header} -H 'Content-Type: application/json' -d {body} {url}"
