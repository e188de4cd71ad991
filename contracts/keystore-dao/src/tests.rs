// SPDX-License-Identifier: MIT
//! Votes and membership. Quotes, keys and the MPC call are tested on the localnet.

use std::panic::{catch_unwind, AssertUnwindSafe};

use near_sdk::mock::with_mocked_blockchain;
use near_sdk::test_utils::VMContextBuilder;
use near_sdk::{testing_env, AccountId};

use crate::*;

const TTL: u64 = 7 * 86_400;

fn id(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn call_as(caller: &str, seconds: u64) {
    let mut builder = VMContextBuilder::new();
    builder
        .current_account_id(id("dao.test"))
        .predecessor_account_id(id(caller))
        .block_timestamp(seconds * 1_000_000_000);
    testing_env!(builder.build());
}

fn dao(members: &[&str]) -> Contract {
    with_mocked_blockchain(|chain| drop(chain.take_storage()));
    call_as("owner.test", 1_000);
    let members = members.iter().map(|name| id(name)).collect();
    let register = Some(id("register.test"));
    Contract::new(id("owner.test"), id("init.test"), members, id("mpc.test"), register, None, None, None)
}

fn assert_refused<T>(expected: &str, call: impl FnOnce() -> T) {
    let payload = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(_) => panic!("the call was not refused"),
        Err(payload) => payload,
    };
    let said = payload.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(said.contains(expected), "expected {expected:?}, got {said:?}");
}

fn add(name: &str) -> Action {
    Action::AddMember { account_id: id(name) }
}

fn propose(dao: &mut Contract, action: Action) -> u64 {
    call_as("a.test", 1_000);
    dao.propose(action)
}

fn vote(dao: &mut Contract, member: &str, proposal: u64, approve: bool) {
    call_as(member, 1_000);
    dao.vote(proposal, approve);
}

fn standing(dao: &Contract, proposal: u64) -> (Status, u32, u32) {
    let view = dao.get_proposal(proposal).unwrap();
    (view.status, view.votes_for, view.votes_against)
}

#[test]
fn r13_a_proposal_begins_without_a_vote_and_passes_at_the_threshold() {
    let mut dao = dao(&["a.test", "b.test", "c.test"]);
    let proposal = propose(&mut dao, add("d.test"));
    assert_eq!(standing(&dao, proposal), (Status::Pending, 0, 0));
    vote(&mut dao, "a.test", proposal, true);
    assert_eq!(standing(&dao, proposal), (Status::Pending, 1, 0));
    vote(&mut dao, "b.test", proposal, true);
    assert_eq!(standing(&dao, proposal), (Status::Executed, 2, 0));
    assert_eq!(dao.get_dao_members().len(), 4);
    assert_eq!(dao.get_config().approval_threshold, 3);
}

#[test]
fn r13_a_removed_members_vote_does_not_count() {
    let mut dao = dao(&["a.test", "b.test", "c.test", "d.test", "e.test"]);
    let proposal = propose(&mut dao, add("f.test"));
    vote(&mut dao, "a.test", proposal, true);
    vote(&mut dao, "b.test", proposal, true);
    call_as("owner.test", 1_000);
    dao.remove_dao_member(Some(id("b.test")), None);
    assert_eq!(standing(&dao, proposal), (Status::Pending, 1, 0));
    assert_refused("Only DAO members can vote", || vote(&mut dao, "b.test", proposal, true));
    // of four members three must approve
    vote(&mut dao, "c.test", proposal, true);
    assert_eq!(standing(&dao, proposal), (Status::Pending, 2, 0));
    vote(&mut dao, "d.test", proposal, true);
    assert_eq!(standing(&dao, proposal), (Status::Executed, 3, 0));
}

#[test]
fn r13_a_smaller_dao_can_be_decided_by_the_votes_that_are_there() {
    let mut dao = dao(&["a.test", "b.test", "c.test", "d.test"]);
    let proposal = propose(&mut dao, add("f.test"));
    vote(&mut dao, "a.test", proposal, true);
    vote(&mut dao, "b.test", proposal, true);
    call_as("anyone.test", 1_000);
    assert_refused("not decided", || dao.finalize_proposal(proposal));
    call_as("owner.test", 1_000);
    dao.remove_dao_member(Some(id("c.test")), None);
    call_as("anyone.test", 1_000);
    dao.finalize_proposal(proposal);
    assert_eq!(standing(&dao, proposal), (Status::Executed, 2, 0));
}

#[test]
fn each_member_votes_once_and_on_open_proposals_only() {
    let mut dao = dao(&["a.test", "b.test", "c.test"]);
    let proposal = propose(&mut dao, add("d.test"));
    vote(&mut dao, "a.test", proposal, false);
    assert_refused("Already voted on this proposal", || vote(&mut dao, "a.test", proposal, true));
    assert_refused("Proposal not found", || vote(&mut dao, "a.test", 9, true));
    assert_refused("Only DAO members can vote", || vote(&mut dao, "owner.test", proposal, true));
    vote(&mut dao, "b.test", proposal, false);
    assert_eq!(standing(&dao, proposal), (Status::Rejected, 0, 2));
    assert_refused("Proposal is not pending", || vote(&mut dao, "c.test", proposal, true));
}

#[test]
fn a_proposal_that_cannot_pass_any_more_is_rejected() {
    // of four, three must approve; two against leave two
    let mut dao = dao(&["a.test", "b.test", "c.test", "d.test"]);
    let proposal = propose(&mut dao, add("e.test"));
    vote(&mut dao, "a.test", proposal, false);
    assert_eq!(standing(&dao, proposal).0, Status::Pending);
    vote(&mut dao, "b.test", proposal, false);
    assert_eq!(standing(&dao, proposal).0, Status::Rejected);
}

#[test]
fn proposals_expire() {
    let mut dao = dao(&["a.test"]);
    let proposal = propose(&mut dao, add("b.test"));
    call_as("a.test", 1_000 + TTL - 1);
    assert_eq!(standing(&dao, proposal).0, Status::Pending);
    call_as("a.test", 1_000 + TTL);
    assert_eq!(standing(&dao, proposal).0, Status::Expired);
    assert_refused("Proposal has expired", || dao.vote(proposal, true));
    assert_refused("Proposal has expired", || dao.finalize_proposal(proposal));
}

#[test]
fn the_last_member_stays() {
    let mut dao = dao(&["a.test"]);
    call_as("owner.test", 1_000);
    assert_refused("Cannot remove last DAO member", || dao.remove_dao_member(Some(id("a.test")), None));
    let proposal = propose(&mut dao, Action::RemoveMember { account_id: id("a.test") });
    vote(&mut dao, "a.test", proposal, true);
    let view = dao.get_proposal(proposal).unwrap();
    assert_eq!(view.status, Status::Failed);
    assert_eq!(view.failure.as_deref(), Some("Cannot remove last DAO member"));
    assert_refused("at least one member", || self::dao(&[]));
}

#[test]
fn after_the_hand_over_the_owner_changes_nothing() {
    let mut dao = dao(&["a.test"]);
    call_as("owner.test", 1_000);
    dao.add_dao_member(Some(id("b.test")), None);
    dao.hand_over();
    let measurements = measurements::Measurements::new([1; 48], [[1; 48]; 4]);
    type Owners<'a> = Box<dyn Fn(&mut Contract) + 'a>;
    let methods: [Owners; 6] = [
        Box::new(|c| c.add_dao_member(Some(id("eve.test")), None)),
        Box::new(|c| c.remove_dao_member(Some(id("b.test")), None)),
        Box::new(|c| _ = c.add_approved_measurements(measurements.clone(), None)),
        Box::new(|c| _ = c.remove_approved_measurements(measurements.clone())),
        Box::new(|c| _ = c.clear_all_approved_measurements()),
        Box::new(|c| c.hand_over()),
    ];
    for method in &methods {
        call_as("owner.test", 1_000);
        assert_refused("handed over", || method(&mut dao));
        call_as("a.test", 1_000);
        assert_refused("Only owner", || method(&mut dao));
    }
    assert!(dao.get_config().handed_over);
    assert_eq!(dao.get_dao_members().len(), 2);
}

#[test]
fn only_what_the_register_contracts_owner_may_do_can_be_proposed() {
    let mut dao = dao(&["a.test"]);
    let call = |method: &str, args: &str| Action::CallRegister {
        method: method.to_string(),
        args: args.to_string(),
    };
    for method in ["register_worker_key", "request_app_private_key", ""] {
        assert_refused("cannot be proposed", || propose(&mut dao, call(method, "{}")));
    }
    for args in ["", "[]", "1", "{"] {
        assert_refused("JSON object", || propose(&mut dao, call("cancel_policy", args)));
    }
    assert_eq!(propose(&mut dao, call("cancel_policy", r#"{"version":1}"#)), 1);
    call_as("owner.test", 1_000);
    assert_refused("Only DAO members can propose", || dao.propose(add("c.test")));
}

#[test]
fn a_keystore_is_never_proposed_by_hand() {
    let mut dao = dao(&["a.test"]);
    let candidate = Candidate {
        public_key: "ed25519:6E8sCci9badyRkXb3JoRpBj5p8C6Tw41ELDZoiihKEtp".parse().unwrap(),
        measurements: measurements::Measurements::new([1; 48], [[1; 48]; 4]),
        measurement_set: 1,
        tcb_status: "UpToDate".to_string(),
        fmspc: String::new(),
        quote_report_sha256: String::new(),
        app_id: None,
    };
    assert_refused("submit_keystore_registration", || propose(&mut dao, Action::ApproveKeystore(candidate)));
}

#[test]
fn the_register_contract_is_not_the_mpc_contract() {
    call_as("owner.test", 1_000);
    let mpc = id("mpc.test");
    assert_refused("must not be the MPC contract", || {
        Contract::new(
            id("o.test"),
            id("i.test"),
            vec![id("a.test")],
            mpc.clone(),
            Some(mpc),
            None,
            None,
            None,
        )
    });
}

// --- keystores by set -----------------------------------------------------------------------------------

fn keystore(number: u32, set: u32, expires_at: u64) -> Keystore {
    let mut raw = [0u8; 33];
    raw[1..5].copy_from_slice(&number.to_be_bytes());
    Keystore {
        public_key: near_sdk::PublicKey::try_from(raw.to_vec()).unwrap(),
        measurement_set: set,
        proposal_id: 1,
        approved_at: 0,
        expires_at,
        challenge: String::new(),
    }
}

#[test]
fn keystores_are_found_by_set_in_the_order_in_which_they_came_whatever_is_taken_out() {
    let mut dao = dao(&["a.test"]);
    let state = dao.state_mut();
    // set and number of those that are there, in the order in which they came or were renewed
    let mut model: Vec<(u32, u32)> = Vec::new();
    let mut random = 1u64;
    for time in 0..600 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (number, set, removes) =
            ((random >> 33) as u32 % 12, (random >> 45) as u32 % 3, random >> 60 < 6);
        let place = model.iter().position(|(_, known)| *known == number);
        if removes {
            assert_eq!(state.delist(&keystore(number, 0, 0).public_key), place.is_some());
        } else {
            state.enlist(keystore(number, set, time));
        }
        if let Some(place) = place {
            model.remove(place);
        }
        if !removes {
            model.push((set, number));
        }
        for set in 0..3 {
            let wanted = model.iter().filter(|(known, _)| *known == set).count();
            assert_eq!(state.index.keys.count(set) as usize, wanted, "step {time}");
        }
        assert_eq!(state.keystores.len() as usize, model.len());
    }
    // there are no such sets, so all of them are found, each set's in its order
    let (found, more) = state.delist_dead(true);
    assert_eq!((found.len(), more, state.index.keys.sets()), (model.len(), 0, 0));
    for set in 0..3 {
        let of_set: Vec<_> = model
            .iter()
            .filter(|(known, _)| *known == set)
            .map(|(_, number)| keystore(*number, 0, 0).public_key)
            .collect();
        let found: Vec<_> = found.iter().filter(|key| of_set.contains(key)).cloned().collect();
        assert_eq!(found, of_set);
    }
    assert!((0..12).all(|number| state.index.was_admitted(&keystore(number, 0, 0).public_key)));
    assert!(!state.index.was_admitted(&keystore(12, 0, 0).public_key));
}
