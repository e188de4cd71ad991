// SPDX-License-Identifier: MIT
//! Proposals and votes (R13): a proposal begins without a vote, and passes when the approvals of accounts that are
//! members at that moment reach the threshold.
//!
//! Undecided proposals are pruned when they have expired, decided ones long after; events are what stays.

use approval::now;
use near_sdk::{env, near, require, AccountId, Gas, NearToken, PublicKey};

use crate::actions::Outcome;
use crate::events::{emit, Event, ProposalCreated, ProposalDecided, ProposalsPruned, VoteCast};
use crate::state::{Proposals, StateV2};
use crate::{
    gas_left, or_panic, Action, Contract, ContractExt, Proposal, ProposalView, Pruned, Status,
    StoredProposal, Vote, MAX_MEMBERS,
};

/// How long a decided proposal can still be read after it would have expired.
const RETENTION_SECONDS: u64 = 90 * 86_400;
/// A vote of an account id of 64 bytes.
const VOTE_BYTES: usize = 4 + 64 + 1;
/// Votes of members who may yet come.
const MORE_VOTES: usize = 16;
/// What the execution may store: a keystore with its listings.
pub(crate) const EXECUTION_BYTES: usize = 1_200;
/// Each new proposal prunes so many steps, so that pruning keeps up by itself.
const PRUNED_IN_PASSING: u32 = 4;
const MAX_PRUNED: u32 = 50;
/// What must be left for another step, and to end the call: one with a text of 64 KB takes about 3 Tgas.
const PRUNE_GAS: Gas = Gas::from_tgas(10);

#[near]
impl Contract {
    /// Make a proposal. Members only; it is not a vote. The deposit, if any, pays for its storage and comes back when
    /// it is decided.
    #[payable]
    pub fn propose(&mut self, action: Action) -> u64 {
        let submitter = env::predecessor_account_id();
        let state = self.state_mut();
        require!(state.is_member(&submitter), "Only DAO members can propose");
        let action = or_panic(state.checked(action));
        state.create(action, submitter)
    }

    /// Propose to take away the keys of keystores, at most 16.
    #[payable]
    pub fn propose_revoke_keystore_keys(&mut self, public_keys: Vec<PublicKey>) -> u64 {
        self.propose(Action::RevokeKeystoreKeys { public_keys })
    }

    /// Vote once. The vote that reaches the threshold executes the proposal.
    pub fn vote(&mut self, proposal_id: u64, approve: bool) {
        let member = env::predecessor_account_id();
        let state = self.state_mut();
        require!(state.is_member(&member), "Only DAO members can vote");
        let usage = env::storage_usage();
        let (mut proposal, action) = state.open(proposal_id);
        require!(proposal.votes.iter().all(|vote| vote.member != member), "Already voted on this proposal");
        proposal.add(Vote { member: member.clone(), approve });
        let (votes_for, votes_against) = state.tally(&proposal);
        emit(Event::VoteCast([VoteCast {
            proposal_id,
            member: &member,
            approve,
            votes_for: votes_for as u32,
            votes_against: votes_against as u32,
            threshold: state.threshold() as u32,
        }]));
        state.decide(&mut proposal, action, usage);
        state.keep(proposal);
    }

    /// Decide a proposal whose votes suffice since the members changed. Anyone may.
    pub fn finalize_proposal(&mut self, proposal_id: u64) {
        let state = self.state_mut();
        let usage = env::storage_usage();
        let (mut proposal, action) = state.open(proposal_id);
        state.decide(&mut proposal, action, usage);
        require!(proposal.status != Status::Pending, "The proposal is not decided");
        state.keep(proposal);
    }

    /// Remove proposals that were not decided in time, and those that were decided more than 90 days ago. Anyone may;
    /// one call looks at `limit` of them (50 at most, and as many as its gas allows), oldest first.
    pub fn prune_proposals(&mut self, limit: Option<u32>) -> Pruned {
        self.state_mut().prune(limit.unwrap_or(MAX_PRUNED).min(MAX_PRUNED))
    }
}

impl Proposal {
    /// A vote takes its room from what was kept free for it.
    fn add(&mut self, vote: Vote) {
        let size = vote.member.len() + (VOTE_BYTES - 64);
        self.room.truncate(self.room.len().saturating_sub(size));
        self.votes.push(vote);
    }

    fn is_due(&self) -> bool {
        self.status == Status::Pending && now() >= self.expires_at
    }
}

impl StoredProposal {
    fn proposal(&self) -> Proposal {
        match self {
            StoredProposal::V2(proposal) => proposal.clone(),
            StoredProposal::V1(old) => Proposal {
                id: old.id,
                submitter: old.submitter.clone(),
                created_at: old.created_at,
                expires_at: old.expires_at,
                status: old.status,
                failure: old.failure.clone(),
                votes: old.votes.clone(),
                room: Vec::new(),
                held: 0,
                paid: NearToken::from_yoctonear(0),
            },
        }
    }
}

impl StateV2 {
    pub(crate) fn create(&mut self, action: Action, submitter: AccountId) -> u64 {
        self.prune(PRUNED_IN_PASSING);
        self.proposals.flush();
        let usage = env::storage_usage();
        let id = self.proposals.next_id;
        let shown = self.proposals.keep_action(id, action);
        if let Action::ApproveKeystore(candidate) = &shown {
            self.proposals.registrations.insert(candidate.public_key.clone(), id);
        }
        let votes = MAX_MEMBERS.min(self.members.len() + MORE_VOTES);
        let mut proposal = Proposal {
            id,
            submitter,
            created_at: now(),
            expires_at: now().saturating_add(self.proposal_ttl_seconds),
            status: Status::Pending,
            failure: None,
            votes: Vec::new(),
            room: vec![0; votes * VOTE_BYTES + EXECUTION_BYTES],
            held: 0,
            paid: NearToken::from_yoctonear(0),
        };
        self.keep(proposal.clone());
        self.proposals.flush();
        proposal.held = env::storage_usage().saturating_sub(usage);
        proposal.paid = self.bill(&proposal.submitter, proposal.held);
        emit(Event::ProposalCreated([ProposalCreated {
            id,
            action: &shown,
            submitter: &proposal.submitter,
            expires_at: proposal.expires_at,
        }]));
        self.keep(proposal);
        self.proposals.next_id += 1;
        id
    }

    fn keep(&mut self, proposal: Proposal) {
        self.proposals.records.insert(proposal.id, StoredProposal::V2(proposal));
    }

    /// A proposal and what it does, with digests in place of long texts.
    pub(crate) fn find(&self, id: u64) -> Option<(Proposal, Action)> {
        let stored = self.proposals.records.get(&id)?;
        let action = match stored {
            StoredProposal::V1(old) => old.action.shortened(),
            StoredProposal::V2(_) => self.proposals.actions.get(&id)?.clone(),
        };
        Some((stored.proposal(), action))
    }

    /// What a proposal does, as it was proposed while it is undecided.
    fn whole_action(&self, id: u64) -> Option<Action> {
        match self.proposals.records.get(&id)? {
            StoredProposal::V1(old) => Some(old.action.clone()),
            StoredProposal::V2(_) => {
                self.proposals.whole_actions.get(&id).or_else(|| self.proposals.actions.get(&id)).cloned()
            }
        }
    }

    /// A proposal that can still be decided.
    fn open(&mut self, proposal_id: u64) -> (Proposal, Action) {
        let (proposal, action) =
            self.find(proposal_id).unwrap_or_else(|| env::panic_str("Proposal not found"));
        require!(proposal.status == Status::Pending, "Proposal is not pending");
        require!(now() < proposal.expires_at, "Proposal has expired");
        if let Some(StoredProposal::V1(old)) = self.proposals.records.get(&proposal_id) {
            self.proposals.keep_action(proposal_id, old.action.clone());
            self.keep(proposal.clone());
        }
        (proposal, action)
    }

    /// The open proposal that would admit a key. One whose quote does not count any more is closed first.
    pub(crate) fn open_registration(&mut self, public_key: &PublicKey) -> Option<u64> {
        let id = *self.proposals.registrations.get(public_key)?;
        let usage = env::storage_usage();
        let (mut proposal, action) = self.find(id)?;
        if proposal.is_due() {
            return None;
        }
        match (proposal.status, self.impossible(&action)) {
            (Status::Pending, Some(failure)) => {
                self.close(&mut proposal, action, Status::Failed, Some(failure), usage);
                None
            }
            _ => Some(id),
        }
    }

    fn end_registration(&mut self, id: u64, action: &Action) {
        if let Action::ApproveKeystore(candidate) = action {
            // a newer proposal may be for the same key
            if self.proposals.registrations.get(&candidate.public_key) == Some(&id) {
                self.proposals.registrations.remove(&candidate.public_key);
            }
        }
    }

    /// Why a proposal can have no effect any more, whatever the votes.
    fn impossible(&self, action: &Action) -> Option<String> {
        match action {
            Action::ApproveKeystore(candidate) => self.admissible(candidate).err(),
            _ => None,
        }
    }

    /// Votes for and against, of accounts that are members now.
    fn tally(&self, proposal: &Proposal) -> (usize, usize) {
        let live = proposal.votes.iter().filter(|vote| self.is_member(&vote.member));
        live.fold((0, 0), |(yes, no), vote| if vote.approve { (yes + 1, no) } else { (yes, no + 1) })
    }

    /// Decide a proposal if its votes suffice. `usage`: storage usage when the call began.
    fn decide(&mut self, proposal: &mut Proposal, action: Action, usage: u64) {
        let (votes_for, votes_against) = self.tally(proposal);
        if let Some(failure) = self.impossible(&action) {
            self.close(proposal, action, Status::Failed, Some(failure), usage);
        } else if votes_for >= self.threshold() {
            let whole = self.whole_action(proposal.id).unwrap_or_else(|| action.clone());
            match self.execute(proposal, &whole) {
                Ok(Outcome::Done) => self.close(proposal, action, Status::Executed, None, usage),
                Ok(Outcome::Running) => {
                    proposal.status = Status::Approved;
                    self.proposals.whole_actions.remove(&proposal.id);
                    self.proposals.flush();
                    self.free(proposal, usage.saturating_sub(env::storage_usage()));
                }
                Err(failure) => self.close(proposal, action, Status::Failed, Some(failure), usage),
            }
        } else if votes_against > self.members.len() - self.threshold() {
            self.close(proposal, action, Status::Rejected, None, usage);
        }
    }

    /// The end of a proposal: only what readers need stays, and what was taken for the rest goes back.
    pub(crate) fn close(
        &mut self,
        proposal: &mut Proposal,
        action: Action,
        status: Status,
        failure: Option<String>,
        usage: u64,
    ) {
        proposal.status = status;
        proposal.failure = failure;
        proposal.room = Vec::new();
        self.end_registration(proposal.id, &action);
        self.proposals.whole_actions.remove(&proposal.id);
        self.proposals.actions.insert(proposal.id, action);
        self.keep(proposal.clone());
        self.flush();
        let left = proposal.held.saturating_add(env::storage_usage()).saturating_sub(usage);
        self.settle_bill(proposal, left);
        emit(Event::ProposalDecided([ProposalDecided {
            proposal_id: proposal.id,
            status,
            failure: proposal.failure.as_deref(),
        }]));
        self.keep(proposal.clone());
    }

    fn flush(&mut self) {
        self.proposals.flush();
        self.keystores.flush();
        self.index.keys.flush();
    }

    // --- pruning ---

    /// Look at up to `steps` proposals that are due.
    pub(crate) fn prune(&mut self, steps: u32) -> Pruned {
        let mut pruned = Pruned::default();
        for _ in 0..steps {
            if gas_left() < PRUNE_GAS {
                break;
            }
            if !self.expire_next(&mut pruned.expired) && !self.forget_next(&mut pruned.forgotten) {
                break;
            }
        }
        if !pruned.expired.is_empty() || !pruned.forgotten.is_empty() {
            emit(Event::ProposalsPruned([ProposalsPruned {
                expired: &pruned.expired,
                forgotten: &pruned.forgotten,
            }]));
        }
        pruned.more = self.next_unsettled().is_some() || self.next_forgotten().is_some();
        pruned
    }

    /// The oldest proposal that is not in the history, if it is decided or has expired.
    fn next_unsettled(&self) -> Option<Proposal> {
        let stored = self.proposals.records.get(&self.proposals.unsettled_from)?;
        Some(stored.proposal()).filter(|proposal| proposal.status != Status::Pending || proposal.is_due())
    }

    fn expire_next(&mut self, expired: &mut Vec<u64>) -> bool {
        let Some(mut proposal) = self.next_unsettled() else { return false };
        self.proposals.unsettled_from += 1;
        if proposal.is_due() {
            self.remove(&mut proposal);
            expired.push(proposal.id);
        } else {
            self.proposals.history.insert(self.proposals.history_end, proposal.id);
            self.proposals.history_end += 1;
        }
        true
    }

    /// The oldest proposal of the history, if it was decided long enough ago.
    fn next_forgotten(&self) -> Option<Proposal> {
        let id = self.proposals.history.get(&self.proposals.history_first)?;
        let proposal = self.proposals.records.get(id)?.proposal();
        (now() >= proposal.expires_at.saturating_add(RETENTION_SECONDS)).then_some(proposal)
    }

    fn forget_next(&mut self, forgotten: &mut Vec<u64>) -> bool {
        let Some(mut proposal) = self.next_forgotten() else { return false };
        self.proposals.history.remove(&self.proposals.history_first);
        self.proposals.history_first += 1;
        self.remove(&mut proposal);
        forgotten.push(proposal.id);
        true
    }

    fn remove(&mut self, proposal: &mut Proposal) {
        if let Some((_, action)) = self.find(proposal.id) {
            self.end_registration(proposal.id, &action);
        }
        self.proposals.actions.remove(&proposal.id);
        self.proposals.whole_actions.remove(&proposal.id);
        self.proposals.records.remove(&proposal.id);
        self.settle_bill(proposal, 0);
        // what this took is to be seen before the next step
        self.proposals.flush();
    }

    // --- views ---

    pub(crate) fn proposals_count(&self) -> u64 {
        let Proposals { next_id, unsettled_from, history_first, history_end, .. } = &self.proposals;
        next_id - unsettled_from + (history_end - history_first)
    }

    /// The number of the proposal at this place among those that there are, oldest first.
    pub(crate) fn proposal_at(&self, index: u64) -> Option<u64> {
        let Proposals { next_id, unsettled_from, history_first, history_end, history, .. } = &self.proposals;
        let kept = history_end - history_first;
        if index < kept {
            return history.get(&(history_first + index)).copied();
        }
        Some(unsettled_from + (index - kept)).filter(|id| id < next_id)
    }

    /// With its texts whole.
    pub(crate) fn whole_view(&self, id: u64) -> Option<ProposalView> {
        Some(ProposalView { action: self.whole_action(id)?, ..self.view(id)? })
    }

    pub(crate) fn view(&self, id: u64) -> Option<ProposalView> {
        let (proposal, action) = self.find(id)?;
        let (votes_for, votes_against) = self.tally(&proposal);
        let candidate = match &action {
            Action::ApproveKeystore(candidate) => Some(candidate.clone()),
            _ => None,
        };
        Some(ProposalView {
            id: proposal.id,
            public_key: candidate.as_ref().map(|candidate| candidate.public_key.clone()),
            measurements: candidate.map(|candidate| candidate.measurements),
            action,
            created_at: proposal.created_at,
            expires_at: proposal.expires_at,
            votes_for: votes_for as u32,
            votes_against: votes_against as u32,
            status: if proposal.is_due() { Status::Expired } else { proposal.status },
            submitter: proposal.submitter,
            failure: proposal.failure,
            votes: proposal.votes,
        })
    }
}
