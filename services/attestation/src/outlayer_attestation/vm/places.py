# SPDX-License-Identifier: MIT
"""Where things are in a VM or container, below a root (``/``, or a folder in a test), and what the image says it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from outlayer_attestation.errors import VmError
from outlayer_attestation.measure.model import Document, load_document
from outlayer_attestation.vm.files import read_bounded

_FW_CFG: Final = "sys/firmware/qemu_fw_cfg/by_name"
_MAX_IMAGE_DOCUMENT: Final = 4096
_MAX_CPUINFO: Final = 16 * 1024 * 1024
_REGISTER: Final = "sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"


class ImageDocument(Document):
    """What the build wrote into the image, format ``outlayer/image/v1``.

    Attributes:
        variant: a development image says so wherever it speaks; its measurements differ.
        source_date_epoch: seconds; date of the newest package index among its inputs.
    """

    format: Literal["outlayer/image/v1"]
    role: str
    variant: Literal["production", "development"]
    source_date_epoch: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Places:
    """Paths below a root."""

    root: Path = Path("/")

    @property
    def run(self) -> Path:
        """What the agent writes."""
        return self.root / "run/outlayer"

    @property
    def secrets(self) -> Path:
        """A file per secret."""
        return self.run / "secrets"

    @property
    def configuration(self) -> Path:
        """The configuration document as it was measured."""
        return self.run / "config.json"

    @property
    def authorities(self) -> Path:
        """The public authorities of the image."""
        return self.root / "etc/ssl/certs/ca-certificates.crt"

    @property
    def status(self) -> Path:
        """The status document."""
        return self.run / "status.json"

    @property
    def socket(self) -> Path:
        """The guest agent's socket, where services look for dstack's."""
        return self.root / "run/dstack.sock"

    @property
    def register(self) -> Path:
        """RTMR3, read and extended through the kernel (Linux 6.16 and later)."""
        return self.root / _REGISTER

    @property
    def reports(self) -> Path:
        """configfs of TSM reports: quotes."""
        return self.root / "sys/kernel/config/tsm/report"

    @property
    def firmware_log(self) -> Path:
        """The event log that the firmware keeps for a TD."""
        return self.root / "sys/firmware/acpi/tables/data/CCEL"

    @property
    def tpm_log(self) -> Path:
        """The event log of a TPM, in a VM without TDX."""
        return self.root / "sys/kernel/security/tpm0/binary_bios_measurements"

    @property
    def pcrs(self) -> Path:
        """PCR values of a TPM: SHA-384 bank."""
        return self.root / "sys/class/tpm/tpm0/pcr-sha384"

    def host_file(self, name: str) -> Path:
        """A fw_cfg file of this name."""
        return self.root / _FW_CFG / name / "raw"

    def image(self) -> ImageDocument:
        """What the image is. Raises ``VmError``."""
        path = self.root / "usr/lib/outlayer/image.json"
        try:
            data = read_bounded(path, _MAX_IMAGE_DOCUMENT, "what the image says of itself")
        except OSError as error:
            raise VmError(
                f"{path} cannot be read: {error.strerror}", hint="is this an OutLayer image?"
            ) from error
        return load_document(ImageDocument, data, str(path), VmError, "rebuild the image")

    def is_tdx(self) -> bool:
        """Whether the processor says that this is a trust domain."""
        try:
            data = read_bounded(self.root / "proc/cpuinfo", _MAX_CPUINFO, "/proc/cpuinfo")
        except OSError as error:
            raise VmError(f"/proc/cpuinfo cannot be read: {error.strerror}") from error
        lines = data.decode("ascii", "replace").splitlines()
        flags = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
        return any("tdx_guest" in found for found in flags)
