// SPDX-License-Identifier: MIT
//! What callers see, as JSON, and what is kept in state, as borsh.

use measurements::{Measurements, NewSet};
use near_sdk::{near, AccountId, NearToken, PublicKey};

/// A keystore that waits for votes: what its quote showed.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub public_key: PublicKey,
    pub measurements: Measurements,
    pub measurement_set: u32,
    pub tcb_status: String,
    pub fmspc: String,
    pub quote_report_sha256: String,
    pub app_id: Option<String>,
}

/// What a proposal does when it passes.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Made by `submit_keystore_registration` only.
    ApproveKeystore(Candidate),
    AddMeasurementSet {
        set: NewSet,
    },
    /// At or before now means at once.
    ExpireMeasurementSet {
        id: u32,
        not_after: u64,
    },
    /// The JSON, kept in its canonical form. Once decided, only the digest of a long text is kept, as "sha256:…"; so
    /// with `args` below.
    UpdateCollateral {
        collateral: String,
    },
    RevokeKeystoreKeys {
        public_keys: Vec<PublicKey>,
    },
    AddMember {
        #[serde(alias = "member")]
        account_id: AccountId,
    },
    RemoveMember {
        #[serde(alias = "member")]
        account_id: AccountId,
    },
    /// Call a method of the register contract, whose owner this account is. `args` is a JSON object as text.
    CallRegister {
        method: String,
        args: String,
    },
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    /// Passed; what it does takes another receipt, which has not answered yet.
    Approved,
    Rejected,
    Executed,
    /// Passed, but what it does was not possible (any more).
    Failed,
    /// Not decided in time.
    Expired,
}

#[near(serializers = [borsh])]
pub enum StoredProposal {
    V1(Box<ProposalV1>),
    V2(Proposal),
}

/// As it was kept with its action in it.
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct ProposalV1 {
    pub id: u64,
    pub action: Action,
    pub submitter: AccountId,
    pub created_at: u64,
    pub expires_at: u64,
    pub status: Status,
    pub failure: Option<String>,
    pub votes: Vec<Vote>,
}

/// A proposal without its action.
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct Proposal {
    pub id: u64,
    pub submitter: AccountId,
    pub created_at: u64,
    pub expires_at: u64,
    pub status: Status,
    pub failure: Option<String>,
    pub votes: Vec<Vote>,
    /// Zeros, as many as votes and the execution may come to take: they must not depend on storage that others could
    /// have used up.
    pub room: Vec<u8>,
    /// Bytes of storage that it took when it was made.
    pub held: u64,
    /// What was attached for them; 0 when the account carries them.
    pub paid: NearToken,
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    pub member: AccountId,
    pub approve: bool,
}

#[near(serializers = [borsh])]
pub enum StoredKeystore {
    V1(Keystore),
    /// With its place among the keys of its set.
    V2(Keystore, u64),
}

impl StoredKeystore {
    pub fn keystore(&self) -> &Keystore {
        match self {
            StoredKeystore::V1(keystore) | StoredKeystore::V2(keystore, _) => keystore,
        }
    }
}

/// An approved keystore. Its key counts until `expires_at`, while its measurement set is active.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keystore {
    pub public_key: PublicKey,
    pub measurement_set: u32,
    pub proposal_id: u64,
    pub approved_at: u64,
    pub expires_at: u64,
    /// What the next quote for this key must commit to (`reverify_keystore`), 64 hex digits.
    pub challenge: String,
}

/// The original's `KeystoreProposal`, and what other kinds add. Votes are those of today's members; a decided
/// proposal shows them as they stand now, too.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalView {
    pub id: u64,
    pub action: Action,
    pub public_key: Option<PublicKey>,
    pub measurements: Option<Measurements>,
    pub submitter: AccountId,
    pub created_at: u64,
    pub expires_at: u64,
    pub votes_for: u32,
    pub votes_against: u32,
    pub status: Status,
    pub failure: Option<String>,
    pub votes: Vec<Vote>,
}

/// The answer to a registration: the number of its proposal, as in the original, or why there is none.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum Submission {
    Proposal(u64),
    Refused(Answer),
}

/// The answer to a re-verification; a refusal is also one to a registration.
#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Answer {
    Approved { public_key: PublicKey, measurement_set: u32, expires_at: u64 },
    Rejected { reason: String, detail: String },
}

/// What became of the keys of keystores whose sets have ended.
#[near(serializers = [json])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysRemoved {
    pub removed: u32,
    /// How many are left for `remove_expired_keystores`.
    pub remaining: u32,
}

/// What is still kept in an older form.
#[near(serializers = [json])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationLeft {
    pub keystores: u32,
    pub measurement_sets: u32,
}

/// What `prune_proposals` did.
#[near(serializers = [json])]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Not decided in time.
    pub expired: Vec<u64>,
    /// Decided long ago.
    pub forgotten: Vec<u64>,
    /// Whether another call would do more.
    pub more: bool,
}

/// What the MPC contract is asked; it reads `app_public_key` itself (a text, or one of its tagged forms).
#[near(serializers = [json])]
#[derive(Clone, Debug)]
pub struct KeyRequest {
    pub derivation_path: String,
    pub app_public_key: serde_json::Value,
    pub domain_id: u64,
}

#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub owner_id: AccountId,
    pub init_account_id: AccountId,
    pub mpc_contract_id: AccountId,
    pub approval_threshold: u32,
    pub dao_members_count: u32,
    pub next_proposal_id: u64,
    pub approved_keystores_count: u32,
    pub approved_measurements_count: u32,
    pub has_collateral: bool,
    pub handed_over: bool,
    pub register_contract_id: Option<AccountId>,
    pub proposal_ttl_seconds: u64,
    pub keystore_ttl_seconds: u64,
    /// How many there are now; their numbers go up to just before `next_proposal_id`.
    pub proposals_count: u64,
}
