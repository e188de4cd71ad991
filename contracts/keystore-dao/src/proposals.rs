// SPDX-License-Identifier: MIT
//! Proposals and votes (R13): a proposal begins without a vote, and passes when the approvals of accounts that are
//! members at that moment reach the threshold.

use approval::{now, SetsEnd};
use measurements::Role;
use near_sdk::{env, near, require, AccountId, Gas, NearToken, Promise, PublicKey};

use crate::events::{emit, Event, ProposalCreated, ProposalDecided, VoteCast};
use crate::{
    or_panic, Action, Contract, ContractExt, Proposal, ProposalView, StateV1, Status, StoredProposal, Vote,
};

const MAX_REVOCATIONS: usize = 16;
const MAX_ARGS: usize = 64 * 1024;
/// What is kept of a text once its proposal is decided, and what an event shows of it.
const MAX_SHOWN: usize = 4 * 1024;
/// More than any method of the register contract answers.
const MAX_ANSWER: usize = 64 * 1024;
const REGISTER_GAS: Gas = Gas::from_tgas(150);
const CALLBACK_GAS: Gas = Gas::from_tgas(10);
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
enum Outcome {
    Done,
    /// A promise was made; its callback decides.
    Running,
}

#[near]
impl Contract {
    /// Make a proposal. Members only; it is not a vote.
    pub fn propose(&mut self, action: Action) -> u64 {
        let submitter = env::predecessor_account_id();
        let state = self.state_mut();
        require!(state.is_member(&submitter), "Only DAO members can propose");
        or_panic(state.check(&action));
        state.create(action, submitter)
    }

    /// Propose to take away the keys of keystores, at most 16.
    pub fn propose_revoke_keystore_keys(&mut self, public_keys: Vec<PublicKey>) -> u64 {
        self.propose(Action::RevokeKeystoreKeys { public_keys })
    }

    /// Vote once. The vote that reaches the threshold executes the proposal.
    pub fn vote(&mut self, proposal_id: u64, approve: bool) {
        let member = env::predecessor_account_id();
        let state = self.state_mut();
        require!(state.is_member(&member), "Only DAO members can vote");
        let mut proposal = state.open(proposal_id);
        require!(proposal.votes.iter().all(|vote| vote.member != member), "Already voted on this proposal");
        proposal.votes.push(Vote { member: member.clone(), approve });
        let (votes_for, votes_against) = state.tally(&proposal);
        emit(Event::VoteCast([VoteCast {
            proposal_id,
            member: &member,
            approve,
            votes_for: votes_for as u32,
            votes_against: votes_against as u32,
            threshold: state.threshold() as u32,
        }]));
        state.settle(&mut proposal);
        state.keep(proposal);
    }

    /// Decide a proposal whose votes suffice since the members changed. Anyone may.
    pub fn finalize_proposal(&mut self, proposal_id: u64) {
        let state = self.state_mut();
        let mut proposal = state.open(proposal_id);
        state.settle(&mut proposal);
        require!(proposal.status != Status::Pending, "The proposal is not decided");
        state.keep(proposal);
    }

    /// The register contract has answered the call of a proposal.
    #[private]
    pub fn on_register_answer(&mut self, proposal_id: u64) {
        let answered = env::promise_result_checked(0, MAX_ANSWER).is_ok();
        let state = self.state_mut();
        let Some(StoredProposal::V1(proposal)) = state.proposals.get(&proposal_id) else { return };
        let mut proposal = proposal.clone();
        let failure = (!answered).then(|| "The register contract refused the call".to_string());
        proposal.finish(if answered { Status::Executed } else { Status::Failed }, failure);
        state.keep(proposal);
    }
}

impl Proposal {
    fn finish(&mut self, status: Status, failure: Option<String>) {
        self.status = status;
        self.failure = failure;
        self.action.shorten();
        emit(Event::ProposalDecided([ProposalDecided {
            proposal_id: self.id,
            status,
            failure: self.failure.as_deref(),
        }]));
    }
}

impl Action {
    /// Digests in place of long texts: collateral has 24 KB, and all logs of a call share 16 KB.
    fn shorten(&mut self) {
        let text = match self {
            Action::UpdateCollateral { collateral } => collateral,
            Action::CallRegister { args, .. } => args,
            _ => return,
        };
        if text.len() > MAX_SHOWN {
            let digest: String =
                env::sha256_array(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            *text = format!("sha256:{digest}");
        }
    }
}

impl StateV1 {
    pub(crate) fn create(&mut self, action: Action, submitter: AccountId) -> u64 {
        let id = self.next_proposal_id;
        self.next_proposal_id += 1;
        let expires_at = now().saturating_add(self.proposal_ttl_seconds);
        let mut shown = action.clone();
        shown.shorten();
        emit(Event::ProposalCreated([ProposalCreated {
            id,
            action: &shown,
            submitter: &submitter,
            expires_at,
        }]));
        self.keep(Proposal {
            id,
            action,
            submitter,
            created_at: now(),
            expires_at,
            status: Status::Pending,
            failure: None,
            votes: Vec::new(),
        });
        id
    }

    fn keep(&mut self, proposal: Proposal) {
        self.proposals.insert(proposal.id, StoredProposal::V1(proposal));
    }

    /// A proposal that can still be decided.
    fn open(&self, proposal_id: u64) -> Proposal {
        let found = self.proposals.get(&proposal_id).map(|StoredProposal::V1(proposal)| proposal.clone());
        let proposal = found.unwrap_or_else(|| env::panic_str("Proposal not found"));
        require!(proposal.status == Status::Pending, "Proposal is not pending");
        require!(now() < proposal.expires_at, "Proposal has expired");
        proposal
    }

    /// Votes for and against, of accounts that are members now.
    fn tally(&self, proposal: &Proposal) -> (usize, usize) {
        let live = proposal.votes.iter().filter(|vote| self.is_member(&vote.member));
        live.fold((0, 0), |(yes, no), vote| if vote.approve { (yes + 1, no) } else { (yes, no + 1) })
    }

    fn settle(&mut self, proposal: &mut Proposal) {
        let (votes_for, votes_against) = self.tally(proposal);
        if votes_for >= self.threshold() {
            match self.execute(proposal) {
                Ok(Outcome::Done) => proposal.finish(Status::Executed, None),
                Ok(Outcome::Running) => proposal.status = Status::Approved,
                Err(failure) => proposal.finish(Status::Failed, Some(failure)),
            }
        } else if votes_against > self.members.len() - self.threshold() {
            proposal.finish(Status::Rejected, None);
        }
    }

    /// What can be refused before anyone votes.
    fn check(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::ApproveKeystore(_) => {
                Err("Keystores are proposed with submit_keystore_registration".to_string())
            }
            Action::AddMeasurementSet { set } if set.role != Role::Keystore => {
                Err("Measurement sets of this contract have the role keystore".to_string())
            }
            Action::AddMeasurementSet { set } => set.check(now()).map_err(|error| error.to_string()),
            Action::ExpireMeasurementSet { id, .. } => {
                self.approvals.sets.get(*id).map(drop).ok_or_else(|| "Measurement set not found".to_string())
            }
            Action::UpdateCollateral { collateral } => match self.approvals.check_collateral(collateral) {
                Ok(_) => Ok(()),
                Err(refusal) => Err(format!("{}: {}", refusal.reason, refusal.detail)),
            },
            Action::RevokeKeystoreKeys { public_keys } => {
                if !(1..=MAX_REVOCATIONS).contains(&public_keys.len()) {
                    return Err(format!("1 to {MAX_REVOCATIONS} keys at a time"));
                }
                match public_keys.iter().find(|key| !self.keystores.contains_key(key)) {
                    Some(key) => Err(format!("{} is no approved keystore's key", String::from(key))),
                    None => Ok(()),
                }
            }
            Action::AddMember { account_id } if self.is_member(account_id) => {
                Err("Already a DAO member".to_string())
            }
            Action::RemoveMember { account_id } if !self.is_member(account_id) => {
                Err("Not a DAO member".to_string())
            }
            Action::AddMember { .. } | Action::RemoveMember { .. } => Ok(()),
            Action::CallRegister { method, args } => self.check_register_call(method, args),
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
        if args.len() > MAX_ARGS || !is_object {
            return Err("args must be a JSON object as text, at most 64 KB".to_string());
        }
        Ok(())
    }

    fn execute(&mut self, proposal: &Proposal) -> Result<Outcome, String> {
        match &proposal.action {
            Action::ApproveKeystore(candidate) => self.approve_keystore(candidate, proposal.id)?,
            Action::AddMeasurementSet { set } => self.add_set(set.clone())?,
            Action::ExpireMeasurementSet { id, not_after } => {
                let expired = self.approvals.sets.expire(*id, *not_after, now());
                let not_after = expired.map_err(|error| error.to_string())?;
                emit(Event::MeasurementSetChanged([SetsEnd { ids: &[*id], not_after }]));
            }
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
                let call = Promise::new(register).function_call(
                    method.clone(),
                    args.clone().into_bytes(),
                    NearToken::from_yoctonear(0),
                    REGISTER_GAS,
                );
                let callback = Contract::ext(env::current_account_id())
                    .with_static_gas(CALLBACK_GAS)
                    .with_unused_gas_weight(0);
                let _ = call.then(callback.on_register_answer(proposal.id));
                return Ok(Outcome::Running);
            }
        }
        Ok(Outcome::Done)
    }

    pub(crate) fn view(&self, proposal: &Proposal) -> ProposalView {
        let (votes_for, votes_against) = self.tally(proposal);
        let candidate = match &proposal.action {
            Action::ApproveKeystore(candidate) => Some(candidate.clone()),
            _ => None,
        };
        let late = proposal.status == Status::Pending && now() >= proposal.expires_at;
        ProposalView {
            id: proposal.id,
            public_key: candidate.as_ref().map(|candidate| candidate.public_key.clone()),
            measurements: candidate.map(|candidate| candidate.measurements),
            action: proposal.action.clone(),
            submitter: proposal.submitter.clone(),
            created_at: proposal.created_at,
            expires_at: proposal.expires_at,
            votes_for: votes_for as u32,
            votes_against: votes_against as u32,
            status: if late { Status::Expired } else { proposal.status },
            failure: proposal.failure.clone(),
            votes: proposal.votes.clone(),
        }
    }
}
