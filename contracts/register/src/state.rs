// SPDX-License-Identifier: MIT
//! The state, by version. Reading an older version gives the newest; writing always writes the newest, so an upgraded
//! contract works on an old state at once, with `migrate` or without.

use std::io::{Error, ErrorKind, Read, Result, Write};

use approval::{Approvals, Policies, StoredCollateral};
use measurements::v1::MeasurementSets as MeasurementSetsV1;
use near_sdk::borsh::{BorshDeserialize, BorshSerialize};
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{near, AccountId, PublicKey};
use quote_verify::Fmspc;

use crate::StoredKey;

const V1: u8 = 0;
const V2: u8 = 1;

/// Before roles, rules and policy versions.
#[near(serializers = [borsh])]
struct StateV1 {
    owner_id: AccountId,
    init_worker_account: AccountId,
    outlayer_contract_id: AccountId,
    root_ca_der: Option<Vec<u8>>,
    key_ttl_seconds: u64,
    sets: MeasurementSetsV1,
    fmspcs: Vec<Fmspc>,
    collateral: LookupMap<Fmspc, StoredCollateral>,
    keys: IterableMap<PublicKey, StoredKey>,
}

#[near(serializers = [borsh])]
pub struct StateV2 {
    pub owner_id: AccountId,
    pub init_worker_account: AccountId,
    pub outlayer_contract_id: AccountId,
    pub key_ttl_seconds: u64,
    /// How long a policy version waits. 0: sets may be added at once, as the original does.
    pub policy_delay_seconds: u64,
    pub approvals: Approvals,
    pub policies: Policies,
    pub keys: IterableMap<PublicKey, StoredKey>,
}

impl From<StateV1> for StateV2 {
    fn from(old: StateV1) -> Self {
        StateV2 {
            owner_id: old.owner_id,
            init_worker_account: old.init_worker_account,
            outlayer_contract_id: old.outlayer_contract_id,
            key_ttl_seconds: old.key_ttl_seconds,
            policy_delay_seconds: 0,
            approvals: Approvals::of_parts(old.root_ca_der, old.sets.into(), old.fmspcs, old.collateral),
            policies: Policies::default(),
            keys: old.keys,
        }
    }
}

/// The newest state behind the number of its version.
pub struct State(pub StateV2);

impl BorshSerialize for State {
    fn serialize<W: Write>(&self, writer: &mut W) -> Result<()> {
        V2.serialize(writer)?;
        self.0.serialize(writer)
    }
}

impl BorshDeserialize for State {
    fn deserialize_reader<R: Read>(reader: &mut R) -> Result<Self> {
        match u8::deserialize_reader(reader)? {
            V1 => StateV1::deserialize_reader(reader).map(|old| State(old.into())),
            V2 => StateV2::deserialize_reader(reader).map(State),
            other => Err(Error::new(ErrorKind::InvalidData, format!("state of an unknown version: {other}"))),
        }
    }
}
