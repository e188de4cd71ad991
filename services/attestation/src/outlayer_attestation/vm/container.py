# SPDX-License-Identifier: MIT
"""``run`` in a container: filter its network, give up every privilege, start the service once the clock counts.

The platform measures a container (on dstack: the app-compose document, which carries the configuration), so nothing
is extended here. Its packet filter needs NET_ADMIN for one moment; without it the container does not start.

The clock is the platform's, and so are the quotes: the service gets them from its socket. So a clock that differs from
the time servers is not set; the service is not started, or stopped. Three processes stay: this one, as the service's
user, which keeps the other two together; the service; and the watch over the clock, which has a user of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
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
_CONFIRMED: Final = b"1"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")


def given_to_container(places: Places, environ: MutableMapping[str, str], now: float) -> Given:
    """Take configuration and secrets out of the environment, so that no child sees them. Raises ``VmError``."""
    # the bytes as they were given, whether or not they are text
    document, secrets = (os.fsencode(environ.pop(name, "")) for name in (CONFIGURATION, SECRETS))
    if not document:
        raise VmError(
            f"{CONFIGURATION} is not set",
            hint="put the configuration document into the app-compose as this variable; it is measured there",
        )
    return check_given(places.image(), document, secrets, now)


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
    """Set the container up and become ``keep``, whose memory and environment never held a secret.

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
    watch = _start_watch(environment)
    drop_privileges(given.role.user)
    os.set_inheritable(watch.confirmed, True)
    words = [*_PYTHON, "outlayer_attestation.vm", "keep", str(watch.pid), str(watch.confirmed)]
    os.execve(words[0], words, environment)  # noqa: S606


def keep(role: Role, watch: Watch, environment: Mapping[str, str]) -> int:
    """Run the service until it ends, or until the clock does not count any more; its exit code.

    Raises:
        VmError: the clock was not confirmed, or a module that runs before the service failed.
    """
    watch.wait_until_confirmed()
    for module in role.before:
        # the words are constants
        if subprocess.run([*_PYTHON, module], env=environment, check=False).returncode:
            raise VmError(f"{module} failed", hint="its message is above")
    return keep_both(watch.pid, _spawn([*_PYTHON, role.module], environment))


@dataclass(frozen=True, slots=True)
class Watch:
    """The process that answers for status and watches the clock; ``confirmed`` is a pipe from it."""

    pid: int
    confirmed: int

    def wait_until_confirmed(self) -> None:
        """Return once it says so. Raises ``VmError`` when it ends instead."""
        with os.fdopen(self.confirmed, "rb") as pipe:
            if pipe.read(1) != _CONFIRMED:
                raise VmError("the service was not started", hint="the message of the clock's watch is above")


def say_confirmed(descriptor: int) -> None:
    """Tell the process that starts the service."""
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(_CONFIRMED)


def keep_both(watch: int, service: int) -> int:
    """Wait for the service, and stop it at once when the watch ends. SIGTERM and SIGINT are passed on to it.

    Returns:
        What this process exits with: the service's code, 128 and the signal's number, or 1 after the watch.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: _send(service, received))
    while True:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        if pid == service:
            return code if code >= 0 else 128 - code
        if pid == watch:
            _send(service, signal.SIGKILL)
            return 1


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _spawn(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start the service as this user; it is killed when this process ends."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _end_with(parent)
        os.execve(words[0], list(words), dict(environment))  # noqa: S606
    return pid


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


def _start_watch(environment: Mapping[str, str]) -> Watch:
    """As a user of its own: the service may not talk to the loopback or to time servers, this has to."""
    confirmed, say = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        drop_privileges(GROUP)
        _end_with(parent)
        os.set_inheritable(say, True)
        words = [*_PYTHON, "outlayer_attestation.vm", "watch", str(say)]
        os.execve(words[0], words, dict(environment))  # noqa: S606
    os.close(say)
    return Watch(pid, confirmed)


def _prctl(*arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(*arguments, *([0] * (5 - len(arguments)))) != 0:
        raise VmError(f"prctl{arguments} failed: {os.strerror(ctypes.get_errno())}")


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. A change of user would undo it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def drop_privileges(user: int) -> None:
    """Become this user, without any capability and any way to get one back. Raises ``VmError``."""
    for capability in range(int(_LAST_CAPABILITY.read_text()) + 1):
        _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o077)
    sys.stderr.flush()
