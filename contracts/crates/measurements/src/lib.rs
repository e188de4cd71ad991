// SPDX-License-Identifier: MIT
//! Sets of approved measurements, each with its role, its rules for the platform, and the time in which it holds.
//!
//! Times are unix seconds; a set holds from `not_before` (inclusive) until `not_after` (exclusive). A set that ended
//! stays readable until it is pruned; what was approved when is told by the events for ever.

mod sets;

#[cfg(test)]
mod tests;

use std::fmt;

use near_sdk::borsh::{BorshDeserialize, BorshSerialize};
use near_sdk::near;
use near_sdk::serde::de::Error as _;
use near_sdk::serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use sets::{MeasurementSets, RoleEnd, MAX_HOLDING_TOGETHER};

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

/// Each register's reader names it in its error, in the original's words.
mod named {
    use super::{parse_register, Deserialize, Deserializer, Register};
    use near_sdk::serde::de::Error;

    macro_rules! readers {
        ($($name:ident),*) => {$(
            pub fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Register, D::Error> {
                read(stringify!($name), deserializer)
            }
        )*};
    }

    readers!(mrtd, rtmr0, rtmr1, rtmr2, rtmr3);

    fn read<'de, D: Deserializer<'de>>(name: &str, deserializer: D) -> Result<Register, D::Error> {
        let text = <String as Deserialize>::deserialize(deserializer)?;
        let wrong = |error| D::Error::custom(format!("Invalid {name} format: {error}"));
        parse_register(&text).map_err(wrong)
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
    #[serde(deserialize_with = "named::mrtd")]
    pub mrtd: Register,
    #[serde(deserialize_with = "named::rtmr0")]
    pub rtmr0: Register,
    #[serde(deserialize_with = "named::rtmr1")]
    pub rtmr1: Register,
    #[serde(deserialize_with = "named::rtmr2")]
    pub rtmr2: Register,
    #[serde(deserialize_with = "named::rtmr3")]
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
    const ALL: [TcbStatus; 8] = [
        TcbStatus::UpToDate,
        TcbStatus::SWHardeningNeeded,
        TcbStatus::ConfigurationNeeded,
        TcbStatus::ConfigurationAndSWHardeningNeeded,
        TcbStatus::TDRelaunchAdvised,
        TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
        TcbStatus::OutOfDate,
        TcbStatus::OutOfDateConfigurationNeeded,
    ];

    /// The status that is spelled so.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

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

    impl From<MeasurementSets> for Vec<super::MeasurementSet> {
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
            old.sets.into_iter().map(carry).collect()
        }
    }
}

/// Sets as they were kept in one list, all of them in the state of the contract.
pub mod v2 {
    use super::{near, MeasurementSet};

    #[near(serializers = [borsh])]
    #[derive(Default)]
    pub struct MeasurementSets {
        pub sets: Vec<MeasurementSet>,
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
            SetError::Full => {
                "Too many sets with these measurements hold at the same time; let one of them end first"
            }
            SetError::Name => "The name is longer than 128 bytes",
            SetError::Rules => {
                "The platform rules need one to eight statuses, and prefixes like INTEL-DOC- (not INTEL-SA-)"
            }
        })
    }
}

const MAX_NAME: usize = 128;
