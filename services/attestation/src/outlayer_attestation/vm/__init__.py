# SPDX-License-Identifier: MIT
"""The agent inside a VM: measures the configuration before any service starts, then answers for quotes.

``configuration``, ``firewall`` and ``rendering`` decide and are pure; ``prepare``, ``serve`` and ``container`` do.
"""
