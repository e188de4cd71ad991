# SPDX-License-Identifier: MIT
"""Published image metadata, format ``outlayer/image-metadata/v1``: one image in one shape.

It carries everything that a prediction needs, and the registers and events that came out. Reading it
predicts them again, so a document that contradicts itself is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from outlayer_attestation.errors import MetadataError
from outlayer_attestation.measure.hosttables import HostTables
from outlayer_attestation.measure.image import BootImage, FirmwareDigests
from outlayer_attestation.measure.model import Document, Model, Sha384Hex, load_document
from outlayer_attestation.measure.predict import Prediction, predict
from outlayer_attestation.measure.registers import RTMR_NAMES
from outlayer_attestation.measure.runtime import RuntimeEvent, runtime_events
from outlayer_attestation.measure.shape import VmShape

FORMAT: Final = "outlayer/image-metadata/v1"
RUNTIME_FORMAT: Final = "outlayer/runtime-events/v1"
_HINT: Final = "take the metadata that is published with the image, or write it: image measure --save FILE"

Payload = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$", max_length=8192)]
EventName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class NamedPayload(Model):
    """An RTMR3 event; the payload in hex."""

    name: EventName
    payload: Payload = ""


class RuntimeEvents(Document):
    """The events of RTMR3, in order, and the version (1 or 2) of their digests."""

    format: Literal["outlayer/runtime-events/v1"]
    digest_version: Literal[1, 2]
    events: Annotated[tuple[NamedPayload, ...], Field(max_length=256)]

    @classmethod
    def from_bytes(cls, data: bytes | str) -> RuntimeEvents:
        """Read the JSON document. Raises ``MetadataError``."""
        hint = f'write {{"format": "{RUNTIME_FORMAT}", "digest_version": 2, "events": [{{"name": …}}]}}'
        return load_document(cls, data, "the runtime events", MetadataError, hint)

    @classmethod
    def make(cls, events: tuple[RuntimeEvent, ...], digest_version: Literal[1, 2]) -> RuntimeEvents:
        """A document for these events."""
        named = tuple(NamedPayload(name=event.name, payload=event.payload.hex()) for event in events)
        return cls(format=RUNTIME_FORMAT, digest_version=digest_version, events=named)

    def runtime(self) -> list[RuntimeEvent]:
        """The events."""
        return [RuntimeEvent(event.name, bytes.fromhex(event.payload)) for event in self.events]


class PublishedEvent(Model):
    """One predicted event."""

    register_name: Annotated[Literal["rtmr0", "rtmr1", "rtmr2", "rtmr3"], Field(alias="register")]
    name: Annotated[str, StringConstraints(max_length=256)]
    sha384: Sha384Hex


class Registers(Model):
    """The five measurements."""

    mrtd: Sha384Hex
    rtmr0: Sha384Hex
    rtmr1: Sha384Hex
    rtmr2: Sha384Hex
    rtmr3: Sha384Hex


class ImageMetadata(Document):
    """An image in a shape: components, and what they give."""

    format: Literal["outlayer/image-metadata/v1"]
    shape: VmShape
    firmware: FirmwareDigests
    image: BootImage
    host_tables: HostTables
    runtime: RuntimeEvents | None
    measurements: Registers
    events: Annotated[tuple[PublishedEvent, ...], Field(max_length=1024)]

    @classmethod
    def from_bytes(cls, data: bytes | str) -> ImageMetadata:
        """Read the JSON document. Raises ``MetadataError``."""
        return load_document(cls, data, "the image metadata", MetadataError, _HINT)

    @classmethod
    def make(
        cls,
        shape: VmShape,
        firmware: FirmwareDigests,
        image: BootImage,
        host_tables: HostTables,
        runtime: RuntimeEvents | None,
    ) -> ImageMetadata:
        """Predict, and put components and results into one document."""
        prediction = predict_parts(shape, firmware, image, host_tables, runtime)
        return cls(
            format=FORMAT,
            shape=shape,
            firmware=firmware,
            image=image,
            host_tables=host_tables,
            runtime=runtime,
            measurements=Registers(**prediction.measurements.to_json()),
            events=_published(prediction),
        )

    def predict(self) -> Prediction:
        """The prediction from the components.

        Raises:
            MetadataError: it is not what the document says.
        """
        prediction = predict_parts(self.shape, self.firmware, self.image, self.host_tables, self.runtime)
        declared: dict[str, Any] = self.measurements.model_dump()
        wrong = [name for name, value in prediction.measurements.to_json().items() if declared[name] != value]
        if wrong:
            raise MetadataError(
                f"the image metadata contradicts itself: its components do not give its {', '.join(wrong)}",
                hint=_HINT,
            )
        if _published(prediction) != self.events:
            raise MetadataError("the image metadata lists other events than its components give", hint=_HINT)
        return prediction


def _published(prediction: Prediction) -> tuple[PublishedEvent, ...]:
    return tuple(
        PublishedEvent.model_validate(
            {"register": RTMR_NAMES[event.rtmr], "name": event.name, "sha384": event.digest.hex()}
        )
        for event in prediction.events
    )


def predict_parts(
    shape: VmShape,
    firmware: FirmwareDigests,
    image: BootImage,
    host_tables: HostTables,
    runtime: RuntimeEvents | None,
) -> Prediction:
    """The prediction from documents; see ``predict`` for its errors."""
    events = [] if runtime is None else runtime_events(runtime.runtime(), runtime.digest_version)
    return predict(
        firmware,
        image,
        shape,
        host_tables.acpi_tables(shape),
        events,
        host_tables.smbios_table(shape),
    )
