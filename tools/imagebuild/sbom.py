# SPDX-License-Identifier: MIT
"""What an image is made of, for others: an SPDX 2.3 document, and the source packages that copyleft asks for.

Hashes come from the locks, versions and licences from the packages themselves. Pure functions.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

_LICENSE = "NOASSERTION"


@dataclass(frozen=True, slots=True)
class Component:
    """A Debian package or a wheel.

    Attributes:
        kind: "deb" or "pypi", the type of its package URL.
        source: source package and its version, for a .deb.
        licenses: names as the component gives them.
    """

    kind: str
    name: str
    version: str
    sha256: str
    filename: str
    source: tuple[str, str] | None
    licenses: tuple[str, ...]
    copyleft: bool

    @property
    def purl(self) -> str:
        """The package URL (ECMA-427)."""
        version = quote(self.version, safe=".~-")
        if self.kind == "deb":
            return f"pkg:deb/debian/{quote(self.name)}@{version}?arch=amd64&distro=debian-13"
        return f"pkg:pypi/{self.name}@{version}"

    @property
    def identifier(self) -> str:
        """The SPDX identifier."""
        return f"SPDXRef-{self.kind}-{re.sub(r'[^A-Za-z0-9.-]', '-', self.name)}"


def debian_components(
    packages: Mapping[str, Mapping[str, Any]], locked: Mapping[str, tuple[str, str]]
) -> list[Component]:
    """The .debs of which something is in the image.

    Args:
        packages: what the build wrote (``packages.json``).
        locked: package -> SHA-256 and file name in the archive.
    """
    return [
        Component(
            kind="deb",
            name=name,
            version=fields["version"],
            sha256=locked[name][0],
            filename=locked[name][1].rpartition("/")[2],
            source=(fields["source"], fields["source_version"]),
            licenses=tuple(fields["licenses"]),
            copyleft=fields["copyleft"],
        )
        for name, fields in sorted(packages.items())
    ]


def metadata_licenses(metadata: str) -> tuple[str, ...]:
    """Licence names of a wheel's METADATA (core metadata: License-Expression, else License and classifiers)."""
    head = metadata.partition("\n\n")[0]
    expression = re.findall(r"^License-Expression: (.+)$", head, re.MULTILINE)
    if expression:
        return (expression[0].strip(),)
    named = [line.strip() for line in re.findall(r"^License: ([^\n]{1,80})$", head, re.MULTILINE)]
    classified = re.findall(r"^Classifier: License :: (?:OSI Approved :: )?(.+)$", head, re.MULTILINE)
    return tuple(sorted({*named, *(name.strip() for name in classified)}))


def document(
    role: str, version: str, uki_sha256: str, epoch: int, components: Iterable[Component]
) -> dict[str, Any]:
    """The SPDX document: the same for the same image."""
    ordered = sorted(components, key=lambda item: (item.kind, item.name))
    image = "SPDXRef-image"
    described = [
        {
            "SPDXID": image,
            "name": f"outlayer-{role}",
            "versionInfo": version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": _LICENSE,
            "licenseDeclared": _LICENSE,
            "licenseComments": "our own code is under MIT; the packages in it say their own",
            "copyrightText": "NOASSERTION",
            "primaryPackagePurpose": "OPERATING-SYSTEM",
            "checksums": [{"algorithm": "SHA256", "checksumValue": uki_sha256}],
        }
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"outlayer-{role}",
        # unique by content, and no address that would have to answer
        "documentNamespace": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, uki_sha256)}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: outlayer-imagebuild"],
        },
        "packages": described + [_package(component) for component in ordered],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", image),
            *(_relation(image, "CONTAINS", component.identifier) for component in ordered),
        ],
    }


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _package(component: Component) -> dict[str, Any]:
    value: dict[str, Any] = {
        "SPDXID": component.identifier,
        "name": component.name,
        "versionInfo": component.version,
        "packageFileName": component.filename,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": _LICENSE,
        "licenseDeclared": _LICENSE,
        "licenseComments": f"named by the package: {'; '.join(component.licenses) or 'nothing'}",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": component.sha256}],
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": component.purl,
            }
        ],
    }
    if component.source is not None:
        value["supplier"] = "Organization: Debian"
        value["sourceInfo"] = f"built from {component.source[0]} {component.source[1]}"
    return value


def copyleft_sources(components: Iterable[Component]) -> list[str]:
    """Lines ``source version  binary packages``: what has to be offered with the image."""
    found: dict[tuple[str, str], list[str]] = {}
    for component in components:
        if component.copyleft:
            key = component.source or (f"pypi:{component.name}", component.version)
            found.setdefault(key, []).append(component.name)
    return [
        f"{name} {version}  {' '.join(sorted(names))}" for (name, version), names in sorted(found.items())
    ]
