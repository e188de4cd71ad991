// SPDX-License-Identifier: MIT
//! Projects: named code with versions. An id is `{owner}/{name}` and holds exactly one slash (R3).

use near_sdk::json_types::U128;
use near_sdk::{env, near, require, AccountId};

use crate::events::SystemEvent;
use crate::storage::{pay, price, take_deposit};
use crate::types::*;
use crate::{Contract, ContractExt};

const PROJECT_BASE_STORAGE: usize = 200;
const VERSION_BASE_STORAGE: usize = 150;
/// Version keys of up to this length pay the original's price; what is longer pays for its copies.
const KEY_ALLOWANCE: usize = 100;
const MAX_NAME_LENGTH: usize = 64;
const MOST_VERSIONS_LISTED: u64 = 100;

#[near]
impl Contract {
    /// Make a project with its first version, which becomes the active one.
    #[payable]
    pub fn create_project(&mut self, name: String, source: CodeSource) -> String {
        check_name(&name);
        check_source(&source);
        let owner = env::predecessor_account_id();
        let project_id = format!("{owner}/{name}");
        require!(!self.projects.contains_key(&project_id), format!("Project '{project_id}' already exists"));
        let uuid = format!("p{:016x}", self.next_project_number);
        self.next_project_number += 1;
        let project_cost = project_storage_cost(&project_id, &uuid);
        let version_cost = version_storage_cost(&source);
        take_deposit(project_cost + version_cost);
        let version_key = source.version_key();
        let project = Project {
            uuid: uuid.clone(),
            owner: owner.clone(),
            name,
            active_version: version_key.clone(),
            version_keys: vec![version_key.clone()],
            created_at: env::block_timestamp(),
            storage_deposit: project_cost,
            pending_owner: None,
        };
        self.insert_version(&uuid, &version_key, source, version_cost);
        self.projects.insert(project_id.clone(), project);
        self.index_project(&owner, &project_id);
        project_id
    }

    /// Add a version; `set_active` makes it the one that runs.
    #[payable]
    pub fn add_version(&mut self, project_name: String, source: CodeSource, set_active: bool) -> String {
        check_source(&source);
        let (project_id, mut project) = self.own_project(&project_name);
        let version_key = source.version_key();
        require!(
            !project.version_keys.contains(&version_key),
            format!("Version '{version_key}' already exists in project")
        );
        let cost = version_storage_cost(&source);
        take_deposit(cost);
        self.insert_version(&project.uuid, &version_key, source, cost);
        project.version_keys.push(version_key.clone());
        if set_active {
            project.active_version.clone_from(&version_key);
        }
        self.projects.insert(project_id, project);
        version_key
    }

    pub fn set_active_version(&mut self, project_name: String, version_key: String) {
        let (project_id, mut project) = self.own_project(&project_name);
        require!(project.version_keys.contains(&version_key), "Version not found");
        project.active_version = version_key;
        self.projects.insert(project_id, project);
    }

    /// Remove a version that is not the active one; its deposit goes back.
    pub fn remove_version(&mut self, project_name: String, version_key: String) {
        let (project_id, mut project) = self.own_project(&project_name);
        require!(project.version_keys.contains(&version_key), "Version not found");
        require!(project.active_version != version_key, "Cannot remove the active version");
        project.version_keys.retain(|key| *key != version_key);
        let deposit = self.remove_version_entry(&project.uuid, &version_key);
        let owner = project.owner.clone();
        self.projects.insert(project_id, project);
        pay(&owner, deposit);
    }

    /// Remove a project with all versions; every deposit goes back (R4).
    pub fn delete_project(&mut self, project_name: String) {
        let (project_id, project) = self.own_project(&project_name);
        let mut deposit = project.storage_deposit;
        for key in &project.version_keys {
            deposit += self.remove_version_entry(&project.uuid, key);
        }
        self.projects.remove(&project_id);
        self.unindex_project(&project.owner, &project_id);
        self.emit(
            "system_event",
            SystemEvent::ProjectStorageCleanup {
                project_id: &project_id,
                project_uuid: &project.uuid,
                timestamp: env::block_timestamp(),
            },
        );
        pay(&project.owner, deposit);
    }

    /// Offer a project to another account; nothing changes until that account accepts (R2).
    pub fn transfer_project(&mut self, project_name: String, new_owner: AccountId) {
        let (project_id, mut project) = self.own_project(&project_name);
        require!(new_owner != project.owner, "The project belongs to this account already");
        project.pending_owner = Some(new_owner);
        self.projects.insert(project_id, project);
    }

    /// Take the offer of a project back.
    pub fn cancel_project_transfer(&mut self, project_name: String) {
        let (project_id, mut project) = self.own_project(&project_name);
        require!(project.pending_owner.take().is_some(), "The project was not offered to anybody");
        self.projects.insert(project_id, project);
    }

    /// Accept a project that was offered. Its id becomes `{new owner}/{name}`, its uuid stays.
    pub fn accept_project(&mut self, project_id: String) -> String {
        let new_owner = env::predecessor_account_id();
        let mut project = self.project(&project_id).clone();
        require!(
            project.pending_owner.as_ref() == Some(&new_owner),
            "The project was not offered to this account"
        );
        let new_id = format!("{new_owner}/{}", project.name);
        require!(!self.projects.contains_key(&new_id), format!("Project '{new_id}' already exists"));
        self.projects.remove(&project_id);
        self.unindex_project(&project.owner, &project_id);
        project.owner = new_owner.clone();
        project.pending_owner = None;
        self.projects.insert(new_id.clone(), project);
        self.index_project(&new_owner, &new_id);
        new_id
    }

    pub fn get_project(&self, project_id: String) -> Option<ProjectView> {
        self.projects.get(&project_id).map(|project| project_view(&project_id, project))
    }

    /// The account to which a project is offered.
    pub fn get_project_offer(&self, project_id: String) -> Option<AccountId> {
        self.projects.get(&project_id).and_then(|project| project.pending_owner.clone())
    }

    pub fn list_user_projects(&self, account_id: AccountId) -> Vec<ProjectView> {
        let ids = self.user_projects.get(&account_id).cloned().unwrap_or_default();
        ids.iter().filter_map(|id| self.projects.get(id).map(|project| project_view(id, project))).collect()
    }

    pub fn get_version(&self, project_id: String, version_key: String) -> Option<VersionView> {
        let project = self.projects.get(&project_id)?;
        self.version_view(project, &version_key)
    }

    pub fn list_versions(
        &self,
        project_id: String,
        from_index: Option<u64>,
        limit: Option<u64>,
    ) -> Vec<VersionView> {
        let Some(project) = self.projects.get(&project_id) else {
            return Vec::new();
        };
        let limit = limit.unwrap_or(50).min(MOST_VERSIONS_LISTED);
        project
            .version_keys
            .iter()
            .skip(usize::try_from(from_index.unwrap_or(0)).unwrap_or(usize::MAX))
            .take(usize::try_from(limit).unwrap_or(0))
            .filter_map(|key| self.version_view(project, key))
            .collect()
    }

    pub fn get_version_count(&self, project_id: String) -> u64 {
        self.projects.get(&project_id).map_or(0, |project| project.version_keys.len() as u64)
    }
}

impl Contract {
    pub(crate) fn version(&self, uuid: &str, version_key: &str) -> Option<&VersionInfo> {
        self.project_versions.get(&format!("{uuid}/{version_key}"))
    }

    fn version_view(&self, project: &Project, version_key: &str) -> Option<VersionView> {
        self.version(&project.uuid, version_key).map(|info| VersionView {
            wasm_hash: version_key.to_string(),
            source: info.source.clone(),
            added_at: info.added_at,
            is_active: project.active_version == version_key,
        })
    }

    fn project(&self, project_id: &str) -> &Project {
        self.projects.get(project_id).unwrap_or_else(|| env::panic_str("Project not found"))
    }

    fn own_project(&self, name: &str) -> (String, Project) {
        let project_id = format!("{}/{name}", env::predecessor_account_id());
        let project = self.project(&project_id).clone();
        (project_id, project)
    }

    fn insert_version(&mut self, uuid: &str, version_key: &str, source: CodeSource, storage_deposit: u128) {
        let info = VersionInfo { source, added_at: env::block_timestamp(), storage_deposit };
        self.project_versions.insert(format!("{uuid}/{version_key}"), info);
    }

    /// Remove a version's entry; gives its deposit.
    fn remove_version_entry(&mut self, uuid: &str, version_key: &str) -> u128 {
        self.project_versions.remove(&format!("{uuid}/{version_key}")).map_or(0, |info| info.storage_deposit)
    }

    fn index_project(&mut self, owner: &AccountId, project_id: &str) {
        let mut ids = self.user_projects.get(owner).cloned().unwrap_or_default();
        ids.push(project_id.to_string());
        self.user_projects.insert(owner.clone(), ids);
    }

    fn unindex_project(&mut self, owner: &AccountId, project_id: &str) {
        let mut ids = self.user_projects.get(owner).cloned().unwrap_or_default();
        ids.retain(|id| id != project_id);
        if ids.is_empty() {
            self.user_projects.remove(owner);
        } else {
            self.user_projects.insert(owner.clone(), ids);
        }
    }
}

fn project_view(project_id: &str, project: &Project) -> ProjectView {
    ProjectView {
        project_id: project_id.to_string(),
        uuid: project.uuid.clone(),
        owner: project.owner.clone(),
        name: project.name.clone(),
        active_version: project.active_version.clone(),
        created_at: project.created_at,
        storage_deposit: U128(project.storage_deposit),
    }
}

fn check_name(name: &str) {
    require!(!name.is_empty(), "Project name cannot be empty");
    require!(name.len() <= MAX_NAME_LENGTH, "Project name too long (max 64 chars)");
    require!(
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'),
        "Project name can only contain letters, digits, '-' and '_'"
    );
}

fn check_source(source: &CodeSource) {
    source.check_length();
    match source {
        CodeSource::GitHub { repo, commit, .. } => {
            require!(!repo.is_empty() && !commit.is_empty(), "Repository and commit cannot be empty");
        }
        CodeSource::WasmUrl { url, hash, .. } => {
            require!(!url.is_empty(), "WASM URL cannot be empty");
            require!(is_sha256_hex(hash), "WASM hash must be 64 lower-case hex characters (SHA256)");
        }
    }
}

fn project_storage_cost(project_id: &str, uuid: &str) -> u128 {
    price(PROJECT_BASE_STORAGE + project_id.len() + uuid.len() + 8 + 16)
}

fn version_storage_cost(source: &CodeSource) -> u128 {
    // the key stands in the map and in the project's list, too
    let long_key = source.version_key().len().saturating_sub(KEY_ALLOWANCE);
    price(VERSION_BASE_STORAGE + source.text_len() + 64 + 8 + 16 + 2 * long_key)
}
