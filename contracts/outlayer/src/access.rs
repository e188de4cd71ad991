// SPDX-License-Identifier: MIT
//! Who may use a secret. The contract keeps these conditions; a keystore evaluates them.

use near_sdk::json_types::U128;
use near_sdk::{near, require, AccountId};

/// A condition that is nested deeper, or has more parts, is refused: keystores walk it for every request.
const MAX_DEPTH: usize = 16;
const MAX_CONDITIONS: usize = 256;
const MAX_TEXT: usize = 256;

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Gte,
    Lte,
    Gt,
    Lt,
    Eq,
    Ne,
}

#[near(serializers = [json, borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicOperator {
    And,
    Or,
}

/// The order of the variants is part of the state.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessCondition {
    AllowAll,
    Whitelist {
        accounts: Vec<AccountId>,
    },
    /// A regular expression for the whole account id.
    AccountPattern {
        pattern: String,
    },
    NearBalance {
        operator: Comparison,
        value: U128,
    },
    FtBalance {
        contract: AccountId,
        operator: Comparison,
        value: U128,
    },
    NftOwned {
        contract: AccountId,
        #[serde(default)]
        token_id: Option<String>,
    },
    DaoMember {
        dao_contract: AccountId,
        role: String,
    },
    Logic {
        operator: LogicOperator,
        conditions: Vec<AccessCondition>,
    },
    Not {
        condition: Box<AccessCondition>,
    },
}

/// What is stored, by version.
#[near(serializers = [borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionedAccess {
    V1(AccessCondition),
}

impl VersionedAccess {
    pub fn condition(&self) -> &AccessCondition {
        let VersionedAccess::V1(condition) = self;
        condition
    }
}

impl AccessCondition {
    /// Panics, with what is wrong, unless a keystore could evaluate this condition.
    pub fn check(&self) {
        let mut level = vec![self];
        let mut count = 0;
        for _ in 0..MAX_DEPTH {
            count += level.len();
            require!(
                count <= MAX_CONDITIONS,
                format!("An access condition has at most {MAX_CONDITIONS} parts")
            );
            level.iter().for_each(|condition| condition.check_own());
            level = level.into_iter().flat_map(AccessCondition::inner).collect();
            if level.is_empty() {
                return;
            }
        }
        near_sdk::env::panic_str(&format!("An access condition is at most {MAX_DEPTH} levels deep"));
    }

    fn inner(&self) -> Vec<&AccessCondition> {
        match self {
            AccessCondition::Logic { conditions, .. } => conditions.iter().collect(),
            AccessCondition::Not { condition } => vec![condition],
            _ => Vec::new(),
        }
    }

    fn check_own(&self) {
        match self {
            AccessCondition::Whitelist { accounts } => {
                require!(!accounts.is_empty(), "A Whitelist names at least one account");
            }
            AccessCondition::Logic { conditions, .. } => {
                require!(!conditions.is_empty(), "Logic joins at least one condition");
            }
            AccessCondition::AccountPattern { pattern } => check_text("An account pattern", pattern),
            AccessCondition::DaoMember { role, .. } => check_text("A DAO role", role),
            AccessCondition::NftOwned { token_id: Some(token_id), .. } => check_text("A token id", token_id),
            _ => {}
        }
    }
}

fn check_text(what: &str, text: &str) {
    require!(
        !text.is_empty() && text.len() <= MAX_TEXT,
        format!("{what} has 1 to {MAX_TEXT} bytes, this one has {}", text.len())
    );
}
