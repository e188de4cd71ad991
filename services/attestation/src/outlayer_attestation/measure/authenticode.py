# SPDX-License-Identifier: MIT
"""The Authenticode digest of a PE file: what the firmware measures when it loads one.

Source of the rule: Microsoft "Windows Authenticode Portable Executable Signature Format", as edk2's
``MeasurePeImage`` applies it: the file without its CheckSum, without the directory entry of the
certificate table and without that table; headers first, then the sections in file order, then the rest.
"""

from __future__ import annotations

import hashlib

from outlayer_attestation.measure.pe import PeImage, parse_pe


def authenticode(data: bytes | memoryview, image: PeImage | None = None) -> bytes:
    """SHA-384 Authenticode digest (48 bytes) of a whole PE file.

    Args:
        data: the file.
        image: its parsed headers, when the caller has them.

    Raises:
        ImageError: the bytes are no PE file.
    """
    view = memoryview(data)
    parsed = image or parse_pe(view)
    hasher = hashlib.sha384()
    checksum = parsed.checksum_offset
    hasher.update(view[:checksum])
    if parsed.certificate_entry is None:
        hasher.update(view[checksum + 4 : parsed.headers_size])
    else:
        hasher.update(view[checksum + 4 : parsed.certificate_entry])
        hasher.update(view[parsed.certificate_entry + 8 : parsed.headers_size])
    hashed = parsed.headers_size
    for section in sorted(parsed.sections, key=lambda section: section.raw_offset):
        hasher.update(view[section.raw_offset : section.raw_offset + section.raw_size])
        hashed += section.raw_size
    # edk2 counts bytes hashed so far, not the end of the last section: the two differ if there are gaps
    hasher.update(view[hashed : parsed.size - parsed.certificate_size])
    return hasher.digest()
