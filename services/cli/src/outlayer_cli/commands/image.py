# SPDX-License-Identifier: MIT
"""``image``: measurements of a VM image, computed before it boots.

Exit codes of ``measure`` and ``explain``: 0 done, and all that was compared is the same; 1 something differs, or a
document contradicts itself; 2 it cannot be found out; 3 the command or a file was not understood.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from outlayer_cli.commands.image_approved import approved
from outlayer_cli.errors import EXIT_FAILED, EXIT_OK, EXIT_UNPROVEN, CliError, UsageError
from outlayer_cli.session import Session

if TYPE_CHECKING:
    from outlayer_attestation.measure.explain import Difference
    from outlayer_attestation.measure.hosttables import HostTables
    from outlayer_attestation.measure.image import BootImage, FirmwareDigests
    from outlayer_attestation.measure.metadata import ImageMetadata, RuntimeEvents
    from outlayer_attestation.measure.predict import Prediction
    from outlayer_attestation.measure.recording import Comparison, Recording
    from outlayer_attestation.measure.shape import VmShape

app = typer.Typer(name="image", help="VM images and what they measure.", no_args_is_help=True)
app.command()(approved)

_MAX_DOCUMENT = 16 * 1024 * 1024
_MAX_FIRMWARE = 64 * 1024 * 1024
_MAX_KERNEL = 256 * 1024 * 1024


class UndecidedError(CliError):
    """What was asked cannot be found out from what was given."""

    exit_code = EXIT_UNPROVEN


@contextmanager
def _input() -> Iterator[None]:
    """Around the reading of files: one that is not what it should be is a wrong command line."""
    from outlayer_attestation.errors import AttestationError
    from outlayer_attestation.measure import model

    try:
        yield
    except model.UndecidedError as error:
        raise UndecidedError(str(error), hint=error.hint) from error
    except AttestationError as error:
        raise UsageError(str(error), hint=error.hint or "see: outlayer image --help") from error


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
    firmware_seen = firmware is not None
    if metadata is not None:
        _refuse_with("--metadata", uki, kernel, initrd, cmdline, shape, dstack, host_tables, qemu)
        document = _published(metadata, runtime)
        if firmware is not None:
            _check_firmware(document, firmware)
    else:
        if dstack is not None:
            _refuse_with("--dstack", firmware, uki, cmdline, shape)
            parts = _dstack_parts(dstack, kernel, initrd)
        else:
            parts = _file_parts(firmware, uki, kernel, initrd, cmdline, shape)
        with _input():
            tables = _host_tables(parts[0], host_tables, qemu, save_host_tables)
            document = ImageMetadata.make(*parts, tables, runtime)
    prediction = document.predict()
    report = _Report(document, prediction, firmware_seen=firmware_seen)
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
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A quote, dstack's GetQuote reply or tcb_info, or an event log (CCEL, TPM, dstack);"
            " a quote and a log of one boot are compared."
        ),
    ],
    metadata: Annotated[
        Path | None, typer.Option(help="Published metadata, or a pin, to compare with its prediction.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="The image's role, for RTMR3 of the prediction.")] = None,
    config: Annotated[Path | None, typer.Option(help="Its configuration document, for RTMR3.")] = None,
    runtime_events: Annotated[Path | None, typer.Option(help="Or the events of RTMR3 (JSON).")] = None,
) -> None:
    """Say what a recorded boot measured, and compare its log, its quote and a prediction."""
    from outlayer_attestation.measure import recording

    session: Session = context.obj
    with _input():
        recorded = recording.combined([recording.read(_read(file)) for file in files])
    runtime = _runtime(role, config, runtime_events, None)
    if metadata is None and runtime is not None:
        raise UsageError("--role, --config and --runtime-events go with --metadata")
    document = None if metadata is None else _published(metadata, runtime)
    explanation = _Explanation.of(recorded, document)
    session.result(explanation.to_json(), "\n".join(explanation.lines()))
    raise typer.Exit(explanation.exit_code)


@dataclass(frozen=True)
class _Explanation:
    """A recorded boot, and what came of comparing its parts."""

    recorded: Recording
    comparisons: list[Comparison]
    differences: list[Difference]
    open: list[str]
    notes: list[str]

    @classmethod
    def of(cls, recorded: Recording, document: ImageMetadata | None) -> _Explanation:
        from outlayer_attestation.measure import recording

        log, registers = recorded.log, recorded.registers
        texts = [event.data for event in log.events] if log is not None else []
        if document is not None:
            texts.append((document.image.command_line or "").encode())
        ima = recording.runs_ima(texts)
        comparisons: list[Comparison] = []
        differences: list[Difference] = []
        reasons: list[str] = []
        if log is not None and registers is not None:
            comparisons += recording.compare_log(log, registers, ima=ima)
        elif log is not None and log.cut_off:
            reasons.append(f"the event log is cut off {log.cut_off}")
        if document is not None:
            prediction, predicted3 = document.predict(), document.runtime is not None
            if registers is not None:
                comparisons += recording.compare_prediction(
                    prediction.measurements, registers, rtmr3_predicted=predicted3, log=log, ima=ima
                )
            if log is not None:
                events = [event for event in prediction.events if event.rtmr < 3 or predicted3]
                if not predicted3:
                    log = replace(log, events=tuple(event for event in log.events if event.rtmr < 3))
                differences, more = recording.compare_events(events, log)
                reasons += more
        if comparisons and recorded.source is recording.Source.TCB_INFO:
            reasons.append("tcb_info states its registers, and nobody signed them: compare with a quote")
        return cls(recorded, comparisons, differences, reasons, recording.notes(recorded))

    @property
    def exit_code(self) -> int:
        outcomes = {comparison.outcome.value for comparison in self.comparisons}
        if "differs" in outcomes or self.differences:
            return EXIT_FAILED
        return EXIT_UNPROVEN if "unproven" in outcomes or self.open else EXIT_OK

    def to_json(self) -> dict[str, Any]:
        from outlayer_attestation.measure import replay
        from outlayer_attestation.measure.explain import describe
        from outlayer_attestation.measure.registers import RTMR_NAMES

        value: dict[str, Any] = {"notes": self.notes}
        log, registers, source = self.recorded.log, self.recorded.registers, self.recorded.source
        if log is not None:
            replayed = zip(RTMR_NAMES, replay.replay(log), strict=True)
            value["kind"] = log.kind.value
            value["registers"] = {name: register.hex() for name, register in replayed}
            value["events"] = [
                {
                    "record": event.number,
                    "register": RTMR_NAMES[event.rtmr],
                    "digest": event.digest.hex(),
                    "description": describe(event),
                }
                for event in log.events
            ]
        if registers is not None and source is not None:
            value[source.value] = registers.to_json()
        value["compared"] = [comparison.to_json() for comparison in self.comparisons]
        value["first_wrong_events"] = [difference.to_json() for difference in self.differences]
        value["unproven"] = self.open
        return value

    def lines(self) -> Iterator[str]:
        """For a person."""
        shown = self.to_json()
        for event in shown.get("events", []):
            yield f"{event['register'].upper()}  {event['digest'][:16]}…  {event['description']}"
        for name, register in shown.get("registers", {}).items():
            yield f"{name.upper()} = {register}"
        for source, words in (("quote", "of the quote"), ("tcb_info", "as tcb_info states it")):
            for name, register in shown.get(source, {}).items():
                yield f"{name.upper()} = {register} {words}"
        for comparison in self.comparisons:
            why = f": {comparison.reason}" if comparison.reason else ""
            yield f"{comparison.register.upper()} and the {comparison.against}: {comparison.outcome.value}{why}"
        yield from (difference.text() for difference in self.differences)
        yield from (f"unproven: {reason}" for reason in self.open)
        yield from (f"note: {note}" for note in self.notes)
        if self.recorded.registers is None:
            yield "A log proves nothing by itself: compare the registers with those of a quote."
        elif "quote" in shown:
            yield "The quote's own signature was not checked here."


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

    with _input():
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
    with _input():
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
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Take nothing from a cache: tool root and firmware are built, too."),
    ] = False,
) -> None:
    """Rebuild images from a clean clone of this commit, as root, and compare with the pinned values."""
    more = [] if against is None else ["--against", str(against.absolute())]
    more += ["--fresh"] if fresh else []
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
    with _file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UsageError(f"{path} has more than {limit} bytes", hint="is it the right file?")
    return data


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """A file to read; one that is missing or cannot be read is a wrong command line."""
    try:
        if not path.is_file():
            raise UsageError(f"there is no file {path}", hint="check the name")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the file") from error


def _metadata(data: bytes) -> ImageMetadata:
    """Published metadata, or that in a pin."""
    from outlayer_attestation.measure import pin
    from outlayer_attestation.measure.metadata import ImageMetadata

    if f'"{pin.FORMAT}"'.encode() in data[:200]:
        return pin.ImagePin.from_bytes(data).metadata
    return ImageMetadata.from_bytes(data)


def _published(path: Path, runtime: RuntimeEvents | None) -> ImageMetadata:
    """Published metadata that does not contradict itself, with these events of RTMR3 instead of its own."""
    from outlayer_attestation.measure.metadata import ImageMetadata

    with _input():
        document = _metadata(_read(path))
    document.predict()
    if runtime is None:
        return document
    return ImageMetadata.make(
        document.shape, document.firmware, document.image, document.host_tables, runtime
    )


def _check_firmware(document: ImageMetadata, path: Path) -> None:
    """Hash the firmware file again: with it, all that the metadata says of it is checked, MRTD in both orders."""
    from outlayer_attestation.measure import image

    with _input():
        found = image.firmware_digests(_read(path, _MAX_FIRMWARE), document.shape.firmware)
    stated = document.firmware.model_dump()
    wrong = [name for name, value in found.model_dump().items() if stated[name] not in (value, None)]
    if wrong:
        raise CliError(
            f"the firmware {path} is not the one that the metadata describes: {', '.join(wrong)} differ",
            hint="give the firmware file that was published with the image",
        )


def _mapped(path: Path) -> memoryview:
    """A large file's bytes, without reading them into memory."""
    with _file(path) as file:
        if path.stat().st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _runtime(
    role: str | None, config: Path | None, events: Path | None, app_compose: Path | None
) -> RuntimeEvents | None:
    from outlayer_attestation.measure import dstack
    from outlayer_attestation.measure.metadata import RuntimeEvents
    from outlayer_attestation.measure.runtime import role_events

    if events is not None:
        if role is not None or config is not None:
            raise UsageError("--runtime-events comes without --role and --config")
        with _input():
            given = RuntimeEvents.from_bytes(_read(events))
            if app_compose is None:
                return given
            compose = _read(app_compose)
            dstack.check_app_compose(compose)
        return RuntimeEvents.make(dstack.with_app_compose(given.runtime(), compose), given.digest_version)
    if app_compose is not None:
        raise UsageError(
            "--app-compose comes with --runtime-events",
            hint="RTMR3 of a dstack VM also holds its instance and key provider: name them there",
        )
    if (role is None) != (config is None):
        raise UsageError("--role and --config go together", hint="RTMR3 holds the role and the configuration")
    if role is None or config is None:
        return None
    with _input():
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
    if uki is not None and (initrd is not None or cmdline is not None):
        raise UsageError("a UKI holds its initrd and command line: --initrd and --cmdline go with --kernel")
    with _input():
        shape = VmShape.from_bytes(_read(shape_file))
        firmware_digests = image.firmware_digests(_read(firmware, _MAX_FIRMWARE), shape.firmware)
        if uki is not None:
            return shape, firmware_digests, image.uki_digests(_mapped(uki))
        assert kernel is not None  # noqa: S101  (checked above)
        text = cmdline or ""
        if text.startswith("@"):
            text = _command_line(Path(text[1:]))
        ramdisk = None if initrd is None else _mapped(initrd)
        patch = None
        if shape.patches_setup_header:
            patch = linux.SetupHeaderPatch(shape.memory, 0 if ramdisk is None else len(ramdisk))
        direct = image.direct_digests(_read(kernel, _MAX_KERNEL), ramdisk, text, patch)
    return shape, firmware_digests, direct


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


def _dstack_parts(
    path: Path, kernel: Path | None, initrd: Path | None
) -> tuple[VmShape, FirmwareDigests, BootImage]:
    from outlayer_attestation.measure.dstack import KernelFiles, parse_vm

    if (kernel is None) != (initrd is None):
        raise UsageError(
            "with --dstack, --kernel and --initrd go together",
            hint="the initrd's size decides what QEMU writes into the kernel: give both files of the image",
        )
    files = None
    if kernel is not None and initrd is not None:
        files = KernelFiles(_read(kernel, _MAX_KERNEL), _mapped(initrd))
    with _input():
        vm = parse_vm(_read(path), files)
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
    from outlayer_attestation.errors import MeasurementError
    from outlayer_attestation.measure.model import load_json
    from outlayer_attestation.measurements import Measurements

    with _input():
        value = load_json(
            _read(path), str(path), MeasurementError, "give five registers, or published metadata"
        )
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
    firmware_seen: bool = False
    """Whether the firmware file was hashed here: only then is MRTD of both orders known."""

    @property
    def mrtd(self) -> dict[str, str]:
        """Page-add order -> MRTD, of the orders that were computed or are part of the prediction."""
        return {
            order.value: value
            for order, value in self.prediction.mrtd.items()
            if self.firmware_seen or order is self.prediction.page_add
        }

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
        from outlayer_attestation.measure import eventlog, recording, replay
        from outlayer_attestation.measure.registers import RTMR_NAMES

        with _input():
            log = eventlog.parse(data, partial=True)
        self.compared.append("event log")
        self.differences, reasons = recording.compare_events(self.prediction.events, log)
        self.open += reasons
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
            for order, value in self.mrtd.items():
                if value == self.expected["mrtd"]:
                    causes["mrtd"] = f"the host adds pages in {order} order: set page_add in the shape"
        return causes

    def to_json(self, *, events: bool) -> dict[str, Any]:
        value: dict[str, Any] = {
            "measurements": self.prediction.measurements.to_json(),
            "mrtd": self.mrtd,
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
        for order, value in self.mrtd.items():
            if order != self.prediction.page_add.value:
                print(f"MRTD on a host that adds pages in {order} order ({NOT_VERIFIED}): {value}")
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
