# SPDX-License-Identifier: MIT
"""What each action does to the receiver of a receipt (nearcore ``runtime/src/actions.rs``).

Each function changes the receipt's overlay and scope, and returns an :class:`ActionResult`; after a
failure the caller drops the overlay, so nothing needs undoing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from outlayer_localnet import fees, vm_errors
from outlayer_localnet.context import BlockContext
from outlayer_localnet.ext import RuntimeExt
from outlayer_localnet.keyrules import ACCESS_KEY_NONCE_RANGE, function_call_key_error
from outlayer_localnet.receipts import (
    ActionReceipt,
    DistributionReceipt,
    Receipt,
    balance_refund,
)
from outlayer_localnet.state import (
    Account,
    Overlay,
    access_key_key,
    access_key_prefix,
    access_key_storage,
    account_key,
    code_key,
    contract_code,
    data_prefix,
    global_code_key,
)
from outlayer_localnet.vm import VMContext, run
from outlayer_near.primitives import (
    ED25519,
    AccessKey,
    Action,
    AddKey,
    CreateAccount,
    Delegate,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    DeployGlobalContract,
    FullAccess,
    FunctionCall,
    PublicKey,
    Stake,
    Transfer,
    UseGlobalContract,
    delegate_hash,
)

log = structlog.get_logger()

MAX_DELETION_STORAGE_USAGE = 10_000


@dataclass(slots=True)
class ActionFailure:
    """Why a receipt failed: nearcore's ``ActionErrorKind`` as JSON, and which action it was."""

    kind: Any
    index: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The object inside ``ActionError``."""
        return {"index": self.index, "kind": self.kind}


@dataclass(slots=True)
class ActionResult:
    """What actions did so far. ``return_data``: bytes, the index of a new receipt, or None."""

    gas_burnt: int = 0
    gas_used: int = 0
    function_call_burnt: int = 0
    extra_burnt: int = 0
    return_data: bytes | int | None = None
    error: ActionFailure | None = None
    logs: list[str] = field(default_factory=list)
    new_receipts: list[Receipt] = field(default_factory=list)
    profile: dict[tuple[str, str], int] = field(default_factory=dict)

    def fail(self, error: ActionFailure) -> None:
        """Mark as failed: what was to be sent is not, what was to be burnt on top is not."""
        self.error = error
        self.new_receipts = []
        self.extra_burnt = 0
        self.return_data = None

    def merge(self, step: ActionResult) -> None:
        """Add the next action's result."""
        self.gas_burnt += step.gas_burnt
        self.gas_used += step.gas_used
        self.function_call_burnt += step.function_call_burnt
        self.logs += step.logs
        for cost, gas in step.profile.items():
            self.profile[cost] = self.profile.get(cost, 0) + gas
        if step.error is not None:
            self.fail(step.error)
            return
        if isinstance(step.return_data, int):
            self.return_data = step.return_data + len(self.new_receipts)
        else:
            self.return_data = step.return_data
        self.extra_burnt += step.extra_burnt
        self.new_receipts += step.new_receipts


@dataclass(slots=True)
class Scope:
    """What the actions of one receipt share: the account as it is now, and on whose behalf they act."""

    ctx: BlockContext
    overlay: Overlay
    receipt: Receipt
    body: ActionReceipt
    account: Account | None
    actor_id: str
    promise_results: list[bytes | None]
    created: bool = False

    @property
    def account_id(self) -> str:
        """The account the actions apply to."""
        return self.receipt.receiver_id

    @property
    def the_account(self) -> Account:
        """The account, which the checks before the action found to exist."""
        if self.account is None:
            raise TypeError("the account was checked to exist")
        return self.account


def execute_action(scope: Scope, action: Action, *, action_hash: bytes, is_last: bool) -> ActionResult:
    """Check and carry out one action; the result includes its execution fee."""
    fee = fees.exec_fee(scope.ctx.params, action, scope.account_id)
    result = ActionResult(gas_burnt=fee, gas_used=fee)
    problem = _existence_error(scope, action) or _permission_error(scope, action)
    if problem is not None:
        result.fail(ActionFailure(problem))
        return result
    if isinstance(action, FunctionCall):
        _function_call(scope, action, result, action_hash=action_hash, is_last=is_last)
    else:
        error = _HANDLERS[type(action)](scope, action, result)
        if error is not None:
            result.fail(ActionFailure(error))
    return result


# -- checks ----------------------------------------------------------------------------------------


def _existence_error(scope: Scope, action: Action) -> Any:
    account_id = scope.account_id
    match action:
        case CreateAccount():
            if scope.account is not None:
                return {"AccountAlreadyExists": {"account_id": account_id}}
            if fees.is_implicit(account_id):
                return {"OnlyImplicitAccountCreationAllowed": {"account_id": account_id}}
            return None
        case Transfer() if scope.account is None and _may_create_implicit(scope):
            return None
    if scope.account is None:
        return {"AccountDoesNotExist": {"account_id": account_id}}
    return None


def _may_create_implicit(scope: Scope) -> bool:
    alone = len(scope.body.actions) == 1 and not scope.receipt.is_refund
    return alone and fees.is_near_implicit(scope.account_id)


_OWNER_ONLY = (
    DeployContract,
    Stake,
    AddKey,
    DeleteKey,
    DeleteAccount,
    DeployGlobalContract,
    UseGlobalContract,
)


def _permission_error(scope: Scope, action: Action) -> Any:
    if not isinstance(action, _OWNER_ONLY):
        return None
    if scope.actor_id != scope.account_id:
        return {"ActorNoPermission": {"account_id": scope.account_id, "actor_id": scope.actor_id}}
    if isinstance(action, DeleteAccount) and scope.the_account.locked:
        return {"DeleteAccountStaking": {"account_id": scope.account_id}}
    return None


# -- accounts --------------------------------------------------------------------------------------


def _create_account(scope: Scope, _: CreateAccount, __: ActionResult) -> Any:
    params = scope.ctx.params
    account_id, predecessor = scope.account_id, scope.receipt.predecessor_id
    names = {"account_id": account_id, "predecessor_id": predecessor}
    if "." not in account_id:
        short = len(account_id) < params.min_allowed_top_level_account_length
        if short and predecessor != params.registrar_account_id:
            registrar = {"registrar_account_id": params.registrar_account_id}
            return {"CreateAccountOnlyByRegistrar": names | registrar}
    elif account_id.partition(".")[2] != predecessor:
        return {"CreateAccountNotAllowed": names}
    scope.actor_id = account_id
    scope.account = Account(0, storage_usage=params.num_bytes_account)
    scope.created = True
    return None


def _transfer(scope: Scope, action: Transfer, _: ActionResult) -> Any:
    if scope.account is None:
        _create_implicit(scope)
    scope.the_account.amount += action.deposit
    if scope.receipt.is_refund:
        _restore_allowance(scope, action.deposit)
    return None


def _create_implicit(scope: Scope) -> None:
    public_key = PublicKey(ED25519, bytes.fromhex(scope.account_id))
    key = AccessKey(initial_nonce(scope.ctx.height), FullAccess())
    usage = scope.ctx.params.num_bytes_account + access_key_storage(public_key, key)
    scope.account = Account(0, storage_usage=usage)
    scope.overlay.set_access_key(scope.account_id, public_key, key)
    scope.created = True


def _restore_allowance(scope: Scope, deposit: int) -> None:
    body = scope.body
    if body.signer_id != scope.account_id:
        return
    key = scope.overlay.access_key(scope.account_id, body.signer_public_key)
    if key is None or isinstance(key.permission, FullAccess) or key.permission.allowance is None:
        return
    allowance = min(key.permission.allowance + deposit, (1 << 128) - 1)
    restored = replace(key, permission=replace(key.permission, allowance=allowance))
    scope.overlay.set_access_key(scope.account_id, body.signer_public_key, restored)


def _delete_account(scope: Scope, action: DeleteAccount, result: ActionResult) -> Any:
    account = scope.the_account
    code = scope.overlay.get(code_key(scope.account_id)) or b""
    if account.storage_usage - len(code) > MAX_DELETION_STORAGE_USAGE:
        return {"DeleteAccountWithLargeState": {"account_id": scope.account_id}}
    if account.amount:
        result.new_receipts.append(balance_refund(action.beneficiary_id, account.amount))
    overlay = scope.overlay
    overlay.remove(account_key(scope.account_id))
    overlay.remove(code_key(scope.account_id))
    for prefix in (access_key_prefix(scope.account_id), data_prefix(scope.account_id)):
        for key in overlay.keys(prefix):
            overlay.remove(key)
    scope.actor_id = scope.receipt.predecessor_id
    scope.account = None
    return None


def _stake(scope: Scope, action: Stake, _: ActionResult) -> Any:
    # no elections on a one-node chain: the stake is only locked and unlocked
    account = scope.the_account
    increment = max(0, action.stake - account.locked)
    if account.amount < increment:
        return {
            "TriesToStake": {
                "account_id": scope.account_id,
                "stake": str(action.stake),
                "locked": str(account.locked),
                "balance": str(account.amount),
            }
        }
    if account.locked == 0 and action.stake == 0:
        return {"TriesToUnstake": {"account_id": scope.account_id}}
    account.amount -= increment
    account.locked += increment
    return None


# -- keys ------------------------------------------------------------------------------------------


def initial_nonce(height: int) -> int:
    """Nonce of a key that is added in this block; it makes old transactions invalid."""
    return max(0, height - 1) * ACCESS_KEY_NONCE_RANGE


def _add_key(scope: Scope, action: AddKey, _: ActionResult) -> Any:
    if scope.overlay.access_key(scope.account_id, action.public_key) is not None:
        names = {"account_id": scope.account_id, "public_key": str(action.public_key)}
        return {"AddKeyAlreadyExists": names}
    key = AccessKey(initial_nonce(scope.ctx.height), action.access_key.permission)
    scope.overlay.set_access_key(scope.account_id, action.public_key, key)
    scope.the_account.storage_usage += access_key_storage(action.public_key, key)
    return None


def _delete_key(scope: Scope, action: DeleteKey, _: ActionResult) -> Any:
    key = scope.overlay.access_key(scope.account_id, action.public_key)
    if key is None:
        names = {"account_id": scope.account_id, "public_key": str(action.public_key)}
        return {"DeleteKeyDoesNotExist": names}
    scope.overlay.remove(access_key_key(scope.account_id, action.public_key))
    account = scope.the_account
    account.storage_usage = max(0, account.storage_usage - access_key_storage(action.public_key, key))
    return None


# -- contracts -------------------------------------------------------------------------------------


def _clear_contract(scope: Scope) -> None:
    account = scope.the_account
    if account.code_hash is not None:
        usage = len(scope.overlay.get(code_key(scope.account_id)) or b"")
        scope.overlay.remove(code_key(scope.account_id))
    elif account.global_hash is not None:
        usage = len(account.global_hash)
    else:
        usage = len(account.global_account or "")
    account.storage_usage = max(0, account.storage_usage - usage)
    account.code_hash = account.global_hash = account.global_account = None


def _deploy(scope: Scope, action: DeployContract, _: ActionResult) -> Any:
    _clear_contract(scope)
    account = scope.the_account
    account.code_hash = hashlib.sha256(action.code).digest()
    account.storage_usage += len(action.code)
    scope.overlay.set(code_key(scope.account_id), action.code)
    return None


def _deploy_global(scope: Scope, action: DeployGlobalContract, result: ActionResult) -> Any:
    account = scope.the_account
    cost = len(action.code) * scope.ctx.params.global_contract_storage_amount_per_byte
    if account.amount < cost:
        return {"LackBalanceForState": {"account_id": scope.account_id, "amount": str(cost)}}
    account.amount -= cost
    result.extra_burnt += cost
    owner = scope.account_id if action.by_account else None
    distribution = DistributionReceipt(action.code, owner)
    result.new_receipts.append(Receipt(scope.account_id, scope.account_id, distribution))
    return None


def _use_global(scope: Scope, action: UseGlobalContract, _: ActionResult) -> Any:
    if scope.overlay.get(global_code_key(action.code_hash, action.account_id)) is None:
        from outlayer_near.primitives import b58encode

        identifier = (
            {"CodeHash": b58encode(action.code_hash)}
            if action.code_hash is not None
            else {"AccountId": action.account_id}
        )
        return {"GlobalContractDoesNotExist": {"identifier": identifier}}
    _clear_contract(scope)
    account = scope.the_account
    account.global_hash, account.global_account = action.code_hash, action.account_id
    account.storage_usage += 32 if action.code_hash is not None else len(action.account_id or "")
    return None


def _function_call(
    scope: Scope, action: FunctionCall, result: ActionResult, *, action_hash: bytes, is_last: bool
) -> None:
    account = scope.the_account
    code = contract_code(scope.overlay, scope.account_id, account)
    if code is None:
        missing = vm_errors.code_does_not_exist(scope.account_id)
        result.fail(ActionFailure({"FunctionCallError": missing.to_json()}))
        return
    ext = RuntimeExt(scope.overlay, scope.account_id, action_hash, scope.ctx.height)
    context = _call_context(scope, account, action, action_hash, is_last=is_last)
    try:
        outcome = run(code, action.method_name, context, ext, scope.promise_results, scope.ctx.params)
    except Exception as error:
        log.exception("a call could not be run", account_id=scope.account_id, method=action.method_name)
        text = f"The node could not run the call: {type(error).__name__}"
        result.fail(ActionFailure({"FunctionCallError": {"ExecutionError": text}}))
        return
    result.gas_burnt += outcome.burnt_gas
    result.gas_used += outcome.used_gas
    result.function_call_burnt += outcome.burnt_gas
    result.logs += outcome.logs
    result.profile = {
        (row["cost_category"], row["cost"]): int(row["gas_used"]) for row in outcome.profile.to_json()
    }
    if outcome.error is not None:
        result.fail(ActionFailure({"FunctionCallError": outcome.error.to_json()}))
        return
    result.gas_used += ext.distribute_gas(action.gas - outcome.used_gas)
    result.extra_burnt -= outcome.subsidized
    account.amount = outcome.balance
    account.storage_usage = outcome.storage_usage
    result.return_data = outcome.return_data
    result.new_receipts = ext.finish(scope.body)


def _call_context(
    scope: Scope, account: Account, action: FunctionCall, action_hash: bytes, *, is_last: bool
) -> VMContext:
    ctx, body, receipt = scope.ctx, scope.body, scope.receipt
    return VMContext(
        current_account_id=scope.account_id,
        signer_account_id=body.signer_id,
        signer_account_pk=body.signer_public_key.to_bytes(),
        predecessor_account_id=receipt.predecessor_id,
        refund_to_account_id=body.refund_to or receipt.predecessor_id,
        input=action.args,
        block_height=ctx.height,
        block_timestamp=ctx.timestamp,
        epoch_height=ctx.epoch_height,
        account_balance=account.amount,
        account_locked_balance=account.locked,
        storage_usage=account.storage_usage,
        attached_deposit=action.deposit,
        prepaid_gas=action.gas,
        random_seed=hashlib.sha256(action_hash + ctx.random_value).digest(),
        output_data_receivers=tuple(r for _, r in body.output_data_receivers) if is_last else (),
        chain_id=ctx.chain_id,
    )


# -- meta-transactions (NEP-366) -------------------------------------------------------------------


def _delegate(scope: Scope, action: Delegate, result: ActionResult) -> Any:
    inner = action.delegate_action
    if not inner.public_key.verify(delegate_hash(inner), action.signature):
        return "DelegateActionInvalidSignature"
    if scope.ctx.height > inner.max_block_height:
        return "DelegateActionExpired"
    if inner.sender_id != scope.account_id:
        names = {"sender_id": inner.sender_id, "receiver_id": scope.account_id}
        return {"DelegateActionSenderDoesNotMatchTxReceiver": names}
    problem = _use_delegate_key(scope, action)
    if problem is not None:
        return problem
    params = scope.ctx.params
    required = (
        fees.attached_gas(inner.actions)
        + fees.prepaid_exec_fees(params, inner.actions, inner.receiver_id)
        + params.fee("new_action_receipt").execution
    )
    sending = fees.prepaid_send_fees(params, [action])
    result.gas_burnt += sending
    result.gas_used += sending + required
    body = ActionReceipt(
        scope.body.signer_id, scope.body.signer_public_key, scope.body.gas_price, inner.actions
    )
    result.new_receipts.append(Receipt(inner.sender_id, inner.receiver_id, body))
    return None


def _use_delegate_key(scope: Scope, action: Delegate) -> Any:
    inner = action.delegate_action
    key = scope.overlay.access_key(inner.sender_id, inner.public_key)
    if key is None:
        names = {"account_id": inner.sender_id, "public_key": str(inner.public_key)}
        return {"DelegateActionAccessKeyError": {"AccessKeyNotFound": names}}
    if inner.nonce <= key.nonce:
        return {"DelegateActionInvalidNonce": {"delegate_nonce": inner.nonce, "ak_nonce": key.nonce}}
    upper = scope.ctx.height * ACCESS_KEY_NONCE_RANGE
    if inner.nonce >= upper:
        return {"DelegateActionNonceTooLarge": {"delegate_nonce": inner.nonce, "upper_bound": upper}}
    refusal = function_call_key_error(key, inner.receiver_id, inner.actions)
    if refusal is not None:
        return {"DelegateActionAccessKeyError": refusal}
    scope.overlay.set_access_key(inner.sender_id, inner.public_key, replace(key, nonce=inner.nonce))
    return None


_HANDLERS: dict[type, Callable[[Scope, Any, ActionResult], Any]] = {
    CreateAccount: _create_account,
    Transfer: _transfer,
    DeleteAccount: _delete_account,
    Stake: _stake,
    AddKey: _add_key,
    DeleteKey: _delete_key,
    DeployContract: _deploy,
    DeployGlobalContract: _deploy_global,
    UseGlobalContract: _use_global,
    Delegate: _delegate,
}
