# SPDX-License-Identifier: MIT
"""``keys``: payment keys for calls over HTTPS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from outlayer_cli.api import Api
from outlayer_cli.errors import CliError, UsageError
from outlayer_cli.payment_keys import PaymentKey, choose_key, key_file, list_key_files
from outlayer_cli.session import Session

app = typer.Typer(name="keys", help="Payment keys for calls over HTTPS.", no_args_is_help=True)
_HTTP_CONFLICT = 409
_MOST_NONCES_TRIED = 1000


@app.command()
def create(
    context: typer.Context,
    account: Annotated[str, typer.Option(help="The account that the key belongs to.")],
    grant: Annotated[int, typer.Option(min=0, help="Balance to grant, in micro-USD.")] = 10_000_000,
    project: Annotated[list[str] | None, typer.Option(help="Only for this project (repeatable).")] = None,
    max_per_call: Annotated[int | None, typer.Option(min=0, help="Most per call, in micro-USD.")] = None,
) -> None:
    """Make a key here, keep it in a file, and have the administrator grant it a balance."""
    session: Session = context.obj
    stack = session.stack
    token_file = Path(stack.admin_token_file)
    if not token_file.exists():
        raise UsageError(f"a grant needs the administrator's token ({token_file})")
    held = [nonce for owner, nonce, _ in list_key_files(stack) if owner == account]
    with Api(stack.coordinator_url) as api:
        first = max(held, default=0) + 1
        for nonce in range(first, first + _MOST_NONCES_TRIED):
            key = PaymentKey.generate(account, nonce)
            path = key_file(stack, account, nonce)
            key.save(path)
            body: dict[str, Any] = {
                "owner": account,
                "nonce": nonce,
                "key_hash": key.key_hash,
                "initial_balance": str(grant),
                "project_ids": project or [],
                "max_per_call": None if max_per_call is None else str(max_per_call),
            }
            answer = api.request(
                "POST", "/admin/payment-keys", json=body, bearer=token_file.read_text().strip()
            )
            if answer.status_code != _HTTP_CONFLICT:
                break
            path.unlink()
        else:
            raise CliError(f"no free nonce was found for {account}")
    try:
        api.expect(answer)
    except CliError:
        path.unlink()
        raise
    session.result(
        {"owner": account, "nonce": nonce, "key_file": str(path), "granted": str(grant)},
        f"{account}:{nonce}, granted ${grant / 1e6:.2f}; the secret is in {path}",
    )


@app.command("list")
def list_keys(context: typer.Context) -> None:
    """The keys that this client holds."""
    session: Session = context.obj
    rows = [{"owner": o, "nonce": n, "key_file": str(p)} for o, n, p in list_key_files(session.stack)]
    session.result(
        {"keys": rows}, "\n".join(f"{row['owner']}:{row['nonce']}  {row['key_file']}" for row in rows)
    )


@app.command()
def balance(
    context: typer.Context,
    payment_key_file: Annotated[Path | None, typer.Option(help="Default: the developer's first key.")] = None,
) -> None:
    """What a key has left."""
    session: Session = context.obj
    key = choose_key(session.stack, payment_key_file)
    with Api(session.stack.coordinator_url) as api:
        reply = api.balance(key).model_dump()
    session.result(reply, "\n".join(f"{name}: {value}" for name, value in reply.items()))
