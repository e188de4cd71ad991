// SPDX-License-Identifier: MIT
//! The state, by version. Reading an older version gives the newest; writing always writes the newest, so an upgraded
//! contract works on an old state at once. What an older version kept in lists stays in them until `migrate` has given
//! each entry a key of its own.

use std::io::{Error, ErrorKind, Read, Result, Write};

use approval::v2::ApprovalsV2;
use approval::{policies_v2, Approvals, KeyIndex, Policies, StoredCollateral};
use measurements::v1::MeasurementSets as MeasurementSetsV1;
use near_sdk::borsh::{BorshDeserialize, BorshSerialize};
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{near, AccountId, IntoStorageKey, NearToken, PublicKey};
use quote_verify::Fmspc;

use crate::{StorageKey, StoredKey};

const V1: u8 = 0;
const V2: u8 = 1;
const V3: u8 = 2;

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

/// With all sets and policy versions in lists, and without traces of removed keys.
#[near(serializers = [borsh])]
struct StateV2 {
    owner_id: AccountId,
    init_worker_account: AccountId,
    outlayer_contract_id: AccountId,
    key_ttl_seconds: u64,
    policy_delay_seconds: u64,
    approvals: ApprovalsV2,
    policies: policies_v2::Policies,
    keys: IterableMap<PublicKey, StoredKey>,
}

#[near(serializers = [borsh])]
pub struct StateV3 {
    pub owner_id: AccountId,
    pub init_worker_account: AccountId,
    pub outlayer_contract_id: AccountId,
    pub key_ttl_seconds: u64,
    /// How long a policy version waits. 0: sets may be added at once, as the original does.
    pub policy_delay_seconds: u64,
    pub approvals: Approvals,
    pub policies: Policies,
    pub keys: IterableMap<PublicKey, StoredKey>,
    pub index: KeyIndex,
    /// The traces of keys that were removed, and stay so, by their SHA-256.
    pub removed: LookupMap<[u8; 32], ()>,
    /// What the registering account has left for the storage of registrations.
    pub storage_balance: NearToken,
    /// What it owes for registrations that nobody paid.
    pub storage_owed: NearToken,
    /// Keys at the places before this one in `keys` may be of an older version and not in the index.
    pub unindexed: u32,
    /// At which of the sets with keys the search for dead keys goes on.
    pub search_at: u32,
    /// How often sets were made to end: what is decided in one receipt and done in the next looks for a change of it.
    pub endings: u32,
}

impl From<StateV1> for StateV2 {
    fn from(old: StateV1) -> Self {
        StateV2 {
            owner_id: old.owner_id,
            init_worker_account: old.init_worker_account,
            outlayer_contract_id: old.outlayer_contract_id,
            key_ttl_seconds: old.key_ttl_seconds,
            policy_delay_seconds: 0,
            approvals: ApprovalsV2 {
                root_ca_der: old.root_ca_der,
                sets: measurements::v2::MeasurementSets { sets: old.sets.into() },
                fmspcs: old.fmspcs,
                collateral: old.collateral,
            },
            policies: policies_v2::Policies::default(),
            keys: old.keys,
        }
    }
}

impl From<StateV2> for StateV3 {
    fn from(old: StateV2) -> Self {
        StateV3 {
            owner_id: old.owner_id,
            init_worker_account: old.init_worker_account,
            outlayer_contract_id: old.outlayer_contract_id,
            key_ttl_seconds: old.key_ttl_seconds,
            policy_delay_seconds: old.policy_delay_seconds,
            approvals: old.approvals.upgrade(&StorageKey::Sets.into_storage_key()),
            policies: Policies::of_older(&StorageKey::Policies.into_storage_key(), old.policies),
            unindexed: old.keys.len(),
            keys: old.keys,
            index: KeyIndex::new(&StorageKey::Index.into_storage_key()),
            removed: LookupMap::new(StorageKey::Removed),
            storage_balance: NearToken::from_yoctonear(0),
            storage_owed: NearToken::from_yoctonear(0),
            search_at: 0,
            endings: 0,
        }
    }
}

/// The newest state behind the number of its version.
pub struct State(pub StateV3);

impl BorshSerialize for State {
    fn serialize<W: Write>(&self, writer: &mut W) -> Result<()> {
        V3.serialize(writer)?;
        self.0.serialize(writer)
    }
}

impl BorshDeserialize for State {
    fn deserialize_reader<R: Read>(reader: &mut R) -> Result<Self> {
        match u8::deserialize_reader(reader)? {
            V1 => StateV1::deserialize_reader(reader).map(|old| State(StateV2::from(old).into())),
            V2 => StateV2::deserialize_reader(reader).map(|old| State(old.into())),
            V3 => StateV3::deserialize_reader(reader).map(State),
            other => Err(Error::new(ErrorKind::InvalidData, format!("state of an unknown version: {other}"))),
        }
    }
}
