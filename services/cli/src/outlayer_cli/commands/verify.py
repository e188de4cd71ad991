# SPDX-License-Identifier: MIT
"""``verify``: prove a result, layer by layer. Exit codes: 0 proven, 1 failed, 2 unproven."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlayer_cli.errors import UsageError
from outlayer_cli.session import SIMULATED_NOTICE, Session

if TYPE_CHECKING:
    from rich.table import Table

    from outlayer_attestation.checks import Check
    from outlayer_attestation.evidence import TrustAnchors, Verdict
    from outlayer_attestation.policy import Policy
    from outlayer_cli.evidence_source import Payload

app = typer.Typer(name="verify", help="Prove a result, layer by layer.", no_args_is_help=True)

Save = Annotated[Path | None, typer.Option("--save", help="Keep the evidence in this file.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A signed policy; default: the stack's.")]
PolicyKey = Annotated[Path | None, typer.Option("--policy-key", help="Public keys that sign the policy.")]
RpcUrl = Annotated[str | None, typer.Option("--rpc", help="A NEAR node of your own choice.")]
ApiUrl = Annotated[str | None, typer.Option("--api", help="The coordinator to ask for records.")]
InputFile = Annotated[Path | None, typer.Option("--input", help="The input's bytes.")]
OutputFile = Annotated[Path | None, typer.Option("--output", help="The output's bytes.")]
KeyFile = Annotated[Path | None, typer.Option("--payment-key-file", help="The key that made the call.")]


@dataclasses.dataclass(frozen=True)
class _Options:
    save: Path | None
    policy: Path | None
    policy_key: Path | None
    rpc: str | None
    api: str | None


@app.command()
def call(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument()],
    save: Save = None,
    policy: PolicyFile = None,
    policy_key: PolicyKey = None,
    rpc: RpcUrl = None,
    api: ApiUrl = None,
    input_file: InputFile = None,
    output_file: OutputFile = None,
    payment_key_file: KeyFile = None,
) -> None:
    """Prove a call over HTTPS."""
    from outlayer_cli.api import Api
    from outlayer_cli.evidence_source import call_payload
    from outlayer_cli.payment_keys import choose_key

    session: Session = context.obj
    options = _Options(save, policy, policy_key, rpc, api)
    with Api(api or session.stack.coordinator_url) as client:
        try:
            key = choose_key(session.stack, payment_key_file)
        except UsageError:
            if payment_key_file is not None:
                raise
            key = None
        payload = call_payload(client, call_id, key)
    _verify_all(session, "call", call_id, options, _given(payload, input_file, output_file))


@app.command()
def tx(
    context: typer.Context,
    tx_hash: Annotated[str, typer.Argument()],
    save: Save = None,
    policy: PolicyFile = None,
    policy_key: PolicyKey = None,
    rpc: RpcUrl = None,
    api: ApiUrl = None,
) -> None:
    """Prove the executions that a transaction requested; input and output come from the chain."""
    _verify_all(context.obj, "tx", tx_hash, _Options(save, policy, policy_key, rpc, api), None)


@app.command()
def job(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument()],
    save: Save = None,
    policy: PolicyFile = None,
    policy_key: PolicyKey = None,
    rpc: RpcUrl = None,
    api: ApiUrl = None,
    input_file: InputFile = None,
    output_file: OutputFile = None,
) -> None:
    """Prove a job by the coordinator's own id for it."""
    from outlayer_cli.evidence_source import Payload

    options = _Options(save, policy, policy_key, rpc, api)
    _verify_all(context.obj, "job", job_id, options, _given(Payload(), input_file, output_file))


@app.command()
def bundle(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Evidence that --save wrote.")],
    policy: PolicyFile = None,
    policy_key: PolicyKey = None,
    root_ca: Annotated[
        Path | None, typer.Option(help="Root certificate (DER); default: the stack's.")
    ] = None,
) -> None:
    """Prove saved evidence again. Opens no connection."""
    from outlayer_attestation.evidence import appraise

    session: Session = context.obj
    if not file.is_file():
        raise UsageError(f"there is no evidence file {file}")
    trust = _trust(session, root_ca)
    options = _Options(None, policy, policy_key, None, None)
    verdict = appraise(file.read_bytes(), trust, _policy(session, options), int(time.time()))
    _finish(session, [verdict])


def _given(payload: Payload, input_file: Path | None, output_file: Path | None) -> Payload:
    """The payload with the bytes of the files that were named in place of the fetched ones."""
    changes = {}
    for name, path in (("input", input_file), ("output", output_file)):
        if path is not None:
            if not path.is_file():
                raise UsageError(f"there is no {name} file {path}")
            changes[name] = path.read_bytes()
    return dataclasses.replace(payload, **changes)


def _trust(session: Session, root_ca: Path | None = None) -> TrustAnchors:
    from outlayer_attestation.evidence import TrustAnchors

    stack = session.stack
    return TrustAnchors(
        root_ca_der=Path(root_ca or stack.root_ca_file).read_bytes(),
        network_id=stack.network_id,
        contract_id=stack.contract_id,
        register_contract_id=stack.operator_id,
    )


def _policy(session: Session, options: _Options) -> Policy | None:
    from outlayer_cli.local_policy import load_policy

    path = options.policy or Path(session.stack.policy_file)
    key = options.policy_key or Path(session.stack.policy_key_file)
    if options.policy is None and not path.exists():
        return None
    return load_policy(path, key)


def _verify_all(session: Session, kind: str, key: str, options: _Options, payload: Payload | None) -> None:
    bundles = asyncio.run(_collect(session, kind, key, options, payload))
    from outlayer_attestation.evidence import appraise

    trust, policy, now = _trust(session), _policy(session, options), int(time.time())
    verdicts = [with_binding(appraise(item, trust, policy, now), checks) for item, checks in bundles]
    if options.save is not None:
        if len(bundles) != 1:
            raise UsageError(
                f"{kind} {key} has {len(bundles)} records; one file holds one", hint="verify each job"
            )
        options.save.write_text(json.dumps(bundles[0][0], indent=1) + "\n")
    _finish(session, verdicts, saved=options.save)


async def _collect(
    session: Session, kind: str, key: str, options: _Options, payload: Payload | None
) -> list[tuple[dict[str, Any], list[Check]]]:
    """A bundle for each record, with the checks that only a look at the chain can make."""
    from outlayer_cli import evidence_source as source
    from outlayer_cli.api import Api
    from outlayer_near.rpc import NearRpc

    stack = session.stack
    endpoint = options.rpc or stack.rpc_url
    with Api(options.api or stack.coordinator_url) as client:
        items = source.attestations(client, kind, key)
    found = []
    async with NearRpc(endpoint) as rpc:
        for item in items:
            record = item["record"]
            facts = None
            if record.get("transaction_hash"):
                facts = await source.chain_facts(rpc, stack.contract_id, record)
            used = payload or source.Payload()
            if facts is not None:
                used = source.Payload(used.input or facts.input, used.output or facts.output)
            statement, collateral = await source.approval(
                rpc, stack.operator_id, stack.network_id, item, endpoint
            )
            bundle = source.assemble(item, _trust(session), statement, collateral, used, facts)
            checks = source.chain_checks(record, facts) if facts is not None else []
            if kind == "tx":
                checks.append(_asked_for(record, key))
            found.append((bundle, checks))
    return found


def _asked_for(record: dict[str, Any], tx_hash: str) -> Check:
    from outlayer_attestation.checks import decide

    return decide(
        "asked_transaction", record.get("transaction_hash") == tx_hash, "other_transaction", tx_hash
    )


def with_binding(verdict: Verdict, checks: list[Check]) -> Verdict:
    """The verdict with more checks in its Binding layer."""
    from outlayer_attestation.evidence import Layer

    layers = tuple(
        dataclasses.replace(layer, checks=(*layer.checks, *checks)) if layer.layer is Layer.BINDING else layer
        for layer in verdict.layers
    )
    return dataclasses.replace(verdict, layers=layers)


def _finish(session: Session, verdicts: list[Verdict], saved: Path | None = None) -> None:
    worst = max(verdicts, key=lambda verdict: (verdict.exit_code == 1, verdict.exit_code))
    if session.json_output:
        reply = worst.to_json()
        if len(verdicts) > 1:
            reply["all"] = [verdict.to_json() for verdict in verdicts]
        session.result(reply)
    else:
        for verdict in verdicts:
            _print(session, verdict)
        if saved is not None:
            print(f"evidence kept in {saved}; check it again with: outlayer verify bundle {saved}")
    raise typer.Exit(worst.exit_code)


_COLOURS = {"PASS": "green", "FAIL": "bold red", "UNPROVEN": "yellow"}
_QUESTIONS = {
    "Source": "is the image built from the published source?",
    "Provenance": "who built it?",
    "Measurement": "do its predicted measurements stand in the policy?",
    "Approval": "are the measurements approved, by policy and on chain?",
    "Platform": "is the quote signed by a genuine platform with a current TCB?",
    "Identity": "are the quote's measurements the approved ones?",
    "Binding": "is this record one that the quote commits to?",
    "Payload": "are input and output the recorded bytes?",
}


def _print(session: Session, verdict: Verdict) -> None:
    """A line per layer; every check that did not pass, or with ``--verbose`` all of them."""
    from rich.table import Table

    table = Table()
    for column in ("layer", "verdict", "question and checks"):
        table.add_column(column, overflow="fold")
    for layer in verdict.layers:
        question = _QUESTIONS[layer.layer.value]
        if not layer.asked:
            table.add_row(layer.layer.value, "not asked", f"{question} outlayer audit asks")
            continue
        outcome = layer.outcome.value
        passed = sum(check.outcome.value == "PASS" for check in layer.checks)
        summary = f"{question} {passed} of {len(layer.checks)} checks passed"
        table.add_row(layer.layer.value, f"[{_COLOURS[outcome]}]{outcome}[/]", summary)
        for check in layer.checks:
            if session.verbose or check.outcome.value != "PASS":
                _add_check(table, check)
    session.console.print(table)
    if verdict.simulated:
        print(SIMULATED_NOTICE)
    words = {0: "PROVEN", 1: "FAILED", 2: "UNPROVEN"}
    print(f"{words[verdict.exit_code]}{' (SIMULATED)' if verdict.simulated else ''}")


def _add_check(table: Table, check: Check) -> None:
    outcome = check.outcome.value
    reason = check.detail if outcome == "PASS" else f"{check.reason}: {check.detail}"
    table.add_row("", f"[{_COLOURS[outcome]}]{outcome}[/]", f"{check.name}  {reason}")
