// SPDX-License-Identifier: MIT
//! Sets of approved measurements, each with the time in which it holds.
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

/// Measurements and when they are approved; `None` is an open end.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasurementSet {
    pub id: u32,
    pub name: Option<String>,
    pub measurements: Measurements,
    pub not_before: Option<u64>,
    pub not_after: Option<u64>,
    pub added_at: u64,
}

impl MeasurementSet {
    pub fn is_active_at(&self, now: u64) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.not_after.is_none_or(|until| now < until)
    }
}

/// Why a change of the sets is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetError {
    EmptyWindow,
    NotFound,
    WouldExtend,
    Full,
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

    /// The active set with these measurements; of several, the one that holds longest.
    pub fn find_active(&self, measurements: &Measurements, now: u64) -> Option<&MeasurementSet> {
        self.active_at(now)
            .filter(|set| set.measurements == *measurements)
            .max_by_key(|set| set.not_after.unwrap_or(u64::MAX))
    }

    pub fn add(
        &mut self,
        measurements: Measurements,
        name: Option<String>,
        not_before: Option<u64>,
        not_after: Option<u64>,
        now: u64,
    ) -> Result<&MeasurementSet, SetError> {
        if not_after.is_some_and(|until| until <= not_before.unwrap_or(0).max(now)) {
            return Err(SetError::EmptyWindow);
        }
        if self.sets.len() >= MAX_SETS {
            return Err(SetError::Full);
        }
        let id = self.sets.last().map_or(1, |set| set.id + 1);
        self.sets.push(MeasurementSet { id, name, measurements, not_before, not_after, added_at: now });
        self.sets.last().ok_or(SetError::NotFound)
    }

    /// Let a set end at `not_after`, at the earliest now: what was approved until now stays true.
    pub fn expire(&mut self, id: u32, not_after: u64, now: u64) -> Result<&MeasurementSet, SetError> {
        let set = self.sets.iter_mut().find(|set| set.id == id).ok_or(SetError::NotFound)?;
        let until = not_after.max(now);
        if set.not_after.is_some_and(|current| until > current) {
            return Err(SetError::WouldExtend);
        }
        set.not_after = Some(until);
        Ok(set)
    }

    /// End every active or future set that `which` names; gives their ids.
    pub fn expire_where(&mut self, now: u64, which: impl Fn(&MeasurementSet) -> bool) -> Vec<u32> {
        let live = |set: &&mut MeasurementSet| set.not_after.is_none_or(|until| now < until) && which(set);
        self.sets
            .iter_mut()
            .filter(live)
            .map(|set| {
                set.not_after = Some(now);
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

    fn one(not_before: Option<u64>, not_after: Option<u64>) -> MeasurementSets {
        let mut sets = MeasurementSets::default();
        sets.add(measurements(1), None, not_before, not_after, 100).unwrap();
        sets
    }

    #[test]
    fn a_set_is_active_from_not_before_until_just_before_not_after() {
        let sets = one(Some(200), Some(300));
        let active = |now| sets.find_active(&measurements(1), now).is_some();
        assert_eq!([199, 200, 299, 300].map(active), [false, true, true, false]);
    }

    #[test]
    fn open_ends_hold_for_ever() {
        let sets = one(None, None);
        assert!(sets.find_active(&measurements(1), 0).is_some());
        assert!(sets.find_active(&measurements(1), u64::MAX).is_some());
        assert!(sets.find_active(&measurements(2), 100).is_none());
    }

    #[test]
    fn each_of_the_five_values_counts() {
        let sets = one(None, None);
        for index in 0..5 {
            let mut other = measurements(1);
            let Measurements { mrtd, rtmr0, rtmr1, rtmr2, rtmr3 } = &mut other;
            [mrtd, rtmr0, rtmr1, rtmr2, rtmr3][index].0[47] ^= 1;
            assert!(sets.find_active(&other, 100).is_none(), "value {index}");
        }
    }

    #[test]
    fn old_and_new_sets_can_hold_together() {
        let mut sets = one(None, Some(500));
        sets.add(measurements(2), Some("v2".to_string()), Some(400), None, 100).unwrap();
        let ids = |now| sets.active_at(now).map(|set| set.id).collect::<Vec<_>>();
        assert_eq!((ids(399), ids(450), ids(500)), (vec![1], vec![1, 2], vec![2]));
    }

    #[test]
    fn a_window_that_never_opens_is_refused() {
        let mut sets = MeasurementSets::default();
        let mut add = |from, until| sets.add(measurements(1), None, from, until, 100).map(|set| set.id);
        assert_eq!(add(Some(300), Some(300)), Err(SetError::EmptyWindow));
        assert_eq!(add(None, Some(100)), Err(SetError::EmptyWindow));
        assert_eq!(add(None, Some(101)), Ok(1));
    }

    #[test]
    fn expiry_is_never_in_the_past_and_never_later_than_it_was() {
        let mut sets = one(None, Some(500));
        assert_eq!(sets.expire(1, 50, 200).map(|set| set.not_after), Ok(Some(200)));
        assert_eq!(sets.expire(1, 300, 200), Err(SetError::WouldExtend));
        assert_eq!(sets.expire(9, 300, 200), Err(SetError::NotFound));
        assert!(sets.find_active(&measurements(1), 200).is_none());
        assert_eq!(sets.all().len(), 1);
    }

    #[test]
    fn ending_sets_spares_those_that_had_ended() {
        let mut sets = one(None, Some(150));
        sets.add(measurements(1), None, None, None, 100).unwrap();
        sets.add(measurements(1), None, Some(900), None, 100).unwrap();
        sets.add(measurements(2), None, None, None, 100).unwrap();
        assert_eq!(sets.expire_where(200, |set| set.measurements == measurements(1)), [2, 3]);
        assert_eq!(sets.get(1).unwrap().not_after, Some(150));
        assert!(sets.find_active(&measurements(1), 950).is_none());
        assert!(sets.find_active(&measurements(2), 950).is_some());
    }

    #[test]
    fn the_set_that_holds_longest_is_found() {
        let mut sets = one(None, Some(500));
        sets.add(measurements(1), None, None, Some(900), 100).unwrap();
        assert_eq!(sets.find_active(&measurements(1), 100).unwrap().id, 2);
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
