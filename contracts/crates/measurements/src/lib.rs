// SPDX-License-Identifier: MIT
//! Sets of approved measurements, each with its role, its rules for the platform, and the time in which it holds.
//!
//! A set is never deleted: it expires, and stays readable, so that what was approved when can be answered
//! later. Times are unix seconds; a set holds from `not_before` (inclusive) until `not_after` (exclusive).

use std::fmt;

use near_sdk::borsh::{BorshDeserialize, BorshSerialize};
use near_sdk::near;
use near_sdk::serde::de::Error as _;
use near_sdk::serde::{Deserialize, Deserializer, Serialize, Serializer};

/// SHA-384, as 96 hex digits in JSON (either case is read, lower case is written).
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "near_sdk::borsh")]
pub struct Register(pub [u8; 48]);

impl fmt::Display for Register {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Register {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Register {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as Deserialize>::deserialize(deserializer)?;
        parse_register(&text).map_err(D::Error::custom)
    }
}

fn parse_register(text: &str) -> Result<Register, String> {
    if text.len() != 96 {
        return Err(format!("expected 96 hex characters, got {}", text.len()));
    }
    let mut register = [0u8; 48];
    for (byte, pair) in register.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|value| u8::try_from(value).ok());
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err("must be hex string".to_string()),
        }
    }
    Ok(Register(register))
}

/// The five values that say what a TD runs.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Measurements {
    pub mrtd: Register,
    pub rtmr0: Register,
    pub rtmr1: Register,
    pub rtmr2: Register,
    pub rtmr3: Register,
}

impl Measurements {
    pub fn new(mrtd: [u8; 48], rtmr: [[u8; 48]; 4]) -> Self {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = rtmr.map(Register);
        Measurements { mrtd: Register(mrtd), rtmr0, rtmr1, rtmr2, rtmr3 }
    }
}

/// What a TD with these measurements is for; what its key may do follows from it.
#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[default]
    Worker,
    Compiler,
    Keystore,
}

/// A TCB status that a policy can accept, spelled as Intel does. (`Revoked` never is.)
#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcbStatus {
    UpToDate,
    SWHardeningNeeded,
    ConfigurationNeeded,
    ConfigurationAndSWHardeningNeeded,
    TDRelaunchAdvised,
    TDRelaunchAdvisedConfigurationNeeded,
    OutOfDate,
    OutOfDateConfigurationNeeded,
}

impl TcbStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            TcbStatus::UpToDate => "UpToDate",
            TcbStatus::SWHardeningNeeded => "SWHardeningNeeded",
            TcbStatus::ConfigurationNeeded => "ConfigurationNeeded",
            TcbStatus::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            TcbStatus::TDRelaunchAdvised => "TDRelaunchAdvised",
            TcbStatus::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            TcbStatus::OutOfDate => "OutOfDate",
            TcbStatus::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
        }
    }
}

/// What the platform of a TD must be: the on-chain part of a policy file's section `platform`.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PlatformRules {
    pub statuses: Vec<TcbStatus>,
    pub advisory_prefix_informational: Vec<String>,
    /// At least this, of TCB info and of QE identity.
    pub min_tcb_evaluation_data_number: u32,
}

impl Default for PlatformRules {
    /// R12: `UpToDate` and no advisory.
    fn default() -> Self {
        PlatformRules {
            statuses: vec![TcbStatus::UpToDate],
            advisory_prefix_informational: Vec::new(),
            min_tcb_evaluation_data_number: 0,
        }
    }
}

const SECURITY_ADVISORY: &str = "INTEL-SA-";
const MAX_PREFIXES: usize = 8;

impl PlatformRules {
    /// The same limits as the policy file has: at least one status, and prefixes of the form `INTEL-DOC-`,
    /// of which security advisories are none.
    fn check(&self) -> Result<(), SetError> {
        let is_prefix = |prefix: &String| {
            prefix.strip_prefix("INTEL-").and_then(|rest| rest.strip_suffix('-')).is_some_and(|kind| {
                (1..=16).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_uppercase())
            }) && prefix != SECURITY_ADVISORY
        };
        let prefixes = &self.advisory_prefix_informational;
        let fits = (1..=8).contains(&self.statuses.len()) && prefixes.len() <= MAX_PREFIXES;
        if fits && prefixes.iter().all(is_prefix) {
            Ok(())
        } else {
            Err(SetError::Rules)
        }
    }
}

/// What is to be approved; `None` is an open end. Times are unix seconds.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct NewSet {
    #[serde(default)]
    pub role: Role,
    pub name: Option<String>,
    pub measurements: Measurements,
    pub not_before: Option<u64>,
    pub not_after: Option<u64>,
    #[serde(default)]
    pub platform: PlatformRules,
}

impl NewSet {
    /// Whether this set would ever be active, at the earliest from `now` on, and its rules can be meant.
    pub fn check(&self, now: u64) -> Result<(), SetError> {
        if self.not_after.is_some_and(|until| until <= self.not_before.unwrap_or(0).max(now)) {
            return Err(SetError::EmptyWindow);
        }
        if self.name.as_ref().is_some_and(|name| name.len() > MAX_NAME) {
            return Err(SetError::Name);
        }
        self.platform.check()
    }
}

/// Measurements, when they are approved, for which role and on which platforms.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasurementSet {
    pub id: u32,
    pub name: Option<String>,
    pub measurements: Measurements,
    pub not_before: Option<u64>,
    pub not_after: Option<u64>,
    pub added_at: u64,
    pub role: Role,
    pub platform: PlatformRules,
    /// The policy version that it came with, if any.
    pub policy_version: Option<u32>,
}

impl MeasurementSet {
    pub fn is_active_at(&self, now: u64) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.not_after.is_none_or(|until| now < until)
    }
}

/// Sets as they were kept before roles and rules.
pub mod v1 {
    use super::{near, BorshDeserialize, BorshSerialize, Measurements, PlatformRules, Role};

    #[near(serializers = [borsh])]
    pub struct MeasurementSet {
        pub id: u32,
        pub name: Option<String>,
        pub measurements: Measurements,
        pub not_before: Option<u64>,
        pub not_after: Option<u64>,
        pub added_at: u64,
    }

    #[derive(Default, BorshSerialize, BorshDeserialize)]
    #[borsh(crate = "near_sdk::borsh")]
    pub struct MeasurementSets {
        pub sets: Vec<MeasurementSet>,
    }

    impl From<MeasurementSets> for super::MeasurementSets {
        /// All were for workers, under R12.
        fn from(old: MeasurementSets) -> Self {
            let carry = |set: MeasurementSet| super::MeasurementSet {
                id: set.id,
                name: set.name,
                measurements: set.measurements,
                not_before: set.not_before,
                not_after: set.not_after,
                added_at: set.added_at,
                role: Role::Worker,
                platform: PlatformRules::default(),
                policy_version: None,
            };
            super::MeasurementSets { sets: old.sets.into_iter().map(carry).collect() }
        }
    }
}

/// Why a change of the sets is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetError {
    EmptyWindow,
    NotFound,
    WouldExtend,
    Full,
    Name,
    Rules,
}

impl fmt::Display for SetError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            SetError::EmptyWindow => {
                "The set would never be active: not_after must be after not_before and now"
            }
            SetError::NotFound => "Measurement set not found",
            SetError::WouldExtend => {
                "A set can only be made to expire earlier; add a new set to approve again"
            }
            SetError::Full => "Too many measurement sets",
            SetError::Name => "The name is longer than 128 bytes",
            SetError::Rules => {
                "The platform rules need one to eight statuses, and prefixes like INTEL-DOC- (not INTEL-SA-)"
            }
        })
    }
}

/// All sets that there ever were, by ascending id; the first id is 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "near_sdk::borsh")]
pub struct MeasurementSets {
    sets: Vec<MeasurementSet>,
}

/// All of it is read with the state of a contract, so it has a bound (a set takes about 300 bytes).
const MAX_SETS: usize = 1_000;
const MAX_NAME: usize = 128;

impl MeasurementSets {
    pub fn all(&self) -> &[MeasurementSet] {
        &self.sets
    }

    pub fn get(&self, id: u32) -> Option<&MeasurementSet> {
        self.sets.iter().find(|set| set.id == id)
    }

    pub fn active_at(&self, now: u64) -> impl Iterator<Item = &MeasurementSet> {
        self.sets.iter().filter(move |set| set.is_active_at(now))
    }

    /// The active sets with these measurements, the one that holds longest first.
    pub fn matching(&self, measurements: &Measurements, now: u64) -> Vec<&MeasurementSet> {
        let mut found: Vec<&MeasurementSet> =
            self.active_at(now).filter(|set| set.measurements == *measurements).collect();
        found.sort_by_key(|set| std::cmp::Reverse(set.not_after.unwrap_or(u64::MAX)));
        found
    }

    pub fn is_approved(&self, role: Role, measurements: &Measurements, now: u64) -> bool {
        self.active_at(now).any(|set| set.role == role && set.measurements == *measurements)
    }

    /// Add a set, of a policy version or by itself.
    pub fn add(
        &mut self,
        new: NewSet,
        policy_version: Option<u32>,
        now: u64,
    ) -> Result<&MeasurementSet, SetError> {
        new.check(now)?;
        if self.sets.len() >= MAX_SETS {
            return Err(SetError::Full);
        }
        let NewSet { role, name, measurements, not_before, not_after, platform } = new;
        let id = self.sets.last().map_or(1, |set| set.id + 1);
        self.sets.push(MeasurementSet {
            id,
            name,
            measurements,
            not_before,
            not_after,
            added_at: now,
            role,
            platform,
            policy_version,
        });
        self.sets.last().ok_or(SetError::NotFound)
    }

    /// Let a set end at `not_after`, at the earliest now: what was approved until now stays true.
    /// Gives its new end.
    pub fn expire(&mut self, id: u32, not_after: u64, now: u64) -> Result<u64, SetError> {
        let set = self.sets.iter_mut().find(|set| set.id == id).ok_or(SetError::NotFound)?;
        let until = not_after.max(now);
        if set.not_after.is_some_and(|current| until > current) {
            return Err(SetError::WouldExtend);
        }
        set.not_after = Some(until);
        Ok(until)
    }

    /// Let every set that `which` names and that would hold longer end at `until`; gives their ids.
    pub fn expire_where(&mut self, until: u64, which: impl Fn(&MeasurementSet) -> bool) -> Vec<u32> {
        let longer = |set: &&mut MeasurementSet| set.not_after.is_none_or(|end| until < end) && which(set);
        self.sets
            .iter_mut()
            .filter(longer)
            .map(|set| {
                set.not_after = Some(until);
                set.id
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn one(not_before: Option<u64>, not_after: Option<u64>) -> MeasurementSets {
        let mut sets = MeasurementSets::default();
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
        let ids = |now| sets.active_at(now).map(|set| set.id).collect::<Vec<_>>();
        assert_eq!((ids(399), ids(450), ids(500)), (vec![1], vec![1, 2], vec![2]));
    }

    #[test]
    fn a_window_that_never_opens_is_refused() {
        let mut sets = MeasurementSets::default();
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
        assert_eq!(sets.all().len(), 1);
    }

    #[test]
    fn ending_sets_spares_those_that_had_ended() {
        let mut sets = one(None, Some(150));
        sets.add(set(1, None, None), None, 100).unwrap();
        sets.add(set(1, Some(900), None), None, 100).unwrap();
        sets.add(set(2, None, None), None, 100).unwrap();
        assert_eq!(sets.expire_where(200, |set| set.measurements == measurements(1)), [2, 3]);
        assert_eq!(sets.get(1).unwrap().not_after, Some(150));
        assert!(!is_active(&sets, 1, 950));
        assert!(is_active(&sets, 2, 950));
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
    fn a_grace_spares_what_ends_earlier_by_itself() {
        let mut sets = one(None, Some(150));
        sets.add(set(1, None, None), None, 100).unwrap();
        assert_eq!(sets.expire_where(200, |_| true), [2]);
        assert_eq!(sets.all().iter().map(|set| set.not_after).collect::<Vec<_>>(), [Some(150), Some(200)]);
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
        for prefix in ["INTEL-SA-", "", "INTEL-", "INTEL--", "INTEL-doc-", "INTEL-DOC", "DOC-", "INTEL-A-B-"]
        {
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
        let sets = MeasurementSets::from(old);
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
        for text in [
            "ab".repeat(47),
            "ab".repeat(49),
            "zz".repeat(48),
            "é".repeat(48),
            format!("0x{}", "a".repeat(94)),
        ] {
            assert!(serde_json::from_str::<Register>(&format!("\"{text}\"")).is_err(), "{text}");
        }
    }
}
