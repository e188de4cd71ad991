# SPDX-License-Identifier: MIT
"""The coordinator's public API, as a client uses it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from outlayer_cli.errors import CliError
from outlayer_cli.payment_keys import PaymentKey

if TYPE_CHECKING:
    import httpx

_LONGEST_CALL_SECONDS = 320.0


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


class Api:
    """Blocking client. Raises ``ApiError`` for refusals, ``httpx.TransportError`` when nobody answers."""

    def __init__(self, base_url: str) -> None:
        import httpx

        self._client = httpx.Client(base_url=base_url, timeout=_LONGEST_CALL_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        payment_key: PaymentKey | None = None,
        bearer: str | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        all_headers = dict(headers or {})
        if payment_key is not None:
            all_headers["X-Payment-Key"] = payment_key.header
        if bearer is not None:
            all_headers["Authorization"] = f"Bearer {bearer}"
        return self._client.request(method, path, headers=all_headers, **options)

    @staticmethod
    def expect(answer: httpx.Response) -> Any:
        """The JSON of a good answer; raises ``ApiError`` for any other."""
        if answer.is_success:
            return answer.json()
        try:
            said = answer.json()
            message = str(said.get("error") or said.get("detail") or said)
        except (ValueError, AttributeError):
            message = answer.text[:300]
        raise ApiError(answer.status_code, message)

    def get_json(self, path: str, *, payment_key: PaymentKey | None = None, **params: Any) -> Any:
        return self.expect(self.request("GET", path, payment_key=payment_key, params=params))
