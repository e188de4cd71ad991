# SPDX-License-Identifier: MIT
"""The state of one contract call that host functions work on: gas, registers, memory, promises.

Mirrors ``HostCtx`` of nearcore's ``near-vm-runner``: the same checks in the same order, because gas and
errors depend on it. The environment (state, receipts) is reached through :class:`External` only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from outlayer_localnet.params import Params
from outlayer_localnet.vm_errors import HostFailure, host
from outlayer_near.primitives import Action, is_valid_account_id

__all__ = [
    "MAX_U64",
    "External",
    "GasCounter",
    "HostCtx",
    "Profile",
    "PromiseResult",
    "VMContext",
]

MAX_U64: Final = (1 << 64) - 1

# None: failed; bytes: successful
PromiseResult: TypeAlias = "bytes | None"


class External(Protocol):
    """What the chain gives a running contract; mirrors nearcore's ``External`` trait.

    Receipt indices are the chain's own, counted per call. Nothing here charges gas.
    """

    def storage_get(self, key: bytes) -> bytes | None:
        """The contract's value under ``key``."""

    def storage_set(self, key: bytes, value: bytes) -> bytes | None:
        """Store a value; the old one is returned."""

    def storage_remove(self, key: bytes) -> bytes | None:
        """Remove a value; the old one is returned."""

    def storage_has(self, key: bytes) -> bool:
        """Whether there is a value under ``key``."""

    def trie_nodes(self) -> int:
        """Trie nodes that writes and removals touched since the call began."""

    def create_action_receipt(self, deps: list[int], receiver: str) -> int:
        """A new receipt that waits for the results of ``deps``; its index."""

    def get_receipt_receiver(self, index: int) -> str:
        """The account a receipt goes to."""

    def append_action(self, index: int, action: Action, gas_weight: int = 0) -> None:
        """Add an action to a receipt; the weight is a share in gas that stays unused."""

    def set_refund_to(self, index: int, account_id: str) -> None:
        """Where a receipt's refunds go."""

    def create_promise_yield_receipt(self, receiver: str) -> tuple[int, bytes]:
        """A yielded receipt: its index and 32-byte data id."""

    def create_promise_yield_receipt_with_id(
        self, receiver: str, yield_id: bytes
    ) -> tuple[int, bytes] | None:
        """A yielded receipt under the contract's own 32-byte id; ``None`` if that id is pending."""

    def submit_promise_resume_data(self, data_id: bytes, data: bytes) -> bool:
        """Resume a yield of this account; whether there was one."""

    def submit_promise_resume_data_with_yield_id(self, yield_id: bytes, data: bytes) -> bool:
        """Resume a yield of this account by its own id; whether there was one."""

    def validator_stake(self, account_id: str) -> int | None:
        """A validator's stake, yoctoNEAR."""

    def validator_total_stake(self) -> int:
        """All validators' stake, yoctoNEAR."""

    def code_of_current(self) -> tuple[int, bytes]:
        """(0, b"") none, (1, hash) own code, (2, hash) global by hash, (3, account id) global by account."""


@dataclass(frozen=True, slots=True)
class VMContext:
    """What a call is made with; mirrors nearcore's ``VMContext``.

    Amounts are yoctoNEAR, ``block_timestamp`` is nanoseconds, keys are borsh. ``account_balance`` does
    not yet include the attached deposit. ``view_max_gas`` set makes it a view call with that gas limit.
    """

    current_account_id: str
    signer_account_id: str
    signer_account_pk: bytes
    predecessor_account_id: str
    refund_to_account_id: str
    input: bytes
    block_height: int
    block_timestamp: int
    epoch_height: int
    account_balance: int
    account_locked_balance: int
    storage_usage: int
    attached_deposit: int
    prepaid_gas: int
    random_seed: bytes
    chain_id: str = "localnet"
    output_data_receivers: tuple[str, ...] = ()
    view_max_gas: int | None = None

    @property
    def is_view(self) -> bool:
        """Whether only reading is allowed."""
        return self.view_max_gas is not None


@dataclass(slots=True)
class Profile:
    """Gas burnt, by cost. ``wasm`` is what the operators burnt."""

    host: dict[str, int] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    wasm: int = 0

    def to_json(self) -> list[dict[str, str]]:
        """``gas_profile`` of an execution outcome: zero entries left out, sorted."""
        rows = [("WASM_HOST_COST", name.upper(), gas) for name, gas in self.host.items()]
        rows += [("ACTION_COST", name.upper(), gas) for name, gas in self.actions.items()]
        rows.append(("WASM_HOST_COST", "WASM_INSTRUCTION", self.wasm))
        return [
            {"cost_category": category, "cost": cost, "gas_used": str(gas)}
            for category, cost, gas in sorted(rows)
            if gas
        ]


class GasCounter:
    """Gas burnt and promised (nearcore's ``gas_counter.rs``), with overflow and limit rules."""

    __slots__ = ("burnt", "costs", "limit", "max_burnt", "prepaid", "profile", "promised", "view")

    def __init__(self, params: Params, context: VMContext) -> None:
        view = context.view_max_gas
        self.view = view is not None
        self.max_burnt = params.limits.max_gas_burnt if view is None else view
        self.prepaid = context.prepaid_gas if view is None else view
        self.limit = min(self.max_burnt, self.prepaid)
        self.burnt = 0
        self.promised = 0
        self.costs: Mapping[str, int] = params.ext_costs
        self.profile = Profile()

    @property
    def used(self) -> int:
        """Burnt and promised."""
        return self.burnt + self.promised

    @property
    def remaining(self) -> int:
        """What may still be burnt or promised."""
        return max(0, self.prepaid - self.burnt - self.promised)

    def burn(self, gas: int) -> None:
        """Burn gas; :class:`HostFailure` when that is more than there is."""
        burnt = self.burnt + gas
        if burnt <= self.limit:
            self.burnt = burnt
            return
        if burnt > MAX_U64:
            raise host("IntegerOverflow")
        raise self._exceeded(burnt, (burnt + self.promised) & MAX_U64)

    def pay(self, cost: str, units: int = 1) -> None:
        """Burn ``units`` of a host function cost."""
        gas = self.costs[cost] * units
        before = self.burnt
        burnt = before + gas
        host_profile = self.profile.host
        if burnt <= self.limit:
            self.burnt = burnt
            host_profile[cost] = host_profile.get(cost, 0) + gas
            return
        if gas > MAX_U64:
            raise host("IntegerOverflow")
        try:
            self.burn(gas)
        finally:
            host_profile[cost] = host_profile.get(cost, 0) + self.burnt - before

    def deduct(self, burn: int, use: int) -> None:
        """Burn part and promise the rest of ``use``."""
        promised = self.promised + use - burn
        burnt = self.burnt + burn
        if max(promised, burnt, promised + burnt) > MAX_U64:
            raise host("IntegerOverflow")
        if burnt <= self.max_burnt and burnt + promised <= self.prepaid:
            if use != burn and not self.view:
                self.limit = min(self.max_burnt, self.prepaid - promised)
            self.burnt, self.promised = burnt, promised
            return
        raise self._exceeded(burnt, burnt + promised)

    def pay_action(self, burn: int, use: int, action: str) -> None:
        """Burn the send fee and promise the execution fee of an action cost."""
        if use > MAX_U64:
            raise host("IntegerOverflow")
        before = self.burnt
        try:
            self.deduct(burn, use)
        finally:
            actions = self.profile.actions
            actions[action] = actions.get(action, 0) + self.burnt - before

    def _exceeded(self, burnt: int, used: int) -> HostFailure:
        self.burnt = min(burnt, self.prepaid, self.max_burnt)
        self.promised = max(0, min(self.prepaid, used) - self.burnt)
        return host("GasLimitExceeded" if burnt > self.max_burnt else "GasExceeded")


class HostCtx:
    """One call's state. ``Joint`` promises are lists of receipt indices, others a receipt index."""

    __slots__ = (
        "balance",
        "context",
        "ext",
        "gas",
        "limits",
        "logs",
        "memory_base",
        "memory_size",
        "memory_size_now",
        "params",
        "promise_results",
        "promises",
        "registers",
        "registers_usage",
        "return_data",
        "storage_usage",
        "subsidized",
        "total_log_length",
    )

    def __init__(
        self, params: Params, context: VMContext, ext: External, promise_results: tuple[PromiseResult, ...]
    ) -> None:
        self.params = params
        self.limits = params.limits
        self.context = context
        self.ext = ext
        self.promise_results = promise_results
        self.gas = GasCounter(params, context)
        self.registers: dict[int, bytes] = {}
        self.registers_usage = 0
        self.promises: list[int | list[int]] = []
        self.logs: list[str] = []
        self.total_log_length = 0
        self.return_data: bytes | int | None = None
        self.balance = context.account_balance + context.attached_deposit
        self.storage_usage = context.storage_usage
        self.subsidized = 0
        self.memory_base = 0
        self.memory_size = 0
        self.memory_size_now: Callable[[], int] = lambda: 0

    # -- memory ------------------------------------------------------------------------------------

    def _check_bounds(self, ptr: int, length: int) -> None:
        end = ptr + length
        if end > self.memory_size:
            self.memory_size = self.memory_size_now()
            if end > self.memory_size:
                raise host("MemoryAccessViolation")

    def read_free(self, ptr: int, length: int) -> bytes:
        """Guest memory, without charge."""
        self._check_bounds(ptr, length)
        return ctypes.string_at(self.memory_base + ptr, length)

    def read_memory(self, ptr: int, length: int) -> bytes:
        """Guest memory; gas first, bounds after."""
        self.gas.pay("read_memory_base")
        self.gas.pay("read_memory_byte", length)
        return self.read_free(ptr, length)

    def write_memory(self, ptr: int, data: bytes) -> None:
        """Write to guest memory; gas first, bounds after."""
        self.gas.pay("write_memory_base")
        self.gas.pay("write_memory_byte", len(data))
        self._check_bounds(ptr, len(data))
        ctypes.memmove(self.memory_base + ptr, data, len(data))

    def read(self, length: int, ptr: int) -> bytes:
        """Guest memory, or register ``ptr`` when the length is u64::MAX."""
        if length == MAX_U64:
            return self.get_register(ptr)
        return self.read_memory(ptr, length)

    def read_u128(self, ptr: int) -> int:
        """Sixteen little-endian bytes."""
        return int.from_bytes(self.read_memory(ptr, 16), "little")

    def write_u128(self, ptr: int, value: int) -> None:
        """Sixteen little-endian bytes."""
        self.write_memory(ptr, value.to_bytes(16, "little"))

    # -- registers ---------------------------------------------------------------------------------

    def get_register(self, register: int) -> bytes:
        """A register's content."""
        data = self.registers.get(register)
        if data is None:
            raise host("InvalidRegisterId", register_id=register)
        self.gas.pay("read_register_base")
        self.gas.pay("read_register_byte", len(data))
        return data

    def set_register(self, register: int, data: bytes, *, charge_bytes: bool = True) -> None:
        """Set a register, within nearcore's limits (a full table refuses overwriting too)."""
        self.gas.pay("write_register_base")
        if charge_bytes:
            self.gas.pay("write_register_byte", len(data))
        limits = self.limits
        if len(data) > limits.max_register_size or len(self.registers) >= limits.max_number_registers:
            raise host("MemoryAccessViolation")
        old = self.registers.get(register)
        usage = self.registers_usage - (0 if old is None else len(old) + 8) + len(data) + 8
        if usage > limits.registers_memory_limit:
            raise host("MemoryAccessViolation")
        self.registers_usage = usage
        self.registers[register] = data

    # -- strings and logs --------------------------------------------------------------------------

    def _log_too_long(self, added: int) -> HostFailure:
        length = min(MAX_U64, self.total_log_length + added)
        return host("TotalLogLengthExceeded", length=length, limit=self.limits.max_total_log_length)

    def read_utf8(self, length: int, ptr: int) -> str:
        """A string; NUL-terminated when the length is u64::MAX."""
        gas = self.gas
        gas.pay("utf8_decoding_base")
        room = max(0, self.limits.max_total_log_length - self.total_log_length)
        if length != MAX_U64:
            if length > room:
                raise self._log_too_long(length)
            data = self.read_memory(ptr, length)
        else:
            data = self._read_until_nul(ptr, room)
        gas.pay("utf8_decoding_byte", len(data))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise host("BadUTF8") from None

    def _read_until_nul(self, ptr: int, room: int) -> bytes:
        out = bytearray()
        for i in range(room + 1):
            if ptr + i > MAX_U64:
                raise host("MemoryAccessViolation")
            byte = self.read_memory(ptr + i, 1)[0]
            if byte == 0:
                break
            if i == room:
                raise self._log_too_long(room + 1)
            out.append(byte)
        return bytes(out)

    def read_utf16(self, length: int, ptr: int) -> str:
        """A UTF-16 string, length in bytes; NUL-terminated when the length is u64::MAX."""
        gas = self.gas
        gas.pay("utf16_decoding_base")
        room = max(0, self.limits.max_total_log_length - self.total_log_length)
        if length == MAX_U64:
            length = self._nul_terminated_utf16_length(ptr, room)
            data = self.read_free(ptr, length)
        else:
            data = self.read_memory(ptr, length)
        if length % 2:
            raise host("BadUTF16")
        if length > room:
            raise self._log_too_long(length)
        gas.pay("utf16_decoding_byte", length)
        try:
            return data.decode("utf-16-le")
        except UnicodeDecodeError:
            raise host("BadUTF16") from None

    def _nul_terminated_utf16_length(self, ptr: int, room: int) -> int:
        length = 0
        while True:
            if ptr + length > MAX_U64:
                raise host("MemoryAccessViolation")
            if self.read_memory(ptr + length, 2) == b"\0\0":
                return length
            length += 2
            if length > room:
                raise self._log_too_long(length)

    def check_log_count(self) -> None:
        """Whether one more log is allowed."""
        if len(self.logs) >= self.limits.max_number_logs:
            raise host("NumberOfLogsExceeded", limit=self.limits.max_number_logs)

    def push_log(self, message: str) -> None:
        """Keep a log line; all of them together are limited too."""
        size = len(message.encode("utf-8"))
        self.total_log_length += size
        if self.total_log_length > self.limits.max_total_log_length:
            raise self._log_too_long(size)
        self.logs.append(message)

    # -- accounts, promises, fees ------------------------------------------------------------------

    def not_in_view(self, name: str) -> None:
        """Refuse a function in view calls."""
        if self.context.is_view:
            raise host("ProhibitedInView", method_name=name)

    def read_account_id(self, length: int, ptr: int) -> str:
        """An account id, charged and checked."""
        data = self.read(length, ptr)
        self.gas.pay("utf8_decoding_base")
        self.gas.pay("utf8_decoding_byte", len(data))
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise host("BadUTF8") from None
        if not is_valid_account_id(text):
            raise host("InvalidAccountId")
        return text

    def push_promise(self, promise: int | list[int]) -> int:
        """A new promise index."""
        self.promises.append(promise)
        limit = self.limits.max_promises_per_function_call_action
        if len(self.promises) > limit:
            raise host("NumberPromisesExceeded", number_of_promises=len(self.promises), limit=limit)
        return len(self.promises) - 1

    def promise(self, index: int) -> int | list[int]:
        """A receipt index, or the receipt indices of a joint promise."""
        if index >= len(self.promises):
            raise host("InvalidPromiseIndex", promise_idx=index)
        return self.promises[index]

    def receipt_of(self, index: int) -> tuple[int, bool]:
        """The receipt to append actions to, and whether it goes to this account."""
        promise = self.promise(index)
        if isinstance(promise, list):
            raise host("CannotAppendActionToJointPromise")
        return promise, self.ext.get_receipt_receiver(promise) == self.context.current_account_id

    def pay_new_receipt(self, *, sir: bool, deps: list[bool]) -> None:
        """Fees of a receipt that depends on others; per dependency, whether it goes to its sender."""
        receipt, data = self.params.fee("new_action_receipt"), self.params.fee("new_data_receipt_base")
        burn = receipt.send(sir=sir)
        for dep in deps:
            burn += data.send(sir=dep) + data.execution
        self.gas.pay_action(burn, burn + receipt.execution, "new_action_receipt")

    def pay_action(self, cost: str, *, sir: bool, units: int = 1) -> None:
        """Fees of an action, or of its bytes."""
        fee = self.params.fee(cost)
        burn = fee.send(sir=sir) * units
        self.gas.pay_action(burn, burn + fee.execution * units, cost)

    def deduct_balance(self, amount: int) -> None:
        """Attach tokens to a promise."""
        if amount > self.balance:
            raise host("BalanceExceeded")
        self.balance -= amount

    def deduct_call_deposit(self, amount: int) -> None:
        """As :meth:`deduct_balance`; an account without balance is given the one yocto it attaches."""
        if amount == 1 and self.balance == 0 and "one_yocto_on_promise" in self.params.features:
            self.subsidized += 1
        else:
            self.deduct_balance(amount)


HostFunction: TypeAlias = Callable[..., Any]
