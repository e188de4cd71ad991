# SPDX-License-Identifier: MIT
"""The software TDX platform: real ECDSA under its own root, for machines without TDX hardware.

It issues quotes of the real byte layout with its own root CA, PCK chain, TCB info, QE identity and
CRLs, so every verifier runs the same code and differs only in the root it trusts. Everything it makes
says that it is simulated: certificate subjects, the header's user data, the FMSPC ("SIMTDX").
It runs as a process of its own (``python -m outlayer_attestation.platform``); no service holds its keys.
"""
