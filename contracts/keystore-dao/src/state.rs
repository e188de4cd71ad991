// SPDX-License-Identifier: MIT
//! The state, by version. Older versions are read as the newest; the next call that changes anything writes that.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Read, Result, Write};

use approval::v2::ApprovalsV2;
use approval::Approvals;
use near_sdk::borsh::{BorshDeserialize, BorshSerialize};
use near_sdk::store::{IterableMap, LookupMap};
use near_sdk::{near, AccountId, IntoStorageKey, PublicKey};

use crate::index::KeystoreIndex;
use crate::{Action, StorageKey, StoredKeystore, StoredProposal};

const V1: u8 = 0;
const V2: u8 = 1;

/// Before proposals were paid for, and before keystores were indexed.
#[near(serializers = [borsh])]
struct StateV1 {
    owner_id: AccountId,
    handed_over: bool,
    init_account_id: AccountId,
    mpc_contract_id: AccountId,
    register_contract_id: Option<AccountId>,
    proposal_ttl_seconds: u64,
    keystore_ttl_seconds: u64,
    members: BTreeSet<AccountId>,
    approvals: ApprovalsV2,
    next_proposal_id: u64,
    proposals: LookupMap<u64, StoredProposal>,
    keystores: IterableMap<PublicKey, StoredKeystore>,
}

#[near(serializers = [borsh])]
pub struct StateV2 {
    pub owner_id: AccountId,
    pub handed_over: bool,
    pub init_account_id: AccountId,
    pub mpc_contract_id: AccountId,
    /// The contract whose owner this DAO can be; proposals can call its methods.
    pub register_contract_id: Option<AccountId>,
    pub proposal_ttl_seconds: u64,
    pub keystore_ttl_seconds: u64,
    pub members: BTreeSet<AccountId>,
    pub approvals: Approvals,
    pub proposals: Proposals,
    pub keystores: IterableMap<PublicKey, StoredKeystore>,
    pub index: KeystoreIndex,
}

/// Proposals by number, from 1. Those from `unsettled_from` on are all there; of those before it, the decided ones
/// that are still kept are listed in `history`, oldest first.
#[near(serializers = [borsh])]
pub struct Proposals {
    pub next_id: u64,
    pub unsettled_from: u64,
    pub history_first: u64,
    pub history_end: u64,
    /// Position to number, for the positions from `history_first` to just before `history_end`.
    pub history: LookupMap<u64, u64>,
    pub records: LookupMap<u64, StoredProposal>,
    /// What each does, with digests in place of long texts.
    pub actions: LookupMap<u64, Action>,
    /// The whole action of an undecided proposal with a long text.
    pub whole_actions: LookupMap<u64, Action>,
    /// The open proposal that would admit a key.
    pub registrations: LookupMap<PublicKey, u64>,
    /// Bytes of open proposals that the account carries for whoever made them.
    pub carried: LookupMap<AccountId, u64>,
}

impl Proposals {
    pub fn new(next_id: u64, records: LookupMap<u64, StoredProposal>) -> Self {
        Proposals {
            next_id,
            unsettled_from: 1,
            history_first: 0,
            history_end: 0,
            history: LookupMap::new(StorageKey::History),
            records,
            actions: LookupMap::new(StorageKey::Actions),
            whole_actions: LookupMap::new(StorageKey::WholeActions),
            registrations: LookupMap::new(StorageKey::Registrations),
            carried: LookupMap::new(StorageKey::Carried),
        }
    }

    /// Keep what a proposal does. Gives the short form, which votes and lists are about.
    pub fn keep_action(&mut self, id: u64, action: Action) -> Action {
        let short = action.shortened();
        if short != action {
            self.whole_actions.insert(id, action);
        }
        self.actions.insert(id, short.clone());
        short
    }

    /// Write what is cached, so that the storage usage counts it.
    pub fn flush(&mut self) {
        self.history.flush();
        self.records.flush();
        self.actions.flush();
        self.whole_actions.flush();
        self.registrations.flush();
        self.carried.flush();
    }
}

impl From<StateV1> for StateV2 {
    fn from(old: StateV1) -> Self {
        StateV2 {
            owner_id: old.owner_id,
            handed_over: old.handed_over,
            init_account_id: old.init_account_id,
            mpc_contract_id: old.mpc_contract_id,
            register_contract_id: old.register_contract_id,
            proposal_ttl_seconds: old.proposal_ttl_seconds,
            keystore_ttl_seconds: old.keystore_ttl_seconds,
            members: old.members,
            approvals: old.approvals.upgrade(&StorageKey::Sets.into_storage_key()),
            proposals: Proposals::new(old.next_proposal_id, old.proposals),
            index: KeystoreIndex::new(old.keystores.len()),
            keystores: old.keystores,
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
