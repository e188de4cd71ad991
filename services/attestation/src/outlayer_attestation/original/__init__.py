# SPDX-License-Identifier: MIT
"""Records that the original project published: their V1 formula, its bundles of format 1, and a verdict on them.

Nothing here is ever written by this project. Source of the formula: outlayer.md §5.9; where V1 commits to less than
a reader may think, the verdict names it.
"""

from outlayer_attestation.original.ambiguity import ambiguous_fields
from outlayer_attestation.original.judge import V1_SCHEME, appraise_original
from outlayer_attestation.original.reading import (
    BUNDLE_FORMAT_1,
    Payload,
    Published,
    is_format_1,
    read_bundle_1,
    read_record,
    read_records,
)

__all__ = [
    "BUNDLE_FORMAT_1",
    "V1_SCHEME",
    "Payload",
    "Published",
    "ambiguous_fields",
    "appraise_original",
    "is_format_1",
    "read_bundle_1",
    "read_record",
    "read_records",
]
