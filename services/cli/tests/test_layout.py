# SPDX-License-Identifier: MIT
"""Where a stack keeps its things, and which ports it takes."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from outlayer_cli.errors import StackError, UsageError
from outlayer_cli.layout import Layout, Stack, choose_ports


def test_a_stack_is_read_as_it_was_written_and_only_its_owner_can(tmp_path: Path, stack: Stack) -> None:
    stack.save(tmp_path)
    assert Stack.load(tmp_path) == stack
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600


def test_no_stack_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        Stack.load(tmp_path)
    assert "outlayer up" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', "null", "\x00"])
def test_a_damaged_description_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(StackError, match="cannot be read"):
        Stack.load(tmp_path)


def test_a_description_of_another_version_is_refused(tmp_path: Path, stack: Stack) -> None:
    value = asdict(stack) | {"format": 99}
    (tmp_path / "stack.json").write_text(json.dumps(value))
    with pytest.raises(StackError, match="format 99"):
        Stack.load(tmp_path)


def test_default_ports_are_the_documented_ones() -> None:
    ports = choose_ports("default", 2, {})
    assert ports == {
        "coordinator": 8080,
        "localnet": 3030,
        "postgres": 15432,
        "valkey": 16379,
        "keeper": 8090,
        "worker-1": 8091,
        "worker-2": 8092,
    }


def test_a_stack_keeps_the_ports_it_had() -> None:
    first = choose_ports("auto", 2, {})
    assert choose_ports("default", 2, first) == first
    assert len(set(first.values())) == len(first)


def test_a_port_can_be_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAYER_PORT_WORKER_1", "12345")
    assert choose_ports("default", 1, {"worker-1": 5})["worker-1"] == 12345


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "8080x", "²"])
def test_what_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("OUTLAYER_PORT_COORDINATOR", text)
    with pytest.raises(UsageError, match="OUTLAYER_PORT_COORDINATOR"):
        choose_ports("default", 1, {})


def test_an_unknown_choice_of_ports_is_refused() -> None:
    with pytest.raises(UsageError, match="random"):
        choose_ports("random", 1, {})


def test_sockets_have_a_short_path_even_when_the_state_has_a_long_one(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-folder-name"] * 5)
    folder = Layout(deep).sockets
    assert len(str(folder / "dstack-worker-16.sock")) < 108
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder == Layout(deep).sockets
    folder.rmdir()
