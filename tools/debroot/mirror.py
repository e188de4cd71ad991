# SPDX-License-Identifier: MIT
"""Where the archive is: from this machine's own apt configuration, or from the environment. Never from the lock."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tools.debroot.errors import CommandError, ConfigurationError
from tools.debroot.process import run

MIRROR_VARIABLE = "OUTLAYER_DEBIAN_MIRROR"
SECURITY_VARIABLE = "OUTLAYER_DEBIAN_SECURITY_MIRROR"
SNAPSHOT_VARIABLE = "OUTLAYER_DEBIAN_SNAPSHOT"

_URI = re.compile(r"^'([^']+)/dists/([^/']+)(/updates)?/InRelease' ", re.MULTILINE)
_SUITE = re.compile(
    r"(?:bullseye|bookworm|trixie|forky|duke|sid|stable|oldstable|testing|unstable)"
    r"(-security|-updates|-backports|-proposed-updates)?"
)
_HINT = (
    f"set {MIRROR_VARIABLE} to the base URL of a Debian mirror (the folder that holds dists/ and pool/), and"
    f" {SECURITY_VARIABLE} to that of the security archive"
)
# what reaches a mirror through a proxy or with its own certificates, and nothing that weakens a check
_ACQUIRE = re.compile(r'^(Acquire::(?:https?|ftp|Retries|ForceIPv4|ForceIPv6)[^ ]*) "(.*)";$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Base URLs of the two archives, and of a snapshot service if there is one.

    `snapshot` may hold {archive} (debian or debian-security) and {timestamp} (20260102T030405Z).
    """

    main: str
    security: str
    snapshot: str | None = None

    def base(self, suite: str) -> str:
        return self.security if suite.endswith("-security") else self.main

    def snapshot_base(self, suite: str, date: str | None) -> str | None:
        if self.snapshot is None:
            return None
        archive = "debian-security" if suite.endswith("-security") else "debian"
        stamp = (date or "").replace("-", "").replace(":", "")
        return self.snapshot.replace("{archive}", archive).replace("{timestamp}", stamp).rstrip("/")


def parse_uris(text: str) -> tuple[str | None, str | None]:
    """Main and security archive in the answer of `apt-get --print-uris update`; others are passed over."""
    main = security = None
    for base, suite, _ in _URI.findall(text):
        known = _SUITE.fullmatch(suite)
        if known is None:
            continue
        if known.group(1) == "-security":
            security = security or base
        else:
            main = main or base
    return main, security


def discover(environment: Mapping[str, str] | None = None) -> Mirrors:
    """The archives this machine uses; variables of the environment come first.

    Errors:
        ConfigurationError: apt names no Debian mirror and no variable does.
    """
    settings = os.environ if environment is None else environment
    main, security = settings.get(MIRROR_VARIABLE), settings.get(SECURITY_VARIABLE)
    if not main or not security:
        found_main, found_security = _from_apt()
        main, security = main or found_main, security or found_security
    if main and not security and main.rstrip("/").endswith("/debian"):
        security = main.rstrip("/") + "-security"
    if not main or not security:
        raise ConfigurationError("this machine's apt names no Debian mirror", hint=_HINT)
    return Mirrors(main.rstrip("/"), security.rstrip("/"), settings.get(SNAPSHOT_VARIABLE) or None)


def _from_apt() -> tuple[str | None, str | None]:
    try:
        return parse_uris(run(["apt-get", "-o", "Debug::NoLocking=1", "--print-uris", "update"]))
    except (CommandError, ConfigurationError):
        return None, None


def acquire_options() -> dict[str, str]:
    """Proxy and certificate settings of this machine's apt, for a private apt to use as well."""
    try:
        return dict(_ACQUIRE.findall(run(["apt-config", "dump"])))
    except (CommandError, ConfigurationError):
        return {}
