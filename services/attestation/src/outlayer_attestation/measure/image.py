# SPDX-License-Identifier: MIT
"""Digests of a firmware and of an image: all that a prediction needs of large files, as data.

They are computed once from the files and published, so that anyone can predict without the files; whoever
has the files computes them again and compares.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from outlayer_attestation.errors import ImageError
from outlayer_attestation.measure import hob, linux, tdvf, uefi, uki
from outlayer_attestation.measure.authenticode import authenticode
from outlayer_attestation.measure.model import Model, Sha256Hex, Sha384Hex
from outlayer_attestation.measure.pe import MAX_IMAGE_SIZE, parse_pe, section_data
from outlayer_attestation.measure.registers import sha384
from outlayer_attestation.measure.shape import FirmwareProfile
from outlayer_attestation.measure.tdvf import PageOrder, Section, SectionType

Word = Annotated[int, Field(ge=0, le=2**32 - 1)]
Address = Annotated[int, Field(ge=0, le=2**52)]


class MrtdValues(Model):
    """MRTD of a firmware in both orders in which hosts add pages."""

    single_pass: Sha384Hex
    two_pass: Sha384Hex

    def of(self, order: PageOrder) -> str:
        """The value on a host with this order."""
        return self.single_pass if order is PageOrder.SINGLE_PASS else self.two_pass


class MetadataSection(Model):
    """A section of the TDX metadata."""

    type: Annotated[int, Field(ge=0, le=7)]
    address: Address
    size: Address

    def section(self) -> Section:
        """As the memory map needs it."""
        return Section(0, 0, self.address, self.size, SectionType(self.type), 0)


class NamedDigest(Model):
    """SHA-384 of a named part."""

    name: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]
    sha384: Sha384Hex


class FirmwareDigests(Model):
    """What the prediction needs of a firmware file.

    Attributes:
        sections: TD_HOB and TEMP_MEM of the TDX metadata, which shape the TD HOB.
        cfv: of the configuration volume.
        variables: of the Secure Boot variables, in measuring order.
    """

    sha256: Sha256Hex | None
    profile: FirmwareProfile
    mrtd: MrtdValues
    sections: Annotated[tuple[MetadataSection, ...], Field(max_length=tdvf.MAX_SECTIONS)]
    cfv: Sha384Hex
    variables: Annotated[tuple[NamedDigest, ...], Field(min_length=5, max_length=6)]

    @model_validator(mode="after")
    def _one_hob(self) -> FirmwareDigests:
        if sum(section.type == SectionType.TD_HOB for section in self.sections) != 1:
            raise ValueError("the sections have one TD_HOB")
        ordered = sorted((section.address, section.size) for section in self.sections)
        if any(start + size > following for (start, size), (following, _) in pairwise(ordered)):
            raise ValueError("the sections overlap")
        return self

    def memory_sections(self) -> list[Section]:
        """The sections as the TD HOB needs them."""
        return [section.section() for section in self.sections]


class SetupHeader(Model):
    """The circumstances under which QEMU changed a bzImage's header before it was hashed.

    Attributes:
        below_4g: bytes of RAM below 4 GiB.
        initrd_size: in bytes; None when the publisher does not say.
    """

    below_4g: Address
    initrd_size: Word | None


class DirectImage(Model):
    """A bzImage that is started with ``-kernel``, ``-initrd`` and ``-append``.

    Attributes:
        authenticode: of the kernel as the guest gets it, see ``setup_header``.
        measures: whether the kernel's EFI stub measures command line and initrd (Linux 6.9 and later).
        load_options: digest of the command line event when only that was published.
        command_line: else the ``-append`` text.
        initrd: SHA-384, or None without one.
        setup_header: how QEMU changed the kernel; None when it did not.
    """

    kind: Literal["direct"]
    authenticode: Sha384Hex
    measures: bool
    command_line: Annotated[str, StringConstraints(max_length=linux.MAX_COMMAND_LINE)] | None
    load_options: Sha384Hex | None = None
    initrd: Sha384Hex | None
    setup_header: SetupHeader | None = None

    @model_validator(mode="after")
    def _one_command_line(self) -> DirectImage:
        if (self.command_line is None) == (self.load_options is None):
            raise ValueError("either command_line or load_options is given")
        return self


class UkiImage(Model):
    """A unified kernel image that is started with ``-kernel``.

    Attributes:
        authenticode: of the whole file.
        kernel_authenticode: of its ``.linux`` section, a PE file itself.
        stub: version of systemd-stub.
        sections: of the sections that this stub measures, in its order.
        command_line: what the stub hands to the kernel.
        initrd: SHA-384 of the initrd that the stub assembles.
        measures: as in ``DirectImage``.
    """

    kind: Literal["uki"]
    sha256: Sha256Hex | None
    authenticode: Sha384Hex
    kernel_authenticode: Sha384Hex
    stub: Annotated[int, Field(ge=uki.KNOWN_STUBS.start, lt=uki.KNOWN_STUBS.stop)]
    sections: Annotated[tuple[NamedDigest, ...], Field(min_length=1, max_length=len(uki.SECTIONS))]
    command_line: Annotated[str, StringConstraints(max_length=linux.MAX_COMMAND_LINE)]
    initrd: Sha384Hex
    measures: bool

    @model_validator(mode="after")
    def _sections_in_order(self) -> UkiImage:
        names = [section.name for section in self.sections]
        if names != [name for name in uki.SECTIONS if name in names and name != uki.NOT_MEASURED]:
            raise ValueError(f"the sections {names} are not in the stub's order, or not known")
        return self


BootImage = Annotated[DirectImage | UkiImage, Field(discriminator="kind")]


def firmware_digests(firmware: bytes, profile: FirmwareProfile) -> FirmwareDigests:
    """Digests of a firmware file.

    Raises:
        FirmwareError: it is no OVMF with TDX metadata, or contradicts the profile.
    """
    sections = tdvf.parse_sections(firmware)
    volume = tdvf.configuration_volume(firmware)
    variables = uefi.secure_boot_variables(uefi.parse_variables(volume), profile.secure_boot)
    return FirmwareDigests(
        sha256=hashlib.sha256(firmware).hexdigest(),
        profile=profile,
        mrtd=MrtdValues(
            single_pass=tdvf.mrtd(firmware, PageOrder.SINGLE_PASS).hex(),
            two_pass=tdvf.mrtd(firmware, PageOrder.TWO_PASS).hex(),
        ),
        sections=tuple(
            MetadataSection(type=int(s.type), address=s.memory_address, size=s.memory_size)
            for s in sections
            if s.type in (SectionType.TD_HOB, SectionType.TEMP_MEM)
        ),
        cfv=sha384(volume).hex(),
        variables=tuple(NamedDigest(name=name, sha384=sha384(data).hex()) for name, data in variables),
    )


def uki_digests(image: bytes | memoryview) -> UkiImage:
    """Digests of a UKI. Each byte is hashed a few times; nothing large is copied.

    Raises:
        ImageError: it is no UKI whose measurements are known, or its command line depends on the VM.
    """
    if len(image) > MAX_IMAGE_SIZE:
        raise ImageError(f"the UKI has {len(image)} bytes", hint="is it the right file?")
    stub = uki.stub_version(image)
    sections = uki.uki_sections(image)
    kernel = section_data(image, sections[".linux"])
    if ".cmdline" not in sections:
        raise ImageError(
            "the UKI has no .cmdline, so the host would choose the command line",
            hint="build it with ukify --cmdline",
        )
    command_line = uki.stub_command_line(bytes(section_data(image, sections[".cmdline"])))
    if stub >= 261 and not any(word.startswith("console=") for word in command_line.split(" ")):
        raise ImageError(
            f"the UKI's command line has no console=, so systemd-stub {stub} adds one that depends on the VM",
            hint="name a console in the command line, for example console=ttyS0",
        )
    return UkiImage(
        kind="uki",
        sha256=hashlib.sha256(image).hexdigest(),
        authenticode=authenticode(image).hex(),
        kernel_authenticode=authenticode(kernel, parse_pe(kernel)).hex(),
        stub=stub,
        sections=tuple(
            NamedDigest(name=name, sha384=sha384(data).hex())
            for name, data in uki.measured_sections(image, stub)
        ),
        command_line=command_line,
        initrd=uki.assembled_initrd_digest(image, stub).hex(),
        measures=linux.kernel_version(kernel) >= linux.MEASURING_SINCE,
    )


def direct_digests(
    kernel: bytes,
    initrd: bytes | memoryview | None,
    command_line: str,
    patch: linux.SetupHeaderPatch | None,
) -> DirectImage:
    """Digests of a kernel, initrd and command line.

    Args:
        kernel: a bzImage.
        patch: how QEMU changes its header (``VmShape.patches_setup_header``); None when it does not.

    Raises:
        ImageError: it is no bzImage with an EFI stub.
    """
    measured = kernel if patch is None else linux.patched_setup_header(kernel, patch)
    header = None
    if patch is not None:
        header = SetupHeader(below_4g=hob.memory_below_4g(patch.memory), initrd_size=patch.initrd_size)
    return DirectImage(
        kind="direct",
        authenticode=authenticode(measured).hex(),
        measures=linux.kernel_version(kernel) >= linux.MEASURING_SINCE,
        command_line=command_line,
        initrd=None if initrd is None else sha384(initrd).hex(),
        setup_header=header,
    )
