# SPDX-License-Identifier: MIT
"""What all models share: how they are read, written and refused; amounts; externally tagged enums."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from outlayer_near.errors import ModelError

T = TypeVar("T")

WHAT_TO_DO = "see that the account holds the contract it should, and that this program is not older than it"


def _amount(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("an amount is a string of decimal digits")  # noqa: TRY004 - pydantic wants ValueError
    if isinstance(value, str) and not (value.isascii() and value.isdecimal() and len(value) <= 39):
        raise ValueError("an amount is a string of decimal digits")
    number = int(value)
    if not 0 <= number < 2**128:
        raise ValueError("an amount is an unsigned 128-bit number")
    return number


U32 = Annotated[int, Field(ge=0, lt=2**32)]
U64 = Annotated[int, Field(ge=0, lt=2**64)]
U128 = Annotated[int, BeforeValidator(_amount), PlainSerializer(str, return_type=str)]
"""An amount: an int here, a string of decimal digits in JSON."""


class Model(BaseModel):
    """A value of a contract's JSON."""

    # what contracts of a later version add must not break an older reader
    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def read(cls, value: Any) -> Self:
        """From parsed JSON. Raises ``ModelError``, which names the member that is wrong."""
        return _or_model_error(cls.__name__, lambda: cls.model_validate(value))

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """From JSON text. Raises ``ModelError``."""
        return _or_model_error(cls.__name__, lambda: cls.model_validate_json(text))

    def to_json(self) -> Any:
        """The JSON value that the contract's ABI gives this model."""
        return self.model_dump(mode="json", by_alias=True)


def _or_model_error(name: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except ValidationError as error:
        raise ModelError(first_problem(name, error), hint=WHAT_TO_DO) from None
    except RecursionError:
        raise ModelError(f"{name}: nested too deeply", hint=WHAT_TO_DO) from None


def first_problem(name: str, error: ValidationError) -> str:
    """The first thing that is wrong, with the way to it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in (name, *first["loc"]))
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def without_nulls(value: Any) -> Any:
    """For models whose null members stand for their defaults."""
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if item is not None}
    return value


class Variant(Model):
    """One variant of an externally tagged enum: ``{tag: body}``, as serde writes it."""

    tag: ClassVar[str]

    @classmethod
    def from_body(cls, body: Any) -> Self:
        return cls.model_validate(body)

    def to_json(self) -> Any:
        return {self.tag: self.model_dump(mode="json", by_alias=True)}


class UnitVariant(Variant):
    """A variant without a body: its tag, as a bare string."""

    def to_json(self) -> Any:
        return self.tag


def read_variant(name: str, variants: tuple[type[Variant], ...]) -> BeforeValidator:
    """A validator that turns ``{tag: body}`` or a bare tag into the variant. ``name`` is for the message."""
    units = {item.tag: item for item in variants if issubclass(item, UnitVariant)}
    bodies = {item.tag: item for item in variants if not issubclass(item, UnitVariant)}

    def read(value: Any) -> Any:
        if isinstance(value, Variant):
            return value
        if isinstance(value, str) and value in units:
            return units[value]()
        if isinstance(value, Mapping) and len(value) == 1:
            ((tag, body),) = value.items()
            if tag in bodies:
                try:
                    return bodies[tag].from_body(body)
                except ValidationError as error:
                    raise ValueError(first_problem(str(tag), error)) from None
        known = ", ".join([*units, *bodies])
        raise ValueError(f"{name} is exactly one of {known}")

    return BeforeValidator(read)


write_variant = PlainSerializer(lambda value: value.to_json())
"""The serializer that goes with ``read_variant``."""


def to_json_text(value: Any) -> str:
    """Compact JSON, not ASCII-escaped: the one form in which we send JSON to contracts."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
