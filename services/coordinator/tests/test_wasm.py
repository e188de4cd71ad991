# SPDX-License-Identifier: MIT
"""WASM files: uploaded by an account, served by hash."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from typing import Any

import httpx

from outlayer_coordinator.config import MAX_WASM_BYTES
from outlayer_near.nep413 import sign_message
from outlayer_near.primitives import KeyPair, nep413_hash

WASM = b"\x00asm\x01\x00\x00\x00" + b"code" * 1000
SHA256 = hashlib.sha256(WASM).hexdigest()
HOST = "coordinator.test:8080"


def signed(
    key: KeyPair, sha256: str = SHA256, account: str = "alice.test", host: str = HOST
) -> dict[str, str]:
    message = sign_message(account, key, f"upload {sha256}", host)
    return {
        "X-Near-Account": message.account_id,
        "X-Near-Public-Key": message.public_key,
        "X-Near-Nonce": message.nonce,
        "X-Near-Signature": message.signature,
    }


def alice(chain: Any) -> KeyPair:
    key = KeyPair.generate()
    chain.full_access.add(("alice.test", str(key.public_key)))
    return key


async def put(
    service: Any, headers: dict[str, str], body: Any = WASM, sha256: str = SHA256
) -> httpx.Response:
    return await service.client.put(f"/wasm/{sha256}", content=body, headers=headers)


async def test_what_was_uploaded_is_served_to_anyone(service: Any, chain: Any) -> None:
    key = alice(chain)
    assert (await service.client.get(f"/wasm/{SHA256}")).status_code == 404
    assert (await put(service, signed(key))).status_code == 201
    assert (await put(service, signed(key))).status_code == 200
    answer = await service.client.get(f"/wasm/{SHA256}")
    assert answer.content == WASM
    assert "immutable" in answer.headers["cache-control"]
    row = await service.db.fetchrow("SELECT uploader, size FROM wasm_files")
    assert tuple(row) == ("alice.test", len(WASM))


async def test_bytes_of_another_hash_are_refused_and_leave_nothing(service: Any, chain: Any) -> None:
    answer = await put(service, signed(alice(chain)), WASM + b"x")
    assert answer.status_code == 400
    assert list(service.settings.wasm_dir.iterdir()) == []
    assert (await service.client.get(f"/wasm/{SHA256}")).status_code == 404


async def test_bytes_that_are_no_wasm_are_refused(service: Any, chain: Any) -> None:
    body = b"#!/bin/sh"
    sha256 = hashlib.sha256(body).hexdigest()
    assert (await put(service, signed(alice(chain), sha256), body, sha256)).status_code == 400


async def test_more_than_the_limit_is_413_before_it_is_read_and_while(service: Any, chain: Any) -> None:
    headers = signed(alice(chain))
    announced = {**headers, "Content-Length": str(MAX_WASM_BYTES + 1)}
    assert (await put(service, announced, b"")).status_code == 413

    async def flood() -> Any:
        for _ in range(MAX_WASM_BYTES // 2**20 + 1):
            yield b"\x00" * 2**20

    assert (await put(service, headers, flood())).status_code == 413
    assert list(service.settings.wasm_dir.iterdir()) == []


async def test_an_upload_needs_the_signature_of_a_full_access_key(service: Any, chain: Any) -> None:
    key = alice(chain)
    stranger = KeyPair.generate()
    good = signed(key)
    old = (int(time.time()) - 400) * 1000
    nonce = old.to_bytes(8, "big") + bytes(24)
    late = key.sign(nep413_hash(f"upload {SHA256}", nonce, HOST)).data
    refused = {
        "nothing": {},
        "no signature": {name: value for name, value in good.items() if name != "X-Near-Signature"},
        "another key": signed(stranger),
        "another account": {**good, "X-Near-Account": "bob.test"},
        "another file": signed(key, "00" * 32),
        "another host": signed(key, host="evil.test"),
        "junk": {**good, "X-Near-Signature": "!!"},
        "junk nonce": {**good, "X-Near-Nonce": "AAAA"},
        "no account id": {**good, "X-Near-Account": "no account"},
        "too old": {
            **good,
            "X-Near-Nonce": base64.b64encode(nonce).decode(),
            "X-Near-Signature": base64.b64encode(late).decode(),
        },
    }
    for name, headers in refused.items():
        assert (await put(service, headers)).status_code == 401, name
    assert (await put(service, good)).status_code == 201


async def test_the_same_file_from_two_at_once(service: Any, chain: Any) -> None:
    key = alice(chain)
    answers = await asyncio.gather(*(put(service, signed(key)) for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert [path.name for path in service.settings.wasm_dir.iterdir()] == [f"{SHA256}.wasm"]


async def test_names_that_are_no_hash_are_not_found(service: Any, chain: Any) -> None:
    for name in ("x", SHA256.upper(), SHA256 + "0", "..%2f..%2fetc%2fpasswd"):
        assert (await service.client.get(f"/wasm/{name}")).status_code == 404
        assert (await put(service, signed(alice(chain)), sha256=name)).status_code == 404


async def test_the_chain_being_away_is_503(service: Any, chain: Any) -> None:
    key = alice(chain)
    chain.away = True
    assert (await put(service, signed(key))).status_code == 503
