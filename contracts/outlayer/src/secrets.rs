// SPDX-License-Identifier: MIT
//! Secrets: ciphertext for keystores, by what it belongs to, a profile and the owner.

use near_sdk::json_types::U128;
use near_sdk::{borsh, env, near, require, AccountId};

use crate::access::{AccessCondition, VersionedAccess};
use crate::events::SystemEvent;
use crate::storage::{change_deposit, pay, price, take_deposit};
use crate::types::is_sha256_hex;
use crate::{Contract, ContractExt};

const BASE_STORAGE_OVERHEAD: usize = 40;
const INDEX_ENTRY_OVERHEAD: usize = 64;
/// Accessor and profile stand in the owner's list, too; what is longer than this pays for that copy.
const NAME_ALLOWANCE: usize = 128;
/// created, updated and deposit
const FIXED_FIELDS: usize = 32;
/// version and lengths of the access condition
const ACCESS_OVERHEAD: usize = 10;
const MAX_BRANCH_LENGTH: usize = 255;
const MAX_PROFILE_LENGTH: usize = 64;

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SystemSecret {
    PaymentKey,
}

/// What a secret belongs to. The order of the variants is part of the storage key.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretAccessor {
    Repo {
        repo: String,
        #[serde(default)]
        branch: Option<String>,
    },
    WasmHash {
        hash: String,
    },
    Project {
        project_id: String,
    },
    System(SystemSecret),
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    pub accessor: SecretAccessor,
    pub profile: String,
    pub owner: AccountId,
}

impl SecretKey {
    /// The profile of a payment key is its nonce.
    pub fn payment_key(owner: &AccountId, nonce: u32) -> Self {
        SecretKey {
            accessor: SecretAccessor::System(SystemSecret::PaymentKey),
            profile: nonce.to_string(),
            owner: owner.clone(),
        }
    }

    pub fn payment_nonce(&self) -> Option<u32> {
        match self.accessor {
            SecretAccessor::System(SystemSecret::PaymentKey) => self.profile.parse().ok(),
            _ => None,
        }
    }
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct SecretProfile {
    pub encrypted_secrets: String,
    pub access: VersionedAccess,
    pub created_at: u64,
    pub updated_at: u64,
    pub storage_deposit: u128,
}

#[near(serializers = [json])]
pub struct SecretProfileView {
    pub encrypted_secrets: String,
    pub access: AccessCondition,
    pub created_at: u64,
    pub updated_at: u64,
    pub storage_deposit: U128,
    pub accessor: SecretAccessor,
}

#[near(serializers = [json])]
pub struct UserSecretInfo {
    pub accessor: SecretAccessor,
    pub profile: String,
    pub created_at: u64,
    pub updated_at: u64,
    pub storage_deposit: U128,
    pub access: AccessCondition,
}

#[near]
impl Contract {
    /// Store or replace a secret. What was held for it counts, what is over comes back.
    #[payable]
    pub fn store_secrets(
        &mut self,
        accessor: SecretAccessor,
        profile: String,
        encrypted_secrets_base64: String,
        access: AccessCondition,
    ) {
        self.check_accessor(&accessor);
        check_profile(&accessor, &profile);
        require!(!encrypted_secrets_base64.is_empty(), "Encrypted secrets cannot be empty");
        access.check();
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        self.check_no_task(&key);
        let cost = storage_cost(&key, &encrypted_secrets_base64, &access);
        let now = env::block_timestamp();
        let created_at = match self.secrets.get(&key) {
            Some(old) => {
                change_deposit(cost, old.storage_deposit);
                old.created_at
            }
            None => {
                take_deposit(cost);
                let mut index = self.user_secrets.get(&key.owner).cloned().unwrap_or_default();
                index.push((key.accessor.clone(), key.profile.clone()));
                self.user_secrets.insert(key.owner.clone(), index);
                now
            }
        };
        if let Some(nonce) = key.payment_nonce() {
            self.emit(
                "system_event",
                SystemEvent::TopUpPaymentKey {
                    data_id: [0; 32],
                    owner: &key.owner,
                    nonce,
                    amount: U128(0),
                    encrypted_data: &encrypted_secrets_base64,
                },
            );
        }
        let secret = SecretProfile {
            encrypted_secrets: encrypted_secrets_base64,
            access: VersionedAccess::V1(access),
            created_at,
            updated_at: now,
            storage_deposit: cost,
        };
        self.secrets.insert(key, secret);
    }

    /// Remove a secret; its deposit comes back.
    pub fn delete_secrets(&mut self, accessor: SecretAccessor, profile: String) {
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        self.check_no_task(&key);
        self.remove_secret(&key);
    }

    /// Change who may use a secret; storage is priced as when it was stored (R5).
    #[payable]
    pub fn update_access(&mut self, accessor: SecretAccessor, profile: String, new_access: AccessCondition) {
        new_access.check();
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        let mut secret = self.secret(&key).clone();
        let cost = storage_cost(&key, &secret.encrypted_secrets, &new_access);
        change_deposit(cost, secret.storage_deposit);
        secret.access = VersionedAccess::V1(new_access);
        secret.updated_at = env::block_timestamp();
        secret.storage_deposit = cost;
        self.secrets.insert(key, secret);
    }

    /// YoctoNEAR that the whole entry needs; for one that exists, what it holds counts towards it.
    pub fn estimate_storage_cost(
        &self,
        accessor: SecretAccessor,
        profile: String,
        owner: AccountId,
        encrypted_secrets_base64: String,
        access: AccessCondition,
    ) -> U128 {
        U128(storage_cost(&SecretKey { accessor, profile, owner }, &encrypted_secrets_base64, &access))
    }

    /// For a repository the entry of the branch comes first, then the one for every branch.
    pub fn get_secrets(
        &self,
        accessor: SecretAccessor,
        profile: String,
        owner: AccountId,
    ) -> Option<SecretProfileView> {
        let key = SecretKey { accessor, profile, owner };
        self.secret_view(&key).or_else(|| match &key.accessor {
            SecretAccessor::Repo { repo, branch: Some(_) } => {
                let accessor = SecretAccessor::Repo { repo: repo.clone(), branch: None };
                self.secret_view(&SecretKey { accessor, ..key.clone() })
            }
            _ => None,
        })
    }

    /// Whether exactly this entry is there.
    pub fn secrets_exist(&self, accessor: SecretAccessor, profile: String, owner: AccountId) -> bool {
        self.secrets.contains_key(&SecretKey { accessor, profile, owner })
    }

    /// The profiles that an account has under one accessor.
    pub fn list_profiles(&self, accessor: SecretAccessor, owner: AccountId) -> Vec<String> {
        let index = self.user_secrets.get(&owner).map_or(&[][..], Vec::as_slice);
        index.iter().filter(|(item, _)| *item == accessor).map(|(_, profile)| profile.clone()).collect()
    }

    pub fn list_user_secrets(&self, account_id: AccountId) -> Vec<UserSecretInfo> {
        let index = self.user_secrets.get(&account_id).cloned().unwrap_or_default();
        index
            .into_iter()
            .filter_map(|(accessor, profile)| {
                let key = SecretKey { accessor, profile, owner: account_id.clone() };
                let secret = self.secrets.get(&key)?;
                Some(UserSecretInfo {
                    created_at: secret.created_at,
                    updated_at: secret.updated_at,
                    storage_deposit: U128(secret.storage_deposit),
                    access: secret.access.condition().clone(),
                    accessor: key.accessor,
                    profile: key.profile,
                })
            })
            .collect()
    }
}

impl Contract {
    pub(crate) fn secret(&self, key: &SecretKey) -> &SecretProfile {
        self.secrets.get(key).unwrap_or_else(|| env::panic_str("Secrets not found"))
    }

    /// Remove an entry and pay its deposit back.
    pub(crate) fn remove_secret(&mut self, key: &SecretKey) {
        let secret = self.secrets.remove(key).unwrap_or_else(|| env::panic_str("Secrets not found"));
        let mut index = self.user_secrets.get(&key.owner).cloned().unwrap_or_default();
        index.retain(|(accessor, profile)| (accessor, profile) != (&key.accessor, &key.profile));
        if index.is_empty() {
            self.user_secrets.remove(&key.owner);
        } else {
            self.user_secrets.insert(key.owner.clone(), index);
        }
        pay(&key.owner, secret.storage_deposit);
    }

    fn secret_view(&self, key: &SecretKey) -> Option<SecretProfileView> {
        self.secrets.get(key).map(|secret| SecretProfileView {
            encrypted_secrets: secret.encrypted_secrets.clone(),
            access: secret.access.condition().clone(),
            created_at: secret.created_at,
            updated_at: secret.updated_at,
            storage_deposit: U128(secret.storage_deposit),
            accessor: key.accessor.clone(),
        })
    }

    fn check_accessor(&self, accessor: &SecretAccessor) {
        match accessor {
            SecretAccessor::Repo { repo, branch } => {
                require!(!repo.is_empty(), "Repository cannot be empty");
                if let Some(branch) = branch {
                    require!(!branch.is_empty(), "Branch name cannot be empty if provided");
                    require!(branch.len() <= MAX_BRANCH_LENGTH, "Branch name too long (max 255 chars)");
                }
            }
            SecretAccessor::WasmHash { hash } => {
                require!(is_sha256_hex(hash), "WASM hash must be 64 hex characters (SHA256), in lower case");
            }
            SecretAccessor::Project { project_id } => {
                let parts: Vec<&str> = project_id.split('/').collect();
                require!(
                    parts.len() == 2 && parts.iter().all(|part| !part.is_empty()),
                    "Project ID must be in format 'owner.near/name'"
                );
                require!(
                    self.projects.contains_key(project_id),
                    format!("Project '{project_id}' does not exist")
                );
            }
            SecretAccessor::System(SystemSecret::PaymentKey) => {}
        }
    }
}

fn check_profile(accessor: &SecretAccessor, profile: &str) {
    require!(!profile.is_empty(), "Profile name cannot be empty");
    require!(profile.len() <= MAX_PROFILE_LENGTH, "Profile name too long (max 64 chars)");
    require!(
        profile.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'),
        "Profile name can only contain letters, digits, '-' and '_'"
    );
    if *accessor == SecretAccessor::System(SystemSecret::PaymentKey) {
        // one text for each number, so that a nonce names one key
        let canonical = profile.parse::<u32>().is_ok_and(|nonce| nonce.to_string() == profile);
        require!(canonical, "PaymentKey profile must be a valid u32 nonce");
    }
}

/// Price of an entry and of its place in the owner's list. The place is paid once and held with the entry.
///
/// Names of ordinary length and conditions of some dozens of accounts pay what the original asks; longer ones pay for
/// what they occupy, so that nobody can fill the contract's own storage.
fn storage_cost(key: &SecretKey, encrypted: &str, access: &AccessCondition) -> u128 {
    let name = bytes_of(&(&key.accessor, &key.profile));
    let access_json = serde_json::to_vec(access)
        .unwrap_or_else(|_| env::panic_str("The access condition could not be written as JSON"));
    // the version's byte before the condition
    let access_stored = 1 + bytes_of(access);
    price(
        BASE_STORAGE_OVERHEAD
            + bytes_of(key)
            + 4
            + encrypted.len()
            + (access_json.len() + ACCESS_OVERHEAD).max(access_stored)
            + FIXED_FIELDS
            + INDEX_ENTRY_OVERHEAD
            + name.saturating_sub(NAME_ALLOWANCE),
    )
}

fn bytes_of<T: borsh::BorshSerialize>(value: &T) -> usize {
    borsh::object_length(value).unwrap_or_else(|_| env::panic_str("A value could not be written"))
}
