# SPDX-License-Identifier: MIT
"""When keys stop to count, what may be spent, and which settings are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_keeper.budget import WINDOW_SECONDS, Budget
from outlayer_keeper.config import from_environment
from outlayer_keeper.errors import ConfigError
from outlayer_keeper.keys import HeldKey, dead_keys, end_of, next_end
from outlayer_keeper.metrics import Metrics

SETTINGS = {
    "NEAR_RPC_URL": "http://127.0.0.1:3030",
    "OPERATOR_ACCOUNT_ID": "worker.test",
    "KEEPER_ACCOUNT_ID": "keeper.test",
    "KEEPER_KEY_FILE": "/nowhere/keeper.json",
}
times = st.integers(1, 2**40)
held_keys = st.lists(
    st.builds(HeldKey, st.text(min_size=1, max_size=3), st.integers(0, 4), times), max_size=12
)
all_ends = st.dictionaries(st.integers(0, 4), st.none() | times, max_size=5)


@given(held_keys, all_ends, times)
def test_each_key_is_dead_or_ends_later_and_the_next_end_is_the_first_of_these(keys, ends, now):
    dead = dead_keys(keys, ends, now)
    alive = [key for key in keys if end_of(key, ends) > now]
    assert len(dead) + len(alive) == len(keys)
    assert [key.since for key in dead] == sorted(key.since for key in dead)
    assert all(key.since <= now for key in dead)
    assert next_end(keys, ends, now) == min((end_of(key, ends) for key in alive), default=None)


def test_a_key_ends_with_itself_or_with_its_set_whichever_is_first():
    key = HeldKey("k", 1, 100)
    assert end_of(key, {1: None}) == 100
    assert end_of(key, {1: 101}) == 100
    assert end_of(key, {1: 99}) == 99


def test_a_key_is_dead_from_the_second_of_its_end_on():
    key = HeldKey("k", 1, 100)
    assert not dead_keys([key], {1: None}, 99)
    assert [item.since for item in dead_keys([key], {1: None}, 100)] == [100]


def test_a_key_of_a_set_that_is_not_there_any_more_is_dead():
    assert dead_keys([HeldKey("k", 7, 10**12)], {1: None}, 5)


@given(st.lists(st.tuples(st.floats(0, 50_000), st.integers(1, 10**24)), max_size=20), st.integers(1, 10**25))
def test_no_more_is_spent_in_a_day_than_the_limit_and_one_transaction(steps, limit):
    now = 0.0
    budget = Budget(limit, lambda: now)
    spent: list[tuple[float, int]] = []
    for pause, amount in steps:
        now += pause
        if budget.wait_seconds() == 0:
            budget.spend(amount)
            spent.append((now, amount))
        within = [part for at, part in spent if at > now - WINDOW_SECONDS]
        assert budget.spent() == sum(within)
        assert sum(within[:-1]) < limit or not within


def test_after_the_wait_that_a_spent_budget_names_it_may_be_spent_again():
    now = 5.0
    budget = Budget(100, lambda: now)
    budget.spend(100)
    wait = budget.wait_seconds()
    now += wait - 1
    assert budget.wait_seconds() == 1
    now += 1
    assert budget.wait_seconds() == 0


def test_a_budget_of_nothing_never_spends():
    assert Budget(0, lambda: 0.0).wait_seconds() > 0


def test_the_ages_grow_while_nobody_looks():
    now = 1_000.0
    metrics = Metrics(lambda: now)
    metrics.watch("register")
    metrics.found("register", 2, 100.0)

    def read(name):
        return metrics.registry.get_sample_value(f"outlayer_keeper_{name}", {"contract": "register"})

    assert (read("oldest_invalid_key_seconds"), read("seconds_since_round")) == (100, 0)
    now += 50
    assert (read("oldest_invalid_key_seconds"), read("seconds_since_round")) == (150, 50)
    metrics.found("register", 0, None)
    metrics.round_ended("register")
    assert (read("oldest_invalid_key_seconds"), read("seconds_since_round")) == (0, 0)
    assert read("invalid_keys") == 0


def test_settings_have_defaults():
    config = from_environment(SETTINGS)
    assert (config.register_id, config.dao_id, config.key_file) == (
        "worker.test",
        None,
        Path("/nowhere/keeper.json"),
    )
    assert (config.round_seconds, config.max_daily_yocto, config.health_port) == (3600, 10**24, 0)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_missing_setting_is_named(name):
    with pytest.raises(ConfigError, match=name):
        from_environment({**SETTINGS, name: ""})


@pytest.mark.parametrize(
    ("text", "yocto"), [("0", 0), ("0.5", 5 * 10**23), ("1e-3", 10**21), ("12", 12 * 10**24)]
)
def test_an_amount_of_near_is_exact(text, yocto):
    assert from_environment({**SETTINGS, "MAX_DAILY_NEAR": text}).max_daily_yocto == yocto


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("MAX_DAILY_NEAR", text) for text in ("-1", "nan", "inf", "much", "1e9", "")[:5]),
        *(("ROUND_SECONDS", text) for text in ("9", "86401", "-5", "1h", "٣٠٠", "9" * 20)),
        ("HEALTH_PORT", "65536"),
    ],
)
def test_a_setting_of_another_form_is_refused_by_name(name, text):
    with pytest.raises(ConfigError, match=name):
        from_environment({**SETTINGS, name: text})
