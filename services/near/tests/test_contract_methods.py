# SPDX-License-Identifier: MIT
"""No method of a contract is without its function here, and no view function asks for another method."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from outlayer_near import views
from outlayer_near.calls import caller, dao, main, register
from outlayer_near.errors import ModelError

ARTIFACTS = Path(__file__).parents[3] / "contracts" / "artifacts"
CONTRACTS = {
    "outlayer": (main, views.OutlayerViews),
    "register": (register, views.RegisterViews),
    "keystore-dao": (dao, views.DaoViews),
    "caller": (caller, views.CallerViews),
}
BUILT = [name for name in CONTRACTS if (ARTIFACTS / f"{name}.wasm").exists()]


def methods_of(artifact: str) -> set[str]:
    code = (ARTIFACTS / f"{artifact}.wasm").read_bytes()
    return {
        item.name
        for item in wasmtime.Module(wasmtime.Engine(), code).exports
        if isinstance(item.type, wasmtime.FuncType) and not item.type.params and not item.type.results
    }


def functions_of(place: Any) -> set[str]:
    members = inspect.getmembers(place, inspect.isfunction)
    return {name for name, _ in members if not name.startswith("_")}


@pytest.mark.parametrize("artifact", BUILT)
def test_every_method_of_the_contract_has_its_function(artifact):
    module, shown = CONTRACTS[artifact]
    # callbacks are private; the source metadata (NEP-330) is every contract's
    public = {name for name in methods_of(artifact) if not name.startswith("on_")} - {
        "contract_source_metadata"
    }
    assert public - functions_of(module) - functions_of(shown) == set()


class Asked(Exception):  # noqa: N818 - not an error
    pass


class Listening:
    """Stands in for the node: notes what is asked, and answers what it is told to."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.methods: list[str] = []

    async def view_bytes(self, contract: str, method: str, args: bytes, block: Any = None) -> bytes:
        assert isinstance(json.loads(args), dict)
        self.methods.append(method)
        return self.answer


def example(annotation: str) -> Any:
    from outlayer_near.models import PAYMENT_KEY, AllowAll

    known = {"int": 1, "str": "x", "SecretAccessor": PAYMENT_KEY, "AccessCondition": AllowAll()}
    if annotation.startswith(("dict[", "Mapping[")):
        return {}
    return known[annotation.removesuffix(" | None")]


VIEWS = [
    pytest.param(shown, name, id=f"{shown.__name__}.{name}")
    for _, shown in CONTRACTS.values()
    for name in sorted(functions_of(shown))
]


@pytest.mark.parametrize(("shown", "name"), VIEWS)
async def test_a_view_asks_for_the_method_of_its_name_and_refuses_another_form(shown, name):
    node = Listening(b'{"unlike": ["any", {"answer": 1.5}]}')
    function = getattr(shown(node, "main.test"), name)
    arguments = {
        parameter.name: example(str(parameter.annotation))
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
    }
    with pytest.raises(ModelError, match=rf"main\.test\.{name}") as refused:
        await function(**arguments)
    assert node.methods == [name]
    assert refused.value.hint


class Paging:
    """A contract with so many measurement sets, in pages or, as an older one, all at once."""

    def __init__(self, count: int, most: int | None) -> None:
        self.sets = [{"id": number, "measurements": {}} for number in range(1, count + 1)]
        self.most = most

    async def view_bytes(self, contract: str, method: str, args: bytes, block: Any = None) -> bytes:
        asked = json.loads(args)
        if self.most is None:
            return json.dumps(self.sets).encode()
        first, limit = asked["from_index"], min(asked["limit"], self.most)
        return json.dumps(self.sets[first : first + limit]).encode()


@pytest.mark.parametrize("most", [None, 200, 500])
@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 400, 1001])
async def test_all_measurement_sets_are_read_however_many_there_are(count, most):
    node = Paging(count, most)
    sets = await views.RegisterViews(node, "register.test").get_measurement_sets()
    assert [entry.id for entry in sets] == list(range(1, count + 1))
