# SPDX-License-Identifier: MIT
"""Models of the contracts' JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from outlayer_near.errors import ModelError
from outlayer_near.models import (
    DEFAULT_MAX_EXECUTION_SECONDS,
    DEFAULT_MAX_INSTRUCTIONS,
    DEFAULT_MAX_MEMORY_MB,
    AddMeasurementSet,
    AddMember,
    ApproveKeystore,
    CallRegister,
    CkdRequest,
    CkdResponse,
    CollateralInfo,
    DaoConfig,
    ExecutionResponse,
    ExecutionSource,
    ExpireMeasurementSet,
    Keystore,
    KeystoreProposal,
    MeasurementSet,
    Model,
    NewMeasurementSet,
    PendingPolicy,
    PendingRequest,
    PlatformRules,
    PolicyVersion,
    Pricing,
    Project,
    Pruned,
    Refused,
    RegisterConfig,
    RegisterResult,
    RemoveMember,
    RequestData,
    RequestParams,
    ResourceLimits,
    ResourceMetrics,
    RevokeKeystoreKeys,
    RootCa,
    SecretsReference,
    SizeLimits,
    UpdateCollateral,
    Version,
    Vote,
    WorkerKey,
    project_source,
    read_submission,
    to_json_text,
    wasm_url_source,
)
from outlayer_near.primitives import b58encode

text = st.text(max_size=12)
u64 = st.integers(0, 2**64 - 1)
u128 = st.integers(0, 2**128 - 1)
maybe_text = st.none() | text
sources = st.one_of(
    st.builds(
        lambda repo, commit, target: ExecutionSource(
            GitHub={"repo": repo, "commit": commit, "build_target": target}
        ),
        text,
        text,
        maybe_text,
    ),
    st.builds(wasm_url_source, text, text),
    st.builds(project_source, text, maybe_text),
)
limits = st.builds(
    ResourceLimits,
    max_instructions=u64,
    max_memory_mb=st.integers(0, 2**32 - 1),
    max_execution_seconds=u64,
)
secrets = st.builds(SecretsReference, profile=text, account_id=text)
formats = st.sampled_from(["Bytes", "Text", "Json"])
registers = st.dictionaries(st.sampled_from(["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]), text)
seconds = st.none() | st.integers(0, 2**40)
u32 = st.integers(0, 2**32 - 1)
roles = st.sampled_from(["worker", "compiler", "keystore"])
rules = st.builds(
    PlatformRules,
    statuses=st.lists(st.sampled_from(["UpToDate", "OutOfDate"]), max_size=2).map(tuple),
    advisory_prefix_informational=st.lists(text, max_size=2).map(tuple),
    min_tcb_evaluation_data_number=u32,
)
new_sets = st.builds(
    NewMeasurementSet,
    role=roles,
    name=maybe_text,
    measurements=registers,
    not_before=seconds,
    not_after=seconds,
    platform=rules,
)
actions = st.one_of(
    st.builds(
        ApproveKeystore,
        public_key=text,
        measurements=registers,
        measurement_set=u32,
        tcb_status=text,
        fmspc=text,
        quote_report_sha256=text,
        app_id=maybe_text,
    ),
    st.builds(AddMeasurementSet, set=new_sets),
    st.builds(ExpireMeasurementSet, id=u32, not_after=u64),
    st.builds(UpdateCollateral, collateral=text),
    st.builds(RevokeKeystoreKeys, public_keys=st.lists(text, max_size=2).map(tuple)),
    st.builds(AddMember, account_id=text),
    st.builds(RemoveMember, account_id=text),
    st.builds(CallRegister, method=text, args=text),
)
points = st.binary(min_size=48, max_size=48).map(lambda data: f"bls12381g1:{b58encode(data)}")
models = st.one_of(
    limits,
    secrets,
    st.builds(
        RequestData,
        request_id=u64,
        sender_id=text,
        predecessor_id=text,
        code_source=sources,
        resource_limits=limits,
        input_data=text,
        input_data_in_state=st.booleans(),
        secrets_ref=st.none() | secrets,
        response_format=formats,
        payment=u128,
        attached_usd=u128,
        timestamp=u64,
        compile_only=st.booleans(),
        force_rebuild=st.booleans(),
        store_on_fastfs=st.booleans(),
        project_uuid=maybe_text,
        project_id=maybe_text,
    ),
    st.builds(
        PendingRequest,
        request_id=u64,
        sender_id=text,
        data_id=st.lists(st.integers(0, 255), max_size=4),
        execution_source=st.none() | sources,
        resolved_source=st.none() | sources,
        resource_limits=limits,
        secrets_ref=st.none() | secrets,
        response_format=formats,
        input_data=maybe_text,
        payer_account_id=maybe_text,
        payment=u128,
        attached_usd=u128,
        timestamp=u64,
        pending_output=st.none() | st.fixed_dictionaries({"Text": st.lists(st.integers(0, 255), max_size=3)}),
        output_submitted=st.booleans(),
    ),
    st.builds(
        Project,
        project_id=text,
        uuid=text,
        owner=text,
        name=text,
        active_version=text,
        created_at=u64,
        storage_deposit=u128,
    ),
    st.builds(Version, wasm_hash=text, source=sources, added_at=u64, is_active=st.booleans()),
    st.builds(Pricing, **dict.fromkeys(Pricing.model_fields, u128)),
    st.builds(
        MeasurementSet,
        id=st.integers(0, 2**32 - 1),
        name=maybe_text,
        measurements=registers,
        not_before=seconds,
        not_after=seconds,
        added_at=u64,
        role=roles,
        platform=rules,
        policy_version=st.none() | u32,
    ),
    st.builds(
        PendingPolicy,
        version=u32,
        sha256=text,
        sets=st.lists(new_sets, max_size=2).map(tuple),
        grace_seconds=st.none() | u64,
        proposed_at=u64,
        activates_at=u64,
    ),
    st.builds(
        PolicyVersion,
        version=u32,
        sha256=text,
        sets=st.lists(u32, max_size=3).map(tuple),
        proposed_at=u64,
        activated_at=u64,
        revoked_at=st.none() | u64,
    ),
    st.builds(
        KeystoreProposal,
        id=u64,
        action=actions,
        public_key=maybe_text,
        measurements=st.none() | registers,
        submitter=text,
        created_at=u64,
        expires_at=u64,
        votes_for=u32,
        votes_against=u32,
        status=st.sampled_from(["Pending", "Approved", "Rejected", "Executed", "Failed", "Expired"]),
        failure=maybe_text,
        votes=st.lists(st.builds(Vote, member=text, approve=st.booleans()), max_size=2).map(tuple),
    ),
    st.builds(Keystore, public_key=text, measurement_set=u32, proposal_id=u64, approved_at=u64),
    st.builds(
        DaoConfig,
        owner_id=text,
        init_account_id=text,
        mpc_contract_id=text,
        approval_threshold=u32,
        dao_members_count=u32,
        next_proposal_id=u64,
        approved_keystores_count=u32,
        approved_measurements_count=u32,
        has_collateral=st.booleans(),
        handed_over=st.booleans(),
        register_contract_id=maybe_text,
        proposal_ttl_seconds=u64,
        proposals_count=st.none() | u64,
    ),
    st.builds(
        Pruned,
        expired=st.lists(u64, max_size=3).map(tuple),
        forgotten=st.lists(u64, max_size=3).map(tuple),
        more=st.booleans(),
    ),
    st.builds(CkdRequest, derivation_path=text, app_public_key=points, domain_id=u64),
    st.builds(CkdResponse, big_y=points, big_c=points),
    st.builds(
        WorkerKey,
        public_key=text,
        measurement_set=u64,
        measurements=registers,
        tcb_status=text,
        fmspc=text,
        verified_at=u64,
        expires_at=u64,
        quote_report_sha256=maybe_text,
    ),
    st.builds(
        RegisterResult,
        status=st.sampled_from(["approved", "rejected"]),
        public_key=maybe_text,
        measurement_set=st.none() | u64,
        reason=maybe_text,
        detail=maybe_text,
    ),
    st.builds(
        CollateralInfo,
        fmspc=text,
        sha256=text,
        tcb_evaluation_data_number=u64,
        issue_date=u64,
        next_update=u64,
        stored_at=u64,
    ),
    st.builds(RootCa, sha256=text, simulated=st.booleans()),
    st.builds(
        RegisterConfig,
        owner_id=text,
        init_worker_account=text,
        outlayer_contract_id=text,
        key_ttl_seconds=u64,
    ),
    st.builds(
        RequestParams,
        force_rebuild=st.booleans(),
        store_on_fastfs=st.booleans(),
        compile_only=st.booleans(),
        attached_usd=st.none() | u128,
    ),
    st.builds(
        ExecutionResponse,
        success=st.booleans(),
        output=st.none() | text.map(lambda value: {"Text": value}),
        error=maybe_text,
        resources_used=st.builds(
            ResourceMetrics, instructions=u64, time_ms=u64, compile_time_ms=st.none() | u64
        ),
        refund_usd=st.none() | u64,
    ),
)


@given(models)
def test_every_model_comes_back_from_its_json(model: BaseModel):
    again = type(model).model_validate_json(model.model_dump_json(by_alias=True))
    assert again == model
    assert type(model).model_validate_json(model.model_dump_json(by_alias=True, exclude_none=True)) == model


@given(models)
def test_members_that_a_later_contract_adds_do_no_harm(model: BaseModel):
    value = {**json.loads(model.model_dump_json(by_alias=True)), "added_later": {"x": 1}}
    assert type(model).model_validate_json(json.dumps(value)) == model


@given(u128)
def test_amounts_are_digits_in_json_and_numbers_here(amount):
    pricing = Pricing(**dict.fromkeys(Pricing.model_fields, amount))
    assert json.loads(pricing.model_dump_json())["base_fee"] == str(amount)
    assert Pricing.model_validate_json(pricing.model_dump_json()).base_fee == amount


@pytest.mark.parametrize(
    "amount", ["-1", "1.0", "", " 1", "1e3", "٣", True, None, 1.5, str(2**128), -1, "0x1"]
)
def test_what_is_not_an_amount_is_refused(amount):
    with pytest.raises(ValidationError):
        Pricing(**dict.fromkeys(Pricing.model_fields, amount))


# -- requests ------------------------------------------------------------------------------------------


def request_json(**changes: Any) -> str:
    value = {
        "request_id": 1,
        "sender_id": "alice.test",
        "predecessor_id": "bob.test",
        "code_source": {"WasmUrl": {"url": "u", "hash": "h"}},
        **changes,
    }
    return json.dumps(value)


NULL_LIMITS = {"max_instructions": 1, "max_memory_mb": None, "max_execution_seconds": None}


@pytest.mark.parametrize("given_limits", [{"max_instructions": 1}, NULL_LIMITS])
def test_r10_absent_and_null_limits_take_the_defaults(given_limits):
    found = RequestData.parse(request_json(resource_limits=given_limits)).resource_limits
    assert (found.max_instructions, found.max_memory_mb, found.max_execution_seconds) == (1, 128, 60)


def test_r10_a_request_whose_optional_members_are_null_is_read():
    optional = {
        name: None
        for name, info in RequestData.model_fields.items()
        if not info.is_required() and name != "code_source"
    }
    found = RequestData.parse(request_json(**optional))
    assert found.resource_limits == ResourceLimits(
        max_instructions=DEFAULT_MAX_INSTRUCTIONS,
        max_memory_mb=DEFAULT_MAX_MEMORY_MB,
        max_execution_seconds=DEFAULT_MAX_EXECUTION_SECONDS,
    )
    assert (found.response_format, found.payment, found.project_uuid) == ("Text", 0, None)


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"Other": {"url": "u"}},
        {"WasmUrl": {"url": "u"}},
        {"WasmUrl": {"url": "u", "hash": "h"}, "Project": {"project_id": "a/b"}},
        {"WasmUrl": None},
        "WasmUrl",
    ],
)
def test_a_source_is_exactly_one_of_three(source):
    with pytest.raises(ModelError, match=r"RequestData\.code_source") as refused:
        RequestData.parse(request_json(code_source=source))
    assert refused.value.hint


def test_a_measurement_set_is_active_from_its_first_second_until_before_its_last():
    window = MeasurementSet(id=0, measurements={}, not_before=10, not_after=20)
    assert [window.active_at(now) for now in (9, 10, 19, 20)] == [False, True, True, False]
    assert MeasurementSet(id=0, measurements={}).active_at(0)


def test_json_is_compact_and_not_escaped():
    assert to_json_text({"a": ["ä", None]}) == '{"a":["ä",null]}'


def model_classes() -> list[type[Model]]:
    found, waiting = [], [Model]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        found += [item for item in subclasses if item.__module__.startswith("outlayer_near.")]
        waiting += subclasses
    return sorted(set(found), key=lambda item: item.__name__)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_json_is_a_model_or_refused_with_a_hint(data):
    model = data.draw(st.sampled_from(model_classes()))
    members = st.dictionaries(st.sampled_from([*model.model_fields, "x"]), anything)
    value = data.draw(members | anything)
    try:
        found = model.read(value)
    except ModelError as error:
        assert str(error).startswith(model.__name__)
        assert error.hint
    else:
        assert isinstance(found, model)


def test_a_keystore_registration_is_answered_with_a_proposal_or_a_reason():
    assert read_submission(7) == 7
    refused = read_submission({"status": "rejected", "reason": "tcb_status", "detail": "OutOfDate"})
    assert isinstance(refused, Refused)
    assert refused.reason == "tcb_status"
    for wrong in (-1, 2**64, "7", True, None, {"status": "approved"}, {}):
        with pytest.raises(ModelError, match="submission"):
            read_submission(wrong)


@pytest.mark.parametrize("write", [int, str])
@given(u128, u128, u64)
def test_a_pending_requests_amounts_are_read_as_numbers_and_as_text_alike(write, payment, usd, timestamp):
    shown = {
        "request_id": 7,
        "sender_id": "bob.test",
        "payment": write(payment),
        "attached_usd": write(usd),
        "timestamp": write(timestamp),
        "input_data": None,
        "pending_output": None,
    }
    found = PendingRequest.parse(json.dumps(shown))
    assert (found.payment, found.attached_usd, found.timestamp) == (payment, usd, timestamp)
    assert (found.input_data, found.pending_output) == (None, None)


@pytest.mark.parametrize("output", [{}, {"Text": [1], "Json": 1}, {"Other": 1}, [1], "text", 5])
def test_a_pending_output_is_of_exactly_one_kind(output):
    with pytest.raises(ModelError, match="pending_output"):
        PendingRequest.read({"request_id": 7, "sender_id": "bob.test", "pending_output": output})


@given(u64, u128, st.integers(0, 2**30))
def test_an_output_costs_nothing_up_to_the_free_size_and_its_price_for_each_byte_above(free, price, more):
    limits = SizeLimits(
        max_input_bytes=1,
        max_output_bytes=1,
        free_output_bytes=free,
        output_byte_price=price,
        input_byte_price=1,
    )
    assert limits.output_price(free) == limits.output_price(0) == 0
    assert limits.output_price(free + more) == more * price
