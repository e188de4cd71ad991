# SPDX-License-Identifier: MIT
"""Where a local stack keeps its things, and the description of it that others read (``stack.json``)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outlayer_cli.embedded import free_port, write_secret
from outlayer_cli.errors import StackError, UsageError

STACK_FORMAT = 1
NETWORK_ID = "localnet"
MAIN_CONTRACT = "outlayer.test"
OPERATOR = "worker.outlayer.test"
INIT_ACCOUNT = "init.outlayer.test"
KEEPER = "keeper.outlayer.test"
DEVELOPER = "alice.test"
CALLER = "bob.test"
DEFAULT_PORTS = {"coordinator": 8080, "localnet": 3030, "postgres": 15432, "valkey": 16379, "keeper": 8090}
FIRST_WORKER_PORT = 8091
# sockaddr_un holds 108 bytes with the final NUL (unix(7)); the longest socket name here has under 24
_LONGEST_SOCKET_FOLDER = 80


def default_state(stack: str = "local") -> Path:
    """``$OUTLAYER_STATE``, else ``~/.local/share/outlayer/<stack>``."""
    given = os.environ.get("OUTLAYER_STATE")
    return Path(given).absolute() if given else Path.home() / ".local" / "share" / "outlayer" / stack


def cli_home() -> Path:
    """``$OUTLAYER_HOME``, else ``~/.outlayer``: the settings and credentials of the command line itself."""
    given = os.environ.get("OUTLAYER_HOME")
    return Path(given).absolute() if given else Path.home() / ".outlayer"


def repository_root() -> Path:
    """The checkout that holds the contract artifacts and examples of this installation."""
    root = Path(__file__).resolve().parents[4]
    if not (root / "contracts" / "artifacts").is_dir():
        raise StackError(
            f"the contract artifacts are not beside this installation ({root})",
            hint="run outlayer from a checkout: git clone, then make up",
        )
    return root


@dataclass(frozen=True)
class Layout:
    """The folders and files of one stack's state."""

    state: Path

    @property
    def stack_file(self) -> Path:
        return self.state / "stack.json"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def credentials(self) -> Path:
        return self.state / "credentials"

    @property
    def pids(self) -> Path:
        return self.state / "run" / "pids"

    @property
    def policy(self) -> Path:
        return self.state / "policy"

    @property
    def tdx(self) -> Path:
        return self.state / "tdx"

    @property
    def measurements(self) -> Path:
        """What is predicted for the installed worker; its simulated VM's quotes carry these values."""
        return self.tdx / "worker.measurements.json"

    @property
    def worker_configuration(self) -> Path:
        """The configuration document that a worker's VM of this stack would be given; RTMR3 holds its hash."""
        return self.tdx / "worker.config.json"

    @property
    def sockets(self) -> Path:
        """A folder for Unix sockets, only for its owner; elsewhere when the state's own path is too long."""
        folder = self.state / "run"
        if len(str(folder)) > _LONGEST_SOCKET_FOLDER:
            digest = hashlib.sha256(str(self.state).encode()).hexdigest()[:16]
            folder = Path(tempfile.gettempdir()) / f"outlayer-{os.getuid()}-{digest}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid():
            raise StackError(f"{folder} belongs to another user", hint="remove it, or set OUTLAYER_STATE")
        return folder

    @property
    def supervisor_socket(self) -> Path:
        return self.sockets / "supervisor.sock"

    def credential(self, name: str) -> Path:
        return self.credentials / name

    def log_file(self, service: str) -> Path:
        return self.logs / f"{service}.log"


@dataclass(frozen=True)
class Stack:
    """``stack.json``: what a client of the stack needs to know. No secret is in it, only where they are."""

    format: int
    simulated: bool
    network_id: str
    coordinator_url: str
    rpc_url: str
    feed_url: str
    contract_id: str
    operator_id: str
    init_account_id: str
    developer_id: str
    caller_id: str
    ports: dict[str, int]
    credentials_dir: str
    admin_token_file: str
    root_ca_file: str
    policy_file: str
    policy_key_file: str
    workers: int

    @classmethod
    def load(cls, state: Path) -> Stack:
        """Read ``stack.json``. Raises ``StackError`` when there is no stack or another version made it."""
        path = Layout(state).stack_file
        if not path.exists():
            raise StackError(f"there is no stack in {state}", hint="start one with: outlayer up")
        try:
            value: dict[str, Any] = json.loads(path.read_text())
            stack = cls(**value)
        except (ValueError, TypeError) as error:
            raise StackError(
                f"{path} cannot be read: {error}", hint="outlayer clean, then outlayer up"
            ) from error
        if stack.format != STACK_FORMAT:
            raise StackError(
                f"{path} has format {stack.format}, this version reads {STACK_FORMAT}",
                hint="use the version that made it, or: outlayer clean, then outlayer up",
            )
        return stack

    def save(self, state: Path) -> None:
        write_secret(Layout(state).stack_file, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def service_names(workers: int) -> list[str]:
    """Every service of a stack, in the order in which they start."""
    return ["postgres", "valkey", "tdx", "localnet", "coordinator", "keeper", *worker_names(workers)]


def worker_names(workers: int) -> list[str]:
    return [f"worker-{number}" for number in range(1, workers + 1)]


def choose_ports(choice: str, workers: int, remembered: dict[str, int]) -> dict[str, int]:
    """Ports by service. ``default`` gives the documented ones, ``auto`` free ones; what a stack had stays.

    ``OUTLAYER_PORT_<SERVICE>`` (``OUTLAYER_PORT_COORDINATOR=9000``) goes before both.
    """
    if choice not in ("default", "auto"):
        raise UsageError(f"ports are 'default' or 'auto', not {choice!r}")
    wanted = dict(DEFAULT_PORTS)
    wanted |= {name: FIRST_WORKER_PORT + index for index, name in enumerate(worker_names(workers))}
    ports: dict[str, int] = {}
    for name, default in wanted.items():
        override = os.environ.get(f"OUTLAYER_PORT_{name.upper().replace('-', '_')}")
        if override is not None:
            ports[name] = _port_number(name, override)
        elif name in remembered:
            ports[name] = remembered[name]
        else:
            ports[name] = default if choice == "default" else free_port()
    return ports


def _port_number(name: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"OUTLAYER_PORT_{name.upper()} is {text!r}, not a port number")
    return int(text)
