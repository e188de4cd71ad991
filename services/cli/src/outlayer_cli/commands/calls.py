# SPDX-License-Identifier: MIT
"""``call``, ``result`` and ``request``: run an app, over HTTPS or from the chain."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from outlayer_cli.api import Api, ApiError, CallAnswer
from outlayer_cli.errors import EXIT_FAILED, CliError, UsageError
from outlayer_cli.payment_keys import PaymentKey, choose_key
from outlayer_cli.session import Session

if TYPE_CHECKING:
    from outlayer_cli.receipts import Receipt, ReceiptFolder

app = typer.Typer()

MAX_INPUT_BYTES = 10 * 1024 * 1024
"""What a coordinator takes of a whole request."""

KeyFile = Annotated[
    Path | None, typer.Option("--payment-key-file", help="Default: the developer's first key.")
]
MaxInstructions = Annotated[int | None, typer.Option(min=1)]
MaxMemory = Annotated[int | None, typer.Option("--max-memory-mb", min=1)]
MaxSeconds = Annotated[int | None, typer.Option("--max-execution-seconds", min=1)]


def parse_input(text: str) -> Any:
    """The JSON value to send; ``@file`` reads it from a file. Raises ``UsageError`` for anything else."""
    if text.startswith("@"):
        text = _read_input(Path(text[1:]))
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the input is not JSON: {error}", hint="""a text needs quotes of its own: '"text"'"""
        ) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _read_input(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"there is no input file {path}")
    with path.open("rb") as stream:
        content = stream.read(MAX_INPUT_BYTES + 1)
    if len(content) > MAX_INPUT_BYTES:
        raise UsageError(f"{path} is longer than {MAX_INPUT_BYTES} bytes, the most that a call takes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}") from error


def encode_input(value: Any) -> bytes:
    """The compact JSON text of an input, in UTF-8: the bytes that are sent, and that the guest reads.

    Raises ``UsageError`` for what JSON in UTF-8 cannot hold: a number beyond all bounds, half a surrogate pair.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the input cannot be sent as JSON: {error}") from error


def encode_body(input_bytes: bytes, members: dict[str, Any]) -> bytes:
    """The body of a call: the input's own bytes, and the other members after it."""
    rest = json.dumps(members, separators=(",", ":")).encode("ascii")
    return b'{"input":' + input_bytes + b"," + rest[1:]


def limits_of(instructions: int | None, memory_mb: int | None, seconds: int | None) -> dict[str, int]:
    given = {
        "max_instructions": instructions,
        "max_memory_mb": memory_mb,
        "max_execution_seconds": seconds,
    }
    return {name: value for name, value in given.items() if value is not None}


@app.command()
def call(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="owner/name")],
    input_json: Annotated[str, typer.Argument(metavar="INPUT", help="JSON, or @file")],
    asynchronous: Annotated[bool, typer.Option("--async", help="Do not wait for the result.")] = False,
    payment_key_file: KeyFile = None,
    version: Annotated[str | None, typer.Option(help="A version key; default: the active one.")] = None,
    compute_limit: Annotated[int | None, typer.Option(min=0, help="Most to pay, in micro-USD.")] = None,
    deposit: Annotated[int | None, typer.Option(min=0, help="For the developer, in micro-USD.")] = None,
    max_instructions: MaxInstructions = None,
    max_memory_mb: MaxMemory = None,
    max_execution_seconds: MaxSeconds = None,
    keep_receipt: Annotated[
        bool, typer.Option("--receipt/--no-receipt", help="Keep what was sent, to verify the call with.")
    ] = True,
) -> None:
    """Call an app over HTTPS and print its answer. Exit code 1 when the app failed."""
    from outlayer_cli import receipts

    session: Session = context.obj
    input_bytes = encode_input(parse_input(input_json))
    members: dict[str, Any] = {"async": asynchronous}
    limits = limits_of(max_instructions, max_memory_mb, max_execution_seconds)
    if limits:
        members["resource_limits"] = limits
    if version is not None:
        members["version_key"] = version
    headers = {
        name: str(value)
        for name, value in {"X-Compute-Limit": compute_limit, "X-Attached-Deposit": deposit}.items()
        if value is not None
    }
    key = choose_key(session.stack, payment_key_file)
    with Api(session.stack.coordinator_url) as api:
        receipt = receipts.new_receipt(
            project=project,
            version_key=version,
            limits=limits,
            key=key,
            attached_usd=deposit,
            compute_limit_usd=compute_limit,
            input_bytes=input_bytes,
            coordinator=api.origin,
            asynchronous=asynchronous,
            now=int(time.time()),
        )
        folder = receipts.receipt_folder(session.state) if keep_receipt else None
        answer = _send(api, project, encode_body(input_bytes, members), key, headers, folder, receipt)
    _show(session, answer)


def _send(
    api: Api,
    project: str,
    body: bytes,
    key: PaymentKey,
    headers: dict[str, str],
    folder: ReceiptFolder | None,
    receipt: Receipt,
) -> CallAnswer:
    """Send a call with its receipt written before, and completed after. Without a folder no receipt is kept."""
    from outlayer_cli.receipts import ReceiptError, answered

    begun = None if folder is None else folder.begin(receipt)
    try:
        answer = api.call(project, body, key, headers)
    except ApiError as error:
        if folder is not None and begun is not None and error.status < 500:
            folder.drop(begun)
        raise
    except Exception:
        if begun is not None:
            _warn(f"the call may have been accepted; its receipt is {begun}")
        raise
    if folder is not None and begun is not None:
        reply = answer.reply
        done = answered(receipt, reply.call_id, reply.status, answer.output_sha256, int(time.time()))
        try:
            folder.finish(begun, done)
        except ReceiptError as error:  # the answer was paid for, and is shown all the same
            _warn(f"{error}; the receipt as far as it was written is {begun}")
    return answer


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


@app.command()
def result(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument()],
    payment_key_file: KeyFile = None,
) -> None:
    """What came of a call. Exit code 1 when the app failed."""
    from outlayer_cli.receipts import receipt_folder

    session: Session = context.obj
    folder = receipt_folder(session.state)
    call_id = folder.of(call_id.lower()).stem
    key = choose_key(session.stack, payment_key_file)
    with Api(session.stack.coordinator_url) as api:
        answer = api.result(call_id, key)
    _complete(folder, answer)
    _show(session, answer)


def _complete(folder: ReceiptFolder, answer: CallAnswer) -> None:
    """Add the result to this client's receipt. What was delivered first stays: another answer now is a lie."""
    from outlayer_cli.receipts import answered

    reply = answer.reply
    receipt = folder.find(reply.call_id)
    if receipt is None or reply.status == "pending":
        return
    done = answered(receipt, reply.call_id, reply.status, answer.output_sha256, int(time.time()))
    if receipt.received_at is None:
        folder.update(done)
    elif (receipt.status, receipt.output_sha256) != (done.status, done.output_sha256):
        raise CliError(
            f"the coordinator told another result of call {reply.call_id} before",
            hint=f"it is not to be trusted; what it told first is in {folder.of(reply.call_id)}",
        )


def _show(session: Session, answer: CallAnswer) -> None:
    from outlayer_cli.replies import shown

    reply = answer.reply
    if session.json_output:
        print(_json_text(answer.value), flush=True)
    elif reply.status == "completed":
        print(_json_text(reply.output))
        cost = int(reply.compute_cost or 0) / 1e6
        print(f"\ncall {reply.call_id}: {reply.time_ms} ms in the guest, ${cost:.6f}")
        print(f"verify it with: outlayer verify call {reply.call_id}")
    elif reply.status == "failed":
        print(f"the app failed: {shown(reply.error, 2000)}\n\ncall {reply.call_id}")
    else:
        print(f"call {reply.call_id} is {reply.status}; ask again with: outlayer result {reply.call_id}")
    if reply.status == "failed":
        raise typer.Exit(EXIT_FAILED)


def _json_text(value: Any) -> str:
    """One line of JSON that can be printed: half a surrogate pair, which no UTF-8 can hold, stays escaped."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


@app.command()
def request(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="owner/name")],
    input_json: Annotated[str, typer.Argument(metavar="INPUT", help="JSON, or @file")],
    account: Annotated[str, typer.Option(help="The account that signs and pays.")],
    via: Annotated[str | None, typer.Option(help="A contract with the caller example's 'ask'.")] = None,
    max_instructions: MaxInstructions = None,
    max_memory_mb: MaxMemory = None,
    max_execution_seconds: MaxSeconds = None,
) -> None:
    """Request an execution on chain and print the value. Exit code 1 when the execution failed."""
    from outlayer_cli.chain import request_execution
    from outlayer_cli.replies import shown

    session: Session = context.obj
    limits = limits_of(max_instructions, max_memory_mb, max_execution_seconds)
    text = encode_input(parse_input(input_json)).decode("utf-8")
    reply = asyncio.run(request_execution(session, project, text, account, via, limits))
    if session.json_output:
        session.result(reply)
    else:
        print(json.dumps(reply["value"], ensure_ascii=False))
        if reply["error"]:
            print(f"the app failed: {shown(reply['error'], 2000)}")
        print(f"\ntransaction {reply['tx_hash']}, request {reply['request_id']}")
        if reply["charged"] is not None:
            print(_payment_line(reply))
        print(f"verify it with: outlayer verify tx {reply['tx_hash']}")
    if not reply["success"]:
        raise typer.Exit(EXIT_FAILED)


def _payment_line(reply: dict[str, Any]) -> str:
    attached, charged, refunded = (_near(reply[name]) for name in ("attached", "charged", "refunded"))
    return f"{attached} NEAR attached, {charged} charged, {refunded} back to {reply['payer']}"


def _near(yocto: str) -> str:
    """NEAR with all their digits, of yoctoNEAR in decimal text."""
    whole, rest = divmod(int(yocto), 10**24)
    return f"{whole}.{rest:024d}".rstrip("0").rstrip(".")
