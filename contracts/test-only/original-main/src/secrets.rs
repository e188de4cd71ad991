// SPDX-License-Identifier: MIT
//! Secrets: ciphertext and a condition, by accessor, profile and owner.

use near_sdk::json_types::U128;
use near_sdk::{borsh, env, near, require, AccountId};
use serde_json::{json, Value};

use crate::types::*;
use crate::{pay, price, take_deposit, OriginalMain, OriginalMainExt};

const BASE: usize = 40;
const INDEX_ENTRY: usize = 64;

#[near]
impl OriginalMain {
    #[payable]
    pub fn store_secrets(
        &mut self,
        accessor: Accessor,
        profile: String,
        encrypted_secrets_base64: String,
        access: Value,
    ) {
        self.check_accessor(&accessor, &profile);
        require!(!encrypted_secrets_base64.is_empty(), "Encrypted secrets cannot be empty");
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        let (now, old) = (env::block_timestamp(), self.secrets.get(&key).cloned());
        let cost = storage_price(&key, &encrypted_secrets_base64, &access, old.is_none());
        take_deposit(cost, old.as_ref().map_or(0, |secret| secret.storage_deposit));
        if let Accessor::System(SystemSecret::PaymentKey) = key.accessor {
            let nonce: u32 = key.profile.parse().unwrap_or(0);
            self.announce_top_up([0; 32], &key.owner, nonce, 0, &encrypted_secrets_base64);
        }
        if old.is_none() {
            self.user_secrets.entry(key.owner.clone()).or_default().push(key.clone());
        }
        let secret = Secret {
            encrypted_secrets: encrypted_secrets_base64,
            access: access.to_string(),
            created_at: old.map_or(now, |secret| secret.created_at),
            updated_at: now,
            storage_deposit: cost,
        };
        self.secrets.insert(key, secret);
    }

    pub fn delete_secrets(&mut self, accessor: Accessor, profile: String) {
        let owner = env::predecessor_account_id();
        self.remove_secret(&SecretKey { accessor, profile, owner });
    }

    /// The deposit stays as it was, however long the new condition is.
    pub fn update_access(&mut self, accessor: Accessor, profile: String, new_access: Value) {
        let key = SecretKey { accessor, profile, owner: env::predecessor_account_id() };
        let secret = self.secrets.get_mut(&key).unwrap_or_else(|| env::panic_str("Secrets not found"));
        secret.access = new_access.to_string();
        secret.updated_at = env::block_timestamp();
    }

    pub fn estimate_storage_cost(
        &self,
        accessor: Accessor,
        profile: String,
        owner: AccountId,
        encrypted_secrets_base64: String,
        access: Value,
    ) -> U128 {
        let key = SecretKey { accessor, profile, owner };
        U128(storage_price(&key, &encrypted_secrets_base64, &access, !self.secrets.contains_key(&key)))
    }

    pub fn get_secrets(&self, accessor: Accessor, profile: String, owner: AccountId) -> Option<Value> {
        let mut key = SecretKey { accessor, profile, owner };
        if !self.secrets.contains_key(&key) {
            if let Accessor::Repo { branch, .. } = &mut key.accessor {
                *branch = None;
            }
        }
        let secret = self.secrets.get(&key)?;
        Some(json!({
            "encrypted_secrets": secret.encrypted_secrets,
            "access": condition(secret),
            "created_at": secret.created_at,
            "updated_at": secret.updated_at,
            "storage_deposit": U128(secret.storage_deposit),
            "accessor": key.accessor,
        }))
    }

    pub fn secrets_exist(&self, accessor: Accessor, profile: String, owner: AccountId) -> bool {
        self.secrets.contains_key(&SecretKey { accessor, profile, owner })
    }

    /// Never anything: the original has only the name of this view.
    #[allow(unused_variables)]
    pub fn list_profiles(&self, accessor: Accessor, owner: AccountId) -> Vec<String> {
        Vec::new()
    }

    pub fn list_user_secrets(
        &self,
        account_id: AccountId,
        from_index: Option<u64>,
        limit: Option<u64>,
    ) -> Vec<Value> {
        let keys = self.user_secrets.get(&account_id).into_iter().flatten();
        let page = keys.skip(from_index.unwrap_or(0) as usize).take(limit.unwrap_or(100) as usize);
        page.filter_map(|key| {
            let secret = self.secrets.get(key)?;
            Some(json!({
                "accessor": key.accessor,
                "profile": key.profile,
                "created_at": secret.created_at,
                "updated_at": secret.updated_at,
                "storage_deposit": U128(secret.storage_deposit),
                "access": condition(secret),
            }))
        })
        .collect()
    }

    pub fn get_next_payment_key_nonce(&self, account_id: AccountId) -> u32 {
        let keys = self.user_secrets.get(&account_id).into_iter().flatten();
        let nonces = keys.filter(|key| matches!(key.accessor, Accessor::System(_)));
        nonces.filter_map(|key| key.profile.parse::<u32>().ok()).max().unwrap_or(0) + 1
    }
}

impl OriginalMain {
    pub(crate) fn remove_secret(&mut self, key: &SecretKey) {
        let secret = self.secrets.remove(key).unwrap_or_else(|| env::panic_str("Secrets not found"));
        self.user_secrets.entry(key.owner.clone()).or_default().retain(|other| other != key);
        pay(&key.owner, secret.storage_deposit);
    }

    fn check_accessor(&self, accessor: &Accessor, profile: &str) {
        match accessor {
            Accessor::Repo { repo, branch } => {
                require!(!repo.is_empty(), "Repository cannot be empty");
                let length = branch.as_ref().map(String::len);
                require!(length != Some(0), "Branch name cannot be empty if provided");
                require!(length.unwrap_or(0) <= 255, "Branch name too long (max 255 chars)");
            }
            Accessor::WasmHash { hash } => {
                let hex = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
                require!(hex, "WASM hash must be 64 hex characters (SHA256)");
            }
            Accessor::Project { project_id } => {
                require!(project_id.contains('/'), "Project ID must be in format 'owner.near/name'");
                let known = self.projects.contains_key(project_id);
                require!(known, format!("Project '{project_id}' does not exist"));
            }
            Accessor::System(SystemSecret::PaymentKey) => {
                require!(profile.parse::<u32>().is_ok(), "PaymentKey profile must be a valid u32 nonce");
            }
        }
        require!(profile.len() <= 64, "Profile name too long (max 64 chars)");
    }
}

fn name_length(key: &SecretKey) -> usize {
    borsh::object_length(key).unwrap_or_else(|_| env::panic_str("A key could not be written"))
}

fn condition(secret: &Secret) -> Value {
    serde_json::from_str(&secret.access).unwrap_or(Value::Null)
}

fn storage_price(key: &SecretKey, encrypted: &str, access: &Value, fresh: bool) -> u128 {
    let index = if fresh { INDEX_ENTRY } else { 0 };
    let condition = access.to_string().len() + 10;
    price(BASE + name_length(key) + 4 + encrypted.len() + condition + 32 + index)
}
