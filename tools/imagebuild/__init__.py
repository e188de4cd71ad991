# SPDX-License-Identifier: MIT
"""Build the VM and OCI images of the roles in the locked tool root, pin what they measure, and audit them."""
