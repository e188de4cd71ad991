// SPDX-License-Identifier: MIT
//! Who pays for the storage of a proposal: who makes it. What is attached is kept until the proposal is decided or
//! pruned and then goes back, less what it left behind. Without a deposit this account carries it, up to a limit per
//! proposer and only while it has balance to spare; so no member can use up what the others need.

use near_sdk::{env, require, AccountId, NearToken, Promise};

use crate::state::StateV2;
use crate::Proposal;

/// Bytes of open proposals that are carried for one proposer: more than one with collateral.
pub(crate) const MAX_CARRIED: u64 = 64 * 1024;
/// What must be left of this account's balance when it carries a proposal.
const RESERVE: NearToken = NearToken::from_millinear(100);

impl StateV2 {
    /// Take the price of a new proposal from the attached deposit, or note that the account carries it. Gives what was
    /// taken. Panics with the amount to attach.
    pub(crate) fn bill(&mut self, submitter: &AccountId, bytes: u64) -> NearToken {
        let price = price_of(bytes);
        let attached = env::attached_deposit();
        if attached.is_zero() {
            self.carry(submitter, bytes, price);
            return NearToken::from_yoctonear(0);
        }
        require!(
            attached >= price,
            format!(
                "The proposal takes {bytes} bytes: attach {} yoctoNEAR, which come back when it is decided",
                price.as_yoctonear()
            )
        );
        pay(submitter, attached.saturating_sub(price));
        price
    }

    fn carry(&mut self, submitter: &AccountId, bytes: u64, price: NearToken) {
        let carried = self.proposals.carried.get(submitter).copied().unwrap_or(0).saturating_add(bytes);
        let price = price.as_yoctonear();
        require!(
            carried <= MAX_CARRIED,
            format!(
                "This account carries at most {MAX_CARRIED} bytes of open proposals for {submitter}, and with this one \
                 they have {carried}: attach {price} yoctoNEAR, which come back when it is decided"
            )
        );
        require!(
            spare_balance() >= RESERVE,
            format!(
                "This account has too little balance to carry a proposal: attach {price} yoctoNEAR, which come back \
                 when it is decided"
            )
        );
        self.proposals.carried.insert(submitter.clone(), carried);
    }

    /// Note that a proposal takes `freed` bytes less from now on.
    pub(crate) fn free(&mut self, proposal: &mut Proposal, freed: u64) {
        let freed = freed.min(proposal.held);
        proposal.held -= freed;
        let carried = self.proposals.carried.get_mut(&proposal.submitter);
        if let Some(carried) = carried.filter(|_| proposal.paid.is_zero()) {
            *carried = carried.saturating_sub(freed);
            if *carried == 0 {
                self.proposals.carried.remove(&proposal.submitter);
            }
        }
    }

    /// Give back what was taken for a proposal, less the price of the `left` bytes that stay.
    pub(crate) fn settle_bill(&mut self, proposal: &mut Proposal, left: u64) {
        self.free(proposal, proposal.held);
        pay(&proposal.submitter, std::mem::take(&mut proposal.paid).saturating_sub(price_of(left)));
    }
}

pub(crate) fn pay(account_id: &AccountId, amount: NearToken) {
    if !amount.is_zero() {
        let _ = Promise::new(account_id.clone()).transfer(amount);
    }
}

pub(crate) fn price_of(bytes: u64) -> NearToken {
    env::storage_byte_cost().saturating_mul(u128::from(bytes))
}

/// What of this account's balance no storage needs.
pub(crate) fn spare_balance() -> NearToken {
    let all = env::account_balance().saturating_add(env::account_locked_balance());
    all.saturating_sub(price_of(env::storage_usage()))
}
