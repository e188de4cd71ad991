# SPDX-License-Identifier: MIT
"""``outlayer image measure``: from files, from published metadata, compared with measurements and event logs."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlayer_attestation import testing as quotes
from outlayer_attestation.measure import dstack, image, linux, testing
from outlayer_attestation.measure.hosttables import HostTables
from outlayer_attestation.measure.metadata import ImageMetadata
from outlayer_attestation.measure.registers import sha384
from outlayer_attestation.measure.runtime import RuntimeEvent, role_events
from outlayer_attestation.measure.shape import VmShape
from outlayer_attestation.measurements import Measurements
from outlayer_cli.main import run

NAMES = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


class Files:
    """An image and all that belongs to it, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape: VmShape = testing.shape()
        self.write("firmware.fd", testing.firmware())
        self.write("uki.efi", testing.uki())
        self.write("shape.json", self.shape.to_text().encode())
        self.write("tables.json", testing.host_tables(self.shape).to_text().encode())
        self.write("config.json", b'{"contract": "outlayer.test"}')

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return self.path(name)

    def arguments(self, *more: str, **changes: str) -> list[str]:
        given = {
            "firmware": self.path("firmware.fd"),
            "uki": self.path("uki.efi"),
            "shape": self.path("shape.json"),
            "host-tables": self.path("tables.json"),
            "role": "worker",
            "config": self.path("config.json"),
        }
        given |= {key.replace("_", "-"): value for key, value in changes.items()}
        options = [part for key, value in given.items() if value for part in (f"--{key}", value)]
        return ["image", "measure", *options, *more]

    def measure(self, capsys: pytest.CaptureFixture[str], *more: str, **changes: str) -> tuple[int, Any]:
        code = run(["--json", *self.arguments(*more, **changes)])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_an_image_is_measured_from_files(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    code, reply = files.measure(capsys)
    assert code == 0
    assert tuple(reply["measurements"]) == NAMES
    assert reply["measurements"]["mrtd"] == reply["mrtd"]["single-pass"]
    assert reply["rtmr3_predicted"]
    assert reply["not_verified_on_hardware"]["rtmr0"]
    assert "events" not in reply


def test_a_person_reads_five_registers_and_what_hardware_has_to_show(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files.arguments("--events")) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        assert name.upper() in out
    assert "not verified on hardware" in " ".join(out.split())
    assert "acpi-tables" in out
    assert "MRTD on a host that adds pages in two-pass order" in out


def test_the_events_are_listed_on_request(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    _, reply = files.measure(capsys, "--events")
    assert {event["register"] for event in reply["events"]} == set(NAMES[1:])
    assert all(event["cause"] for event in reply["events"])


def test_published_metadata_alone_gives_the_same(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = files.measure(capsys, "--save", files.path("image.json"))
    code = run(["--json", "image", "measure", "--metadata", files.path("image.json")])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["measurements"] == first["measurements"]


def test_metadata_takes_another_configuration(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = files.measure(capsys, "--save", files.path("image.json"))
    other = files.write("other.json", b"{}")
    arguments = ["--metadata", files.path("image.json"), "--role", "worker", "--config", other]
    assert run(["--json", "image", "measure", *arguments]) == 0
    measured = json.loads(capsys.readouterr().out)["measurements"]
    assert {name for name in NAMES if measured[name] != first["measurements"][name]} == {"rtmr3"}


def test_metadata_that_was_changed_fails(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.measure(capsys, "--save", files.path("image.json"))
    text = Path(files.path("image.json")).read_text()
    files.write("image.json", text.replace('"vcpus": 2', '"vcpus": 3').encode())
    assert run(["image", "measure", "--metadata", files.path("image.json")]) == 1
    assert "hint:" in capsys.readouterr().err


def test_a_kernel_an_initrd_and_a_command_line_are_measured(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel, initrd = files.write("vmlinuz", testing.kernel()), files.write("initrd", b"initrd")
    text = files.write("cmdline", b"console=ttyS0\n")
    _, first = files.measure(capsys, uki="", kernel=kernel, initrd=initrd, cmdline=f"@{text}")
    _, second = files.measure(capsys, uki="", kernel=kernel, initrd=initrd, cmdline="console=ttyS0")
    assert first == second
    _, other = files.measure(capsys, uki="", kernel=kernel, initrd=initrd, cmdline="console=ttyS1")
    changed = {name for name in NAMES if other["measurements"][name] != first["measurements"][name]}
    assert changed == {"rtmr2"}


def test_expected_measurements_are_confirmed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    _, reply = files.measure(capsys, "--save", files.path("image.json"))
    plain = files.write("expected.json", json.dumps(reply["measurements"]).encode())
    for expected in (plain, files.path("image.json")):
        code, reply = files.measure(capsys, "--expect", expected)
        assert code == 0
        assert reply["as_expected"]


def expected_of(files: Files, capsys: pytest.CaptureFixture[str]) -> str:
    _, reply = files.measure(capsys)
    return files.write("expected.json", json.dumps(reply["measurements"]).encode())


def test_another_image_is_not_as_expected(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expected_of(files, capsys)
    files.write("uki.efi", testing.uki(linux=testing.kernel(code=b"another")))
    code, reply = files.measure(capsys, "--expect", expected)
    assert code == 1
    assert set(reply["different"]) == {"rtmr1", "rtmr2"}
    assert set(reply["causes"]) == {"rtmr1", "rtmr2"}


def test_the_other_page_order_is_recognised(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    _, reply = files.measure(capsys)
    values = reply["measurements"] | {"mrtd": reply["mrtd"]["two-pass"]}
    expected = files.write("expected.json", json.dumps(values).encode())
    code, reply = files.measure(capsys, "--expect", expected)
    assert code == 1
    assert "two-pass" in reply["causes"]["mrtd"]


def test_without_a_configuration_rtmr3_stays_unproven(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = expected_of(files, capsys)
    code, reply = files.measure(capsys, "--expect", expected, role="", config="")
    assert code == 2
    assert not reply["rtmr3_predicted"]
    assert "RTMR3" in reply["unproven"][0]


def log_of(files: Files, capsys: pytest.CaptureFixture[str]) -> str:
    files.measure(capsys, "--save", files.path("booted.json"))
    prediction = ImageMetadata.from_bytes(Path(files.path("booted.json")).read_bytes()).predict()
    return files.write("ccel", testing.cc_log(prediction.events))


def test_the_log_of_a_predicted_boot_is_confirmed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    code, reply = files.measure(capsys, "--event-log", log_of(files, capsys))
    assert code == 0
    assert reply["first_wrong_events"] == []


def test_the_first_wrong_event_of_a_log_is_named(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    log, expected = log_of(files, capsys), expected_of(files, capsys)
    files.write("shape.json", testing.shape(memory_mib=4096).to_text().encode())
    files.write("tables.json", testing.host_tables(testing.shape(memory_mib=4096)).to_text().encode())
    code, reply = files.measure(capsys, "--event-log", log, "--expect", expected)
    assert code == 1
    [wrong] = reply["first_wrong_events"]
    assert (wrong["register"], wrong["position"], wrong["predicted"]["name"]) == ("rtmr0", 1, "td-hob")
    assert "memory" in wrong["cause"]
    assert run(files.arguments("--event-log", log, "--expect", expected)) == 1
    out = capsys.readouterr().out
    assert "RTMR0 event 1: expected td-hob" in out
    assert "NOT AS EXPECTED" in out


def test_a_log_of_another_boot_is_said_to_be_one(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of(files, capsys)
    _, reply = files.measure(capsys)
    values = reply["measurements"] | {"rtmr0": "11" * 48}
    expected = files.write("expected.json", json.dumps(values).encode())
    code, reply = files.measure(capsys, "--event-log", log, "--expect", expected)
    assert code == 1
    assert "does not replay" in reply["unproven"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"firmware": ""},
        {"shape": ""},
        {"uki": ""},
        {"host_tables": ""},
        {"role": ""},
        {"initrd": "x"},
        {"metadata": "x"},
        {"firmware": "absent"},
        {"uki": "absent"},
        {"host_tables": "absent"},
        {"expect": "absent"},
    ],
)
def test_what_cannot_be_understood_has_exit_code_3(
    files: Files, capsys: pytest.CaptureFixture[str], changes: dict[str, str]
) -> None:
    code, reply = files.measure(capsys, **changes)
    assert code == 3
    assert reply is None


@pytest.mark.parametrize("name", ["firmware.fd", "uki.efi", "shape.json", "tables.json"])
@pytest.mark.parametrize("data", [b"", b"something else"])
def test_a_file_of_another_kind_fails_with_a_hint(
    files: Files, capsys: pytest.CaptureFixture[str], name: str, data: bytes
) -> None:
    files.write(name, data)
    assert run(files.arguments()) == 3
    assert "hint:" in capsys.readouterr().err


def test_measuring_needs_no_stack_and_opens_no_connection(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setenv("OUTLAYER_STATE", files.path("no-stack"))
    code, _ = files.measure(capsys)
    assert code == 0


def test_host_tables_are_taken_from_the_qemu_of_the_shape(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    qemu = files.folder / "qemu"
    qemu.write_text(f"#!{sys.executable}\nprint('QEMU emulator version 1.2.3')\n")
    qemu.chmod(0o755)
    code, _ = files.measure(capsys, host_tables="", qemu=str(qemu))
    assert code == 3


def test_a_recorded_boot_is_explained_in_words(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of(files, capsys)
    _, reply = files.measure(capsys)
    assert run(["--json", "image", "explain", log]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert explained["kind"] == "cc"
    measured = {name: reply["measurements"][name] for name in NAMES[1:4]}
    assert {name: explained["registers"][name] for name in measured} == measured
    assert run(["image", "explain", log]) == 0
    out = capsys.readouterr().out
    assert "action Exit Boot Services Invocation" in out
    assert f"RTMR1 = {measured['rtmr1']}" in out


def test_something_else_is_no_recorded_boot(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "explain", files.path("uki.efi")]) == 3
    assert run(["image", "explain", files.path("absent")]) == 3


@pytest.mark.parametrize("document", ["shape", "metadata", "host-tables", "runtime-events"])
def test_each_document_has_a_schema(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "schema", document]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "format" in schema["required"]
    assert schema["additionalProperties"] is False


def test_an_unknown_document_has_no_schema() -> None:
    assert run(["image", "schema", "other"]) == 3


EVENTS = {
    "format": "outlayer/runtime-events/v1",
    "digest_version": 1,
    "events": [{"name": "app-id"}, {"name": "compose-hash"}, {"name": "instance-id", "payload": "ab"}],
}


def test_an_app_compose_fills_the_events_of_a_dstack_application(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    events = files.write("events.json", json.dumps(EVENTS).encode())
    seen = []
    for compose in (b"{}", b"{ }"):
        app = files.write("app-compose.json", compose)
        code, reply = files.measure(
            capsys, "--events", role="", config="", runtime_events=events, app_compose=app
        )
        assert code == 0
        seen.append(reply["measurements"])
    assert {name for name in NAMES if seen[0][name] != seen[1][name]} == {"rtmr3"}


def test_an_app_compose_that_is_not_the_named_one_fails(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [{"name": "compose-hash", "payload": "00" * 32}]
    events = files.write("events.json", json.dumps(EVENTS | {"events": named}).encode())
    app = files.write("app-compose.json", b"{}")
    code, _ = files.measure(capsys, role="", config="", runtime_events=events, app_compose=app)
    assert code == 1
    code, _ = files.measure(capsys, app_compose=app)
    assert code == 3


def test_a_file_that_is_too_large_is_not_read(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    with Path(files.path("firmware.fd")).open("r+b") as file:
        file.truncate(65 * 1024**2)
    code, _ = files.measure(capsys)
    assert code == 3


# --- the command that starts a shape ---------------------------------------------------------------------------


def test_the_command_of_a_shape_is_printed_for_a_shell(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((files.folder / "shape.json").read_text())
    document["devices"] = [{"kind": "network", "name": "net"}, {"kind": "disk", "name": "data"}]
    shape = files.write("other.json", json.dumps(document).encode())
    words = ["image", "command", shape, "--firmware", "F.fd", "--uki", "a b.efi", "--config", "c.json"]
    words += ["--network", "net=tap,ifname=tap0", "--disk", "data=d.raw", "--quote-port", "4050"]
    assert run(words) == 0
    line = capsys.readouterr().out.strip()
    assert "\n" not in line
    read = shlex.split(line)
    assert read[read.index("-kernel") + 1] == "a b.efi"
    assert "tap,ifname=tap0,id=net" in read
    assert "name=opt/outlayer/config,file=c.json" in read
    assert '"port":"4050"' in line
    assert run(["--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == read


@pytest.mark.parametrize("text", ["net", "=x", "net="])
def test_a_device_that_is_not_name_and_value_is_refused(
    files: Files, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    words = ["image", "command", files.path("shape.json"), "--firmware", "F", "--uki", "K", "--network", text]
    assert run(words) == 3
    assert "is not NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["shape", "metadata", "host-tables", "runtime-events", "vm-config", "pin"])
def test_every_document_has_a_schema(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(["--json", "image", "schema", name]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


@pytest.mark.parametrize("shape", ["worker-small", "coordinator-small"])
def test_a_pin_is_measured_with_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str
) -> None:
    pin = Path(__file__).resolve().parents[3] / f"images/pins/{shape}.json"
    if not pin.is_file():
        pytest.skip("this installation has no pins")
    config = tmp_path / "config.json"
    config.write_text("{}")
    words = [
        "image",
        "measure",
        "--metadata",
        str(pin),
        "--role",
        shape.partition("-")[0],
        "--config",
        str(config),
    ]
    assert run(["--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    pinned = json.loads(pin.read_text())["metadata"]["measurements"]
    assert found["rtmr3_predicted"]
    assert {**found["measurements"], "rtmr3": ""} == {**pinned, "rtmr3": ""}
    assert found["measurements"]["rtmr3"] != pinned["rtmr3"]
    assert found["not_verified_on_hardware"]["rtmr0"]


# --- MRTD of the other page order: shown only where it was computed here ----------------------------------------


def changed_two_pass(files: Files) -> str:
    """The metadata of the image, with another MRTD for hosts that add pages in two passes."""
    value = json.loads(Path(files.path("image.json")).read_text())
    value["firmware"]["mrtd"]["two_pass"] = "ab" * 48
    return files.write("changed.json", json.dumps(value).encode())


def test_an_mrtd_that_metadata_only_states_is_not_printed(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.measure(capsys, "--save", files.path("image.json"))
    for name in (files.path("image.json"), changed_two_pass(files)):
        assert run(["image", "measure", "--metadata", name]) == 0
        assert "two-pass" not in capsys.readouterr().out
        assert run(["--json", "image", "measure", "--metadata", name]) == 0
        assert set(json.loads(capsys.readouterr().out)["mrtd"]) == {"single-pass"}


def test_an_mrtd_that_metadata_only_states_explains_nothing(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    _, reply = files.measure(capsys, "--save", files.path("image.json"))
    stated = changed_two_pass(files)
    values = reply["measurements"] | {"mrtd": "ab" * 48}
    expected = files.write("expected.json", json.dumps(values).encode())
    assert run(["--json", "image", "measure", "--metadata", stated, "--expect", expected]) == 1
    assert "set page_add" not in json.loads(capsys.readouterr().out)["causes"]["mrtd"]


def test_the_firmware_file_checks_both_mrtds_of_the_metadata(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    _, reply = files.measure(capsys, "--save", files.path("image.json"))
    words = ["image", "measure", "--firmware", files.path("firmware.fd"), "--metadata"]
    assert run(["--json", *words, files.path("image.json")]) == 0
    assert json.loads(capsys.readouterr().out)["mrtd"] == reply["mrtd"]
    assert run([*words, files.path("image.json")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "two-pass order (not verified on hardware)" in out
    assert run([*words, changed_two_pass(files)]) == 1
    assert "mrtd differ" in capsys.readouterr().err


# --- dstack ----------------------------------------------------------------------------------------------------


def dstack_files(files: Files, qemu: str) -> dict[str, str]:
    """A vm_config of the stand-in kernel on this QEMU, its tables, its kernel and its initrd."""
    kernel, initrd = testing.kernel(), b"070701 an initrd"
    header = linux.SetupHeaderPatch(2 * 1024**3, len(initrd))
    digest = image.direct_digests(kernel, initrd, "", header).authenticode
    digests = {"kernel_authenticode": bytes.fromhex(digest), "initrd_sha384": sha384(initrd)}
    config = testing.dstack_config(testing.dstack_measurement(image=digests), qemu_version=qemu)
    tables = testing.host_tables(dstack.vm_shape(config))
    return {
        "dstack": files.write("vm_config.json", json.dumps(config).encode()),
        "host-tables": files.write("dstack-tables.json", tables.to_text().encode()),
        "kernel": files.write("vmlinuz", kernel),
        "initrd": files.write("initrd", initrd),
    }


def dstack_words(given_files: dict[str, str], *names: str) -> list[str]:
    words = [part for name in ("dstack", "host-tables", *names) for part in (f"--{name}", given_files[name])]
    return ["image", "measure", *words]


def test_a_dstack_image_on_qemu_10_is_predicted_from_its_kernel_only(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    made = dstack_files(files, "10.2.1")
    assert run(dstack_words(made)) == 2
    captured = capsys.readouterr()
    assert "RTMR1 does not follow" in captured.err
    assert "--kernel FILE --initrd FILE" in captured.err
    assert "MRTD" not in captured.out
    assert run(["--json", *dstack_words(made, "kernel", "initrd")]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["not_verified_on_hardware"]["rtmr1"]
    files.write("vmlinuz", testing.kernel(code=b"another"))
    assert run(dstack_words(made, "kernel", "initrd")) == 3
    assert "not the one that the image publishes" in capsys.readouterr().err


def test_a_dstack_image_on_qemu_9_needs_no_kernel(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    made = dstack_files(files, "9.2.1")
    assert run(["--json", *dstack_words(made)]) == 0
    published = json.loads(capsys.readouterr().out)
    assert run(["--json", *dstack_words(made, "kernel", "initrd")]) == 0
    assert json.loads(capsys.readouterr().out)["measurements"] == published["measurements"]
    assert run(dstack_words(made, "kernel")) == 3


# --- explain: quote, log and prediction of one boot ------------------------------------------------------------


class Booted:
    """The stand-in image after a boot: its log, its quote, and what the agent says of both."""

    def __init__(self, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
        files.measure(capsys, "--save", files.path("booted.json"))
        self.files, self.metadata = files, files.path("booted.json")
        prediction = ImageMetadata.from_bytes(Path(self.metadata).read_bytes()).predict()
        self.registers = prediction.measurements
        self.log = files.write("ccel", testing.cc_log(prediction.events))
        runtime = role_events("worker", Path(files.path("config.json")).read_bytes())
        self.events = testing.dstack_log(prediction.events, ())
        self.events += [
            item | {"digest": RuntimeEvent(event.name, event.payload).digest_v2().hex()}
            for event in runtime
            for item in testing.dstack_log((), (event,))
        ]
        self.quote = self.quoted("quote.bin")

    def quoted(self, name: str, **changes: str) -> str:
        registers = Measurements(**(self.registers.to_json() | changes))
        data = quotes.quote_with(quotes.platform(), quotes.Faults(), registers)
        return self.files.write(name, data)

    def explain(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
        code = run(["--json", "image", "explain", *words])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None


@pytest.fixture
def booted(files: Files, capsys: pytest.CaptureFixture[str]) -> Booted:
    return Booted(files, capsys)


def compared(reply: Any) -> dict[tuple[str, str], str]:
    return {(c["register"], c["against"]): c["outcome"] for c in reply["compared"]}


def test_the_reply_of_an_agent_is_the_same_in_log_quote_and_prediction(
    booted: Booted, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = {"quote": Path(booted.quote).read_bytes().hex(), "event_log": json.dumps(booted.events)}
    path = booted.files.write("reply.json", json.dumps(reply).encode())
    config = booted.files.path("config.json")
    code, shown = booted.explain(
        capsys, path, "--metadata", booted.metadata, "--role", "worker", "--config", config
    )
    assert code == 0
    assert len(shown["compared"]) == 9
    assert set(compared(shown).values()) == {"same"}
    assert run(["image", "explain", path]) == 0
    out = capsys.readouterr().out
    assert "RTMR3 and the event log: same" in out
    assert "signature was not checked" in out


def test_a_ccel_and_a_quote_leave_rtmr3_open(booted: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = booted.explain(capsys, booted.log, booted.quote)
    assert code == 2
    found = compared(shown)
    assert [found[f"rtmr{n}", "event log"] for n in range(4)] == ["same"] * 3 + ["unproven"]
    code, shown = booted.explain(capsys, booted.quote, "--metadata", booted.metadata)
    assert code == 0
    assert set(compared(shown).values()) == {"same"}


@pytest.mark.parametrize("name", NAMES)
def test_a_quote_of_another_boot_differs_by_name(
    booted: Booted, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    other = booted.quoted("other.bin", **{name: "77" * 48})
    code, shown = booted.explain(capsys, booted.log, other, "--metadata", booted.metadata)
    assert code == 1
    assert {r for (r, _), outcome in compared(shown).items() if outcome == "differs"} == {name}
    assert all(c["reason"] for c in shown["compared"] if c["outcome"] != "same")


def test_a_tcb_info_is_never_more_than_stated(booted: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    value = booted.registers.to_json() | {"event_log": booted.events}
    code, shown = booted.explain(capsys, booted.files.write("tcb.json", json.dumps(value).encode()))
    assert code == 2
    assert set(compared(shown).values()) == {"same"}
    assert "tcb_info" in shown
    assert "quote" not in shown
    other = json.dumps(value | {"rtmr1": "00" * 48}).encode()
    code, _ = booted.explain(capsys, booted.files.write("tcb.json", other))
    assert code == 1


def test_a_cut_off_log_is_shown_as_far_as_it_goes(booted: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(booted.log).read_bytes()
    short = booted.files.write("short", data[: len(data) // 2])
    code, shown = booted.explain(capsys, short)
    assert code == 2
    assert shown["events"]
    assert "cut off" in shown["unproven"][0]
    code, shown = booted.explain(capsys, short, booted.quote, "--metadata", booted.metadata)
    assert code == 2
    assert shown["first_wrong_events"] == []
    code, shown = booted.files.measure(capsys, "--event-log", short)
    assert code == 2


def test_the_first_wrong_event_against_the_prediction_is_named(
    booted: Booted, capsys: pytest.CaptureFixture[str]
) -> None:
    booted.files.write("uki.efi", testing.uki(linux=testing.kernel(code=b"another")))
    booted.files.measure(capsys, "--save", booted.files.path("other.json"))
    code, shown = booted.explain(capsys, booted.log, "--metadata", booted.files.path("other.json"))
    assert code == 1
    assert {event["register"] for event in shown["first_wrong_events"]} == {"rtmr1", "rtmr2"}


def test_two_logs_or_a_role_without_metadata_are_not_understood(
    booted: Booted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["image", "explain", booted.log, booted.log]) == 3
    config = booted.files.path("config.json")
    assert run(["image", "explain", booted.log, "--role", "worker", "--config", config]) == 3
    assert "hint:" in capsys.readouterr().err


VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors"


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the shared vectors are not beside the repository")
def test_a_real_dstack_quote_is_the_prediction_from_its_published_metadata(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quote, event log, vm_config and runtime events of one real host; its tables as QEMU 8.2.2 gives them."""
    reply_path = VECTORS / "dstack" / "tdx-lite-getquote.json"
    reply = json.loads(reply_path.read_bytes())
    shape = dstack.parse_vm(reply["vm_config"]).shape
    folder = VECTORS / "tdx" / "acpi-qtest" / "dstack-tdx-lite"
    names = {"etc/table-loader": "table-loader", "etc/acpi/rsdp": "rsdp", "etc/acpi/tables": "tables"}
    contents = {name: gzip.decompress((folder / f"{f}.raw.gz").read_bytes()) for name, f in names.items()}
    tables = tmp_path / "tables.json"
    tables.write_text(HostTables.make(shape.qemu, shape.dump_arguments(), contents).to_text())
    listed = [event for event in json.loads(reply["event_log"]) if event["imr"] == 3]
    events = tmp_path / "events.json"
    runtime = [{"name": event["event"], "payload": event["event_payload"]} for event in listed]
    events.write_text(
        json.dumps({"format": "outlayer/runtime-events/v1", "digest_version": 1, "events": runtime})
    )
    words = ["--dstack", str(reply_path), "--host-tables", str(tables), "--runtime-events", str(events)]
    saved = tmp_path / "dstack.json"
    assert run(["image", "measure", *words, "--save", str(saved)]) == 0
    capsys.readouterr()
    explained = ["image", "explain", str(reply_path), "--metadata", str(saved)]
    assert run(["--json", *explained, "--runtime-events", str(events)]) == 0
    assert {c["outcome"] for c in json.loads(capsys.readouterr().out)["compared"]} == {"same"}


# --- files that nobody vouches for -----------------------------------------------------------------------------


def damaged(data: st.DataObject, raw: bytes) -> bytes:
    """Some bytes replaced, or the end cut off."""
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    return bytes(changed)


@pytest.fixture
def commands(booted: Booted) -> list[tuple[list[str], list[str]]]:
    """Command lines that read files, and the files of each."""
    files, path = booted.files, booted.files.path
    made = dstack_files(files, "9.2.1")
    uki = files.arguments()
    direct = files.arguments(uki="", kernel=made["kernel"], initrd=made["initrd"], cmdline="x")
    tcb = files.write(
        "tcb.json", json.dumps(booted.registers.to_json() | {"event_log": booted.events}).encode()
    )
    Path(path("runtime.json")).write_text(json.dumps(EVENTS))
    compose = files.write("app-compose.json", b'{"name": "app"}')
    runtime = files.arguments(role="", config="", runtime_events=path("runtime.json"), app_compose=compose)
    start = ["image", "command", path("shape.json"), "--firmware", "f", "--uki", "u"]
    start += ["--network", "net=user", "--vsock-cid", "3"]
    expect = files.write("expected.json", json.dumps(booted.registers.to_json()).encode())
    return [
        (uki, [path("firmware.fd"), path("uki.efi"), path("shape.json"), path("tables.json")]),
        (direct, [made["kernel"], path("shape.json")]),
        (files.arguments("--expect", expect), [expect]),
        (files.arguments("--event-log", booted.log), [booted.log]),
        (runtime, [path("runtime.json"), compose]),
        (dstack_words(made), [made["dstack"], made["host-tables"]]),
        (dstack_words(made, "kernel", "initrd"), [made["kernel"], made["initrd"]]),
        (["image", "measure", "--metadata", booted.metadata], [booted.metadata]),
        (["image", "explain", booted.log], [booted.log]),
        (["image", "explain", booted.quote, booted.log], [booted.quote, booted.log]),
        (["image", "explain", tcb, "--metadata", booted.metadata], [tcb, booted.metadata]),
        (start, [path("shape.json")]),
    ]


def test_each_of_the_commands_works_on_whole_files(
    commands: list[tuple[list[str], list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, _ in commands:
        assert run(words) in (0, 2), (words, capsys.readouterr())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_ends_in_an_answer_or_in_a_hint(
    commands: list[tuple[list[str], list[str]]], data: st.DataObject
) -> None:
    """Never a traceback; what is not understood is 3 or 2, and 1 is said only where values differ."""
    words, names = data.draw(st.sampled_from(commands))
    name = Path(data.draw(st.sampled_from(names)))
    original = name.read_bytes()
    name.write_bytes(damaged(data, original))
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(words)
    finally:
        name.write_bytes(original)
    assert code in (0, 1, 2, 3)
    if err.getvalue():
        assert code != 0
        assert "hint: " in err.getvalue()
    if code == 1:
        reasons = ("differ", "NOT AS EXPECTED", "contradicts itself", "lists other events", "Likely cause")
        said = out.getvalue() + err.getvalue()
        assert any(reason in said for reason in (*reasons, "are not those of", "have the compose-hash")), said


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_no_file_is_not_read(files: Files, kind: str) -> None:
    import os

    path = files.folder / kind
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert run(["image", "explain", str(path)]) == 3
    assert run(files.arguments(uki=str(path))) == 3
    assert run(["image", "explain", "x" * 5000]) == 3


def test_a_file_that_does_not_tell_its_size_is_read_up_to_the_limit() -> None:
    """Files of the kernel (securityfs) claim to be empty; /proc has one that everybody may read."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert run(["image", "explain", "/proc/self/status"]) == 3
    assert "0 bytes" not in err.getvalue()


# --- the reference page ----------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "measurements.md"


def commands_of_the_page() -> list[str]:
    block = re.search(r"^## Commands\n+```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    return [line for line in block[1].replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.skipif(not PAGE.is_file(), reason="this installation has no docs")
def test_every_command_of_the_reference_page_runs(
    booted: Booted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = booted.files
    monkeypatch.chdir(files.folder)
    for name, source in {"OVMF.fd": "firmware.fd", "worker.efi": "uki.efi", "ccel.bin": "ccel"}.items():
        files.write(name, Path(files.path(source)).read_bytes())
    made = dstack_files(files, "10.2.1")
    files.write("approved.json", json.dumps(booted.registers.to_json()).encode())
    files.write("events.json", json.dumps(EVENTS).encode())
    reply = {"quote": Path(booted.quote).read_bytes().hex(), "event_log": json.dumps(booted.events)}
    files.write("getquote.json", json.dumps(reply).encode())
    value = booted.registers.to_json() | {"event_log": booted.events}
    files.write("tcb_info.json", json.dumps(value).encode())
    assert set(made) == {"dstack", "host-tables", "kernel", "initrd"}
    lines = commands_of_the_page()
    assert len(lines) >= 8
    for line in lines:
        command, _, comment = line.partition("  # exit code ")
        words = shlex.split(command)
        assert words.pop(0) == "outlayer"
        assert run(words) == int(comment or 0), (line, capsys.readouterr().err)
