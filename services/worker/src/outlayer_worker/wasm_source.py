# SPDX-License-Identifier: MIT
"""Fetches WASM by SHA-256 from the address that the chain names, without being led into private networks (R46)."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from outlayer_attestation.vm.addresses import is_public as is_public_address
from outlayer_worker.errors import JobError

MAX_BYTES = 64 * 1024 * 1024
MAX_REDIRECTS = 5
TOTAL_SECONDS = 60.0
ATTEMPTS = 3
FIRST_WAIT_SECONDS = 0.5

Resolve = Callable[[str, int], Awaitable[list[str]]]


class _RefusedError(Exception):
    """An address that the worker must not ask; the text says why."""


def is_public(address: str) -> bool:
    """Whether an IP address is a public unicast one, by the list that the packet filter of a VM is made of."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return is_public_address(parsed)


def origin(url: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port, with the scheme's default port filled in."""
    default = 443 if url.scheme == "https" else 80
    return url.scheme, (url.hostname or "").lower(), url.port or default


async def resolve_name(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(item[4][0]) for item in found]


class _CheckedResolver(AbstractResolver):
    """Gives the connector only addresses that were checked, so that a second look-up cannot differ."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host, port)
        if not addresses or not all(is_public(address) for address in addresses):
            raise _RefusedError(f"{host} is not a public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def close(self) -> None:
        """Nothing is kept open."""


class WasmSource:
    """Downloads code. The coordinator's origin is the one that may be private."""

    def __init__(self, coordinator_url: str, *, resolve: Resolve = resolve_name) -> None:
        self._trusted = origin(urlsplit(coordinator_url))
        timeout = aiohttp.ClientTimeout(total=TOTAL_SECONDS, sock_connect=10)
        self._inside = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        self._outside = aiohttp.ClientSession(
            timeout=timeout,
            trust_env=False,
            connector=aiohttp.TCPConnector(resolver=_CheckedResolver(resolve), force_close=True),
        )

    async def close(self) -> None:
        await self._inside.close()
        await self._outside.close()

    async def fetch(self, url: str, sha256: str) -> bytes:
        """The bytes with this hash. Raises ``JobError`` (wasm_unavailable) with the reason."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(FIRST_WAIT_SECONDS * 3 ** (attempt - 1))
            try:
                data = await self._download(url)
            except _RefusedError as error:
                raise _unavailable(str(error)) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if isinstance(error.__cause__, _RefusedError):
                    raise _unavailable(str(error.__cause__)) from error
                problem = type(error).__name__
                continue
            if hashlib.sha256(data).hexdigest() != sha256:
                raise _unavailable("the bytes at the code's address do not have the SHA-256 stated on chain")
            return data
        raise _unavailable(f"the code's address does not answer ({problem})")

    async def _download(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            session = self._session_for(url)
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, answer.headers.get("Location", ""))
                    continue
                if answer.status >= 500:
                    raise aiohttp.ClientPayloadError(f"HTTP {answer.status}")
                if answer.status != 200:
                    raise _RefusedError(f"the code's address answered HTTP {answer.status}")
                return await _bounded(answer)
        raise _RefusedError(f"the code's address redirects more than {MAX_REDIRECTS} times")

    def _session_for(self, url: str) -> aiohttp.ClientSession:
        try:
            parts = urlsplit(url)
            where = origin(parts)
        except ValueError as error:
            raise _RefusedError("the code's address is not a URL") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _RefusedError("the code's address is not an http or https URL")
        if where == self._trusted:
            return self._inside
        if parts.username is not None or parts.password is not None:
            raise _RefusedError("the code's address holds credentials")
        # names are checked when they are resolved; a literal address is never resolved
        if _is_literal(where[1]) and not is_public(where[1]):
            raise _RefusedError(f"{where[1]} is not a public address")
        return self._outside


def _is_literal(host: str) -> bool:
    """Whether the connector would take the host for an address: dotted, IPv6, or an odd number form."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # "127.1" and "2130706433" are addresses to inet_aton; is_public() refuses what it cannot read
        return not any(char.isalpha() for char in host) or host.startswith("0x")
    return True


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    if (answer.content_length or 0) > MAX_BYTES:
        raise _RefusedError(f"the code is larger than {MAX_BYTES} bytes")
    data = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 18):
        data += chunk
        if len(data) > MAX_BYTES:
            raise _RefusedError(f"the code is larger than {MAX_BYTES} bytes")
    return bytes(data)


def _unavailable(reason: str) -> JobError:
    return JobError("wasm_unavailable", reason)
