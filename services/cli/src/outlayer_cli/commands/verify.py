# SPDX-License-Identifier: MIT
"""``verify``: prove a result, layer by layer. Exit codes: 0 proven, 1 failed, 2 unproven."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlayer_cli.commands.verify_record import (
    given_policy,
    original_bundle,
    read_collaterals,
    read_file,
    record,
)
from outlayer_cli.errors import UsageError
from outlayer_cli.session import SIMULATED_NOTICE, Session

if TYPE_CHECKING:
    from rich.table import Table

    from outlayer_attestation.checks import Check
    from outlayer_attestation.evidence import KnownCollateral, LayerVerdict, TrustAnchors, Verdict
    from outlayer_attestation.policy import Policy
    from outlayer_cli.evidence_source import Attestation, ChainFacts, Payload
    from outlayer_cli.receipts import Receipt
    from outlayer_near.rpc import NearRpc

app = typer.Typer(name="verify", help="Prove a result, layer by layer.", no_args_is_help=True)
app.command()(record)

Save = Annotated[Path | None, typer.Option("--save", help="Keep the evidence in this file.")]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A signed policy; default: the stack's.")]
PolicyKey = Annotated[Path | None, typer.Option("--policy-key", help="Public keys that sign the policy.")]
RpcUrl = Annotated[str | None, typer.Option("--rpc", help="A NEAR node of your own choice.")]
ApiUrl = Annotated[str | None, typer.Option("--api", help="The coordinator to ask for records.")]
InputFile = Annotated[Path | None, typer.Option("--input", help="The input's bytes.")]
OutputFile = Annotated[Path | None, typer.Option("--output", help="The output's bytes.")]
KeyFile = Annotated[Path | None, typer.Option("--payment-key-file", help="The key that made the call.")]
CollateralFiles = Annotated[
    list[Path] | None,
    typer.Option("--collateral", help="More collateral, newer for example; may be repeated."),
]
ReceiptFile = Annotated[
    Path | None,
    typer.Option("--receipt", help="Your receipt of the call; default: the one outlayer call kept."),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    save: Path | None = None
    policy: Path | None = None
    policy_key: Path | None = None
    rpc: str | None = None
    api: str | None = None
    collateral: tuple[Path, ...] = ()
    receipt: Path | None = None


@app.command()
def call(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument()],
    save: Save = None,
    policy: PolicyFile = None,
    policy_key: PolicyKey = None,
    rpc: RpcUrl = None,
    api: ApiUrl = None,
    collateral: CollateralFiles = None,
    receipt: ReceiptFile = None,
    input_file: InputFile = None,
    output_file: OutputFile = None,
    payment_key_file: KeyFile = None,
) -> None:
    """Prove a call over HTTPS."""
    from outlayer_cli.api import Api
    from outlayer_cli.evidence_source import call_payload
    from outlayer_cli.payment_keys import choose_key

    session: Session = context.obj
    options = _Options(
        save=save,
        policy=policy,
        policy_key=policy_key,
        rpc=rpc,
        api=api,
        collateral=tuple(collateral or ()),
        receipt=receipt,
    )
    with Api(api or session.stack.coordinator_url) as client:
        try:
            # the stack's own key goes to the stack's own coordinator alone
            own = api is None or payment_key_file is not None
            key = choose_key(session.stack, payment_key_file) if own else None
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
    collateral: CollateralFiles = None,
) -> None:
    """Prove the executions that a transaction requested; input and output come from the chain."""
    options = _Options(
        save=save, policy=policy, policy_key=policy_key, rpc=rpc, api=api, collateral=tuple(collateral or ())
    )
    _verify_all(context.obj, "tx", tx_hash, options, None)


@app.command()
def job(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument()],
    save: Save = None,
    policy: PolicyFile = None,
    policy_key: PolicyKey = None,
    rpc: RpcUrl = None,
    api: ApiUrl = None,
    collateral: CollateralFiles = None,
    receipt: ReceiptFile = None,
    input_file: InputFile = None,
    output_file: OutputFile = None,
) -> None:
    """Prove a job by the coordinator's own id for it."""
    from outlayer_cli.evidence_source import Payload

    options = _Options(
        save=save,
        policy=policy,
        policy_key=policy_key,
        rpc=rpc,
        api=api,
        collateral=tuple(collateral or ()),
        receipt=receipt,
    )
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
    collateral: CollateralFiles = None,
    receipt: ReceiptFile = None,
) -> None:
    """Prove saved evidence again. Opens no connection, so the chain's words in it are stated."""
    from outlayer_attestation.errors import EvidenceError
    from outlayer_attestation.evidence import appraise, loads

    session: Session = context.obj
    options = _Options(
        policy=policy, policy_key=policy_key, collateral=tuple(collateral or ()), receipt=receipt
    )
    content, now = read_file(file, "evidence"), int(time.time())
    try:
        document = loads(content)
    except EvidenceError:
        document = content  # judged as it is: a verdict says what is wrong with it
    if isinstance(document, dict) and document.get("bundle_format") == 1:
        named = given_policy(policy, policy_key)  # the stack's own says nothing about the original's images
        verdict = original_bundle(document, root_ca, named, options.collateral, now)
    else:
        signed = _policy(session, options)
        verdict = appraise(
            document, _trust(session, root_ca), signed, now, known=read_collaterals(options.collateral)
        )
        verdict = _with_receipt(session, verdict, document, options)
    _finish(session, [verdict])


def _given(payload: Payload, input_file: Path | None, output_file: Path | None) -> Payload:
    """The payload with the bytes of the files that were named in place of the fetched ones."""
    changes = {}
    for name, path in (("input", input_file), ("output", output_file)):
        if path is not None:
            changes[name] = read_file(path, name)
    return dataclasses.replace(payload, **changes)


def _trust(session: Session, root_ca: Path | None = None) -> TrustAnchors:
    from outlayer_attestation.evidence import TrustAnchors

    stack = session.stack
    return TrustAnchors(
        root_ca_der=read_file(Path(root_ca or stack.root_ca_file), "root certificate"),
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
    from outlayer_attestation.evidence import appraise

    trust, policy = _trust(session), _policy(session, options)
    known = read_collaterals(options.collateral)
    bundles = asyncio.run(_collect(session, kind, key, options, payload, trust, known))
    now = int(time.time())
    verdicts = [
        with_binding(appraise(item, trust, policy, now, asked=True), checks) for item, checks in bundles
    ]
    if options.save is not None:
        if len(bundles) != 1:
            raise UsageError(
                f"{kind} {key} has {len(bundles)} records; one file holds one", hint="verify each job"
            )
        try:
            options.save.write_text(json.dumps(bundles[0][0], indent=1) + "\n")
        except OSError as error:
            for verdict in verdicts:
                _print(session, verdict)
            raise UsageError(f"cannot write {options.save}: {error.strerror}") from error
    _finish(session, verdicts, saved=options.save)


async def _collect(
    session: Session,
    kind: str,
    key: str,
    options: _Options,
    payload: Payload | None,
    trust: TrustAnchors,
    known: list[KnownCollateral],
) -> list[tuple[dict[str, Any], list[Check]]]:
    """A bundle for each record, with the checks on what was asked for and on the client's own receipt."""
    from outlayer_cli import evidence_source as source
    from outlayer_cli.api import Api
    from outlayer_near.rpc import NearRpc

    stack = session.stack
    endpoint = options.rpc or stack.rpc_url
    with Api(options.api or stack.coordinator_url) as client:
        items = source.attestations(client, kind, key)
    found = []
    recorded = {item.task.request_id for item in items}
    async with NearRpc(endpoint) as rpc:
        for item in items:
            facts = None
            if item.task.transaction_hash:
                facts = await source.chain_facts(rpc, stack.contract_id, item.record)
            receipt = _receipt(session, item.record, options)
            made = await _bundle(rpc, session, item, facts, payload, receipt, endpoint, trust, known)
            checks = [source.asked_for(item.record, kind, key)]
            if kind == "tx" and facts is not None:
                checks.append(source.all_recorded(facts, recorded))
            if item.task.request_id is None:
                version = await source.active_version(
                    rpc, stack.contract_id, item.task.project_id, item.task.anchor_height
                )
                checks += _receipt_checks(receipt, item.record, version)
            found.append((made, checks))
    return found


async def _bundle(
    rpc: NearRpc,
    session: Session,
    item: Attestation,
    facts: ChainFacts | None,
    payload: Payload | None,
    receipt: Receipt | None,
    endpoint: str,
    trust: TrustAnchors,
    known: list[KnownCollateral],
) -> dict[str, Any]:
    """Everything about one record, read by an own connection."""
    from outlayer_attestation.evidence import KnownCollateral, make_bundle
    from outlayer_cli import evidence_source as source

    stack = session.stack
    used = payload or source.Payload()
    if facts is not None:
        used = source.Payload(
            facts.input if used.input is None else used.input,
            facts.output if used.output is None else used.output,
        )
    header = await source.anchor_header(rpc, item.record)
    settled = None if facts is None or facts.settlement is None else facts.settlement.block_height

    async def word(block: int | None) -> dict[str, Any] | None:
        return await source.approval(rpc, stack.operator_id, stack.network_id, item, endpoint, block)

    words = {
        "anchor": await word(item.task.anchor_height) if header is not None else None,
        "settlement": None if settled is None else await word(settled),
        "now": await word(None),
    }
    collaterals = [
        KnownCollateral(text, collateral)
        for text, collateral in await source.collaterals(
            rpc, stack.operator_id, item, () if settled is None else (settled,)
        )
    ]
    return make_bundle(
        attestation=item.raw,
        collaterals=[*collaterals, *known],
        trust=trust,
        approval=words,
        chain=source.chain_word(endpoint, header, facts),
        input_bytes=used.input,
        output_bytes=used.output,
        receipt=None if receipt is None else receipt.to_json(),
    )


def _receipt(session: Session, record: dict[str, Any], options: _Options) -> Receipt | None:
    """This client's receipt of a call: the one that was named, else the one that ``outlayer call`` kept."""
    from outlayer_cli.receipts import load, receipt_folder

    if options.receipt is not None:
        return load(options.receipt)
    call_id = record.get("call_id")
    if record.get("request_id") is not None or not isinstance(call_id, str):
        return None
    try:
        uuid.UUID(call_id)
    except ValueError:
        return None  # the record's own id, which a coordinator may make up
    return receipt_folder(session.state).find(call_id)


def _receipt_checks(receipt: Receipt | None, record: dict[str, Any], version: str | None) -> list[Check]:
    from outlayer_cli.receipts import compare_receipt, without_receipt

    return without_receipt() if receipt is None else compare_receipt(receipt, record, version)


def _with_receipt(session: Session, verdict: Verdict, document: Any, options: _Options) -> Verdict:
    """The verdict on a saved bundle of a call, compared with this client's receipt, else with the bundle's."""
    from outlayer_attestation.checks import Outcome, unproven
    from outlayer_attestation.evidence import Layer
    from outlayer_cli.receipts import compare_receipt, compare_stated, without_receipt

    if verdict.layer(Layer.BINDING).checks[0].outcome is not Outcome.PASS:
        return verdict  # it could not be read
    record = document["record"]
    if record.get("request_id") is not None:
        return verdict
    own = _receipt(session, record, options)
    if own is not None:
        return with_binding(verdict, compare_receipt(own, record))
    if document["receipt"] is None:
        return with_binding(verdict, without_receipt())
    # whoever made the bundle made its receipt: it contradicts, but it proves nothing
    hint = "the receipt is the bundle's own; name yours: --receipt FILE"
    return with_binding(
        verdict,
        [*compare_stated(document["receipt"], record), unproven("receipt", "receipt_not_yours", hint)],
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


_COLOURS = {"PASS": "green", "FAIL": "bold red", "UNPROVEN": "yellow", "STATED": "cyan"}
_QUESTIONS = {
    "Source": "is the image built from the published source?",
    "Provenance": "who built it?",
    "Measurement": "do its predicted measurements stand in the policy?",
    "Approval": "are the measurements approved, by policy and on chain?",
    "Platform": "is the quote signed by a genuine platform with a current TCB?",
    "Identity": "are the quote's measurements the approved ones?",
    "Binding": "is this record one that the quote commits to, and when was it made?",
    "Payload": "are input and output the recorded bytes?",
}


def _print(session: Session, verdict: Verdict) -> None:
    """A line per layer; every check that did not pass, or with ``--verbose`` all of them; what it rests on."""
    from rich.table import Table

    from outlayer_cli.replies import shown

    table = Table()
    for column in ("layer", "verdict", "question and checks"):
        table.add_column(column, overflow="fold")
    for layer in verdict.layers:
        question = _QUESTIONS[layer.layer.value]
        if not layer.asked:
            table.add_row(layer.layer.value, "not asked", f"{question} outlayer audit asks")
            continue
        outcome = layer.outcome.value
        table.add_row(
            layer.layer.value, f"[{_COLOURS[outcome]}]{outcome}[/]", f"{question} {_counted(layer)}"
        )
        for check in layer.checks:
            if session.verbose or check.outcome.value in ("FAIL", "UNPROVEN"):
                _add_check(table, check)
    session.console.print(table)
    for line in _lines(verdict):
        print(shown(line, 4000))
    if verdict.simulated:
        print(SIMULATED_NOTICE)
    words = {0: "PROVEN", 1: "FAILED", 2: "UNPROVEN"}
    print(f"{words[verdict.exit_code]}{' (SIMULATED)' if verdict.simulated else ''}{_rest(verdict)}")


def _counted(layer: LayerVerdict) -> str:
    """ "12 of 14 checks hold: 9 proven, 2 signed, 1 stated"."""
    counts: dict[str, int] = {}
    for check in layer.checks:
        if check.word is not None:
            counts[check.word.value] = counts.get(check.word.value, 0) + 1
    words = ", ".join(f"{counts[word]} {word}" for word in ("proven", "signed", "stated") if word in counts)
    return f"{sum(counts.values())} of {len(layer.checks)} checks hold" + (f": {words}" if words else "")


def _lines(verdict: Verdict) -> list[str]:
    """When the record was made, and by which collateral the quote was judged."""
    lines = []
    if verdict.interval is not None:
        only_stated = any(name.startswith("Binding/not_") for name in verdict.stated())
        lines.append(f"{verdict.interval.text}{' (stated)' if only_stated else ''}")
    lines += [item.text for item in verdict.judged]
    if verdict.stated():
        names = ", ".join(name.partition("/")[2] for name in verdict.stated())
        lines.append(f"stated by the bundle alone, proven by nothing here: {names}")
    return lines


def _rest(verdict: Verdict) -> str:
    """What a proof rests on besides bytes that were checked here."""
    if verdict.exit_code != 0:
        return ""
    signers = ", ".join(verdict.signers())
    parts = [f"approval signed by {signers}"] if signers else []
    if verdict.stated():
        parts.append(f"{len(verdict.stated())} facts stated by the bundle")
    return f" ({'; '.join(parts)})" if parts else ""


def _add_check(table: Table, check: Check) -> None:
    """One row. Its texts may be a stranger's: they are shown as they are, and are no markup."""
    from rich.markup import escape

    from outlayer_cli.replies import shown

    outcome = check.outcome.value
    holds = check.word is not None
    reason = check.detail if holds else f"{check.reason}: {check.detail}"
    word = f" ({check.word.value})" if check.word is not None else ""
    text = escape(shown(f"{check.name}{word}  {reason}", 2000))
    table.add_row("", f"[{_COLOURS[outcome]}]{outcome}[/]", text)
