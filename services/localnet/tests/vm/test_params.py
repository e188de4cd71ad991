# SPDX-License-Identifier: MIT
"""The parameter table of protocol version 86."""

from __future__ import annotations

import json

import pytest

from outlayer_localnet.params import Fee, ParamsError, load, versions


@pytest.mark.parametrize(
    ("cost", "gas"),
    [
        ("base", 264_768_111),
        ("storage_write_base", 64_196_736_000),
        ("touching_trie_node", 2_280_000_000),
        ("p256_verify_base", 1_300_000_000_000),
        ("yield_resume_base", 1_195_627_285_210),
        ("yield_create_with_id_base", 290_000_000_000),
    ],
)
def test_host_function_costs(params, cost, gas):
    assert params.ext_costs[cost] == gas


def test_action_fees(params):
    assert params.fee("create_account") == Fee(500_000_000_000, 500_000_000_000, 7_200_000_000_000)
    assert params.fee("function_call_byte").send(sir=True) == 2_235_934
    assert params.fee("function_call_byte").send(sir=False) == 47_683_715


def test_limits_and_economics(params):
    assert params.limits.max_gas_burnt == params.limits.max_total_prepaid_gas == 10**15
    assert params.limits.yield_timeout_length_in_blocks == 200
    assert params.limits.max_yield_payload_size == 1024
    assert params.storage_amount_per_byte == 10**19
    assert params.burnt_gas_reward == (3, 10)
    assert params.min_gas_purchase_price == 10**9
    assert params.account_creation_charge == 7 * 10**21


def test_protocol_config_is_a_copy_and_json(params):
    config = params.to_runtime_config()
    config["wasm_config"]["ext_costs"]["base"] = 0
    assert params.to_runtime_config()["wasm_config"]["ext_costs"]["base"] == 264_768_111
    json.dumps(config)


def test_unknown_version_is_refused_with_the_known_ones():
    assert 86 in versions()
    with pytest.raises(ParamsError) as caught:
        load(12)
    assert "86" in caught.value.hint
