// SPDX-License-Identifier: MIT
//! Test only: the policy view of a Sputnik DAO (version 2), which the access condition `DaoMember` reads.

use near_sdk::json_types::U128;
use near_sdk::{near, require, AccountId, PanicOnDefault};
use serde_json::{json, Value};

/// Who is in a role.
#[near(serializers = [json, borsh])]
#[derive(Clone)]
pub enum RoleKind {
    Everyone,
    Group(Vec<AccountId>),
    /// Holders of at least so many tokens.
    Member(U128),
}

#[near(serializers = [json, borsh])]
#[derive(Clone)]
pub struct Role {
    pub name: String,
    pub kind: RoleKind,
    pub permissions: Vec<String>,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct DaoPolicy {
    roles: Vec<Role>,
}

#[near]
impl DaoPolicy {
    #[init]
    pub fn new(roles: Vec<Role>) -> Self {
        DaoPolicy { roles }
    }

    /// Replace the roles.
    #[private]
    pub fn set_roles(&mut self, roles: Vec<Role>) {
        require!(!roles.is_empty(), "A policy has at least one role");
        self.roles = roles;
    }

    pub fn get_policy(&self) -> Value {
        let roles: Vec<Value> = self
            .roles
            .iter()
            .map(|role| {
                json!({
                    "name": role.name,
                    "kind": role.kind,
                    "permissions": role.permissions,
                    "vote_policy": {},
                })
            })
            .collect();
        json!({
            "roles": roles,
            "default_vote_policy": { "weight_kind": "RoleWeight", "quorum": "0", "threshold": [1, 2] },
            "proposal_bond": "100000000000000000000000",
            "proposal_period": "604800000000000",
            "bounty_bond": "100000000000000000000000",
            "bounty_forgiveness_period": "604800000000000",
        })
    }
}
