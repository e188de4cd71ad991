# SPDX-License-Identifier: MIT
"""Golden vectors: quotes, event logs and firmware of others, reproduced exactly."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation import quote
from outlayer_attestation.measure import (
    acpi,
    dstack,
    eventlog,
    explain,
    hob,
    image,
    linux,
    predict,
    recording,
    replay,
    smbios,
    tdvf,
    testing,
    uefi,
    uki,
)
from outlayer_attestation.measure.hosttables import HostTables
from outlayer_attestation.measure.image import FirmwareDigests, UkiImage
from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
from outlayer_attestation.measure.model import UndecidedError, unpacked
from outlayer_attestation.measure.registers import Event, extend, sha384
from outlayer_attestation.measure.runtime import RuntimeEvent
from outlayer_attestation.measure.shape import FirmwareProfile, VmShape
from outlayer_attestation.measure.tdvf import PageOrder, Section, SectionType
from outlayer_attestation.measure.testing import shape as small_shape

VECTORS = Path(__file__).resolve().parents[5] / "shared" / "vectors"
TDX = VECTORS / "tdx"
DSTACK = VECTORS / "dstack"
FIRMWARE_FOLDERS = [Path("/usr/share/ovmf"), Path("/usr/share/OVMF"), Path("/usr/share/qemu")]
if "OUTLAYER_FIRMWARE_DIR" in os.environ:
    FIRMWARE_FOLDERS.append(Path(os.environ["OUTLAYER_FIRMWARE_DIR"]))

pytestmark = pytest.mark.skipif(
    not TDX.is_dir(), reason="the shared vectors are not beside the repository (../shared/vectors)"
)


def load(name: str) -> Any:
    """A JSON file of the vectors; empty when they are absent, so that collecting the tests works."""
    path = TDX / name
    return json.loads(path.read_bytes()) if path.is_file() else []


def data(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


FIRMWARE = load("mrtd/mrtd.json")["entries"] if TDX.is_dir() else []
SHAPES = load("acpi-qtest/rtmr0.json")
LOGS = load("ccel-replay.json")
BOOTS = load("tcg-swtpm/boots.json")["boots"] if TDX.is_dir() else {}
CONSTANTS = load("constants.json")


def sections_of(entry: dict[str, Any]) -> tuple[Section, ...]:
    return tuple(
        Section(
            int(s["data_offset"], 16),
            int(s["raw_size"], 16),
            int(s["memory_address"], 16),
            int(s["memory_size"], 16),
            SectionType(s["type"]),
            s["attributes"],
        )
        for s in entry["sections"]
    )


@cache
def firmware_on_this_machine() -> dict[str, Path]:
    files = (file for folder in FIRMWARE_FOLDERS if folder.is_dir() for file in folder.glob("*.fd"))
    return {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in files}


# --- MRTD and TD HOB -----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", FIRMWARE, ids=lambda entry: entry["sha256"][:8])
def test_mrtd_of_a_distributed_firmware(entry: dict[str, Any]) -> None:
    path = firmware_on_this_machine().get(entry["sha256"])
    if path is None:
        pytest.skip(f"{entry['package']} is not installed")
    firmware = path.read_bytes()
    assert tdvf.parse_sections(firmware) == sections_of(entry)
    assert tdvf.mrtd(firmware, PageOrder.SINGLE_PASS).hex() == entry["mrtd_single_pass"]
    assert tdvf.mrtd(firmware, PageOrder.TWO_PASS).hex() == entry["mrtd_two_pass"]
    assert sha384(tdvf.configuration_volume(firmware)).hex() == entry["cfv_sha384"]


@pytest.mark.parametrize("entry", FIRMWARE, ids=lambda entry: entry["sha256"][:8])
def test_td_hob_of_each_firmware_and_memory_size(entry: dict[str, Any]) -> None:
    sections = sections_of(entry)
    tdvf.check_sections(sections, entry["size"])
    for size, digest in entry["td_hob_sha384"].items():
        memory = int(size.removesuffix("GiB")) * 1024**3
        assert sha384(hob.td_hob(memory, sections)).hex() == digest, size


# --- RTMR0 ---------------------------------------------------------------------------------------------


def blobs(name: str, suffix: str) -> acpi.AcpiTables:
    folder = TDX / "acpi-qtest" / name
    files = {
        file: data(folder / f"{stem}.{suffix}.gz")
        for file, stem in ((acpi.RSDP_FILE, "rsdp"), (acpi.TABLES_FILE, "tables"))
    }
    return acpi.AcpiTables(data(folder / f"table-loader.{suffix}.gz"), tuple(files.items()))


def firmware_digests(temporary_memory: str) -> FirmwareDigests:
    """The pristine 4 MiB OVMF of these vectors; its MRTD does not matter to RTMR0."""
    start, size = (int(part, 16) for part in temporary_memory.removeprefix("temp_mem ").split("/"))
    sections = [(0x800000, 0x6000, 3), (0x809000, 0x2000, 2), (0x80B000, 0x2000, 3), (start, size, 3)]
    return FirmwareDigests(
        sha256=None,
        profile=FirmwareProfile(edk2=202502),
        mrtd=image.MrtdValues(single_pass="00" * 48, two_pass="00" * 48),
        sections=tuple(image.MetadataSection(type=t, address=a, size=s) for a, s, t in sections),
        cfv=CONSTANTS["pristine_4M_varstore_cfv"],
        variables=tuple(
            image.NamedDigest(name=name, sha384=CONSTANTS[f"var_empty_{name}"])
            for name in ("SecureBoot", "PK", "KEK", "db", "dbx")
        ),
    )


@pytest.mark.parametrize("vector", SHAPES, ids=lambda vector: vector["name"])
def test_rtmr0_of_each_shape(vector: dict[str, Any]) -> None:
    raw = blobs(vector["name"], "raw")
    tables = acpi.with_edge_triggers(raw.tables) if vector["tdx_edge_transform"] else raw
    shape = small_shape(memory_mib=vector["memory_bytes"] // 1024**2)
    events = predict.rtmr0_events(
        firmware_digests(vector["td_hob_layout"]), shape, tables, None, confirmed=True
    )
    expected = [(event["name"], event["sha384"]) for event in vector["events"]]
    assert [(event.name, event.digest.hex()) for event in events] == expected
    assert extend(event.digest for event in events).hex() == vector["expected_rtmr0"]


@pytest.mark.parametrize("vector", SHAPES, ids=lambda vector: vector["name"])
def test_loader_and_rsdp_follow_from_the_tables(vector: dict[str, Any]) -> None:
    raw = blobs(vector["name"], "raw")
    assert acpi.rebuild(raw.tables) == raw
    assert acpi.allocated_files(raw.loader) == [acpi.RSDP_FILE, acpi.TABLES_FILE]
    if vector["tdx_edge_transform"]:
        assert acpi.with_edge_triggers(raw.tables) == blobs(vector["name"], "tdx-edge")


def test_edge_tables_have_the_interrupts_of_tables_taken_inside_a_td() -> None:
    """Tables that others took from a TD on QEMU 8 have the same overrides, by vCPU count."""
    captured = json.loads(data(TDX / "dstack-mr-go" / "templates.json.gz"))
    ours = acpi.split_tables(blobs("dstack-v0.5.5-1c2g", "tdx-edge").tables)
    theirs = acpi.split_tables(bytes.fromhex(captured["1"]))
    assert [t.data for t in ours if t.signature == b"APIC"] == [
        t.data for t in theirs if t.signature == b"APIC"
    ]


def test_smbios_filter_gives_the_digest_of_a_real_td() -> None:
    vector = load("smbios/chutes-smbios.json")
    table = bytes.fromhex(vector["published_dmi_hex"])
    assert sha384(smbios.filtered(table)).hex() == vector["ccel_event_sha384"]


def test_ovmf_makes_its_smbios_table_from_that_of_qemu() -> None:
    folder = TDX / "tcg-swtpm"
    given = (folder / "A.qemu-etc-smbios-smbios-tables.bin").read_bytes()
    made = smbios.with_firmware_structure(
        given, "Debian distribution of EDK II", "2026.08+ds-2", "09/26/2026"
    )
    assert made == (folder / "A.dmi.bin").read_bytes()


# --- constants -----------------------------------------------------------------------------------------


def test_fixed_events_have_their_known_digests() -> None:
    assert sha384(uefi.SEPARATOR_DATA).hex() == CONSTANTS["separator_0"]
    assert sha384(uefi.CALLING_APPLICATION).hex() == CONSTANTS["calling"]
    assert sha384(uefi.EXIT_BOOT_SERVICES).hex() == CONSTANTS["ebs_invocation"]
    assert sha384(uefi.EXIT_BOOT_SERVICES_SUCCESS).hex() == CONSTANTS["ebs_success"]
    assert sha384(uefi.EXIT_BOOT_SERVICES_FAILURE).hex() == CONSTANTS["ebs_failure"]


@pytest.mark.parametrize("state", uefi.SecureBoot)
def test_secure_boot_variables_have_their_known_digests(state: uefi.SecureBoot) -> None:
    variables = ()
    if state is uefi.SecureBoot.ON:
        variables = (uefi.Variable("PK", uefi.GLOBAL_GUID, b"key"),)
    measured = dict(uefi.secure_boot_variables(variables, state))
    name = {"absent": "var_empty_SecureBoot", "off": "var_SecureBoot_00", "on": "var_SecureBoot_01"}[state]
    assert sha384(measured["SecureBoot"]).hex() == CONSTANTS[name]
    for name in ("KEK", "db", "dbx"):
        assert sha384(measured[name]).hex() == CONSTANTS[f"var_empty_{name}"]


@pytest.mark.parametrize(
    ("edk2", "names"),
    [
        (202502, ["bootorder_0000", "boot0000_uiapp_pre202505"]),
        (202608, ["bootorder_0000_0001", "boot0000_bootmanagermenu", "boot0001_firmware_setup"]),
    ],
)
def test_boot_options_have_their_known_digests(edk2: int, names: list[str]) -> None:
    known = [CONSTANTS[name] for name in names]
    digests = [value["sha384"] if isinstance(value, dict) else value for value in known]
    assert [sha384(raw).hex() for _, raw in uefi.boot_options(edk2)] == digests


def test_section_names_have_their_known_digests() -> None:
    for name in uki.SECTIONS:
        digest = CONSTANTS.get(f"stub_section_name{name}")
        if digest is not None:
            assert sha384(name.encode() + b"\0").hex() == digest


# --- event logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", LOGS, ids=lambda vector: Path(vector["file"]).name)
def test_a_td_log_replays_to_its_registers(vector: dict[str, Any]) -> None:
    log = eventlog.parse(data(TDX / vector["file"]))
    assert log.kind is eventlog.LogKind.CC
    assert len(log.records) == vector["events"]
    expected = [vector["replay_sha384"].get(f"RTMR{n}", "00" * 48) for n in range(4)]
    assert [value.hex() for value in replay.replay(log)] == expected


@pytest.mark.parametrize(
    ("log_file", "parsed"),
    [
        ("CCEL_data_ovmf.gz", "CCEL_data_ovmf_out.json"),
        ("CCEL_data.gz", "CCEL_data_out.json"),
        ("CCEL_AAEL_alibabacloud", "CCEL_AAEL_alibabacloud_out.json"),
    ],
)
def test_a_log_is_read_as_another_parser_reads_it(log_file: str, parsed: str) -> None:
    theirs = load(f"trustee/eventlog/{parsed}")["uefi_event_logs"]
    ours = eventlog.parse(data(TDX / "trustee" / "eventlog" / log_file)).records
    assert [(r.index, r.digests[eventlog.SHA384].hex(), r.data) for r in ours] == [
        (e["index"], e["digests"][0]["digest"], base64.b64decode(e["event"])) for e in theirs
    ]


@pytest.mark.parametrize(
    ("log_file", "temporary_memory", "memory"),
    [
        ("dstack/cc-eventlog/ccel.bin.gz", (0x811000, 0xF000), 1),
        ("trustee/eventlog/CCEL_data_ovmf.gz", (0x810000, 0x10000), 2),
        ("go-eventlog/ccel/CCEL_unpadded.data.bin", (0x810000, 0x10000), 8),
    ],
)
def test_the_td_hob_of_a_real_log_is_the_predicted_one(
    log_file: str, temporary_memory: tuple[int, int], memory: int
) -> None:
    start, size = temporary_memory
    firmware = firmware_digests(f"temp_mem {start:#x}/{size:#x}")
    first = eventlog.parse(data(TDX / log_file)).events[0]
    assert first.digest == sha384(hob.td_hob(memory * 1024**3, firmware.memory_sections()))


@pytest.mark.parametrize("name", sorted(BOOTS))
def test_a_tpm_log_replays_to_its_pcrs(name: str) -> None:
    log = eventlog.parse((TDX / "tcg-swtpm" / f"{name}.evlog.bin").read_bytes())
    assert log.kind is eventlog.LogKind.TPM
    values = replay.replay_pcrs(log)
    recorded = BOOTS[name]["pcrs_sha384"]
    assert {pcr: values[int(pcr)].hex() for pcr in recorded} == recorded


@pytest.mark.parametrize("vector", LOGS, ids=lambda vector: Path(vector["file"]).name)
def test_each_event_of_a_real_log_has_words(vector: dict[str, Any]) -> None:
    for event in eventlog.parse(data(TDX / vector["file"])).events:
        words = explain.describe(event)
        assert words
        assert words.isprintable()


@pytest.mark.parametrize("name", ["quote-report.json", "tdx-lite-getquote.json"])
def test_a_dstack_log_replays_to_its_quote(name: str) -> None:
    reply = json.loads((DSTACK / name).read_bytes())
    log = eventlog.parse(reply["event_log"].encode())
    report = quote.parse(bytes.fromhex(reply["quote"])).td_report
    assert replay.replay(log) == (report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3)


def log_of(name: str) -> eventlog.EventLog:
    return eventlog.parse(data(TDX / name))


GOOGLE, DISK = "Google's firmware", "started from a disk"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trustee/eventlog/CCEL_data.gz", ["written by td-shim"]),
        ("trustee/eventlog/CCEL_data_gcp.gz", [GOOGLE, DISK]),
        ("trustee/eventlog/CCEL_data_grub_gke.gz", [GOOGLE, DISK]),
        ("trustee/eventlog/CCEL_data_grub.gz", ["shim and GRUB"]),
        ("trustee/eventlog/CCEL_AAEL_alibabacloud", ["early TDVF", "AAEL", "shim and GRUB"]),
        ("go-eventlog/ccel/cos-113-intel-tdx.bin.gz", [GOOGLE, "shim and GRUB"]),
        ("go-eventlog/ccel/event_log.bin.gz", ["early TDVF"]),
        ("trustee/eventlog/CCEL_data_ovmf.gz", []),
        ("dstack/cc-eventlog/ccel.bin.gz", []),
        ("go-eventlog/ccel/CCEL_unpadded.data.bin", []),
    ],
)
def test_the_origin_of_a_log_is_named_where_it_is_not_what_is_predicted(name: str, said: list[str]) -> None:
    notes = [
        note for note in recording.notes(recording.Recording(log_of(name))) if "RTMR3 is not" not in note
    ]
    assert len(notes) == len(said), notes
    for words, note in zip(said, notes, strict=True):
        assert words in note


def test_the_log_of_one_cloud_is_not_that_of_a_quote_of_another() -> None:
    registers = recording.read((VECTORS / "trustee" / "tdx_quote_4.dat").read_bytes()).registers
    assert registers is not None
    found = recording.compare_log(log_of("trustee/eventlog/CCEL_data_gcp.gz"), registers)
    differing = {c.register for c in found if c.outcome is recording.Outcome.DIFFERS}
    assert differing == {"rtmr0", "rtmr1"}


def test_a_log_and_a_quote_of_the_same_dstack_host_share_rtmr0() -> None:
    registers = recording.read((VECTORS / "dcap-qvl" / "quote-from-tappd.hex").read_bytes()).registers
    assert registers is not None
    found = recording.compare_log(log_of("dstack/cc-eventlog/ccel.bin.gz"), registers)
    assert found[0].outcome is recording.Outcome.SAME


def test_a_quote_of_azure_has_registers_that_nothing_was_measured_into() -> None:
    found = recording.read((VECTORS / "trustee" / "az-td-quote.bin").read_bytes())
    assert any("paravisor" in note for note in recording.notes(found))


@pytest.mark.parametrize("name", ["CCEL.bin", "cos-113-intel-tdx.table.bin"])
def test_the_acpi_table_is_not_taken_for_the_log(name: str) -> None:
    with pytest.raises(UndecidedError, match="where the log lies"):
        recording.read((TDX / "go-eventlog" / "ccel" / name).read_bytes())


@pytest.mark.parametrize("name", ["quote-report.json", "tdx-lite-getquote.json"])
def test_the_reply_of_a_real_agent_is_the_same_as_its_quote(name: str) -> None:
    found = recording.read((DSTACK / name).read_bytes())
    assert found.log is not None
    assert found.registers is not None
    compared = recording.compare_log(found.log, found.registers)
    assert {c.outcome for c in compared} == {recording.Outcome.SAME}
    assert recording.notes(found) == []
    for rtmr in range(4):  # one event less
        events = list(found.log.events)
        events.remove(next(event for event in events if event.rtmr == rtmr and event.name != "system-ready"))
        shorter = eventlog.EventLog(found.log.kind, tuple(events))
        outcomes = [c.outcome for c in recording.compare_log(shorter, found.registers)]
        assert [n for n, outcome in enumerate(outcomes) if outcome is not recording.Outcome.SAME] == [rtmr]


@pytest.mark.parametrize("vector", LOGS, ids=lambda vector: Path(vector["file"]).name)
def test_a_real_log_cut_anywhere_is_read_up_to_there(vector: dict[str, Any]) -> None:
    raw = data(TDX / vector["file"]).rstrip(b"\xff").rstrip(b"\0")
    whole = eventlog.parse(raw, partial=True).events
    for size in range(len(raw) - 1, 200, -max(1, len(raw) // 23)):
        found = recording.read(raw[:size]).log
        assert found is not None
        assert found.events == whole[: len(found.events)]
        if not found.cut_off:
            assert len(found.events) < len(whole)


# --- whole images --------------------------------------------------------------------------------------


def recorded_runtime(log: eventlog.EventLog, version: int) -> RuntimeEvents:
    events = tuple(RuntimeEvent(event.name, event.data) for event in log.events if event.rtmr == 3)
    return RuntimeEvents.make(events, 2 if version == 2 else 1)


def dstack_tables(shape: VmShape, vector: str) -> HostTables:
    raw = blobs(vector, "raw")
    files = {acpi.LOADER_FILE: raw.loader, **dict(raw.files)}
    return HostTables.make(shape.qemu, shape.dump_arguments(), files)


def test_all_five_registers_of_a_real_quote_follow_from_published_metadata() -> None:
    raw = (DSTACK / "tdx-lite-getquote.json").read_bytes()
    reply = json.loads(raw)
    log = eventlog.parse(reply["event_log"].encode())
    vm = dstack.parse_vm(raw)
    metadata = ImageMetadata.make(
        vm.shape, vm.firmware, vm.image, dstack_tables(vm.shape, "dstack-tdx-lite"), recorded_runtime(log, 1)
    )
    prediction = ImageMetadata.from_bytes(metadata.to_text()).predict()
    assert prediction.measurements == quote.parse(bytes.fromhex(reply["quote"])).td_report.measurements
    assert explain.compare(prediction.events, log) == []
    assert not any(prediction.unverified().values()), "this image was seen on hardware"
    found = recording.read(raw)
    assert found.registers is not None
    compared = recording.compare_prediction(
        prediction.measurements, found.registers, rtmr3_predicted=True, log=found.log
    )
    assert {c.outcome for c in compared} == {recording.Outcome.SAME}


def test_a_real_image_on_qemu_10_is_not_predicted_from_its_published_digest() -> None:
    reply = json.loads((DSTACK / "tdx-lite-getquote.json").read_bytes())
    config = json.loads(reply["vm_config"]) | {"qemu_version": "10.2.1"}
    with pytest.raises(UndecidedError, match=r"QEMU 10\.2\.1 hands the kernel over unchanged"):
        dstack.parse_vm(json.dumps(config))


def test_rtmr0_of_a_large_machine_with_a_gpu_follows_from_its_configuration() -> None:
    reply = json.loads((DSTACK / "quote-report.json").read_bytes())
    shape = dstack.vm_shape(json.loads(reply["vm_config"]))
    assert (shape.vcpus, shape.memory_mib, shape.page_add) == (16, 65536, PageOrder.SINGLE_PASS)
    tables = dstack_tables(shape, "dstack-quote-report-gpu").acpi_tables(shape)
    firmware = firmware_digests("temp_mem 0x810000/0x10000")
    events = predict.rtmr0_events(firmware, shape, tables, None, confirmed=True)
    report = quote.parse(bytes.fromhex(reply["quote"])).td_report
    assert extend(event.digest for event in events) == report.rtmr0


def test_the_events_of_a_dstack_application_follow_from_its_documents() -> None:
    reply = json.loads((DSTACK / "tdx-lite-getquote.json").read_bytes())
    log = eventlog.parse(reply["event_log"].encode())
    payload = {event.name: event.data for event in log.events if event.rtmr == 3}
    assert payload["app-id"] == payload["compose-hash"][:20]
    events = dstack.app_events(
        b"",
        app_id=payload["app-id"],
        instance=payload["instance-id"],
        os_image_hash=payload["os-image-hash"],
        key_provider=payload["key-provider"],
        storage="zfs",
    )
    names = [event.name for event in log.events if event.rtmr == 3]
    assert [event.name for event in events] == names
    others = {event.name: event.payload for event in events if event.name != "compose-hash"}
    assert others == {name: value for name, value in payload.items() if name != "compose-hash"}


def test_the_default_app_id_is_the_start_of_the_compose_hash() -> None:
    compose = (TDX / "dstack" / "simulator" / "app-compose.json").read_bytes()
    assert dstack.compose_hash(compose) == hashlib.sha256(compose).hexdigest()
    assert dstack.compose_hash(compose).startswith(dstack.default_app_id(compose))


def uki_of_boot(name: str) -> UkiImage:
    """The UKI of a software boot; the assembled initrd's digest is taken from its log (no files there)."""
    digests = load("tcg-swtpm/boots.json")["inputs"][name]
    order = [section for section in uki.SECTIONS if section in digests["sections"]]
    log = eventlog.parse((TDX / "tcg-swtpm" / "A.evlog.bin").read_bytes())
    return UkiImage(
        kind="uki",
        sha256=None,
        authenticode=digests["authenticode"],
        kernel_authenticode=load("tcg-swtpm/boots.json")["inputs"]["vmlinuz_authenticode"],
        stub=262,
        sections=tuple(
            image.NamedDigest(name=section, sha384=digests["sections"][section]["sha384"])
            for section in order
        ),
        command_line="console=ttyS0 roothash=0123456789abcdef panic=-1",
        initrd=[event for event in log.events if event.rtmr == 2][-1].digest.hex(),
        measures=True,
    )


def events_of(rtmr: int, log: eventlog.EventLog) -> list[str]:
    return [event.digest.hex() for event in log.events if event.rtmr == rtmr]


def hexes(events: list[Event]) -> list[str]:
    return [event.digest.hex() for event in events]


def test_a_software_boot_of_a_uki_has_the_predicted_rtmr1_and_rtmr2() -> None:
    shape = small_shape(devices=())
    log = eventlog.parse((TDX / "tcg-swtpm" / "A.evlog.bin").read_bytes())
    uki_image = uki_of_boot("uki.efi")
    assert hexes(predict.rtmr1_events(uki_image, shape)) == events_of(1, log)
    assert hexes(predict.rtmr2_events(uki_image, shape)) == events_of(2, log)


def test_a_host_that_replaces_the_command_line_is_named() -> None:
    """Boot F: ``-append`` on a UKI leaves RTMR1 as it is; only RTMR2 tells."""
    shape = small_shape(devices=())
    log = eventlog.parse((TDX / "tcg-swtpm" / "F.evlog.bin").read_bytes())
    fields = uki_of_boot("uki-nocon.efi").model_dump() | {"command_line": "panic=-1"}
    uki_image = UkiImage.model_validate(fields)
    assert hexes(predict.rtmr1_events(uki_image, shape)) == events_of(1, log)
    [difference] = explain.compare(predict.rtmr2_events(uki_image, shape), rtmr_only(log, 2))
    assert difference.predicted is not None
    assert difference.predicted.name == "command-line"
    assert "-append" in difference.cause


def rtmr_only(log: eventlog.EventLog, rtmr: int) -> eventlog.EventLog:
    return eventlog.EventLog(log.kind, tuple(event for event in log.events if event.rtmr == rtmr))


def test_a_software_boot_of_a_kernel_has_the_predicted_rtmr1_and_rtmr2() -> None:
    inputs = load("tcg-swtpm/boots.json")["inputs"]
    log = eventlog.parse((TDX / "tcg-swtpm" / "C.evlog.bin").read_bytes())
    profile = {"edk2": 202608, "smbios": {"vendor": "v", "version": "v", "date": "d"}}
    shape = small_shape(devices=(), firmware=profile, processor_id="00" * 8)
    direct = image.DirectImage(
        kind="direct",
        authenticode=inputs["vmlinuz_authenticode"],
        measures=True,
        command_line="console=ttyS0 panic=-1",
        initrd=inputs["initrd_sha384"],
    )
    assert hexes(predict.rtmr1_events(direct, shape)) == events_of(1, log)
    assert hexes(predict.rtmr2_events(direct, shape)) == events_of(2, log)


def test_every_event_of_a_boot_in_the_newer_layout_is_the_predicted_one() -> None:
    """Boot A: edk2 202608, systemd-stub 262, QEMU 11.1.3; what a TPM cannot have is left out."""
    vector = json.loads((Path(__file__).parent / "vectors" / "tables-qemu-11.1.3-tpm.json").read_text())
    files = {name: unpacked(text, acpi.MAX_BLOB_SIZE) for name, text in vector["tables"].items()}
    loader = files[acpi.LOADER_FILE]
    tables = acpi.AcpiTables(loader, tuple((name, files[name]) for name in acpi.allocated_files(loader)))
    profile = {"edk2": 202608, "smbios": {"vendor": "v", "version": "v", "date": "d"}}
    vm = small_shape(memory_mib=1024, devices=(), firmware=profile, processor_id="00" * 8)
    prediction = predict.predict(
        image.firmware_digests(testing.firmware(), vm.firmware),
        uki_of_boot("uki.efi"),
        vm,
        tables,
        [],
        (TDX / "tcg-swtpm" / "A.dmi.bin").read_bytes(),
    )
    log = eventlog.parse((TDX / "tcg-swtpm" / "A.evlog.bin").read_bytes())
    assert explain.compare(prediction.events, log) == []


def test_a_uki_in_a_real_td_has_the_events_of_its_stub_in_their_order() -> None:
    """A log of a cloud's TD with systemd-stub up to 257: names in order, the inner kernel after them."""
    log = eventlog.parse(data(TDX / "trustee" / "eventlog" / "CCEL_data_grub_gke.gz"))
    names = {sha384(name.encode() + b"\0"): name for name in uki.SECTIONS}
    measured = [event for event in log.events if event.rtmr == 2]
    listed = [names[event.digest] for event in measured[::2]]
    assert listed == [name for name in uki.SECTIONS if name in listed]
    fields = uki_of_boot("uki.efi").model_dump() | {"stub": 257}
    predicted = predict.rtmr1_events(UkiImage.model_validate(fields), small_shape(devices=()))
    tail = [event.type for event in log.events if event.rtmr == 1][-3:]
    assert [event.type for event in predicted][-3:] == tail


@pytest.mark.parametrize("name", ["A", "I"])
def test_a_software_boot_measures_the_predicted_smbios_structures(name: str) -> None:
    log = eventlog.parse((TDX / "tcg-swtpm" / f"{name}.evlog.bin").read_bytes())
    table = (TDX / "tcg-swtpm" / f"{name}.dmi.bin").read_bytes()
    recorded = events_of(0, log)
    assert sha384(smbios.filtered(table)).hex() in recorded
    stub = [sha384(raw).hex() for _, raw in smbios.stub_events(table)]
    assert recorded[-len(stub) :] == stub


@pytest.mark.parametrize("name", ["D", "B1"])
def test_a_retry_while_leaving_the_firmware_is_named(name: str) -> None:
    """Disk boots try twice to leave the firmware; the explanation says so."""
    log = eventlog.parse((TDX / "tcg-swtpm" / f"{name}.evlog.bin").read_bytes())
    tail = eventlog.EventLog(log.kind, tuple(e for e in log.events if e.rtmr == 1)[-4:])
    actions = predict.rtmr1_events(uki_of_boot("uki.efi"), small_shape(devices=()))[-2:]
    [difference] = explain.compare(actions, tail)
    assert "tried again" in difference.cause


def test_the_kernel_of_the_software_boots_hashes_to_its_authenticode_digest() -> None:
    """Where Debian's package is installed; it is what the firmware measured in boot C."""
    inputs = load("tcg-swtpm/boots.json")["inputs"]
    found = sorted(Path("/usr/lib/modules").glob("7.2.13+deb14-cloud-amd64/vmlinuz.unsigned"))
    if not found:
        pytest.skip("Debian's linux-binary-unsigned-7.2.13+deb14-cloud-amd64 is not installed")
    digests = image.direct_digests(found[0].read_bytes(), None, "", None)
    assert digests.authenticode == inputs["vmlinuz_authenticode"]
    assert digests.measures
    assert linux.kernel_version(found[0].read_bytes()) == (7, 2)
