# SPDX-License-Identifier: MIT
"""``python -m outlayer_localnet serve --state DIR --port N``: run the node until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import structlog

from outlayer_localnet.chain import Chain, ChainConfig
from outlayer_localnet.errors import LocalnetError, StoreError
from outlayer_localnet.genesis import load_or_create_key
from outlayer_localnet.node import Node
from outlayer_localnet.server import Server

log = structlog.get_logger()

EXIT_FAILED = 1
EXIT_USAGE = 2


def _positive(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be between 0.01 and 3600")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="outlayer_localnet", description="A NEAR node for one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the node until SIGTERM or SIGINT")
    serve.add_argument("--state", type=Path, required=True, help="directory that holds the chain")
    serve.add_argument("--port", type=int, required=True, help="port of RPC and block feed; 0: any free one")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--chain-id", default="localnet")
    serve.add_argument(
        "--block-interval", type=_positive, default=0.6, help="seconds between blocks when idle"
    )
    serve.add_argument("--history", type=int, default=20_000, help="blocks whose state can still be queried")
    serve.add_argument(
        "--min-yield-seconds",
        type=float,
        default=60.0,
        help="wall time a yield has at least before its 200 blocks are over, however busy the chain is",
    )
    return parser


def _logging() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _serve(args: argparse.Namespace) -> int:
    state: Path = args.state
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot create {state}: {error.strerror}") from error
    key = load_or_create_key(state)
    config = ChainConfig(
        chain_id=args.chain_id,
        block_interval=args.block_interval,
        history_blocks=max(0, args.history),
        min_yield_seconds=max(0.0, args.min_yield_seconds),
    )
    node = Node(Chain.open(state, key.public_key, config))
    server = Server(node, args.host, args.port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await server.start()
        await node.start()
        head = node.chain.head
        log.info("localnet is ready", url=server.url, chain_id=args.chain_id, height=head.height)
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(node.stopped.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await wait
    finally:
        await server.stop()
        await node.stop()
    log.info("localnet has stopped", height=node.chain.head.height)
    return 0 if node.failure is None else EXIT_FAILED


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    _logging()
    try:
        return asyncio.run(_serve(args))
    except LocalnetError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        sys.stderr.write(f"outlayer_localnet: {error.message}{hint}\n")
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
