// SPDX-License-Identifier: MIT
//! Projects: named code with versions. An id is `{owner}/{name}` and holds exactly one slash (R3).

use near_sdk::json_types::U128;
use near_sdk::{env, near, require, AccountId};

use crate::events::SystemEvent;
use crate::lists::{self, Lists};
use crate::storage::{bytes_of, entry_bytes, pay, price, take_deposit, Meter};
use crate::types::*;
use crate::{Contract, ContractExt};

const MAX_NAME_LENGTH: usize = 64;
const MOST_LISTED: u64 = 100;
const MOST_PROJECTS_LISTED: u64 = 500;
/// As many are removed in one call with all the gas that there is.
const MOST_VERSIONS_DELETED: u64 = 200;

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
        let meter = Meter::start();
        let slot = self.insert_version(&uuid, source);
        let mut project = Project {
            uuid: uuid.clone(),
            owner: owner.clone(),
            name,
            active_version: slot,
            version_keys: Vec::new(),
            created_at: env::block_timestamp(),
            storage_deposit: 0,
            offer: Offer::with_room(owner.as_str()),
        };
        project.storage_deposit = price(own_bytes(&project_id, &project));
        lists::PROJECTS.add(owner.as_str(), project.name.as_bytes(), 0);
        self.put_project(&project_id, &project);
        take_deposit(price(meter.grown()));
        project_id
    }

    /// Add a version; `set_active` makes it the one that runs.
    #[payable]
    pub fn add_version(&mut self, project_name: String, source: CodeSource, set_active: bool) -> String {
        check_source(&source);
        let (project_id, mut project) = self.own_project(&project_name);
        let version_key = source.version_key();
        require!(
            self.version(&project.uuid, &version_key).is_none(),
            format!("Version '{version_key}' already exists in project")
        );
        let meter = Meter::start();
        let slot = self.insert_version(&project.uuid, source);
        take_deposit(price(meter.grown()));
        if set_active {
            project.active_version = slot;
            self.projects.insert(project_id, project);
        }
        version_key
    }

    pub fn set_active_version(&mut self, project_name: String, version_key: String) {
        let (project_id, mut project) = self.own_project(&project_name);
        project.active_version = self.own_version(&project, &version_key);
        self.projects.insert(project_id, project);
    }

    /// Remove a version that is not the active one; its deposit goes back.
    pub fn remove_version(&mut self, project_name: String, version_key: String) {
        let (project_id, mut project) = self.own_project(&project_name);
        let slot = self.own_version(&project, &version_key);
        require!(project.active_version != slot, "Cannot remove the active version");
        let refund = self.remove_versions(&project.uuid, std::slice::from_ref(&slot));
        if project.version_keys.contains(&slot) {
            project.version_keys.retain(|key| *key != slot);
            self.projects.insert(project_id, project.clone());
        }
        pay(&project.owner, refund);
    }

    /// Remove a project with all versions; every deposit goes back (R4).
    pub fn delete_project(&mut self, project_name: String) {
        let (project_id, project) = self.own_project(&project_name);
        let count = self.get_version_count(project_id.clone());
        require!(
            count <= MOST_VERSIONS_DELETED,
            format!(
                "The project has {count} versions, and one call deletes {MOST_VERSIONS_DELETED}: remove_version the others \
                 first"
            )
        );
        let slots = self.version_slots(&project, 0, MOST_VERSIONS_DELETED);
        let mut refund = self.remove_versions(&project.uuid, &slots);
        refund += price(self.unindex_project(&project_id, &project));
        let meter = Meter::start();
        self.projects.remove(&project_id);
        self.projects.flush();
        refund += if project.offer.has_room() { price(meter.freed()) } else { project.storage_deposit };
        self.emit(
            "system_event",
            SystemEvent::ProjectStorageCleanup {
                project_id: &project_id,
                project_uuid: &project.uuid,
                timestamp: env::block_timestamp(),
            },
        );
        pay(&project.owner, refund);
    }

    /// Offer a project to another account; nothing changes until that account accepts (R2).
    pub fn transfer_project(&mut self, project_name: String, new_owner: AccountId) {
        let (project_id, mut project) = self.own_project(&project_name);
        require!(new_owner != project.owner, "The project belongs to this account already");
        project.offer.set(Some(new_owner));
        self.projects.insert(project_id, project);
    }

    /// Take the offer of a project back.
    pub fn cancel_project_transfer(&mut self, project_name: String) {
        let (project_id, mut project) = self.own_project(&project_name);
        require!(project.offer.account().is_some(), "The project was not offered to anybody");
        project.offer.set(None);
        self.projects.insert(project_id, project);
    }

    /// Accept a project that was offered. Its id becomes `{new owner}/{name}`, its uuid stays, and so does what it holds
    /// for its storage. A deposit is needed only for what it occupies more under its new owner and has no room for.
    #[payable]
    pub fn accept_project(&mut self, project_id: String) -> String {
        let new_owner = env::predecessor_account_id();
        let mut project = self.project(&project_id).clone();
        require!(
            project.offer.account().as_ref() == Some(&new_owner),
            "The project was not offered to this account"
        );
        let new_id = format!("{new_owner}/{}", project.name);
        require!(!self.projects.contains_key(&new_id), format!("Project '{new_id}' already exists"));
        project.offer.set(None);
        if project.offer.has_room() {
            self.move_project(&project_id, &new_id, project, new_owner);
        } else {
            self.move_old_project(&project_id, &new_id, project, new_owner);
        }
        new_id
    }

    pub fn get_project(&self, project_id: String) -> Option<ProjectView> {
        self.projects.get(&project_id).map(|project| self.project_view(project_id.clone(), project))
    }

    /// The account to which a project is offered.
    pub fn get_project_offer(&self, project_id: String) -> Option<AccountId> {
        self.projects.get(&project_id).and_then(|project| project.offer.account())
    }

    /// Projects of an account from the `from_index`-th on, at most 500; past the end none.
    pub fn list_user_projects(
        &self,
        account_id: AccountId,
        from_index: Option<u64>,
        limit: Option<u64>,
    ) -> Vec<ProjectView> {
        let old = self.user_projects.get(&account_id).map_or(&[][..], Vec::as_slice);
        let limit = limit.unwrap_or(MOST_PROJECTS_LISTED).min(MOST_PROJECTS_LISTED);
        let ids = page(old, from_index.unwrap_or(0), limit, |from, limit| {
            let names = lists::PROJECTS.page(account_id.as_str(), from, limit);
            names.into_iter().map(|name| format!("{account_id}/{}", text(name))).collect()
        });
        ids.into_iter()
            .filter_map(|id| self.projects.get(&id).map(|project| self.project_view(id.clone(), project)))
            .collect()
    }

    pub fn get_version(&self, project_id: String, version_key: String) -> Option<VersionView> {
        let project = self.projects.get(&project_id)?;
        let slot = self.version_slot(&project.uuid, &version_key)?;
        self.version_view(project, &slot)
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
        let slots =
            self.version_slots(project, from_index.unwrap_or(0), limit.unwrap_or(50).min(MOST_LISTED));
        slots.iter().filter_map(|slot| self.version_view(project, slot)).collect()
    }

    pub fn get_version_count(&self, project_id: String) -> u64 {
        self.projects.get(&project_id).map_or(0, |project| {
            project.version_keys.len() as u64 + u64::from(lists::VERSIONS.count(&project.uuid))
        })
    }
}

impl Contract {
    /// A version by its key or its slot.
    pub(crate) fn version(&self, uuid: &str, version_key: &str) -> Option<&VersionInfo> {
        let at = |slot: &str| self.project_versions.get(&format!("{uuid}/{slot}"));
        at(version_key).or_else(|| at(&slot_of(version_key)))
    }

    /// The slot under which a version is kept: that of its key, or in states before version 3 the key itself.
    fn version_slot(&self, uuid: &str, version_key: &str) -> Option<String> {
        let is_there = |slot: &String| self.project_versions.contains_key(&format!("{uuid}/{slot}"));
        Some(version_key.to_string()).filter(is_there).or_else(|| Some(slot_of(version_key)).filter(is_there))
    }

    /// Slots of a project's versions; those of states before version 3 come first.
    fn version_slots(&self, project: &Project, from: u64, limit: u64) -> Vec<String> {
        page(&project.version_keys, from, limit, |from, limit| {
            lists::VERSIONS.page(&project.uuid, from, limit).into_iter().map(text).collect()
        })
    }

    fn version_view(&self, project: &Project, slot: &str) -> Option<VersionView> {
        self.version(&project.uuid, slot).map(|info| VersionView {
            wasm_hash: info.source.version_key(),
            source: info.source.clone(),
            added_at: info.added_at,
            is_active: project.active_version == slot,
        })
    }

    fn project_view(&self, project_id: String, project: &Project) -> ProjectView {
        let active = self.version(&project.uuid, &project.active_version);
        ProjectView {
            project_id,
            uuid: project.uuid.clone(),
            owner: project.owner.clone(),
            name: project.name.clone(),
            active_version: active.map(|info| info.source.version_key()).unwrap_or_default(),
            created_at: project.created_at,
            storage_deposit: U128(project.storage_deposit),
        }
    }

    fn project(&self, project_id: &str) -> &Project {
        self.projects.get(project_id).unwrap_or_else(|| env::panic_str("Project not found"))
    }

    fn own_project(&self, name: &str) -> (String, Project) {
        let project_id = format!("{}/{name}", env::predecessor_account_id());
        let project = self.project(&project_id).clone();
        (project_id, project)
    }

    fn own_version(&self, project: &Project, version_key: &str) -> String {
        self.version_slot(&project.uuid, version_key).unwrap_or_else(|| env::panic_str("Version not found"))
    }

    /// Keep a version that is not there yet; gives its slot.
    fn insert_version(&mut self, uuid: &str, source: CodeSource) -> String {
        let slot = slot_of(&source.version_key());
        let mut info = VersionInfo { source, added_at: env::block_timestamp(), storage_deposit: 0 };
        let key = format!("{uuid}/{slot}");
        let own = entry_bytes(1 + bytes_of(&key), bytes_of(&info)) + Lists::item_bytes(uuid, slot.len());
        info.storage_deposit = price(own);
        lists::VERSIONS.add(uuid, slot.as_bytes(), 0);
        self.project_versions.insert(key, info);
        self.project_versions.flush();
        slot
    }

    /// Remove versions; gives the price of what that frees, and for those of states before version 3 what they hold.
    fn remove_versions(&mut self, uuid: &str, slots: &[String]) -> u128 {
        let (new, old): (Vec<_>, Vec<_>) =
            slots.iter().partition(|slot| lists::VERSIONS.contains(uuid, slot.as_bytes()));
        let mut held = 0;
        for slot in old {
            let info = self.project_versions.remove(&format!("{uuid}/{slot}"));
            held += info.map_or(0, |info| info.storage_deposit);
        }
        self.project_versions.flush();
        let meter = Meter::start();
        for slot in new {
            lists::VERSIONS.remove(uuid, slot.as_bytes());
            self.project_versions.remove(&format!("{uuid}/{slot}"));
        }
        self.project_versions.flush();
        held + price(meter.freed())
    }

    /// Move a project to another owner, who pays for what it grows by beyond its room. The old one gets what its list's
    /// head frees; the deposit of the item goes along.
    fn move_project(&mut self, old_id: &str, new_id: &str, mut project: Project, to: AccountId) {
        let item = Lists::item_bytes(project.owner.as_str(), project.name.len());
        let freed = self.unindex_project(old_id, &project);
        pay(&project.owner, price(freed.saturating_sub(item)));
        let meter = Meter::start();
        self.projects.remove(old_id);
        project.owner = to;
        lists::PROJECTS.add(project.owner.as_str(), project.name.as_bytes(), 0);
        self.put_project(new_id, &project);
        let (grown, made_up) = (meter.grown(), item + meter.freed());
        let lacking = project.offer.use_room(grown.saturating_sub(made_up), made_up.saturating_sub(grown));
        project.storage_deposit = price(own_bytes(new_id, &project));
        self.put_project(new_id, &project);
        take_deposit(price(lacking));
    }

    /// The same for a project of a state before version 3, whose price did not hang on its owner's name.
    fn move_old_project(&mut self, old_id: &str, new_id: &str, mut project: Project, to: AccountId) {
        self.unindex_project(old_id, &project);
        self.projects.remove(old_id);
        let mut ids = self.user_projects.get(&to).cloned().unwrap_or_default();
        ids.push(new_id.to_string());
        self.user_projects.insert(to.clone(), ids);
        project.owner = to;
        self.projects.insert(new_id.to_string(), project);
        take_deposit(0);
    }

    fn put_project(&mut self, project_id: &str, project: &Project) {
        self.projects.insert(project_id.to_string(), project.clone());
        self.projects.flush();
    }

    /// Take a project out of its owner's list; gives the bytes that this frees: none in the lists of states before
    /// version 3, which are part of the projects' price.
    fn unindex_project(&mut self, project_id: &str, project: &Project) -> usize {
        let meter = Meter::start();
        if lists::PROJECTS.remove(project.owner.as_str(), project.name.as_bytes()) {
            return meter.freed();
        }
        if let Some(ids) = self.user_projects.get_mut(&project.owner) {
            ids.retain(|id| id != project_id);
            if ids.is_empty() {
                self.user_projects.remove(&project.owner);
            }
        }
        0
    }
}

/// To whom a project is offered, if to anyone. The record has room for any account's offer, so that it needs no deposit,
/// and spare bytes that go when the project moves to a longer name; records of states before version 3 have neither.
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub enum Offer {
    None,
    To(AccountId),
    Room { length: u8, account: [u8; LONGEST_ACCOUNT], spare: Vec<u8> },
}

const LONGEST_ACCOUNT: usize = 64;
/// Where an owner's name stands: in the project's id, in its record, and twice in the list.
const COPIES_OF_OWNER: usize = 4;

impl Offer {
    /// Spare bytes for one move to the longest account, whose first project this may be.
    fn with_room(owner: &str) -> Self {
        let head = Lists::head_bytes(owner) - owner.len() + LONGEST_ACCOUNT;
        let spare = vec![0; COPIES_OF_OWNER * LONGEST_ACCOUNT.saturating_sub(owner.len()) + head];
        Offer::Room { length: 0, account: [0; LONGEST_ACCOUNT], spare }
    }

    fn has_room(&self) -> bool {
        matches!(self, Offer::Room { .. })
    }

    fn account(&self) -> Option<AccountId> {
        match self {
            Offer::None => None,
            Offer::To(account) => Some(account.clone()),
            Offer::Room { length, account, .. } => {
                std::str::from_utf8(account.get(..usize::from(*length))?).ok()?.parse().ok()
            }
        }
    }

    fn set(&mut self, to: Option<AccountId>) {
        match self {
            Offer::Room { length, account, .. } => {
                let to = to.as_ref().map_or(&[][..], |to| to.as_bytes());
                *account = [0; LONGEST_ACCOUNT];
                account[..to.len()].copy_from_slice(to);
                *length = to.len() as u8;
            }
            _ => *self = to.map_or(Offer::None, Offer::To),
        }
    }

    /// The project has grown elsewhere by `grown` bytes, or shrunk: spare bytes make up for it. Gives how many are lacking.
    fn use_room(&mut self, grown: usize, shrunk: usize) -> usize {
        let Offer::Room { spare, .. } = self else { return grown };
        let used = grown.min(spare.len());
        spare.resize(spare.len() - used + shrunk, 0);
        grown - used
    }
}

/// What a version's key is kept as, always 64 bytes: a SHA-256 as it is, any other by its SHA-256 in upper case.
fn slot_of(version_key: &str) -> String {
    if is_sha256_hex(version_key) {
        return version_key.to_string();
    }
    env::sha256_array(version_key).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `limit` of the old entries and the new ones after them, from the `from`-th on.
fn page(old: &[String], from: u64, limit: u64, new: impl FnOnce(u64, u64) -> Vec<String>) -> Vec<String> {
    let skipped = usize::try_from(from).unwrap_or(usize::MAX);
    let mut found: Vec<String> = old.iter().skip(skipped).take(limit as usize).cloned().collect();
    found.extend(new(from.saturating_sub(old.len() as u64), limit - found.len() as u64));
    found
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
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

fn record_bytes(project_id: &str, project: &Project) -> usize {
    entry_bytes(1 + 4 + project_id.len(), bytes_of(project))
}

/// Bytes that a project occupies beside its versions: its record and its item in its owner's list.
fn own_bytes(project_id: &str, project: &Project) -> usize {
    record_bytes(project_id, project) + Lists::item_bytes(project.owner.as_str(), project.name.len())
}
