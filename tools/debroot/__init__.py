# SPDX-License-Identifier: MIT
"""Debian packages as locked inputs: resolve, lock, fetch by hash, make a root file system, run in it.

Only the standard library and the programs of any Debian machine (apt, dpkg-deb, gpgv, tar, util-linux) are used,
so the tool runs before anything is installed.
"""
