# SPDX-License-Identifier: MIT
"""``image``: measurements of a VM image, computed before it boots.

Exit codes of ``measure``: 0 predicted, and as expected; 1 not as expected; 2 as expected as far as it could
be compared; 3 the command was not understood.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlayer_cli.errors import EXIT_FAILED, EXIT_OK, EXIT_UNPROVEN, UsageError
from outlayer_cli.session import Session

if TYPE_CHECKING:
    from outlayer_attestation.measure.explain import Difference
    from outlayer_attestation.measure.hosttables import HostTables
    from outlayer_attestation.measure.image import BootImage, FirmwareDigests
    from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
    from outlayer_attestation.measure.predict import Prediction
    from outlayer_attestation.measure.shape import VmShape

app = typer.Typer(name="image", help="VM images and what they measure.", no_args_is_help=True)

_MAX_DOCUMENT = 16 * 1024 * 1024
_MAX_FIRMWARE = 64 * 1024 * 1024
_MAX_KERNEL = 256 * 1024 * 1024


@app.callback()
def _group() -> None:
    """VM images and what they measure."""


@app.command()
def measure(
    context: typer.Context,
    firmware: Annotated[Path | None, typer.Option(help="The OVMF file.")] = None,
    uki: Annotated[Path | None, typer.Option(help="A unified kernel image.")] = None,
    kernel: Annotated[Path | None, typer.Option(help="A bzImage, without --uki.")] = None,
    initrd: Annotated[Path | None, typer.Option(help="Its initrd.")] = None,
    cmdline: Annotated[str | None, typer.Option(help="Its command line, or @file.")] = None,
    shape: Annotated[Path | None, typer.Option(help="The VM shape (JSON).")] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="Published metadata, or a pin; no other file is needed.")
    ] = None,
    dstack: Annotated[Path | None, typer.Option(help="A dstack vm_config, or a GetQuote reply.")] = None,
    host_tables: Annotated[Path | None, typer.Option(help="ACPI tables of the shape (JSON).")] = None,
    qemu: Annotated[Path | None, typer.Option(help="Or the QEMU to ask for them.")] = None,
    role: Annotated[str | None, typer.Option(help="The image's role, for RTMR3.")] = None,
    config: Annotated[Path | None, typer.Option(help="Its configuration document, for RTMR3.")] = None,
    runtime_events: Annotated[Path | None, typer.Option(help="Or the events of RTMR3 (JSON).")] = None,
    app_compose: Annotated[
        Path | None, typer.Option(help="An app-compose.json: fills compose-hash and app-id of those events.")
    ] = None,
    events: Annotated[bool, typer.Option("--events", help="List every event.")] = False,
    expect: Annotated[Path | None, typer.Option(help="Measurements to compare with (JSON).")] = None,
    event_log: Annotated[
        Path | None, typer.Option(help="A recorded boot: CCEL, TPM log, dstack JSON.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the metadata to publish.")] = None,
    save_host_tables: Annotated[Path | None, typer.Option(help="Write the tables that QEMU gave.")] = None,
) -> None:
    """Predict MRTD and RTMR0 to RTMR3, without booting, building or a network."""
    from outlayer_attestation.measure.metadata import ImageMetadata

    session: Session = context.obj
    runtime = _runtime(role, config, runtime_events, app_compose)
    if metadata is not None:
        _refuse_with("--metadata", firmware, uki, kernel, initrd, cmdline, shape, dstack, host_tables, qemu)
        document = _metadata(_read(metadata))
        document.predict()
        if runtime is not None:
            document = ImageMetadata.make(
                document.shape, document.firmware, document.image, document.host_tables, runtime
            )
    else:
        if dstack is not None:
            _refuse_with("--dstack", firmware, uki, kernel, initrd, cmdline, shape)
            parts = _dstack_parts(dstack)
        else:
            parts = _file_parts(firmware, uki, kernel, initrd, cmdline, shape)
        tables = _host_tables(parts[0], host_tables, qemu, save_host_tables)
        document = ImageMetadata.make(*parts, tables, runtime)
    prediction = document.predict()
    report = _Report(document, prediction)
    if expect is not None:
        report.compare_registers(_expected(expect))
    if event_log is not None:
        report.compare_events(_read(event_log))
    if save is not None:
        _write(save, document.to_text())
    if session.json_output:
        session.result(report.to_json(events=events))
    else:
        report.print(session, events=events)
    raise typer.Exit(report.exit_code)


@app.command()
def explain(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A CCEL, a TPM's log, or dstack's event log.")],
) -> None:
    """Say what a recorded boot measured, event by event, and the registers that it gives."""
    from outlayer_attestation.measure import eventlog, replay
    from outlayer_attestation.measure.explain import describe
    from outlayer_attestation.measure.registers import RTMR_NAMES

    session: Session = context.obj
    log = eventlog.parse(_read(file))
    registers = {name: value.hex() for name, value in zip(RTMR_NAMES, replay.replay(log), strict=True)}
    events, lines = [], []
    for event in log.events:
        register, digest, words = RTMR_NAMES[event.rtmr], event.digest.hex(), describe(event)
        events.append({"record": event.number, "register": register, "digest": digest, "description": words})
        lines.append(f"{register.upper()}  {digest[:16]}…  {words}")
    lines += [f"{name.upper()} = {value}" for name, value in registers.items()]
    if log.kind is eventlog.LogKind.TPM:
        lines.append(
            "A TPM's log lacks the events of a TD's own (TD HOB, CFV, RTMR3): a TD has other registers."
        )
    lines.append("A log proves nothing by itself: compare the registers with those of a quote.")
    session.result({"kind": log.kind.value, "registers": registers, "events": events}, "\n".join(lines))


@app.command()
def command(
    context: typer.Context,
    shape: Annotated[Path, typer.Argument(help="The VM shape (JSON).")],
    firmware: Annotated[Path, typer.Option(help="The TDX firmware.")],
    uki: Annotated[Path, typer.Option(help="The unified kernel image.")],
    config: Annotated[Path | None, typer.Option(help="The configuration document.")] = None,
    secrets: Annotated[Path | None, typer.Option(help="The secrets (JSON).")] = None,
    disk: Annotated[list[str] | None, typer.Option(help="NAME=FILE for a disk of the shape.")] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="NAME=BACKEND for a network card, as QEMU's -netdev.")
    ] = None,
    share: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER for a shared folder.")] = None,
    passthrough: Annotated[
        list[str] | None, typer.Option(help="NAME=PCI-ADDRESS of a host's device.")
    ] = None,
    vsock_cid: Annotated[int | None, typer.Option(help="Of the vsock device, if the shape has one.")] = None,
    quote_port: Annotated[
        int | None, typer.Option(help="vsock port of the host's quote generation service.")
    ] = None,
    qemu: Annotated[str, typer.Option(help="The program.")] = "qemu-system-x86_64",
) -> None:
    """Print the QEMU command that starts a shape as a trust domain: the one that was measured."""
    import shlex

    from outlayer_attestation.measure.shape import Attachments, VmShape

    document = VmShape.from_bytes(_read(shape))
    socket = None if quote_port is None else {"type": "vsock", "cid": "2", "port": str(quote_port)}
    attachments = Attachments(
        firmware=firmware,
        kernel=uki,
        configuration=config,
        secrets=secrets,
        disks={name: Path(value) for name, value in _pairs("--disk", disk).items()},
        networks=_pairs("--network", network),
        shares={name: Path(value) for name, value in _pairs("--share", share).items()},
        passthrough=_pairs("--passthrough", passthrough),
        vsock_cid=vsock_cid,
        quote_socket=socket,
    )
    words = document.command(attachments, qemu)
    session: Session = context.obj
    session.result({"command": words}, shlex.join(words))


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` words."""
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise UsageError(f"{option} {text!r} is not NAME=VALUE, or names a device twice")
        found[name] = value
    return found


@app.command()
def inputs(
    context: typer.Context,
    roles: Annotated[list[str] | None, typer.Argument(help="Roles; all when none is named.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to fill.")] = Path(".build/inputs"),
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A folder of inputs by hash, asked first.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no mirror.")] = False,
) -> None:
    """Pack every input of the images by hash, so that they can be rebuilt when mirrors have moved on."""
    _audit(context.obj, "inputs", roles, bundle, "--out", str(out.absolute()), offline=offline)


@app.command()
def reproduce(
    context: typer.Context,
    roles: Annotated[list[str] | None, typer.Argument(help="Roles; all when none is named.")] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A folder of inputs by hash, asked first.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no mirror.")] = False,
    against: Annotated[
        Path | None, typer.Option(help="A published image or its folder: names the files that differ.")
    ] = None,
) -> None:
    """Rebuild images from a clean clone of this commit, as root, and compare with the pinned values."""
    more = [] if against is None else ["--against", str(against.absolute())]
    _audit(context.obj, "reproduce", roles, bundle, *more, offline=offline)


def _audit(
    session: Session,
    command: str,
    roles: list[str] | None,
    bundles: list[Path] | None,
    *more: str,
    offline: bool,
) -> None:
    """Run the audit tool of the checkout; its exit code is ours."""
    import subprocess
    import sys

    from outlayer_cli.layout import repository_root

    words = [sys.executable, "-m", "tools.imageaudit", command, *(roles or []), *more]
    words += [word for folder in bundles or [] for word in ("--bundle", str(folder.absolute()))]
    words += ["--offline"] if offline else []
    words += ["--json"] if session.json_output else []
    done = subprocess.run(words, cwd=repository_root(), check=False)
    raise typer.Exit(done.returncode)


@app.command()
def schema(
    context: typer.Context,
    document: Annotated[
        str, typer.Argument(help="shape, metadata, host-tables, runtime-events, vm-config or pin.")
    ],
) -> None:
    """Print the JSON schema of a document."""
    from outlayer_attestation.measure.hosttables import HostTables
    from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
    from outlayer_attestation.measure.model import Document
    from outlayer_attestation.measure.pin import ImagePin
    from outlayer_attestation.measure.shape import VmShape
    from outlayer_attestation.vm.configuration import VmConfiguration

    kinds: dict[str, type[Document]] = {
        "shape": VmShape,
        "metadata": ImageMetadata,
        "host-tables": HostTables,
        "runtime-events": RuntimeEvents,
        "vm-config": VmConfiguration,
        "pin": ImagePin,
    }
    if document not in kinds:
        raise UsageError(f"there is no document {document!r}", hint=f"one of {', '.join(kinds)}")
    value = kinds[document].model_json_schema()
    session: Session = context.obj
    session.result(value, json.dumps(value, indent=2))


def _refuse_with(option: str, *others: object) -> None:
    if any(other is not None for other in others):
        raise UsageError(
            f"{option} comes without other descriptions of the image",
            hint="name either published metadata, a dstack vm_config, or files",
        )


def _read(path: Path, limit: int = _MAX_DOCUMENT) -> bytes:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > limit:
        raise UsageError(f"{path} has more than {limit} bytes", hint="is it the right file?")
    return path.read_bytes()


def _metadata(data: bytes) -> ImageMetadata:
    """Published metadata, or that in a pin."""
    from outlayer_attestation.measure import pin
    from outlayer_attestation.measure.metadata import ImageMetadata

    if f'"{pin.FORMAT}"'.encode() in data[:200]:
        return pin.ImagePin.from_bytes(data).metadata
    return ImageMetadata.from_bytes(data)


def _mapped(path: Path) -> memoryview:
    """A large file's bytes, without reading them into memory."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _runtime(
    role: str | None, config: Path | None, events: Path | None, app_compose: Path | None
) -> RuntimeEvents | None:
    from outlayer_attestation.measure.dstack import with_app_compose
    from outlayer_attestation.measure.metadata import RuntimeEvents
    from outlayer_attestation.measure.runtime import role_events

    if events is not None:
        if role is not None or config is not None:
            raise UsageError("--runtime-events comes without --role and --config")
        given = RuntimeEvents.from_bytes(_read(events))
        if app_compose is None:
            return given
        return RuntimeEvents.make(with_app_compose(given.runtime(), _read(app_compose)), given.digest_version)
    if app_compose is not None:
        raise UsageError(
            "--app-compose comes with --runtime-events",
            hint="RTMR3 of a dstack VM also holds its instance and key provider: name them there",
        )
    if (role is None) != (config is None):
        raise UsageError("--role and --config go together", hint="RTMR3 holds the role and the configuration")
    if role is None or config is None:
        return None
    return RuntimeEvents.make(role_events(role, _read(config)), 2)


def _file_parts(
    firmware: Path | None,
    uki: Path | None,
    kernel: Path | None,
    initrd: Path | None,
    cmdline: str | None,
    shape_file: Path | None,
) -> tuple[VmShape, FirmwareDigests, BootImage]:
    from outlayer_attestation.measure import image, linux
    from outlayer_attestation.measure.shape import VmShape

    if firmware is None or shape_file is None or (uki is None) == (kernel is None):
        raise UsageError(
            "name --metadata; or --dstack; or --firmware, --shape and either --uki or --kernel",
            hint="see: outlayer image measure --help",
        )
    shape = VmShape.from_bytes(_read(shape_file))
    firmware_digests = image.firmware_digests(_read(firmware, _MAX_FIRMWARE), shape.firmware)
    if uki is not None:
        if initrd is not None or cmdline is not None:
            raise UsageError(
                "a UKI holds its initrd and command line: --initrd and --cmdline go with --kernel"
            )
        return shape, firmware_digests, image.uki_digests(_mapped(uki))
    assert kernel is not None  # noqa: S101  (checked above)
    text = cmdline or ""
    if text.startswith("@"):
        text = _command_line(Path(text[1:]))
    ramdisk = None if initrd is None else _mapped(initrd)
    patch = None
    if shape.patches_setup_header:
        patch = linux.SetupHeaderPatch(shape.memory, 0 if ramdisk is None else len(ramdisk))
    return shape, firmware_digests, image.direct_digests(_read(kernel, _MAX_KERNEL), ramdisk, text, patch)


def _command_line(path: Path) -> str:
    try:
        return _read(path).decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"the command line in {path} is not UTF-8 text") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _dstack_parts(path: Path) -> tuple[VmShape, FirmwareDigests, BootImage]:
    from outlayer_attestation.measure.dstack import parse_vm

    vm = parse_vm(_read(path))
    return vm.shape, vm.firmware, vm.image


def _host_tables(shape: VmShape, given: Path | None, qemu: Path | None, save: Path | None) -> HostTables:
    from outlayer_attestation.measure.hosttables import HostTables
    from outlayer_attestation.measure.qtest import dump_host_tables

    if (given is None) == (qemu is None):
        raise UsageError(
            "the ACPI tables of the shape are needed: name --host-tables FILE or --qemu PATH",
            hint=f"RTMR0 depends on them; --qemu asks a QEMU {shape.qemu} on this machine, without TDX or root",
        )
    tables = HostTables.from_bytes(_read(given)) if given is not None else None
    if tables is None:
        assert qemu is not None  # noqa: S101  (checked above)
        tables = dump_host_tables(qemu, shape)
    if save is not None:
        _write(save, tables.to_text())
    return tables


def _expected(path: Path) -> dict[str, str]:
    """The registers of a measurements file, or those of published metadata."""
    from outlayer_attestation.measurements import Measurements

    data = _read(path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if isinstance(value, dict) and isinstance(value.get("measurements"), dict):
        value = value["measurements"]
    return Measurements.from_json(value).to_json()


@dataclass
class _Report:
    """The prediction, and what came of comparing it."""

    document: ImageMetadata
    prediction: Prediction
    wrong: dict[str, tuple[str, str]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    expected: dict[str, str] | None = None

    @property
    def exit_code(self) -> int:
        if self.wrong or self.differences:
            return EXIT_FAILED
        return EXIT_UNPROVEN if self.open else EXIT_OK

    def compare_registers(self, expected: dict[str, str]) -> None:
        self.expected = expected
        self.compared.append("measurements")
        for name, value in self.prediction.measurements.to_json().items():
            if name == "rtmr3" and self.document.runtime is None:
                self.open.append("RTMR3 was not compared: name --role and --config, or --runtime-events")
            elif expected[name] != value:
                self.wrong[name] = (value, expected[name])

    def compare_events(self, data: bytes) -> None:
        from outlayer_attestation.measure import eventlog, explain, replay
        from outlayer_attestation.measure.registers import RTMR_NAMES

        log = eventlog.parse(data)
        self.compared.append("event log")
        self.differences = explain.compare(self.prediction.events, log)
        if log.kind is eventlog.LogKind.TPM:
            self.open.append("the log is a TPM's: it cannot show the TD HOB, the CFV, fw_cfg items or RTMR3")
        replayed = dict(zip(RTMR_NAMES, replay.replay(log), strict=True))
        for name, (_, expected) in self.wrong.items():
            recorded = replayed.get(name)
            if recorded is not None and any(recorded) and recorded.hex() != expected:
                self.open.append(f"the event log does not replay to the expected {name.upper()}")

    def causes(self) -> dict[str, str]:
        """Register that differs -> likely cause, where no event log names the event."""
        from outlayer_attestation.measure.explain import compare_registers

        explained = {difference.register for difference in self.differences}
        causes = compare_registers([name for name in self.wrong if name not in explained])
        if "mrtd" in causes and self.expected is not None:
            for order, value in self.prediction.mrtd.items():
                if value == self.expected["mrtd"]:
                    causes["mrtd"] = f"the host adds pages in {order} order: set page_add in the shape"
        return causes

    def to_json(self, *, events: bool) -> dict[str, Any]:
        value: dict[str, Any] = {
            "measurements": self.prediction.measurements.to_json(),
            "mrtd": {order.value: value for order, value in self.prediction.mrtd.items()},
            "page_add": self.prediction.page_add.value,
            "shape": self.document.shape.name,
            "rtmr3_predicted": self.document.runtime is not None,
            "not_verified_on_hardware": self.prediction.unverified(),
        }
        if events:
            value["events"] = [event.to_json() for event in self.prediction.events]
        if self.compared:
            value["compared"] = self.compared
            value["as_expected"] = self.exit_code == EXIT_OK
            value["different"] = {
                name: {"predicted": ours, "expected": theirs} for name, (ours, theirs) in self.wrong.items()
            }
            value["causes"] = self.causes()
            value["first_wrong_events"] = [difference.to_json() for difference in self.differences]
            value["unproven"] = self.open
        return value

    def print(self, session: Session, *, events: bool) -> None:
        from rich.table import Table
        from rich.text import Text

        from outlayer_attestation.measure.predict import NOT_VERIFIED

        shape = self.document.shape
        table = Table(title=f"{shape.name}: {shape.vcpus} vCPU, {shape.memory_mib} MiB, QEMU {shape.qemu}")
        table.add_column("register")
        table.add_column("predicted", overflow="fold")
        notes = self.prediction.unverified()
        for name, value in self.prediction.measurements.to_json().items():
            shown = Text(value)
            if name == "rtmr3" and self.document.runtime is None:
                shown = Text("not predicted: name --role and --config, or --runtime-events", style="yellow")
            elif name in self.wrong:
                shown.append(f"\nexpected {self.wrong[name][1]}", style="bold red")
            for note in notes[name]:
                shown.append(f"\n{NOT_VERIFIED}: {note}", style="yellow")
            table.add_row(name.upper(), shown)
        session.console.print(table)
        for order, value in self.prediction.mrtd.items():
            if order is not self.prediction.page_add:
                print(f"MRTD on a host that adds pages in {order.value} order: {value}")
        if events:
            self._print_events()
        for difference in self.differences:
            print(difference.text())
        for name, cause in self.causes().items():
            print(f"{name.upper()} differs. Likely cause: {cause}.")
        for reason in self.open:
            print(f"unproven: {reason}")
        if self.compared:
            print({EXIT_OK: "AS EXPECTED", EXIT_FAILED: "NOT AS EXPECTED"}.get(self.exit_code, "UNPROVEN"))

    def _print_events(self) -> None:
        """Lines, not a table: a digest has 96 digits and should be found by a text search."""
        from outlayer_attestation.measure.event_types import name_of
        from outlayer_attestation.measure.predict import NOT_VERIFIED

        for rtmr in range(4):
            events = [event for event in self.prediction.events if event.rtmr == rtmr]
            for position, event in enumerate(events, 1):
                print(f"RTMR{rtmr} event {position}: {event.name} ({name_of(event.type)})")
                print(f"  {event.digest.hex()}")
                print(f"  another value means: {event.cause}")
                if event.unverified:
                    print(f"  {NOT_VERIFIED}: {event.unverified}")
