# SPDX-License-Identifier: MIT
"""The keeper: sees to it that a key that no longer counts has no access key any more.

The register contract and the keystore DAO end keys by time and by revocation; the access keys themselves are
deleted by whoever asks. Anyone may, and nothing depends on it that it is this process: it only makes it sure.
"""
