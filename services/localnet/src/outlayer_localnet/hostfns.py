# SPDX-License-Identifier: MIT
"""The functions a contract can import from ``env``, as of protocol version 86.

Each takes the call's :class:`HostCtx` and the arguments as unsigned integers, and charges and checks in
the order of nearcore's ``near-vm-runner/src/logic/host.rs``. ``FUNCTIONS`` is the whole import table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from outlayer_localnet import crypto
from outlayer_localnet.hostctx import MAX_U64, HostCtx, HostFunction
from outlayer_localnet.vm_errors import host
from outlayer_near.primitives import (
    AccessKey,
    Action,
    AddKey,
    CodecError,
    CreateAccount,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    DeployGlobalContract,
    FullAccess,
    FunctionCall,
    FunctionCallPermission,
    PublicKey,
    Stake,
    Transfer,
    UseGlobalContract,
)

__all__ = ["FUNCTIONS", "Import"]

# values longer than this are not stored inline in the trie
_INLINE_VALUE: Final = 4000
# account ids that a transfer creates: the key in hex; an Ethereum address, a deterministic account
_NEAR_IMPLICIT: Final = re.compile(r"[0-9a-f]{64}")
_CREATED_BY_TRANSFER: Final = re.compile(r"0[xs][0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Import:
    """One importable function: ``params`` and ``result`` are "i32" or "i64"."""

    name: str
    params: tuple[str, ...]
    result: str | None
    run: HostFunction


FUNCTIONS: Final[dict[str, Import]] = {}

_F = TypeVar("_F", bound=Callable[..., object])


def _env(params: int, result: str | None = None, *, name: str = "", kind: str = "i64") -> Callable[[_F], _F]:
    """Put a function with ``params`` parameters in the import table."""

    def register(function: _F) -> _F:
        public = name or function.__name__.rstrip("_")
        FUNCTIONS[public] = Import(public, (kind,) * params, result, function)
        return function

    return register


# -- registers -------------------------------------------------------------------------------------


@_env(2)
def read_register(h: HostCtx, register: int, ptr: int) -> None:
    """Copy a register to memory."""
    h.gas.pay("base")
    h.write_memory(ptr, h.get_register(register))


@_env(1, "i64")
def register_len(h: HostCtx, register: int) -> int:
    """Length of a register, u64::MAX if it is not set."""
    h.gas.pay("base")
    data = h.registers.get(register)
    return MAX_U64 if data is None else len(data)


@_env(3)
def write_register(h: HostCtx, register: int, length: int, ptr: int) -> None:
    """Copy memory to a register."""
    h.gas.pay("base")
    h.set_register(register, h.read_memory(ptr, length))


# -- context ---------------------------------------------------------------------------------------


@_env(1)
def current_account_id(h: HostCtx, register: int) -> None:
    """The contract's account."""
    h.gas.pay("base")
    h.set_register(register, h.context.current_account_id.encode())


@_env(1)
def chain_id(h: HostCtx, register: int) -> None:
    """The chain's id."""
    h.gas.pay("base")
    h.set_register(register, h.context.chain_id.encode())


@_env(1)
def signer_account_id(h: HostCtx, register: int) -> None:
    """Who signed the transaction."""
    h.gas.pay("base")
    h.not_in_view("signer_account_id")
    h.set_register(register, h.context.signer_account_id.encode())


@_env(1)
def signer_account_pk(h: HostCtx, register: int) -> None:
    """The key that signed the transaction, borsh."""
    h.gas.pay("base")
    h.not_in_view("signer_account_pk")
    h.set_register(register, h.context.signer_account_pk)


@_env(1)
def predecessor_account_id(h: HostCtx, register: int) -> None:
    """Who called."""
    h.gas.pay("base")
    h.not_in_view("predecessor_account_id")
    h.set_register(register, h.context.predecessor_account_id.encode())


@_env(1)
def refund_to_account_id(h: HostCtx, register: int) -> None:
    """Who gets refunds of this receipt."""
    h.gas.pay("base")
    h.not_in_view("refund_to_account_id")
    h.set_register(register, h.context.refund_to_account_id.encode())


@_env(1, name="input")
def input_(h: HostCtx, register: int) -> None:
    """The call's arguments; shared, so its bytes are not charged."""
    h.gas.pay("base")
    h.set_register(register, h.context.input, charge_bytes=False)


@_env(0, "i64")
def block_index(h: HostCtx) -> int:
    """Height of the block."""
    h.gas.pay("base")
    return h.context.block_height


@_env(0, "i64")
def block_timestamp(h: HostCtx) -> int:
    """Time of the block, ns."""
    h.gas.pay("base")
    return h.context.block_timestamp


@_env(0, "i64")
def epoch_height(h: HostCtx) -> int:
    """Number of the epoch."""
    h.gas.pay("base")
    return h.context.epoch_height


@_env(0, "i64")
def storage_usage(h: HostCtx) -> int:
    """Bytes the account uses now."""
    h.gas.pay("base")
    return h.storage_usage


@_env(1, "i64")
def current_contract_code(h: HostCtx, register: int) -> int:
    """What kind of code the account has; its hash or account in the register."""
    h.gas.pay("base")
    kind, identifier = h.ext.code_of_current()
    if kind:
        h.set_register(register, identifier)
    return kind


# -- economics -------------------------------------------------------------------------------------


@_env(1)
def account_balance(h: HostCtx, ptr: int) -> None:
    """Balance with the attached deposit, without what was attached to promises."""
    h.gas.pay("base")
    h.write_u128(ptr, h.balance)


@_env(1)
def account_locked_balance(h: HostCtx, ptr: int) -> None:
    """Staked balance."""
    h.gas.pay("base")
    h.write_u128(ptr, h.context.account_locked_balance)


@_env(1)
def attached_deposit(h: HostCtx, ptr: int) -> None:
    """Tokens sent with the call."""
    h.gas.pay("base")
    h.write_u128(ptr, h.context.attached_deposit)


@_env(0, "i64")
def prepaid_gas(h: HostCtx) -> int:
    """Gas sent with the call."""
    h.gas.pay("base")
    h.not_in_view("prepaid_gas")
    return h.context.prepaid_gas


@_env(0, "i64")
def used_gas(h: HostCtx) -> int:
    """Gas burnt and promised so far."""
    h.gas.pay("base")
    h.not_in_view("used_gas")
    return h.gas.used


@_env(3)
def validator_stake(h: HostCtx, length: int, ptr: int, stake_ptr: int) -> None:
    """A validator's stake, 0 for others."""
    h.gas.pay("base")
    account_id = h.read_account_id(length, ptr)
    h.gas.pay("validator_stake_base")
    h.write_u128(stake_ptr, h.ext.validator_stake(account_id) or 0)


@_env(1)
def validator_total_stake(h: HostCtx, stake_ptr: int) -> None:
    """All validators' stake."""
    h.gas.pay("base")
    h.gas.pay("validator_total_stake_base")
    h.write_u128(stake_ptr, h.ext.validator_total_stake())


# -- hashes and signatures -------------------------------------------------------------------------


@_env(1)
def random_seed(h: HostCtx, register: int) -> None:
    """The call's random seed."""
    h.gas.pay("base")
    h.set_register(register, h.context.random_seed)


def _hash(h: HostCtx, name: str, digest: Callable[[bytes], bytes], args: tuple[int, int, int]) -> None:
    length, ptr, register = args
    h.gas.pay(f"{name}_base")
    data = h.read(length, ptr)
    h.gas.pay(f"{name}_byte", len(data))
    h.set_register(register, digest(data))


@_env(3)
def sha256(h: HostCtx, length: int, ptr: int, register: int) -> None:
    """SHA-256."""
    _hash(h, "sha256", crypto.sha256, (length, ptr, register))


@_env(3)
def keccak256(h: HostCtx, length: int, ptr: int, register: int) -> None:
    """Keccak-256 (before SHA-3's padding)."""
    _hash(h, "keccak256", crypto.keccak256, (length, ptr, register))


@_env(3)
def keccak512(h: HostCtx, length: int, ptr: int, register: int) -> None:
    """Keccak-512 (before SHA-3's padding)."""
    _hash(h, "keccak512", crypto.keccak512, (length, ptr, register))


@_env(3)
def ripemd160(h: HostCtx, length: int, ptr: int, register: int) -> None:
    """RIPEMD-160."""
    h.gas.pay("ripemd160_base")
    data = h.read(length, ptr)
    h.gas.pay("ripemd160_block", (len(data) + 8) // 64 + 1)
    h.set_register(register, crypto.ripemd160(data))


@_env(7, "i64")
def ecrecover(  # noqa: PLR0913, RUF100
    h: HostCtx, hash_len: int, hash_ptr: int, sig_len: int, sig_ptr: int, v: int, malleability: int, reg: int
) -> int:
    """The secp256k1 key of a signature; 1 and the key in the register, or 0."""
    h.gas.pay("ecrecover_base")
    signature = h.read(sig_len, sig_ptr)
    if len(signature) != 64:
        msg = f"The length of the signature: {len(signature)}, exceeds the limit of 64 bytes"
        raise host("ECRecoverError", msg=msg)
    if v >= 4:
        raise host("ECRecoverError", msg=f"V recovery byte 0 through 3 are valid but was provided {v}")
    digest = h.read(hash_len, hash_ptr)
    if len(digest) != 32:
        msg = f"The length of the hash: {len(digest)}, exceeds the limit of 32 bytes"
        raise host("ECRecoverError", msg=msg)
    if malleability > 1:
        raise host(
            "ECRecoverError", msg=f"Malleability flag needs to be 0 or 1, but is instead {malleability}"
        )
    key = crypto.ecrecover(digest, signature, v, reject_high_s=malleability == 1)
    if key is None:
        return 0
    h.set_register(reg, key)
    return 1


@_env(6, "i64")
def ed25519_verify(  # noqa: PLR0913, RUF100
    h: HostCtx, sig_len: int, sig_ptr: int, msg_len: int, msg_ptr: int, pk_len: int, pk_ptr: int
) -> int:
    """1 if the signature is good."""
    h.gas.pay("ed25519_verify_base")
    signature = h.read(sig_len, sig_ptr)
    if len(signature) != 64:
        raise host("Ed25519VerifyInvalidInput", msg="invalid signature length")
    if signature[63] & 0xE0:
        return 0
    message = h.read(msg_len, msg_ptr)
    h.gas.pay("ed25519_verify_byte", len(message))
    key = h.read(pk_len, pk_ptr)
    if len(key) != 32:
        raise host("Ed25519VerifyInvalidInput", msg="invalid public key length")
    return int(crypto.ed25519_verify(signature, message, key))


@_env(6, "i64")
def p256_verify(  # noqa: PLR0913, RUF100
    h: HostCtx, sig_len: int, sig_ptr: int, msg_len: int, msg_ptr: int, pk_len: int, pk_ptr: int
) -> int:
    """1 if the ECDSA signature over the prehashed message is good."""
    h.gas.pay("p256_verify_base")
    signature = h.read(sig_len, sig_ptr)
    if len(signature) != 64:
        raise host("P256VerifyInvalidInput", msg="invalid signature length")
    if not crypto.p256_signature_in_range(signature):
        return 0
    digest = h.read(msg_len, msg_ptr)
    h.gas.pay("p256_verify_byte", len(digest))
    key = h.read(pk_len, pk_ptr)
    if len(key) != 33:
        raise host("P256VerifyInvalidInput", msg="invalid public key length")
    return int(crypto.p256_verify(signature, digest, key))


# -- curves ----------------------------------------------------------------------------------------


def _bn128_elements(data: bytes, size: int) -> list[bytes]:
    if len(data) % size:
        raise host(
            "AltBn128InvalidInput",
            msg=f"slice of size {len(data)} cannot be precisely split into chunks of size {size}",
        )
    return [data[i : i + size] for i in range(0, len(data), size)]


def _bn128_input(h: HostCtx, name: str, size: int, args: tuple[int, int]) -> list[bytes]:
    length, ptr = args
    h.gas.pay(f"{name}_base")
    elements = _bn128_elements(h.read(length, ptr), size)
    h.gas.pay(f"{name}_element", len(elements))
    return elements


@_env(3)
def alt_bn128_g1_multiexp(h: HostCtx, length: int, ptr: int, register: int) -> None:
    """Sum of scalar multiples on alt_bn128 G1."""
    elements = _bn128_input(h, "alt_bn128_g1_multiexp", 96, (length, ptr))
    h.set_register(register, crypto.bn128_multiexp(elements))


@_env(3)
def alt_bn128_g1_sum(h: HostCtx, length: int, ptr: int, register: int) -> None:
    """Signed sum on alt_bn128 G1."""
    elements = _bn128_input(h, "alt_bn128_g1_sum", 65, (length, ptr))
    h.set_register(register, crypto.bn128_sum(elements))


@_env(2, "i64")
def alt_bn128_pairing_check(h: HostCtx, length: int, ptr: int) -> int:
    """1 if the product of pairings is one."""
    elements = _bn128_input(h, "alt_bn128_pairing_check", 192, (length, ptr))
    return int(crypto.bn128_pairing_check(elements))


def _bls(name: str, size: int, compute: Callable[[bytes], bytes | None]) -> None:
    def run(h: HostCtx, length: int, ptr: int, register: int) -> int:
        h.gas.pay(f"{name}_base")
        h.gas.pay(f"{name}_element", length // size)
        data = h.read(length, ptr)
        result = compute(data)
        if result is None:
            return 1
        h.set_register(register, result)
        return 0

    run.__name__ = name
    _env(3, "i64")(run)


_bls("bls12381_p1_sum", 97, crypto.bls_p1_sum)
_bls("bls12381_p2_sum", 193, crypto.bls_p2_sum)
_bls("bls12381_g1_multiexp", 128, crypto.bls_g1_multiexp)
_bls("bls12381_g2_multiexp", 224, crypto.bls_g2_multiexp)
_bls("bls12381_map_fp_to_g1", 48, crypto.bls_map_fp_to_g1)
_bls("bls12381_map_fp2_to_g2", 96, crypto.bls_map_fp2_to_g2)
_bls("bls12381_p1_decompress", 48, crypto.bls_p1_decompress)
_bls("bls12381_p2_decompress", 96, crypto.bls_p2_decompress)


@_env(2, "i64")
def bls12381_pairing_check(h: HostCtx, length: int, ptr: int) -> int:
    """0 if the product of pairings is one, 1 for bad points, 2 otherwise."""
    h.gas.pay("bls12381_pairing_base")
    data = h.read(length, ptr)
    h.gas.pay("bls12381_pairing_element", len(data) // 288)
    return crypto.bls_pairing_check(data)


# -- results, logs, panics -------------------------------------------------------------------------


@_env(2)
def value_return(h: HostCtx, length: int, ptr: int) -> None:
    """Set the call's result; receivers of the data are paid for."""
    h.gas.pay("base")
    value = h.read(length, ptr)
    limit = h.limits.max_length_returned_data
    if len(value) > limit:
        raise host("ReturnedValueLengthExceeded", length=len(value), limit=limit)
    fee = h.params.fee("new_data_receipt_byte")
    burn = sum(
        (fee.send(sir=receiver == h.context.current_account_id) + fee.execution) * len(value)
        for receiver in h.context.output_data_receivers
    )
    h.gas.pay_action(burn, burn, "new_data_receipt_byte")
    h.return_data = value


@_env(0)
def panic(h: HostCtx) -> None:
    """Stop."""
    h.gas.pay("base")
    raise host("GuestPanic", panic_msg="explicit guest panic")


@_env(2)
def panic_utf8(h: HostCtx, length: int, ptr: int) -> None:
    """Stop with a message."""
    h.gas.pay("base")
    raise host("GuestPanic", panic_msg=h.read_utf8(length, ptr))


def _log(h: HostCtx, message: str) -> None:
    h.gas.pay("log_base")
    h.gas.pay("log_byte", len(message.encode("utf-8")))
    h.push_log(message)


@_env(2)
def log_utf8(h: HostCtx, length: int, ptr: int) -> None:
    """Log a UTF-8 string."""
    h.gas.pay("base")
    h.check_log_count()
    _log(h, h.read_utf8(length, ptr))


@_env(2)
def log_utf16(h: HostCtx, length: int, ptr: int) -> None:
    """Log a UTF-16 string."""
    h.gas.pay("base")
    h.check_log_count()
    _log(h, h.read_utf16(length, ptr))


@_env(4, kind="i32")
def abort(h: HostCtx, msg_ptr: int, filename_ptr: int, line: int, col: int) -> None:
    """AssemblyScript's abort."""
    h.gas.pay("base")
    if msg_ptr < 4 or filename_ptr < 4:
        raise host("BadUTF16")
    h.check_log_count()
    msg_len = int.from_bytes(h.read_memory(msg_ptr - 4, 4), "little")
    filename_len = int.from_bytes(h.read_memory(filename_ptr - 4, 4), "little")
    msg = h.read_utf16(msg_len, msg_ptr)
    filename = h.read_utf16(filename_len, filename_ptr)
    message = f'{msg}, filename: "{filename}" line: {line} col: {col}'
    h.gas.pay("log_base")
    h.gas.pay("log_byte", len(message.encode("utf-8")))
    h.push_log(f"ABORT: {message}")
    raise host("GuestPanic", panic_msg=message)


@_env(1, kind="i32")
def gas(h: HostCtx, opcodes: int) -> None:
    """Burn gas for operators, as contracts instrumented elsewhere ask for."""
    h.gas.burn(opcodes * h.params.regular_op_cost)


# -- promises --------------------------------------------------------------------------------------


@_env(2, "i64")
def promise_batch_create(h: HostCtx, length: int, ptr: int) -> int:
    """A new receipt to an account."""
    h.gas.pay("base")
    h.not_in_view("promise_batch_create")
    account_id = h.read_account_id(length, ptr)
    h.pay_new_receipt(sir=account_id == h.context.current_account_id, deps=[])
    return h.push_promise(h.ext.create_action_receipt([], account_id))


@_env(3, "i64")
def promise_batch_then(h: HostCtx, index: int, length: int, ptr: int) -> int:
    """A new receipt that waits for a promise."""
    h.gas.pay("base")
    h.not_in_view("promise_batch_then")
    account_id = h.read_account_id(length, ptr)
    promise = h.promise(index)
    deps = list(promise) if isinstance(promise, list) else [promise]
    to_same = [h.ext.get_receipt_receiver(dep) == account_id for dep in deps]
    h.pay_new_receipt(sir=account_id == h.context.current_account_id, deps=to_same)
    return h.push_promise(h.ext.create_action_receipt(deps, account_id))


@_env(2, "i64")
def promise_and(h: HostCtx, ptr: int, count: int) -> int:
    """A joint promise."""
    h.gas.pay("base")
    h.not_in_view("promise_and")
    h.gas.pay("promise_and_base")
    size = count * 8
    if size > MAX_U64:
        raise host("IntegerOverflow")
    h.gas.pay("promise_and_per_promise", size)
    data = h.read_memory(ptr, size)
    limit = h.limits.max_number_input_data_dependencies
    receipts: list[int] = []
    for i in range(0, size, 8):
        promise = h.promise(int.from_bytes(data[i : i + 8], "little"))
        receipts.extend(promise if isinstance(promise, list) else [promise])
        if len(receipts) > limit:
            raise host(
                "NumberInputDataDependenciesExceeded",
                number_of_input_data_dependencies=len(receipts),
                limit=limit,
            )
    return h.push_promise(receipts)


@_env(8, "i64")
def promise_create(h: HostCtx, length: int, ptr: int, *call: int) -> int:
    """A receipt with one function call."""
    index = promise_batch_create(h, length, ptr)
    _function_call(h, index, *call, 0)
    return index


@_env(9, "i64")
def promise_then(h: HostCtx, after: int, length: int, ptr: int, *call: int) -> int:
    """A receipt with one function call that waits for a promise."""
    index = promise_batch_then(h, after, length, ptr)
    _function_call(h, index, *call, 0)
    return index


@_env(3)
def promise_set_refund_to(h: HostCtx, index: int, length: int, ptr: int) -> None:
    """Where the refunds of a receipt go."""
    h.gas.pay("base")
    h.not_in_view("promise_set_refund_to")
    account_id = h.read_account_id(length, ptr)
    promise = h.promise(index)
    if isinstance(promise, list):
        raise host("CannotSetRefundToOnJointPromise")
    h.ext.set_refund_to(promise, account_id)


@_env(1)
def promise_return(h: HostCtx, index: int) -> None:
    """The call's result is that of a promise."""
    h.gas.pay("base")
    h.gas.pay("promise_return")
    h.not_in_view("promise_return")
    promise = h.promise(index)
    if isinstance(promise, list):
        raise host("CannotReturnJointPromise")
    h.return_data = promise


@_env(0, "i64")
def promise_results_count(h: HostCtx) -> int:
    """How many results this callback has."""
    h.gas.pay("base")
    h.not_in_view("promise_results_count")
    return len(h.promise_results)


@_env(2, "i64")
def promise_result(h: HostCtx, index: int, register: int) -> int:
    """1 and the value in the register, or 2 for a failed promise."""
    h.gas.pay("base")
    h.not_in_view("promise_result")
    if index >= len(h.promise_results):
        raise host("InvalidPromiseResultIndex", result_idx=index)
    result = h.promise_results[index]
    if result is None:
        return 2
    h.set_register(register, result, charge_bytes=False)
    return 1


# -- actions of a promise --------------------------------------------------------------------------


def _begin(h: HostCtx, name: str) -> None:
    h.gas.pay("base")
    h.not_in_view(f"promise_batch_action_{name}")


def _append(h: HostCtx, receipt: int, action: Action, weight: int = 0) -> None:
    h.ext.append_action(receipt, action, weight)


@_env(1)
def promise_batch_action_create_account(h: HostCtx, index: int) -> None:
    """Create the receiver."""
    _begin(h, "create_account")
    receipt, sir = h.receipt_of(index)
    h.pay_action("create_account", sir=sir)
    _append(h, receipt, CreateAccount())


def _read_code(h: HostCtx, length: int, ptr: int) -> bytes:
    code = h.read(length, ptr)
    limit = h.limits.max_contract_size
    if len(code) > limit:
        raise host("ContractSizeExceeded", size=len(code), limit=limit)
    return code


@_env(3)
def promise_batch_action_deploy_contract(h: HostCtx, index: int, length: int, ptr: int) -> None:
    """Deploy code."""
    _begin(h, "deploy_contract")
    code = _read_code(h, length, ptr)
    receipt, sir = h.receipt_of(index)
    h.pay_action("deploy_contract_base", sir=sir)
    h.pay_action("deploy_contract_byte", sir=sir, units=len(code))
    _append(h, receipt, DeployContract(code))


def _deploy_global(h: HostCtx, args: tuple[int, int, int], *, by_account: bool) -> None:
    index, length, ptr = args
    _begin(h, "deploy_global_contract" + ("_by_account_id" if by_account else ""))
    code = _read_code(h, length, ptr)
    receipt, sir = h.receipt_of(index)
    h.pay_action("deploy_global_contract_base", sir=sir)
    h.pay_action("deploy_global_contract_byte", sir=sir, units=len(code))
    _append(h, receipt, DeployGlobalContract(code, by_account))


@_env(3)
def promise_batch_action_deploy_global_contract(h: HostCtx, index: int, length: int, ptr: int) -> None:
    """Publish code under its hash."""
    _deploy_global(h, (index, length, ptr), by_account=False)


@_env(3)
def promise_batch_action_deploy_global_contract_by_account_id(
    h: HostCtx, index: int, length: int, ptr: int
) -> None:
    """Publish code under the account's id."""
    _deploy_global(h, (index, length, ptr), by_account=True)


def _use_global(h: HostCtx, index: int, action: UseGlobalContract, size: int) -> None:
    receipt, sir = h.receipt_of(index)
    h.pay_action("use_global_contract_base", sir=sir)
    h.pay_action("use_global_contract_byte", sir=sir, units=size)
    _append(h, receipt, action)


@_env(3)
def promise_batch_action_use_global_contract(h: HostCtx, index: int, length: int, ptr: int) -> None:
    """Use published code by hash."""
    _begin(h, "use_global_contract")
    code_hash = h.read(length, ptr)
    if len(code_hash) != 32:
        raise host("ContractCodeHashMalformed")
    _use_global(h, index, UseGlobalContract(code_hash=code_hash), 32)


@_env(3)
def promise_batch_action_use_global_contract_by_account_id(
    h: HostCtx, index: int, length: int, ptr: int
) -> None:
    """Use code published under an account's id."""
    _begin(h, "use_global_contract_by_account_id")
    account_id = h.read_account_id(length, ptr)
    _use_global(h, index, UseGlobalContract(account_id=account_id), len(account_id))


def _method_name(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise host("InvalidMethodName") from None


def _function_call(h: HostCtx, index: int, *call: int) -> None:
    name_len, name_ptr, args_len, args_ptr, amount_ptr, gas_, weight = call
    h.gas.pay("base")
    h.not_in_view("promise_batch_action_function_call")
    amount = h.read_u128(amount_ptr)
    name = h.read(name_len, name_ptr)
    if not name:
        raise host("EmptyMethodName")
    args = h.read(args_len, args_ptr)
    receipt, sir = h.receipt_of(index)
    h.pay_action("function_call_base", sir=sir)
    h.pay_action("function_call_byte", sir=sir, units=len(name) + len(args))
    h.gas.deduct(0, gas_)
    h.deduct_call_deposit(amount)
    _append(h, receipt, FunctionCall(_method_name(name), args, gas_, amount), weight)


@_env(7)
def promise_batch_action_function_call(h: HostCtx, index: int, *call: int) -> None:
    """Call a method."""
    _function_call(h, index, *call, 0)


@_env(8)
def promise_batch_action_function_call_weight(h: HostCtx, index: int, *call: int) -> None:
    """Call a method, with a share in the gas that stays unused."""
    _function_call(h, index, *call)


@_env(2)
def promise_batch_action_transfer(h: HostCtx, index: int, amount_ptr: int) -> None:
    """Send tokens; an implicit account's creation is paid for."""
    _begin(h, "transfer")
    amount = h.read_u128(amount_ptr)
    receipt, sir = h.receipt_of(index)
    receiver = h.ext.get_receipt_receiver(receipt)
    costs = ["transfer"]
    if _NEAR_IMPLICIT.fullmatch(receiver):
        costs += ["create_account", "add_full_access_key"]
    elif _CREATED_BY_TRANSFER.fullmatch(receiver):
        costs.append("create_account")
    fees = [h.params.fee(cost) for cost in costs]
    burn = sum(fee.send(sir=sir) for fee in fees)
    h.gas.pay_action(burn, burn + sum(fee.execution for fee in fees), "transfer")
    h.deduct_balance(amount)
    _append(h, receipt, Transfer(amount))


def _public_key(data: bytes) -> PublicKey:
    try:
        return PublicKey.from_bytes(data)
    except CodecError:
        raise host("InvalidPublicKey") from None


@_env(4)
def promise_batch_action_stake(h: HostCtx, index: int, amount_ptr: int, pk_len: int, pk_ptr: int) -> None:
    """Stake."""
    _begin(h, "stake")
    amount = h.read_u128(amount_ptr)
    key = h.read(pk_len, pk_ptr)
    receipt, sir = h.receipt_of(index)
    h.pay_action("stake", sir=sir)
    _append(h, receipt, Stake(amount, _public_key(key)))


@_env(4)
def promise_batch_action_add_key_with_full_access(
    h: HostCtx, index: int, pk_len: int, pk_ptr: int, nonce: int
) -> None:
    """Add a full access key."""
    _begin(h, "add_key_with_full_access")
    key = h.read(pk_len, pk_ptr)
    receipt, sir = h.receipt_of(index)
    h.pay_action("add_full_access_key", sir=sir)
    _append(h, receipt, AddKey(_public_key(key), AccessKey(nonce, FullAccess())))


def _split_names(data: bytes) -> list[bytes]:
    if not data:
        return []
    names = data.split(b",")
    if not all(names):
        raise host("EmptyMethodName")
    return names


@_env(9)
def promise_batch_action_add_key_with_function_call(  # noqa: PLR0913, RUF100
    h: HostCtx,
    index: int,
    pk_len: int,
    pk_ptr: int,
    nonce: int,
    allowance_ptr: int,
    receiver_len: int,
    receiver_ptr: int,
    names_len: int,
    names_ptr: int,
) -> None:
    """Add a key that may only call some methods of one account."""
    _begin(h, "add_key_with_function_call")
    key = h.read(pk_len, pk_ptr)
    allowance = h.read_u128(allowance_ptr) or None
    receiver = h.read_account_id(receiver_len, receiver_ptr)
    names = _split_names(h.read(names_len, names_ptr))
    receipt, sir = h.receipt_of(index)
    h.pay_action("add_function_call_key_base", sir=sir)
    h.pay_action("add_function_call_key_byte", sir=sir, units=sum(len(name) + 1 for name in names))
    public_key = _public_key(key)
    permission = FunctionCallPermission(
        receiver_id=receiver,
        method_names=tuple(_method_name(name) for name in names),
        allowance=allowance,
    )
    _append(h, receipt, AddKey(public_key, AccessKey(nonce, permission)))


@_env(3)
def promise_batch_action_delete_key(h: HostCtx, index: int, pk_len: int, pk_ptr: int) -> None:
    """Delete a key."""
    _begin(h, "delete_key")
    key = h.read(pk_len, pk_ptr)
    receipt, sir = h.receipt_of(index)
    h.pay_action("delete_key", sir=sir)
    _append(h, receipt, DeleteKey(_public_key(key)))


@_env(3)
def promise_batch_action_delete_account(h: HostCtx, index: int, length: int, ptr: int) -> None:
    """Delete the receiver; what is left goes to the beneficiary."""
    _begin(h, "delete_account")
    beneficiary = h.read_account_id(length, ptr)
    receipt, sir = h.receipt_of(index)
    h.pay_action("delete_account", sir=sir)
    _append(h, receipt, DeleteAccount(beneficiary))


# Gas keys and deterministic accounts have no counterpart in this node's state, so contracts that use
# them are stopped by name instead of doing something else.
def _unsupported(name: str, params: int, result: str | None) -> None:
    def run(h: HostCtx, *_: int) -> None:
        h.gas.pay("base")
        h.not_in_view(name)
        raise host("HostFunctionNotSupported", method_name=name)

    run.__name__ = name
    _env(params, result)(run)


_unsupported("promise_batch_action_state_init", 4, "i64")
_unsupported("promise_batch_action_state_init_by_account_id", 4, "i64")
_unsupported("set_state_init_data_entry", 6, None)
_unsupported("promise_batch_action_transfer_to_gas_key", 4, None)
_unsupported("promise_batch_action_add_gas_key_with_full_access", 4, None)
_unsupported("promise_batch_action_add_gas_key_with_function_call", 9, None)


# -- yield and resume ------------------------------------------------------------------------------


@_env(7, "i64")
def promise_yield_create(  # noqa: PLR0913, RUF100
    h: HostCtx, name_len: int, name_ptr: int, args_len: int, args_ptr: int, gas_: int, weight: int, reg: int
) -> int:
    """A callback of this contract that waits to be resumed; its data id goes to the register."""
    h.gas.pay("base")
    h.not_in_view("promise_yield_create")
    h.gas.pay("yield_create_base")
    name = h.read(name_len, name_ptr)
    if not name:
        raise host("EmptyMethodName")
    args = h.read(args_len, args_ptr)
    size = len(name) + len(args)
    h.gas.pay("yield_create_byte", size)
    h.gas.deduct(0, gas_)
    h.pay_new_receipt(sir=True, deps=[True])
    receipt, data_id = h.ext.create_promise_yield_receipt(h.context.current_account_id)
    index = h.push_promise(receipt)
    h.pay_action("function_call_base", sir=True)
    h.pay_action("function_call_byte", sir=True, units=size)
    _append(h, receipt, FunctionCall(_method_name(name), args, gas_, 0), weight)
    h.set_register(reg, data_id)
    return index


@_env(9, "i64")
def promise_yield_create_with_id(  # noqa: PLR0913, RUF100
    h: HostCtx,
    name_len: int,
    name_ptr: int,
    args_len: int,
    args_ptr: int,
    amount_ptr: int,
    gas_: int,
    weight: int,
    id_len: int,
    id_ptr: int,
) -> int:
    """As :func:`promise_yield_create`, under an id of the contract; u64::MAX if that id is pending."""
    h.gas.pay("base")
    h.not_in_view("promise_yield_create_with_id")
    h.gas.pay("yield_create_with_id_base")
    amount = h.read_u128(amount_ptr)
    name = h.read(name_len, name_ptr)
    if not name:
        raise host("EmptyMethodName")
    args = h.read(args_len, args_ptr)
    yield_id = h.read(id_len, id_ptr)
    if len(yield_id) != 32:
        raise host("YieldIdMalformed")
    size = len(name) + len(args)
    h.gas.pay("yield_create_byte", size)
    created = h.ext.create_promise_yield_receipt_with_id(h.context.current_account_id, yield_id)
    if created is None:
        return MAX_U64
    receipt, _ = created
    h.gas.deduct(0, gas_)
    h.pay_new_receipt(sir=True, deps=[True])
    index = h.push_promise(receipt)
    h.pay_action("function_call_base", sir=True)
    h.pay_action("function_call_byte", sir=True, units=size)
    h.deduct_call_deposit(amount)
    _append(h, receipt, FunctionCall(_method_name(name), args, gas_, amount), weight)
    return index


def _resume_payload(h: HostCtx, args: tuple[int, int, int, int]) -> tuple[bytes, bytes]:
    id_len, id_ptr, payload_len, payload_ptr = args
    h.gas.pay("yield_resume_base")
    h.gas.pay("yield_resume_byte", payload_len)
    identifier = h.read(id_len, id_ptr)
    payload = h.read(payload_len, payload_ptr)
    limit = h.limits.max_yield_payload_size
    if len(payload) > limit:
        raise host("YieldPayloadLength", length=len(payload), limit=limit)
    return identifier, payload


@_env(4, "i32")
def promise_yield_resume(h: HostCtx, id_len: int, id_ptr: int, payload_len: int, payload_ptr: int) -> int:
    """Resume a yield by data id; 1 if there was one."""
    h.gas.pay("base")
    h.not_in_view("promise_yield_resume")
    data_id, payload = _resume_payload(h, (id_len, id_ptr, payload_len, payload_ptr))
    if len(data_id) != 32:
        raise host("DataIdMalformed")
    return int(h.ext.submit_promise_resume_data(data_id, payload))


@_env(4, "i32")
def promise_yield_resume_with_yield_id(
    h: HostCtx, id_len: int, id_ptr: int, payload_len: int, payload_ptr: int
) -> int:
    """Resume a yield by the contract's id; 1 if there was one."""
    h.gas.pay("base")
    h.not_in_view("promise_yield_resume_with_yield_id")
    yield_id, payload = _resume_payload(h, (id_len, id_ptr, payload_len, payload_ptr))
    if len(yield_id) != 32:
        raise host("YieldIdMalformed")
    return int(h.ext.submit_promise_resume_data_with_yield_id(yield_id, payload))


# -- storage ---------------------------------------------------------------------------------------


def _read_key(h: HostCtx, length: int, ptr: int) -> bytes:
    key = h.read(length, ptr)
    limit = h.limits.max_length_storage_key
    if len(key) > limit:
        raise host("KeyLengthExceeded", length=len(key), limit=limit)
    return key


@_env(5, "i64")
def storage_write(
    h: HostCtx, key_len: int, key_ptr: int, value_len: int, value_ptr: int, register: int
) -> int:
    """Store a value; 1 and the old one in the register if there was one."""
    gas_ = h.gas
    gas_.pay("base")
    h.not_in_view("storage_write")
    gas_.pay("storage_write_base")
    key = _read_key(h, key_len, key_ptr)
    value = h.read(value_len, value_ptr)
    limit = h.limits.max_length_storage_value
    if len(value) > limit:
        raise host("ValueLengthExceeded", length=len(value), limit=limit)
    gas_.pay("storage_write_key_byte", len(key))
    gas_.pay("storage_write_value_byte", len(value))
    before = h.ext.trie_nodes()
    old = h.ext.storage_set(key, value)
    gas_.pay("touching_trie_node", h.ext.trie_nodes() - before)
    if old is None:
        h.storage_usage += len(value) + len(key) + h.params.num_extra_bytes_record
        return 0
    gas_.pay("storage_write_evicted_byte", len(old))
    h.storage_usage += len(value) - len(old)
    h.set_register(register, old)
    return 1


@_env(3, "i64")
def storage_read(h: HostCtx, key_len: int, key_ptr: int, register: int) -> int:
    """Read a value into the register; 1 if there is one."""
    gas_ = h.gas
    gas_.pay("base")
    gas_.pay("storage_read_base")
    key = _read_key(h, key_len, key_ptr)
    gas_.pay("storage_read_key_byte", len(key))
    value = h.ext.storage_get(key)
    if value is None:
        return 0
    gas_.pay("storage_read_value_byte", len(value))
    if len(value) > _INLINE_VALUE:
        gas_.pay("storage_large_read_overhead_base")
        gas_.pay("storage_large_read_overhead_byte", len(value))
    h.set_register(register, value)
    return 1


@_env(3, "i64")
def storage_remove(h: HostCtx, key_len: int, key_ptr: int, register: int) -> int:
    """Remove a value; 1 and the old one in the register if there was one."""
    gas_ = h.gas
    gas_.pay("base")
    h.not_in_view("storage_remove")
    gas_.pay("storage_remove_base")
    key = _read_key(h, key_len, key_ptr)
    gas_.pay("storage_remove_key_byte", len(key))
    before = h.ext.trie_nodes()
    old = h.ext.storage_remove(key)
    gas_.pay("touching_trie_node", h.ext.trie_nodes() - before)
    if old is None:
        return 0
    gas_.pay("storage_remove_ret_value_byte", len(old))
    h.storage_usage -= len(old) + len(key) + h.params.num_extra_bytes_record
    h.set_register(register, old)
    return 1


@_env(2, "i64")
def storage_has_key(h: HostCtx, key_len: int, key_ptr: int) -> int:
    """1 if there is a value."""
    h.gas.pay("base")
    h.gas.pay("storage_has_key_base")
    key = _read_key(h, key_len, key_ptr)
    h.gas.pay("storage_has_key_byte", len(key))
    return int(h.ext.storage_has(key))


def _deprecated(name: str, params: int) -> None:
    def run(_h: HostCtx, *_: int) -> None:
        raise host("Deprecated", method_name=name)

    run.__name__ = name
    _env(params, "i64")(run)


_deprecated("storage_iter_prefix", 2)
_deprecated("storage_iter_range", 4)
_deprecated("storage_iter_next", 3)
