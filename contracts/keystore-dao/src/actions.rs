// SPDX-License-Identifier: MIT
//! What proposals do: what can be refused before anyone votes, and the execution of one that passed.

use approval::now;
use measurements::Role;
use near_sdk::{env, near, AccountId, Gas, NearToken, Promise};

use crate::state::StateV2;
use crate::{require_gas, Action, Contract, ContractExt, Proposal, Status};

const MAX_REVOCATIONS: usize = 16;
/// Of the text in a proposal. Collateral has about 24 KB.
const MAX_TEXT: usize = 64 * 1024;
/// What is kept of a text once its proposal is decided, and what an event shows of it: all logs of a call share 16 KB.
const MAX_SHOWN: usize = 1024;
/// More than any method of the register contract answers.
const MAX_ANSWER: usize = 64 * 1024;
const REGISTER_GAS: Gas = Gas::from_tgas(200);
const CALLBACK_GAS: Gas = Gas::from_tgas(10);
/// From the check of the gas to the end of the call.
const VOTE_GAS: Gas = Gas::from_tgas(10);
/// What a proposal can call on the register contract: all that its owner may do.
const REGISTER_METHODS: [&str; 12] = [
    "propose_policy",
    "cancel_policy",
    "activate_policy",
    "revoke_policy",
    "raise_policy_delay",
    "add_measurement_set",
    "expire_measurement_set",
    "add_approved_measurements",
    "remove_approved_measurements",
    "clear_all_approved_measurements",
    "update_collateral",
    "remove_worker_keys",
];
const TRANSFER: &str = "transfer_ownership";

/// How far the execution of a proposal got.
pub(crate) enum Outcome {
    Done,
    /// A promise was made; its callback decides.
    Running,
}

#[near]
impl Contract {
    /// The register contract has answered the call of a proposal.
    #[private]
    pub fn on_register_answer(&mut self, proposal_id: u64) {
        let answered = env::promise_result_checked(0, MAX_ANSWER).is_ok();
        let state = self.state_mut();
        let usage = env::storage_usage();
        let Some((mut proposal, action)) = state.find(proposal_id) else { return };
        let failure = (!answered).then(|| "The register contract refused the call".to_string());
        let status = if answered { Status::Executed } else { Status::Failed };
        state.close(&mut proposal, action, status, failure, usage);
    }
}

impl Action {
    /// With digests in place of long texts.
    pub(crate) fn shortened(&self) -> Action {
        let mut action = self.clone();
        let text = match &mut action {
            Action::UpdateCollateral { collateral } => collateral,
            Action::CallRegister { args, .. } => args,
            _ => return action,
        };
        if text.len() > MAX_SHOWN {
            let digest: String =
                env::sha256_array(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            *text = format!("sha256:{digest}");
        }
        action
    }
}

impl StateV2 {
    /// The action as it is kept, or why it is refused before anyone votes.
    pub(crate) fn checked(&self, action: Action) -> Result<Action, String> {
        match &action {
            Action::ApproveKeystore(_) => {
                return Err("Keystores are proposed with submit_keystore_registration".to_string());
            }
            Action::AddMeasurementSet { set } if set.role != Role::Keystore => {
                return Err("Measurement sets of this contract have the role keystore".to_string());
            }
            Action::AddMeasurementSet { set } => set.check(now()).map_err(|error| error.to_string())?,
            Action::ExpireMeasurementSet { id, .. } => {
                self.approvals.sets.get(*id).ok_or_else(|| "Measurement set not found".to_string())?;
            }
            Action::UpdateCollateral { collateral } => {
                let collateral = self.canonical_collateral(collateral)?;
                return Ok(Action::UpdateCollateral { collateral });
            }
            Action::RevokeKeystoreKeys { public_keys } => {
                if !(1..=MAX_REVOCATIONS).contains(&public_keys.len()) {
                    return Err(format!("1 to {MAX_REVOCATIONS} keys at a time"));
                }
                if let Some(key) = public_keys.iter().find(|key| !self.keystores.contains_key(key)) {
                    return Err(format!("{} is no approved keystore's key", String::from(key)));
                }
            }
            Action::AddMember { account_id } if self.is_member(account_id) => {
                return Err("Already a DAO member".to_string());
            }
            Action::RemoveMember { account_id } if !self.is_member(account_id) => {
                return Err("Not a DAO member".to_string());
            }
            Action::AddMember { .. } | Action::RemoveMember { .. } => {}
            Action::CallRegister { method, args } => self.check_register_call(method, args)?,
        }
        Ok(action)
    }

    /// The canonical text, without white space or members that are not kept, if it could be stored now.
    fn canonical_collateral(&self, text: &str) -> Result<String, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("The collateral is longer than {MAX_TEXT} bytes; it has about 24 KB"));
        }
        match self.approvals.check_collateral(text) {
            Ok((_, stored)) => Ok(stored.to_json()),
            Err(refusal) => Err(format!("{}: {}", refusal.reason, refusal.detail)),
        }
    }

    fn check_register_call(&self, method: &str, args: &str) -> Result<(), String> {
        if self.register_contract_id.is_none() {
            return Err("This DAO has no register contract".to_string());
        }
        if method != TRANSFER && !REGISTER_METHODS.contains(&method) {
            let known = REGISTER_METHODS.join(", ");
            return Err(format!("{method} cannot be proposed; what can: {known}, {TRANSFER}"));
        }
        let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(args).is_ok();
        if args.len() > MAX_TEXT || !is_object {
            return Err("args must be a JSON object as text, at most 64 KB".to_string());
        }
        Ok(())
    }

    pub(crate) fn execute(&mut self, proposal: &Proposal, action: &Action) -> Result<Outcome, String> {
        match action {
            Action::ApproveKeystore(candidate) => {
                self.add_key(candidate, proposal);
                return Ok(Outcome::Running);
            }
            Action::AddMeasurementSet { set } => self.add_set(set.clone())?,
            Action::ExpireMeasurementSet { id, not_after } => self.expire_set(*id, *not_after)?,
            Action::UpdateCollateral { collateral } => self.store_collateral(collateral)?,
            Action::RevokeKeystoreKeys { public_keys } => self.revoke_keystores(public_keys)?,
            Action::AddMember { account_id } => {
                self.add_member(account_id.clone())?;
                self.emit_membership(Some(account_id), None);
            }
            Action::RemoveMember { account_id } => {
                self.remove_member(account_id)?;
                self.emit_membership(None, Some(account_id));
            }
            Action::CallRegister { method, args } => {
                let register = self.register_contract_id.clone();
                let register = register.ok_or_else(|| "This DAO has no register contract".to_string())?;
                call_register(register, method, args, proposal.id);
                return Ok(Outcome::Running);
            }
        }
        Ok(Outcome::Done)
    }
}

fn call_register(register: AccountId, method: &str, args: &str, proposal_id: u64) {
    let needed = REGISTER_GAS.saturating_add(CALLBACK_GAS).saturating_add(VOTE_GAS);
    require_gas(needed, "this decides a call of the register contract");
    let call = Promise::new(register).function_call(
        method.to_string(),
        args.as_bytes().to_vec(),
        NearToken::from_yoctonear(0),
        REGISTER_GAS,
    );
    let callback =
        Contract::ext(env::current_account_id()).with_static_gas(CALLBACK_GAS).with_unused_gas_weight(0);
    let _ = call.then(callback.on_register_answer(proposal_id));
}
