# SPDX-License-Identifier: MIT
"""``run`` in a container: filter its network, give up every privilege, become the service.

The platform measures a container (on dstack: the app-compose document, which carries the configuration), so nothing
is extended here. Its packet filter needs NET_ADMIN for one moment; without it the container does not start.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final, NoReturn

from outlayer_attestation.errors import VmError
from outlayer_attestation.vm.places import Places
from outlayer_attestation.vm.prepare import Given, check_given, status_of, write_files, write_status
from outlayer_attestation.vm.roles import GROUP, Role

CONFIGURATION: Final = "OUTLAYER_CONFIG"
SECRETS: Final = "OUTLAYER_SECRETS"
_KEPT: Final = ("SSL_CERT_FILE", "PATH", "LANG")
_PYTHON: Final = ("/usr/bin/python3", "-I", "-m")
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")


def given_to_container(places: Places, environ: MutableMapping[str, str], now: float) -> Given:
    """Take configuration and secrets out of the environment, so that no child sees them. Raises ``VmError``."""
    document, secrets = environ.pop(CONFIGURATION, ""), environ.pop(SECRETS, "")
    if not document:
        raise VmError(
            f"{CONFIGURATION} is not set",
            hint="put the configuration document into the app-compose as this variable; it is measured there",
        )
    return check_given(places.image(), document.encode(), secrets.encode(), now)


def service_environment(places: Places, given: Given, environ: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the service."""
    role = given.role
    kept = {name: environ[name] for name in _KEPT if name in environ}
    files = {
        variable: str(places.secrets / name)
        for name, variable in role.secrets.items()
        if name in given.secrets
    }
    return {**kept, **given.configuration.settings, **role.environment, **files}


def run(places: Places, environ: MutableMapping[str, str], now: float) -> NoReturn:
    """Never returns: the process becomes the service.

    Raises:
        VmError: the container must not serve.
    """
    given = given_to_container(places, environ, now)
    write_files(places, given, host_network=False)
    write_status(places, status_of(given, (), tdx=places.is_tdx()))
    _use_resolver(places)
    _load_filter(places)
    _own_state(places, given.role)
    _share_socket(places, given.role)
    environment = service_environment(places, given, environ)
    _start_status(environment)
    drop_privileges(given.role.user)
    for module in given.role.before:
        # the words are constants
        if subprocess.run([*_PYTHON, module], env=environment, check=False).returncode:
            raise VmError(f"{module} failed", hint="its message is above")
    os.execve(_PYTHON[0], [*_PYTHON, given.role.module], environment)  # noqa: S606


def _use_resolver(places: Places) -> None:
    """The measured name servers instead of the platform's."""
    try:
        (places.root / "etc/resolv.conf").write_bytes((places.run / "resolv.conf").read_bytes())
    except OSError as error:
        raise VmError(f"/etc/resolv.conf cannot be written: {error.strerror}") from error


def _load_filter(places: Places) -> None:
    command = ["/usr/sbin/nft", "--file", str(places.run / "nftables.rules")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise VmError(
            f"the packet filter was not loaded: {result.stderr.strip()[:500]}",
            hint="give the container NET_ADMIN (compose: cap_add: [NET_ADMIN]); it is dropped at once",
        )


def _own_state(places: Places, role: Role) -> None:
    state = places.root / "var/lib/outlayer"
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(state, role.user, role.user)


def _share_socket(places: Places, role: Role) -> None:
    """Let the role's group use the platform's agent, whose socket may be root's alone."""
    path = places.socket
    if not path.exists():
        return
    try:
        os.chown(path, -1, role.user)
        path.chmod(path.stat().st_mode | 0o060)
    except OSError as error:
        raise VmError(
            f"{path} cannot be opened to the {role.name}: {error.strerror}",
            hint="mount the guest agent's socket writable",
        ) from error


def _start_status(environment: Mapping[str, str]) -> None:
    """The status port, as a user of its own: the service may not talk to the loopback, this has to."""
    if os.fork() == 0:
        drop_privileges(GROUP)
        os.execve(_PYTHON[0], [*_PYTHON, "outlayer_attestation.vm", "status"], dict(environment))  # noqa: S606


def drop_privileges(user: int) -> None:
    """Become this user, without any capability and any way to get one back. Raises ``VmError``."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(*arguments: int) -> None:
        if libc.prctl(*arguments, *([0] * (5 - len(arguments)))) != 0:
            raise VmError(f"prctl{arguments} failed: {os.strerror(ctypes.get_errno())}")

    for capability in range(int(_LAST_CAPABILITY.read_text()) + 1):
        prctl(_PR_CAPBSET_DROP, capability)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o077)
    sys.stderr.flush()
