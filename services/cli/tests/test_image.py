# SPDX-License-Identifier: MIT
"""``outlayer image measure``: from files, from published metadata, compared with measurements and event logs."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation.measure import testing
from outlayer_attestation.measure.metadata import ImageMetadata
from outlayer_attestation.measure.shape import VmShape
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
    assert run(files.arguments()) == 1
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
    assert code == 1


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
    assert run(["image", "explain", files.path("uki.efi")]) == 1
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
