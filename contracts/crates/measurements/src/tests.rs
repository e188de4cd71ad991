// SPDX-License-Identifier: MIT
use super::*;
use near_sdk::mock::with_mocked_blockchain;
use near_sdk::serde_json;

fn measurements(byte: u8) -> Measurements {
    Measurements::new([byte; 48], [[byte; 48]; 4])
}

fn set(byte: u8, not_before: Option<u64>, not_after: Option<u64>) -> NewSet {
    NewSet {
        role: Role::Worker,
        name: None,
        measurements: measurements(byte),
        not_before,
        not_after,
        platform: PlatformRules::default(),
    }
}

fn none() -> MeasurementSets {
    with_mocked_blockchain(|chain| drop(chain.take_storage()));
    MeasurementSets::new(b"t")
}

fn one(not_before: Option<u64>, not_after: Option<u64>) -> MeasurementSets {
    let mut sets = none();
    sets.add(set(1, not_before, not_after), None, 100).unwrap();
    sets
}

fn is_active(sets: &MeasurementSets, byte: u8, now: u64) -> bool {
    sets.is_approved(Role::Worker, &measurements(byte), now)
}

#[test]
fn a_set_is_active_from_not_before_until_just_before_not_after() {
    let sets = one(Some(200), Some(300));
    let active = |now| is_active(&sets, 1, now);
    assert_eq!([199, 200, 299, 300].map(active), [false, true, true, false]);
}

#[test]
fn open_ends_hold_for_ever() {
    let sets = one(None, None);
    assert!(is_active(&sets, 1, 0));
    assert!(is_active(&sets, 1, u64::MAX));
    assert!(!is_active(&sets, 2, 100));
}

#[test]
fn each_of_the_five_values_counts() {
    let sets = one(None, None);
    for index in 0..5 {
        let mut other = measurements(1);
        let Measurements { mrtd, rtmr0, rtmr1, rtmr2, rtmr3 } = &mut other;
        [mrtd, rtmr0, rtmr1, rtmr2, rtmr3][index].0[47] ^= 1;
        assert!(!sets.is_approved(Role::Worker, &other, 100), "value {index}");
    }
}

#[test]
fn old_and_new_sets_can_hold_together() {
    let mut sets = one(None, Some(500));
    sets.add(set(2, Some(400), None), None, 100).unwrap();
    let ids = |now| sets.newest_active(10, now).iter().map(|set| set.id).collect::<Vec<_>>();
    assert_eq!((ids(399), ids(450), ids(500)), (vec![1], vec![1, 2], vec![2]));
}

#[test]
fn a_window_that_never_opens_is_refused() {
    let mut sets = none();
    let mut add = |from, until| sets.add(set(1, from, until), None, 100).map(|set| set.id);
    assert_eq!(add(Some(300), Some(300)), Err(SetError::EmptyWindow));
    assert_eq!(add(None, Some(100)), Err(SetError::EmptyWindow));
    assert_eq!(add(None, Some(101)), Ok(1));
}

#[test]
fn expiry_is_never_in_the_past_and_never_later_than_it_was() {
    let mut sets = one(None, Some(500));
    assert_eq!(sets.expire(1, 50, 200), Ok(200));
    assert_eq!(sets.expire(1, 300, 200), Err(SetError::WouldExtend));
    assert_eq!(sets.expire(9, 300, 200), Err(SetError::NotFound));
    assert!(!is_active(&sets, 1, 200));
    assert_eq!(sets.len(), 1);
}

#[test]
fn ending_sets_spares_those_that_had_ended() {
    let mut sets = one(None, Some(150));
    sets.add(set(1, None, None), None, 160).unwrap();
    sets.add(set(1, Some(900), None), None, 160).unwrap();
    sets.add(set(2, None, None), None, 160).unwrap();
    assert_eq!(sets.end_measurements(&measurements(1), None, 200), [2, 3]);
    assert_eq!(sets.end_ids(&[1, 2, 9], 200), [0u32; 0]);
    assert_eq!(sets.get(1).unwrap().not_after, Some(150));
    assert!(!is_active(&sets, 1, 950));
    assert!(is_active(&sets, 2, 950));
}

#[test]
fn a_role_ends_as_a_whole_but_for_what_is_spared() {
    let mut sets = one(None, Some(150));
    for byte in [2, 3] {
        sets.add(set(byte, None, None), None, 100).unwrap();
    }
    sets.add(NewSet { role: Role::Compiler, ..set(4, None, None) }, None, 100).unwrap();
    let end = sets.end_role(Role::Worker, 200, &[3, 4, 9]);
    assert_eq!(end, RoleEnd { role: Role::Worker, last_id: 4, except: vec![3], not_after: 200 });
    let ends = |sets: &MeasurementSets| sets.page(0, 9).iter().map(|set| set.not_after).collect::<Vec<_>>();
    assert_eq!(ends(&sets), [Some(150), Some(200), None, None]);
    // what comes later is not concerned
    sets.add(set(2, None, None), None, 200).unwrap();
    assert_eq!(ends(&sets), [Some(150), Some(200), None, None, None]);
    assert!(is_active(&sets, 2, 300) && is_active(&sets, 3, 300));
}

#[test]
fn an_earlier_end_of_a_role_comes_before_a_later_one() {
    let mut sets = one(None, None);
    sets.end_role(Role::Worker, 900, &[]);
    sets.add(set(2, None, None), None, 100).unwrap();
    sets.end_role(Role::Worker, 800, &[]);
    sets.add(set(3, None, None), None, 100).unwrap();
    let ends = |sets: &MeasurementSets| sets.page(0, 9).iter().map(|set| set.not_after).collect::<Vec<_>>();
    assert_eq!(ends(&sets), [Some(800), Some(800), None]);
    sets.end_role(Role::Worker, 850, &[1]);
    assert_eq!(ends(&sets), [Some(800), Some(800), Some(850)]);
}

#[test]
fn so_many_sets_with_the_same_measurements_hold_together_and_no_more() {
    let mut sets = one(None, Some(150));
    for _ in 1..MAX_HOLDING_TOGETHER {
        sets.add(set(1, None, None), None, 100).unwrap();
    }
    assert_eq!(sets.add(set(1, None, None), None, 100).err(), Some(SetError::Full));
    assert!(sets.add(set(1, None, None), None, 150).is_ok());
}

#[test]
fn what_ended_long_ago_is_pruned_in_steps_and_nothing_else() {
    let mut sets = none();
    for byte in 0..20u8 {
        sets.add(set(byte, None, (byte % 2 == 0).then_some(150)), None, 100).unwrap();
    }
    assert!(sets.prune(50, 50, 150).is_empty());
    let mut pruned = Vec::new();
    for _ in 0..20 {
        let some = sets.prune(3, 2, 151);
        assert!(some.len() <= 2);
        pruned.extend(some.iter().map(|set| set.id));
    }
    pruned.sort_unstable();
    assert_eq!(pruned, (1..=20).step_by(2).collect::<Vec<u32>>());
    assert_eq!(sets.len(), 10);
    let mut left: Vec<u32> = sets.page(0, 50).iter().map(|set| set.id).collect();
    left.sort_unstable();
    assert_eq!(left, (2..=20).step_by(2).collect::<Vec<u32>>());
    assert!(is_active(&sets, 1, 200) && !is_active(&sets, 0, 200));
    // an id is not given again
    assert_eq!(sets.add(set(0, None, None), None, 300).unwrap().id, 21);
}

#[test]
fn pages_hold_each_set_once() {
    let mut sets = MeasurementSets::of_older(b"o", older());
    sets.add(set(9, None, None), None, 100).unwrap();
    for limit in 1..6 {
        let pages = (0..6).step_by(limit as usize).flat_map(|from| sets.page(from, limit));
        assert_eq!(pages.map(|set| set.id).collect::<Vec<_>>(), [3, 4, 7, 8], "{limit}");
    }
    assert!(sets.page(4, 10).is_empty());
    assert!(sets.page(u32::MAX, u32::MAX).is_empty());
}

/// Sets 3, 4 and 7 of a state that had them in one list: 4 has ended.
fn older() -> Vec<MeasurementSet> {
    with_mocked_blockchain(|chain| drop(chain.take_storage()));
    let with = |id, not_after| MeasurementSet {
        id,
        name: None,
        measurements: measurements(id as u8),
        not_before: None,
        not_after,
        added_at: 5,
        role: Role::Worker,
        platform: PlatformRules::default(),
        policy_version: None,
    };
    vec![with(3, None), with(4, Some(90)), with(7, Some(900))]
}

#[test]
fn sets_of_a_list_are_the_same_before_and_after_they_moved() {
    for moves in 0..5 {
        let mut sets = MeasurementSets::of_older(b"o", older());
        for _ in 0..moves {
            sets.move_older(1, 100);
        }
        let all = sets.page(0, 10);
        assert_eq!(all.iter().map(|set| set.id).collect::<std::collections::BTreeSet<_>>(), [3, 4, 7].into());
        let active: Vec<bool> = [3, 4, 7].map(|byte| is_active(&sets, byte, 100)).to_vec();
        assert_eq!(active, [true, false, true], "{moves}");
        assert_eq!(sets.end_role(Role::Worker, 200, &[7]).except, [7]);
        assert_eq!(sets.expire(7, 300, 100), Ok(300));
        assert_eq!(sets.end_measurements(&measurements(3), Some(Role::Worker), 150), [3]);
        let ends = [3, 4, 7].map(|id| sets.get(id).unwrap().not_after);
        assert_eq!(ends, [Some(150), Some(90), Some(300)], "{moves}");
        assert_eq!(sets.add(set(1, None, None), None, 100).unwrap().id, 8);
    }
}

#[test]
fn the_set_that_holds_longest_comes_first() {
    let mut sets = one(None, Some(500));
    sets.add(set(1, None, Some(900)), None, 100).unwrap();
    let ids: Vec<u32> = sets.matching(&measurements(1), 100).iter().map(|set| set.id).collect();
    assert_eq!(ids, [2, 1]);
}

#[test]
fn a_role_is_not_another() {
    let sets = one(None, None);
    assert!(!sets.is_approved(Role::Compiler, &measurements(1), 100));
    assert!(!sets.is_approved(Role::Keystore, &measurements(1), 100));
}

#[test]
fn rules_have_a_status_and_no_security_advisory_is_informational() {
    let with = |statuses: Vec<TcbStatus>, prefixes: &[&str]| {
        let platform = PlatformRules {
            statuses,
            advisory_prefix_informational: prefixes.iter().map(ToString::to_string).collect(),
            min_tcb_evaluation_data_number: 17,
        };
        NewSet { platform, ..set(1, None, None) }.check(100)
    };
    assert_eq!(with(vec![TcbStatus::UpToDate], &["INTEL-DOC-"]), Ok(()));
    assert_eq!(with(vec![], &[]), Err(SetError::Rules));
    for prefix in ["INTEL-SA-", "", "INTEL-", "INTEL--", "INTEL-doc-", "INTEL-DOC", "DOC-", "INTEL-A-B-"] {
        assert_eq!(with(vec![TcbStatus::UpToDate], &[prefix]), Err(SetError::Rules), "{prefix}");
    }
}

#[test]
fn statuses_are_spelled_in_json_as_they_are_compared() {
    for status in [
        TcbStatus::UpToDate,
        TcbStatus::SWHardeningNeeded,
        TcbStatus::ConfigurationNeeded,
        TcbStatus::ConfigurationAndSWHardeningNeeded,
        TcbStatus::TDRelaunchAdvised,
        TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
        TcbStatus::OutOfDate,
        TcbStatus::OutOfDateConfigurationNeeded,
    ] {
        assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{}\"", status.as_str()));
    }
    assert!(serde_json::from_str::<TcbStatus>("\"Revoked\"").is_err());
}

#[test]
fn old_sets_are_workers_sets_under_r12() {
    let old = v1::MeasurementSets {
        sets: vec![v1::MeasurementSet {
            id: 7,
            name: Some("old".to_string()),
            measurements: measurements(1),
            not_before: Some(1),
            not_after: Some(900),
            added_at: 5,
        }],
    };
    let sets = MeasurementSets::of_older(b"o", old.into());
    assert!(is_active(&sets, 1, 100) && !is_active(&sets, 1, 900));
    let set = sets.get(7).unwrap();
    assert_eq!((&set.platform, set.policy_version), (&PlatformRules::default(), None));
}

#[test]
fn registers_are_read_in_both_cases_and_written_in_lower_case() {
    let text = "aB".repeat(48);
    let register: Register = serde_json::from_str(&format!("\"{text}\"")).unwrap();
    assert_eq!(serde_json::to_string(&register).unwrap(), format!("\"{}\"", text.to_lowercase()));
}

#[test]
fn other_registers_are_refused() {
    for text in
        ["ab".repeat(47), "ab".repeat(49), "zz".repeat(48), "é".repeat(48), format!("0x{}", "a".repeat(94))]
    {
        assert!(serde_json::from_str::<Register>(&format!("\"{text}\"")).is_err(), "{text}");
    }
}

#[test]
fn a_wrong_register_is_named() {
    let good = serde_json::to_value(measurements(1)).unwrap();
    for name in ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"] {
        let mut wrong = good.clone();
        wrong[name] = "abc".into();
        let error = serde_json::from_value::<Measurements>(wrong).unwrap_err().to_string();
        assert!(
            error.contains(&format!("Invalid {name} format: expected 96 hex characters, got 3")),
            "{error}"
        );
    }
}
