# SPDX-License-Identifier: MIT
"""The set that ``image approved`` takes: one, or none with the reason. (Reading the chain: tests/e2e.)"""

from __future__ import annotations

import pytest

from outlayer_cli.commands.image_approved import choose
from outlayer_cli.errors import CliError, UsageError
from outlayer_near.models import MeasurementSet


def a_set(number: int, name: str | None = None) -> MeasurementSet:
    return MeasurementSet(id=number, name=name, measurements={"mrtd": "00"})


def test_the_only_active_set_is_taken() -> None:
    assert choose([a_set(3)], "worker", "register.test", None).id == 3


def test_one_of_several_is_taken_by_its_number() -> None:
    assert choose([a_set(3), a_set(4)], "worker", "register.test", 4).id == 4


@pytest.mark.parametrize("number", [None, 9])
def test_several_sets_are_named_with_what_to_do(number: int | None) -> None:
    with pytest.raises(UsageError, match=r"3 \(old\), 4 \(without a name\)") as caught:
        choose([a_set(3, "old"), a_set(4)], "worker", "register.test", number)
    assert "--set" in caught.value.hint


def test_no_set_at_all_is_said() -> None:
    with pytest.raises(CliError, match="approves no measurements of the role worker"):
        choose([], "worker", "register.test", None)
