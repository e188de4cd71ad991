# SPDX-License-Identifier: MIT
"""The coordinator's public API, as a client uses it. Whoever answers, and whatever: an answer has a size and a time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from outlayer_cli.errors import CliError, UsageError
from outlayer_cli.payment_keys import PaymentKey

if TYPE_CHECKING:
    import httpx

    from outlayer_cli.replies import BalanceReply, CallReply, PayloadReply

MIB = 1024 * 1024
MAX_REPLY_BYTES = MIB
MAX_ERROR_BYTES = 64 * 1024
MAX_RESULT_BYTES = 64 * MIB
"""Above the largest output that a worker may be set to, 32 MiB, with every byte escaped once."""
MAX_PAYLOAD_BYTES = 128 * MIB
MAX_ATTESTATIONS_BYTES = 16 * MIB
LONGEST_CALL_SECONDS = 320.0
LONGEST_READ_SECONDS = 60.0
_CONNECT_SECONDS = 10.0

T = TypeVar("T")


class ApiError(CliError):
    """The API refused a request; ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API answered {status}: {message}", hint=_HINTS.get(status, ""))
        self.status = status


_HINTS = {
    401: "see that the payment key is the right one (outlayer keys list)",
    402: "the key has too little left: outlayer keys balance, or make another with outlayer keys create",
    403: "the key is not allowed to do this",
    404: "see: outlayer project list",
    429: "too many requests at once with this key; try again later",
    503: "a part of the service is not ready: outlayer status",
}


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, whole: ``content`` is at most as long as was allowed."""

    what: str
    status_code: int
    content_type: str
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        """The JSON value. Raises ``CliError`` for anything else."""
        from outlayer_cli.replies import read_json, shown, unexpected

        if self.content_type.partition(";")[0].strip().lower() != "application/json":
            raise unexpected(self.what, f"its type is {shown(self.content_type)!r}", "application/json")
        return read_json(self.content, self.what)


@dataclass(frozen=True)
class CallAnswer:
    """What came of a call: the strict reading, the JSON as it came, and the digests of what was delivered."""

    reply: CallReply
    value: dict[str, Any]
    output_sha256: tuple[str, ...]


class Api:
    """Blocking client of a coordinator, which is not trusted.

    A reply that is too long, takes too long, sends elsewhere or has another form is a ``CliError``; a refusal is an
    ``ApiError``, and when nobody answers it is an ``httpx.TransportError``. Redirects are never followed: requests
    carry secrets.
    """

    def __init__(self, base_url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        import httpx

        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise UsageError(f"{base_url!r} is not a URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise UsageError(
                f"{base_url!r} is not the URL of a coordinator", hint="it begins with http(s)://"
            )
        self.origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        self._base_url = base_url
        self._encrypted = url.scheme == "https"
        self._transport = transport

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Each request has a connection of its own, closed with it."""

    def request(
        self,
        method: str,
        path: str,
        *,
        payment_key: PaymentKey | None = None,
        bearer: str | None = None,
        headers: dict[str, str] | None = None,
        max_bytes: int = MAX_REPLY_BYTES,
        seconds: float = LONGEST_CALL_SECONDS,
        **options: Any,
    ) -> Answer:
        """One request and its whole answer, within ``seconds`` from the name's look-up to the last byte."""
        all_headers = {"Accept-Encoding": "identity", **(headers or {})}
        if payment_key is not None:
            all_headers["X-Payment-Key"] = payment_key.header
        if bearer is not None:
            all_headers["Authorization"] = f"Bearer {bearer}"
        return _blocking(self._exchange(method, path, all_headers, max_bytes, seconds, options))

    async def _exchange(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        max_bytes: int,
        seconds: float,
        options: dict[str, Any],
    ) -> Answer:
        import httpx

        what = f"{method} {path}"
        timeout = httpx.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds))
        try:
            async with (
                asyncio.timeout(seconds),
                httpx.AsyncClient(
                    base_url=self._base_url,
                    timeout=timeout,
                    trust_env=False,
                    transport=self._transport,
                    verify=_trusted(encrypted=self._encrypted),
                ) as client,
                client.stream(method, path, headers=headers, **options) as answer,
            ):
                content = await _content(answer, what, max_bytes)
                kind = answer.headers.get("content-type", "")
                return Answer(what, answer.status_code, kind, content)
        except TimeoutError as error:
            raise CliError(
                f"{what} was not answered within {seconds:g} s", hint="see: outlayer status"
            ) from error

    @staticmethod
    def expect(answer: Answer) -> Any:
        """The JSON of a good answer; raises ``ApiError`` for any other."""
        from outlayer_cli.replies import shown

        if answer.is_success:
            return answer.json()
        if 300 <= answer.status_code < 400:
            raise ApiError(answer.status_code, "it sends elsewhere, where no request with a secret goes")
        try:
            said = answer.json()
        except CliError:
            said = answer.content.decode("utf-8", "replace")
        if isinstance(said, dict):
            said = said.get("error") or said.get("detail") or said
        raise ApiError(answer.status_code, shown(said))

    def get_json(
        self,
        path: str,
        *,
        payment_key: PaymentKey | None = None,
        max_bytes: int = MAX_REPLY_BYTES,
        **params: Any,
    ) -> Any:
        """The JSON of a good answer to a GET."""
        answer = self.request(
            "GET",
            path,
            payment_key=payment_key,
            params=params,
            max_bytes=max_bytes,
            seconds=LONGEST_READ_SECONDS,
        )
        return self.expect(answer)

    # --- calls ---

    def call(self, project: str, body: bytes, payment_key: PaymentKey, headers: dict[str, str]) -> CallAnswer:
        """Run a project. ``body`` is the JSON that is sent, byte for byte."""
        answer = self.request(
            "POST",
            f"/call/{quote(project, safe='/', errors='replace')}",
            payment_key=payment_key,
            headers={**headers, "Content-Type": "application/json"},
            content=body,
            max_bytes=MAX_RESULT_BYTES,
        )
        return _call_answer(answer)

    def result(self, call_id: str, payment_key: PaymentKey) -> CallAnswer:
        """What came of a call. An answer about another call is a ``CliError``."""
        from outlayer_cli.replies import unexpected

        answer = self.request(
            "GET",
            f"/calls/{quote(call_id, safe='')}",
            payment_key=payment_key,
            max_bytes=MAX_RESULT_BYTES,
            seconds=LONGEST_READ_SECONDS,
        )
        found = _call_answer(answer)
        if found.reply.call_id != call_id.lower():
            raise unexpected(answer.what, f"it is about call {found.reply.call_id}")
        return found

    def payload(self, call_id: str, payment_key: PaymentKey) -> PayloadReply:
        """Exact input and output of a finished call, in base64."""
        from outlayer_cli.replies import PayloadReply, read

        path = f"/calls/{quote(call_id, safe='')}/payload"
        value = self.get_json(path, payment_key=payment_key, max_bytes=MAX_PAYLOAD_BYTES)
        return read(PayloadReply, value, f"GET {path}")

    def balance(self, payment_key: PaymentKey) -> BalanceReply:
        """What a key has, spent and holds back."""
        from outlayer_cli.replies import BalanceReply, read

        path = "/payment-keys/balance"
        return read(BalanceReply, self.get_json(path, payment_key=payment_key), f"GET {path}")


def _call_answer(answer: Answer) -> CallAnswer:
    from outlayer_cli.replies import CallReply, delivered_digests, read

    value = Api.expect(answer)
    reply = read(CallReply, value, answer.what)
    return CallAnswer(reply, value, delivered_digests(answer.content))


async def _content(answer: httpx.Response, what: str, max_bytes: int) -> bytes:
    """The body. What a refusal says is cut; anything else that is too long, or packed, is a ``CliError``."""
    from outlayer_cli.replies import shown, unexpected

    packed = answer.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise unexpected(what, f"it is packed as {shown(packed)!r}", "plain bytes, as were asked for")
    limit = max_bytes if answer.is_success else MAX_ERROR_BYTES
    parts: list[bytes] = []
    size = 0
    async for part in answer.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > limit:
            if answer.is_success:
                raise unexpected(what, f"it is longer than {limit} bytes")
            break
    return b"".join(parts)[:limit]


@cache
def _trusted(*, encrypted: bool) -> ssl.SSLContext:
    """Whom TLS trusts: the usual authorities. Nobody when there is no TLS: reading them all takes its time."""
    import httpx

    return httpx.create_ssl_context() if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run this to its end, also from inside an event loop (which then waits)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
