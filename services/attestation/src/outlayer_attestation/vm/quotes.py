# SPDX-License-Identifier: MIT
"""Quotes from the kernel: configfs-tsm (Linux Documentation/ABI/testing/configfs-tsm-report)."""

from __future__ import annotations

import errno
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outlayer_attestation.agent_http import REPORT_DATA_SIZE
from outlayer_attestation.errors import VmError
from outlayer_attestation.vm.files import read_bounded, read_line_bounded

PROVIDER: Final = "tdx_guest"
MAX_QUOTE: Final = 64 * 1024
_MAX_LINE: Final = 4096
_HINT: Final = "the host has to run the quote generation service and give QEMU its socket"


@dataclass(frozen=True, slots=True)
class QuoteSource:
    """Asks the TDX module for quotes, one at a time: the host's service has one queue."""

    reports: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes of REPORTDATA. Blocks, some hundred milliseconds at least.

        Raises:
            VmError: this is no TD, or the host gives no quote.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise VmError(f"REPORTDATA has {REPORT_DATA_SIZE} bytes, not {len(report_data)}")
        if not self.reports.is_dir():
            raise VmError("this VM is no trust domain: there are no quotes", hint="run it on a TDX host")
        try:
            with self._lock, self._entry() as entry:
                return _ask(entry, report_data)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            raise VmError(f"the host gave no quote: {error.strerror} ({name})", hint=_HINT) from error

    @contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self.reports / f"outlayer-{secrets.token_hex(8)}"
        entry.mkdir()
        try:
            yield entry
        finally:
            entry.rmdir()


def _ask(entry: Path, report_data: bytes) -> bytes:
    provider = read_line_bounded(entry / "provider", _MAX_LINE, "the provider's name")
    if provider != PROVIDER:
        raise VmError(
            f"reports come from {provider}, not from {PROVIDER}", hint="this VM is no TDX trust domain"
        )
    (entry / "inblob").write_bytes(report_data)
    quote = read_bounded(entry / "outblob", MAX_QUOTE, "the quote")
    # each write counts one up: another number says that the quote is over another REPORTDATA
    if (generation := read_line_bounded(entry / "generation", _MAX_LINE, "the generation")) != "1":
        raise VmError(f"another process used the report entry (generation {generation})")
    if not quote:
        raise VmError("the host gave an empty quote", hint=_HINT)
    return quote
