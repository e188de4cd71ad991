# SPDX-License-Identifier: MIT
"""Evidence: everything that proves one execution, in one bundle that is judged again with no network."""

from outlayer_attestation.evidence.basis import CLOCK_SKEW_SECONDS
from outlayer_attestation.evidence.bundle import BUNDLE_FORMAT, Bundle, KnownCollateral, make_bundle
from outlayer_attestation.evidence.judge import appraise
from outlayer_attestation.evidence.reading import loads
from outlayer_attestation.evidence.trust import TrustAnchors
from outlayer_attestation.evidence.verdict import (
    ASKED,
    NOT_ASKED,
    Interval,
    Judged,
    Layer,
    LayerVerdict,
    Verdict,
    not_asked,
)

__all__ = [
    "ASKED",
    "BUNDLE_FORMAT",
    "CLOCK_SKEW_SECONDS",
    "NOT_ASKED",
    "Bundle",
    "Interval",
    "Judged",
    "KnownCollateral",
    "Layer",
    "LayerVerdict",
    "TrustAnchors",
    "Verdict",
    "appraise",
    "loads",
    "make_bundle",
    "not_asked",
]
