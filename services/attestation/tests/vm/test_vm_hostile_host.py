# SPDX-License-Identifier: MIT
"""What a hostile host can do to a VM, one row per action, as in the table of docs/reference/vm-configuration.md.

The VM runs with exactly what was measured, or stops before ``ready``, or gives no quotes. Rows that need a booted VM
are in tools/bootproof/hostile.py.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.registers import extend
from outlayer_attestation.measure.runtime import role_events
from outlayer_attestation.measure.shape import CONFIGURATION_FILE, SECRETS_FILE
from outlayer_attestation.vm import files, quotes
from outlayer_attestation.vm import prepare as preparation
from outlayer_attestation.vm.chrony import Tracking
from outlayer_attestation.vm.clock import LIFETIME_SECONDS, LOST_SECONDS, Instant
from outlayer_attestation.vm.configuration import VmConfiguration
from outlayer_attestation.vm.firewall import nftables_rules
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.prepare import prepare_vm
from outlayer_attestation.vm.quotes import QuoteSource
from outlayer_attestation.vm.roles import ROLES
from outlayer_attestation.vm.rtmr import Register
from outlayer_attestation.vm.serve import StatusPages, read_status, require_clock
from outlayer_attestation.vm.watch import SteeredClock

from .documents import SECRETS, document, encoded
from .stand_ins import EPOCH, NOW, FakeClock, FakeConfigfs, FakeRegister, make_places

HUGE = 3 * 2**30


def put(name: str, data: bytes) -> Callable[[Places], None]:
    return lambda places: (places.host_file(name).write_bytes(data), None)[1]


def configuration(**changes: Any) -> Callable[[Places], None]:
    return put(CONFIGURATION_FILE, encoded({**document("worker"), **changes}))


def setting(name: str, value: str) -> Callable[[Places], None]:
    return configuration(settings={**document("worker")["settings"], name: value})


def huge(name: str) -> Callable[[Places], None]:
    """A file without blocks, so that only its size is large."""
    return lambda places: os.truncate(places.host_file(name), HUGE)


@dataclass(frozen=True)
class Stops:
    """A row after which the VM stops before ``ready``.

    Attributes:
        measured: how many events were extended before.
    """

    do: Callable[[Places], None]
    words: str
    measured: int = 0
    now: float = NOW


GOOD = encoded(document("worker"))
STOPS = {
    "configuration-missing": Stops(
        lambda p: p.host_file(CONFIGURATION_FILE).unlink(), "the host gave no config"
    ),
    "configuration-not-json": Stops(put(CONFIGURATION_FILE, b"{"), "not JSON"),
    "configuration-huge": Stops(
        huge(CONFIGURATION_FILE), f"config of the host has {HUGE} bytes or more, and may have 65536"
    ),
    "configuration-key-twice": Stops(
        put(CONFIGURATION_FILE, GOOD.replace(b'"role"', b'"role": "x", "role"')), "twice"
    ),
    "configuration-half-surrogate": Stops(
        put(CONFIGURATION_FILE, GOOD.replace(b"worker.example", b"\\ud800")), "the configuration"
    ),
    "configuration-utf-16": Stops(
        put(CONFIGURATION_FILE, json.dumps(document("worker")).encode("utf-16")), "not UTF-8"
    ),
    "configuration-other-role": Stops(
        put(CONFIGURATION_FILE, encoded(document("coordinator"))), "image of role worker"
    ),
    "configuration-foreign-setting": Stops(setting("LD_PRELOAD", "/evil.so"), "takes no setting LD_PRELOAD"),
    "configuration-plain-http": Stops(
        setting("NEAR_RPC_URL", "http://rpc.example"), "NEAR_RPC_URL is plain http"
    ),
    "configuration-no-time-servers": Stops(configuration(time={"servers": []}), "time.servers"),
    "secrets-huge": Stops(
        huge(SECRETS_FILE), f"secrets of the host has {HUGE} bytes or more, and may have 65536"
    ),
    "secrets-name-twice": Stops(
        put(SECRETS_FILE, b'{"worker-token": "a", "worker-token": "b"}'), "a name twice"
    ),
    "secrets-unknown": Stops(
        put(SECRETS_FILE, encoded({**SECRETS["worker"], "evil": "x"})), "has no secret evil"
    ),
    "secrets-missing": Stops(lambda p: p.host_file(SECRETS_FILE).unlink(), "lacks the secrets"),
    "secrets-half-surrogate": Stops(
        put(SECRETS_FILE, b'{"worker-token": "\\ud800", "init-account-key": "{}"}'), "surrogate"
    ),
    "clock-of-the-past": Stops(lambda p: None, "the clock says", now=EPOCH - 1.0),
    "clock-of-the-future": Stops(lambda p: None, "the clock says", now=EPOCH + LIFETIME_SECONDS + 1.0),
}


@pytest.fixture(autouse=True)
def owned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of an ordinary user cannot give files away; as root neither should they."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.parametrize("action", STOPS)
def test_the_vm_stops_before_ready_on_a_host_that_gives(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, register = STOPS[action], FakeRegister()
    register.install(monkeypatch)
    places = make_places(tmp_path, tdx=True)
    row.do(places)
    with pytest.raises(VmError, match=row.words) as caught:
        prepare_vm(places, row.now)
    assert len(register.digests) == row.measured
    assert caught.value.hint
    shown = f"{caught.value} {caught.value.hint}"
    assert not any(text in shown for text in SECRETS["worker"].values() if len(text) > 2)
    # nothing is left for a service that would start nevertheless
    assert not places.secrets.exists()
    assert not places.status.exists()


def test_register_extended_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register = FakeRegister()
    register.install(monkeypatch)
    register.digests.append(b"\1" * 48)
    with pytest.raises(VmError, match="extended before the agent started"):
        prepare_vm(make_places(tmp_path, tdx=True), NOW)
    assert len(register.digests) == 1


def test_register_extended_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register, write = FakeRegister(), preparation.write_files
    register.install(monkeypatch)

    def interfere(*given: Any, **more: Any) -> None:
        write(*given, **more)
        register.digests.append(b"\1" * 48)

    monkeypatch.setattr(preparation, "write_files", interfere)
    places = make_places(tmp_path, tdx=True)
    with pytest.raises(VmError, match="RTMR3 is"):
        prepare_vm(places, NOW)
    assert not places.status.exists()


@pytest.mark.parametrize(
    ("size", "words"), [(None, "cannot be read"), (0, "has 0 bytes"), (HUGE, "may have 96")]
)
def test_register_missing_or_of_another_size(tmp_path: Path, size: int | None, words: str) -> None:
    places = make_places(tmp_path, tdx=True)
    if size is not None:
        places.register.parent.mkdir(parents=True)
        places.register.touch()
        os.truncate(places.register, size)
    with pytest.raises(VmError, match=words):
        prepare_vm(places, NOW)


def test_configuration_changes_between_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register, read = FakeRegister(), files.read_bounded
    register.install(monkeypatch)
    places = make_places(tmp_path, tdx=True)
    path = places.host_file(CONFIGURATION_FILE)
    first = path.read_bytes()

    def read_then_change(asked: Path, *more: Any) -> bytes:
        data = read(asked, *more)
        if asked == path:
            path.write_bytes(encoded({**document("worker"), "time": {"servers": ["evil.example"]}}))
        return data

    monkeypatch.setattr(preparation, "read_bounded", read_then_change)
    status = prepare_vm(places, NOW)
    assert status.rtmr3 == extend([event.digest_v2() for event in role_events("worker", first)]).hex()
    assert places.configuration.read_bytes() == first
    assert "evil" not in (places.run / "chrony/outlayer.sources").read_text()


# --- no quotes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"provider": "sev_guest"}, "reports come from sev_guest"),
        ({"provider": "x" * 5000}, "may have 4096"),
        ({"generation": "2"}, "another process used the report entry"),
        ({"quote": b""}, "an empty quote"),
        ({"quote": bytes(quotes.MAX_QUOTE + 1)}, f"may have {quotes.MAX_QUOTE}"),
    ],
    ids=["quote-other-provider", "provider-huge", "quote-generation-race", "quote-empty", "quote-huge"],
)
def test_no_quote_comes_from_a_host_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: dict[str, Any], words: str
) -> None:
    fake = FakeConfigfs(tmp_path / "report", **what)
    fake.install(monkeypatch)
    with pytest.raises(VmError, match=words):
        QuoteSource(fake.reports).quote(bytes(64))
    assert list(fake.reports.iterdir()) == []


def test_quote_service_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeConfigfs(tmp_path / "report")
    fake.install(monkeypatch)

    def fail(*_: Any) -> bytes:
        raise OSError(6, "No such device or address")

    monkeypatch.setattr(quotes, "_ask", fail)
    with pytest.raises(VmError, match=r"the host gave no quote: .*ENXIO") as caught:
        QuoteSource(fake.reports).quote(bytes(64))
    assert "quote generation service" in caught.value.hint


@pytest.mark.parametrize(
    ("passed", "jump", "difference", "words"),
    [
        (LOST_SECONDS + 1, 0.0, 0.01, "none has answered since"),
        (5.0, 3600.0, 0.01, "jumped by 3600.0 s"),
        (5.0, -86400.0, 0.01, "jumped by -86400.0 s"),
        (5.0, 0.0, 45.0, "differs by 45.0 s"),
    ],
    ids=["time-dropped-later", "clock-jumps-ahead", "clock-jumps-back", "vm-paused"],
)
def test_quotes_stop_on_a_host_with(passed: float, jump: float, difference: float, words: str) -> None:
    now = Instant(NOW, 100.0)
    report = Tracking(NOW, 0.01)
    clock = SteeredClock(lambda: report, lambda: now)
    clock.look()
    require_clock(clock)
    now = Instant(NOW + passed + jump, 100.0 + passed)
    report = Tracking(NOW, difference)
    clock.look()
    with pytest.raises(VmError, match=rf"there are no quotes: .*{words}"):
        require_clock(clock)


async def test_event_log_huge(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    prepare_vm(places, NOW)
    places.firmware_log.parent.mkdir(parents=True)
    places.firmware_log.touch()
    os.truncate(places.firmware_log, HUGE)
    status, role = read_status(places)
    with pytest.raises(VmError, match=rf"the event log has {HUGE} bytes or more, and may have 16777216"):
        await StatusPages(places, status, role, FakeClock()).answer("event-log", {})


def test_a_register_is_read_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "rtmr3:sha384"
    file.touch()
    os.truncate(file, HUGE)
    with pytest.raises(VmError, match="the register has"):
        Register(file).read()


@pytest.mark.parametrize(
    ("said", "size"), [("300000000\n", 300000000), ("x", 11), ("", 11), ("7", 11), (None, 11)]
)
def test_the_size_of_a_file_of_the_kernel_is_what_the_kernel_says(
    tmp_path: Path, said: str | None, size: int
) -> None:
    path, size_file = tmp_path / "raw", tmp_path / "size"
    path.write_bytes(bytes(11))
    if said is not None:
        size_file.write_text(said)
    with pytest.raises(VmError, match=f"it has {size} bytes or more, and may have 10"):
        files.read_bounded(path, 10, "it", size_file)


def test_a_file_at_its_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    assert files.read_bounded(path, 10, "it") == bytes(10)
    path.write_bytes(bytes(11))
    with pytest.raises(VmError, match="it has 11 bytes or more, and may have 10"):
        files.read_bounded(path, 10, "it")


def test_port_scan() -> None:
    parsed = VmConfiguration.from_bytes(GOOD)
    rules = nftables_rules(parsed, ROLES["worker"], host_network=True)
    (chain,) = re.findall(r"chain input {\n(.*?)\n  }", rules, re.DOTALL)
    assert "policy drop;" in chain
    assert re.findall(r"tcp dport ({.*}) accept", chain) == ["{ 8090 }"]
    # else DHCP, neighbours, a few pings, and what answers the VM
    others = [line for line in chain.splitlines() if "accept" in line and "tcp dport" not in line]
    assert all(
        re.search(r"iif lo|established|icmp|sport (67|547) udp dport (68|546)", line) for line in others
    )
