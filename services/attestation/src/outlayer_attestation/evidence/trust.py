# SPDX-License-Identifier: MIT
"""What a verifier trusts before it opens a bundle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from outlayer_attestation.appraisal import INTEL_ROOT_CA_SHA256


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """The verifier's own expectations. A name left out leaves its question unproven.

    ``root_ca_der`` is Intel's root, or that of a local stack's simulated platform. ``contract_id`` is the
    main contract, ``register_contract_id`` the one that approves workers.
    """

    root_ca_der: bytes
    network_id: str | None = None
    contract_id: str | None = None
    register_contract_id: str | None = None

    @property
    def root_ca_sha256(self) -> str:
        """Digest of the root certificate's DER."""
        return hashlib.sha256(self.root_ca_der).hexdigest()

    @property
    def simulated(self) -> bool:
        """Whether this root is another than Intel's."""
        return self.root_ca_sha256 != INTEL_ROOT_CA_SHA256
