// SPDX-License-Identifier: MIT
//! Projects and their versions.

use near_sdk::json_types::U128;
use near_sdk::{env, near, require, AccountId};
use serde_json::{json, Value};

use crate::types::*;
use crate::{pay, price, take_deposit, OriginalMain, OriginalMainExt};

const PROJECT_BASE: usize = 200;
const VERSION_BASE: usize = 150;

#[near]
impl OriginalMain {
    #[payable]
    pub fn create_project(&mut self, name: String, source: Source) -> String {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        require!(!name.is_empty(), "Project name cannot be empty");
        require!(name.len() <= 64, "Project name too long (max 64 chars)");
        require!(name.bytes().all(allowed), "Project name can only contain letters, digits, '-' and '_'");
        require!(!matches!(source, Source::Project { .. }), "Source must be GitHub or WasmUrl");
        let owner = env::predecessor_account_id();
        let id = format!("{owner}/{name}");
        require!(!self.projects.contains_key(&id), format!("Project '{id}' already exists"));
        let uuid = format!("p{:016x}", self.next_project_id);
        self.next_project_id += 1;
        let deposit = price(PROJECT_BASE + id.len() + uuid.len() + 8 + 16);
        take_deposit(deposit + version_price(&source), 0);
        let active_version = source.version_key();
        let version = version_of(source);
        self.versions.insert(uuid.clone(), vec![(active_version.clone(), version)]);
        self.user_projects.entry(owner.clone()).or_default().push(id.clone());
        let created_at = env::block_timestamp();
        let project = Project { uuid, owner, name, active_version, created_at, storage_deposit: deposit };
        self.projects.insert(id.clone(), project);
        id
    }

    #[payable]
    pub fn add_version(&mut self, project_name: String, source: Source, set_active: bool) -> String {
        let (id, mut project) = self.own_project(&project_name);
        let key = source.version_key();
        let versions = self.versions.entry(project.uuid.clone()).or_default();
        let known = versions.iter().any(|(name, _)| *name == key);
        require!(!known, format!("Version '{key}' already exists in project"));
        take_deposit(version_price(&source), 0);
        versions.push((key.clone(), version_of(source)));
        if set_active {
            project.active_version.clone_from(&key);
            self.projects.insert(id, project);
        }
        key
    }

    pub fn set_active_version(&mut self, project_name: String, version_key: String) {
        let (id, mut project) = self.own_project(&project_name);
        require!(self.version(&project.uuid, &version_key).is_some(), "Version not found");
        project.active_version = version_key;
        self.projects.insert(id, project);
    }

    pub fn remove_version(&mut self, project_name: String, version_key: String) {
        let (_, project) = self.own_project(&project_name);
        let version = self.version(&project.uuid, &version_key);
        let deposit = version.unwrap_or_else(|| env::panic_str("Version not found")).storage_deposit;
        require!(project.active_version != version_key, "Cannot remove the active version");
        self.versions.entry(project.uuid).or_default().retain(|(name, _)| *name != version_key);
        pay(&project.owner, deposit);
    }

    /// The project's own entry alone goes, and its deposit alone comes back.
    pub fn delete_project(&mut self, project_name: String) {
        let (id, project) = self.own_project(&project_name);
        self.projects.remove(&id);
        self.user_projects.entry(project.owner.clone()).or_default().retain(|name| *name != id);
        let data = json!({
            "project_id": id, "project_uuid": project.uuid, "timestamp": env::block_timestamp(),
        });
        self.emit("system_event", json!({ "ProjectStorageCleanup": data }));
        pay(&project.owner, project.storage_deposit);
    }

    /// At once, whether the new owner wants it or not.
    pub fn transfer_project(&mut self, project_name: String, new_owner: AccountId) {
        let (id, mut project) = self.own_project(&project_name);
        let new_id = format!("{new_owner}/{project_name}");
        require!(!self.projects.contains_key(&new_id), format!("Project '{new_id}' already exists"));
        self.user_projects.entry(project.owner.clone()).or_default().retain(|name| *name != id);
        self.user_projects.entry(new_owner.clone()).or_default().push(new_id.clone());
        self.projects.remove(&id);
        project.owner = new_owner;
        self.projects.insert(new_id, project);
    }

    pub fn get_project(&self, project_id: String) -> Option<Value> {
        let project = self.projects.get(&project_id)?;
        Some(json!({
            "project_id": project_id,
            "uuid": project.uuid,
            "owner": project.owner,
            "name": project.name,
            "active_version": project.active_version,
            "created_at": project.created_at,
            "storage_deposit": U128(project.storage_deposit),
        }))
    }

    pub fn list_user_projects(&self, account_id: AccountId) -> Vec<Value> {
        let ids = self.user_projects.get(&account_id).cloned().unwrap_or_default();
        ids.into_iter().filter_map(|id| self.get_project(id)).collect()
    }

    pub fn get_version(&self, project_id: String, version_key: String) -> Option<Value> {
        let project = self.projects.get(&project_id)?;
        let version = self.version(&project.uuid, &version_key)?;
        Some(version_view(project, &version_key, version))
    }

    pub fn list_versions(
        &self,
        project_id: String,
        from_index: Option<u64>,
        limit: Option<u64>,
    ) -> Vec<Value> {
        let Some(project) = self.projects.get(&project_id) else { return Vec::new() };
        let all = self.versions.get(&project.uuid).into_iter().flatten();
        let page = all.skip(from_index.unwrap_or(0) as usize).take(limit.unwrap_or(50).min(100) as usize);
        page.map(|(key, version)| version_view(project, key, version)).collect()
    }

    pub fn get_version_count(&self, project_id: String) -> u64 {
        let Some(project) = self.projects.get(&project_id) else { return 0 };
        self.versions.get(&project.uuid).map_or(0, Vec::len) as u64
    }
}

impl OriginalMain {
    pub(crate) fn project_owner(&self, source: &Source) -> Option<AccountId> {
        let Source::Project { project_id, .. } = source else { return None };
        self.projects.get(project_id).map(|project| project.owner.clone())
    }

    fn own_project(&self, name: &str) -> (String, Project) {
        let id = format!("{}/{name}", env::predecessor_account_id());
        let project = self.projects.get(&id).cloned();
        (id, project.unwrap_or_else(|| env::panic_str("Project not found")))
    }

    fn version(&self, uuid: &str, key: &str) -> Option<&Version> {
        self.versions.get(uuid)?.iter().find(|(name, _)| name == key).map(|(_, version)| version)
    }
}

fn version_of(source: Source) -> Version {
    Version { added_at: env::block_timestamp(), storage_deposit: version_price(&source), source }
}

fn version_price(source: &Source) -> u128 {
    price(VERSION_BASE + source.text_len() + 64 + 8 + 16)
}

fn version_view(project: &Project, key: &str, version: &Version) -> Value {
    json!({
        "wasm_hash": key,
        "source": version.source,
        "added_at": version.added_at,
        "is_active": project.active_version == key,
    })
}
