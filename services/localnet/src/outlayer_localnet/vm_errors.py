# SPDX-License-Identifier: MIT
"""How a contract call can fail, and how nearcore words it.

:class:`VMError` is the outcome of a failed call as data. Host functions raise :class:`HostFailure`, the
module preparation raises :class:`PrepareError`; both carry or become a ``VMError``. Texts are those of
nearcore's ``near-vm-runner/src/logic/errors.rs`` (Display for transactions, Debug for views).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from outlayer_localnet.errors import LocalnetError

__all__ = ["HostFailure", "PrepareError", "VMError", "VMHostError", "host", "rust_debug_str"]

Value: TypeAlias = "int | str"


class VMHostError(LocalnetError):
    """The node, not the contract, failed while a contract ran (a bug, or a broken environment)."""


_ESCAPES: Final = {"\t": "\\t", "\r": "\\r", "\n": "\\n", '"': '\\"', "\\": "\\\\", "\0": "\\0"}


def rust_debug_str(text: str) -> str:
    """``text`` as Rust's ``{:?}`` prints a string."""
    out = []
    for char in text:
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char == " " or char.isprintable():
            out.append(char)
        else:
            out.append(f"\\u{{{ord(char):x}}}")
    return '"' + "".join(out) + '"'


def _debug_fields(variant: str, fields: tuple[tuple[str, Value], ...]) -> str:
    if not fields:
        return variant
    parts = (f"{k}: {rust_debug_str(v) if isinstance(v, str) else v}" for k, v in fields)
    return f"{variant} {{ {', '.join(parts)} }}"


@dataclass(frozen=True, slots=True)
class VMError:
    """Why a call failed.

    ``kind`` is nearcore's ``FunctionCallError`` variant: HostError, WasmTrap, MethodResolveError,
    CompilationError, LinkError. ``variant`` is the inner variant, ``fields`` its fields in order, and
    ``message`` what nearcore's Display prints.
    """

    kind: str
    variant: str
    message: str
    fields: tuple[tuple[str, Value], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object inside ``FunctionCallError`` of an execution outcome."""
        if self.kind == "MethodResolveError":
            return {"MethodResolveError": self.variant}
        if self.kind == "CompilationError":
            if self.variant == "PrepareError":
                return {"CompilationError": {"PrepareError": self.fields[0][1]}}
            return {"CompilationError": {self.variant: dict(self.fields)}}
        if self.kind == "LinkError":
            return {"ExecutionError": f"Link Error: {self.message}"}
        return {"ExecutionError": self.message}

    def debug(self) -> str:
        """Rust Debug text, as view call errors show it."""
        if self.kind == "LinkError":
            return _debug_fields("LinkError", self.fields)
        if self.kind == "CompilationError" and self.variant == "PrepareError":
            return f"CompilationError(PrepareError({self.fields[0][1]}))"
        return f"{self.kind}({_debug_fields(self.variant, self.fields)})"

    def __str__(self) -> str:
        return self.message


class HostFailure(Exception):  # noqa: N818 - not an error of this package: it ends the contract's run
    """Raised by a host function to stop the contract; carries the outcome's error."""

    def __init__(self, error: VMError) -> None:
        super().__init__(error.message)
        self.error = error


_HOST: Final[dict[str, str]] = {
    "BadUTF16": "String encoding is bad UTF-16 sequence.",
    "BadUTF8": "String encoding is bad UTF-8 sequence.",
    "GasExceeded": "Exceeded the prepaid gas.",
    "GasLimitExceeded": "Exceeded the maximum amount of gas allowed to burn per contract.",
    "BalanceExceeded": "Exceeded the account balance.",
    "EmptyMethodName": "Tried to call an empty method name.",
    "GuestPanic": "Smart contract panicked: {panic_msg}",
    "IntegerOverflow": "Integer overflow.",
    "InvalidPromiseIndex": "{promise_idx} does not correspond to existing promises",
    "CannotAppendActionToJointPromise": "Actions can only be appended to non-joint promise.",
    "CannotReturnJointPromise": "Returning joint promise is currently prohibited.",
    "CannotSetRefundToOnJointPromise": "Setting refund_to on a joint promise is prohibited.",
    "InvalidPromiseResultIndex": "Accessed invalid promise result index: {result_idx}",
    "InvalidRegisterId": "Accessed invalid register id: {register_id}",
    "MemoryAccessViolation": "Accessed memory outside the bounds.",
    "InvalidAccountId": "VM Logic returned an invalid account id",
    "InvalidMethodName": "VM Logic returned an invalid method name",
    "InvalidPublicKey": "VM Logic provided an invalid public key",
    "ProhibitedInView": "{method_name} is not allowed in view calls",
    "NumberOfLogsExceeded": "The number of logs will exceed the limit {limit}",
    "KeyLengthExceeded": "The length of a storage key {length} exceeds the limit {limit}",
    "ValueLengthExceeded": "The length of a storage value {length} exceeds the limit {limit}",
    "TotalLogLengthExceeded": "The length of a log message {length} exceeds the limit {limit}",
    "NumberPromisesExceeded": (
        "The number of promises within a FunctionCall {number_of_promises} exceeds the limit {limit}"
    ),
    "NumberInputDataDependenciesExceeded": (
        "The number of input data dependencies {number_of_input_data_dependencies} exceeds the limit {limit}"
    ),
    "ReturnedValueLengthExceeded": "The length of a returned value {length} exceeds the limit {limit}",
    "ContractSizeExceeded": (
        "The size of a contract code in DeployContract action {size} exceeds the limit {limit}"
    ),
    "Deprecated": "Attempted to call deprecated host function {method_name}",
    "ECRecoverError": "ECDSA recover error: {msg}",
    "AltBn128InvalidInput": "AltBn128 invalid input: {msg}",
    "Ed25519VerifyInvalidInput": "ED25519 signature verification error: {msg}",
    "P256VerifyInvalidInput": "P256 signature verification error: {msg}",
    "BLS12381InvalidInput": "BLS12-381 invalid input: {msg}",
    "YieldPayloadLength": "Yield resume payload is {length} bytes which exceeds the {limit} byte limit",
    "DataIdMalformed": "yield resumption token is malformed",
    "YieldIdMalformed": "yield id is malformed",
    "ContractCodeHashMalformed": "contract code hash is malformed",
    # ours: nearcore has the function, this node does not
    "HostFunctionNotSupported": "The host function {method_name} is not supported by this node",
}

_TRAPS: Final[dict[str, str]] = {
    "Unreachable": "An `unreachable` opcode was executed.",
    "IncorrectCallIndirectSignature": "Call indirect incorrect signature trap.",
    "MemoryOutOfBounds": "Memory out of bounds trap.",
    "IllegalArithmetic": "An arithmetic exception, e.g. divided by zero.",
    "IndirectCallToNull": "Indirect call to null.",
    "StackOverflow": "Stack overflow.",
}

_PREPARE: Final[dict[str, str]] = {
    "Serialization": "Error happened while serializing the module.",
    "Deserialization": "Error happened while deserializing the module.",
    "Instantiate": "Error happened during instantiation.",
    "Memory": "Error creating memory.",
    "TooManyFunctions": "Too many functions in contract.",
    "TooManyLocals": "Too many locals declared in the contract.",
    "TooManyTables": "Too many tables declared in the contract.",
    "TooManyTableElements": "Too many table elements declared in the contract.",
    "FunctionBodyTooLarge": "A function body in the contract exceeds the size limit.",
    "InstrumentedCodeTooLarge": "The instrumented code exceeds the size limit.",
    "TooManyBlocksPerFunction": "Too many basic blocks in a function.",
    "TooManyBlocksPerContract": "Too many basic blocks in a contract.",
    "TooManyTypes": "Too many type-section entries declared in the contract.",
    "TooManyParamsPerContract": "Too many function parameters in the contract",
    "TooManyParamsPerFunction": "Too many parameters in a single function",
    "OperandStackTooLarge": "A function uses too much operand stack.",
}


def host(variant: str, **fields: Value) -> HostFailure:
    """The exception for a ``HostError`` variant, to be raised by a host function."""
    return HostFailure(VMError("HostError", variant, _HOST[variant].format(**fields), tuple(fields.items())))


def trap(variant: str) -> VMError:
    """A ``WasmTrap`` variant."""
    return VMError("WasmTrap", variant, f"WebAssembly trap: {_TRAPS[variant]}")


def method_resolve(variant: str) -> VMError:
    """MethodEmptyName, MethodNotFound or MethodInvalidSignature."""
    return VMError("MethodResolveError", variant, variant)


def link(message: str) -> VMError:
    """The module imports something that does not exist, or with another type."""
    return VMError("LinkError", "LinkError", message, (("msg", message),))


def code_does_not_exist(account_id: str) -> VMError:
    """The account has no contract."""
    return VMError(
        "CompilationError",
        "CodeDoesNotExist",
        f"cannot find contract code for account {account_id}",
        (("account_id", account_id),),
    )


class PrepareError(LocalnetError):
    """The module was refused before it ran.

    ``kind`` is nearcore's ``PrepareError`` variant, all that the chain records; the message says what
    was found, for the developer.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{_PREPARE[kind]} {detail}")
        self.kind = kind
        self.detail = detail

    def to_vm_error(self) -> VMError:
        """The outcome's error."""
        return VMError(
            "CompilationError",
            "PrepareError",
            f"PrepareError: {_PREPARE[self.kind]}",
            (("kind", self.kind),),
        )
