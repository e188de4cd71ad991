// SPDX-License-Identifier: MIT
//! The stablecoin that the contract holds (micro-USD): each unit is in exactly one of four sums. The users' are balances
//! and what is attached to requests that wait, the developers' are earnings, and the two others have no owner of their
//! own: funds of payment keys, which are spent off chain, and the contract owner's fees.
//!
//! A unit moves between sums here, comes in by `ft_on_transfer`, and goes out with a transfer that leaves its sum at once
//! and comes back to it if the token contract does not pay.

use near_sdk::json_types::U128;
use near_sdk::store::LookupMap;
use near_sdk::{env, near, require, AccountId};

use crate::{Contract, ContractExt, StorageKey};

/// So that an entry for a balance is worth more than the state that the contract keeps for it.
pub const MIN_FIRST_DEPOSIT: u128 = 10_000;

#[near(serializers = [borsh])]
pub struct Pools {
    users: u128,
    developers: u128,
    payment_keys: u128,
    fees: u128,
    balances: LookupMap<AccountId, u128>,
    earnings: LookupMap<AccountId, u128>,
    old: Option<OldAmounts>,
}

/// Maps of states before version 3, which had no sums: an amount is counted when its account is first touched.
#[near(serializers = [borsh])]
struct OldAmounts {
    balances: LookupMap<AccountId, u128>,
    earnings: LookupMap<AccountId, u128>,
}

#[near(serializers = [json])]
pub struct PoolSums {
    pub users: U128,
    pub developers: U128,
    pub payment_keys: U128,
    pub fees: U128,
}

impl Pools {
    pub(crate) fn new() -> Self {
        Pools {
            users: 0,
            developers: 0,
            payment_keys: 0,
            fees: 0,
            balances: LookupMap::new(StorageKey::Balances),
            earnings: LookupMap::new(StorageKey::Earnings),
            old: None,
        }
    }

    pub fn of_old(earnings: LookupMap<AccountId, u128>, balances: LookupMap<AccountId, u128>) -> Self {
        Pools { old: Some(OldAmounts { balances, earnings }), ..Pools::new() }
    }

    pub fn balance(&self, account_id: &AccountId) -> u128 {
        let old = self.old.as_ref().and_then(|old| old.balances.get(account_id));
        amount(&self.balances, account_id) + old.copied().unwrap_or(0)
    }

    pub fn earnings(&self, account_id: &AccountId) -> u128 {
        let old = self.old.as_ref().and_then(|old| old.earnings.get(account_id));
        amount(&self.earnings, account_id) + old.copied().unwrap_or(0)
    }

    pub fn sums(&self) -> PoolSums {
        PoolSums {
            users: U128(self.users),
            developers: U128(self.developers),
            payment_keys: U128(self.payment_keys),
            fees: U128(self.fees),
        }
    }

    /// Whether a deposit needs an entry in state that is not there.
    pub fn is_first_deposit(&self, account_id: &AccountId) -> bool {
        self.balance(account_id) == 0
    }

    /// Tokens came in for a user's balance.
    pub fn deposit(&mut self, account_id: &AccountId, amount: u128) {
        self.adopt(account_id);
        self.users = plus(self.users, amount);
        add(&mut self.balances, account_id, amount);
    }

    /// Take USD from a balance for a request that waits.
    pub fn attach(&mut self, account_id: &AccountId, amount: u128) {
        self.adopt(account_id);
        let available = self.balance(account_id);
        require!(
            available >= amount,
            format!("Insufficient stablecoin balance. Required: {amount}, available: {available}")
        );
        put(&mut self.balances, account_id, available - amount);
    }

    /// Put USD of a request back into a balance.
    pub fn give_back(&mut self, account_id: &AccountId, amount: u128) {
        self.adopt(account_id);
        add(&mut self.balances, account_id, amount);
    }

    /// USD that was attached to a request of an earlier version's state is counted.
    pub fn adopt_attached(&mut self, amount: u128) {
        self.users = plus(self.users, amount);
    }

    /// USD of a request becomes a developer's.
    pub fn earn(&mut self, developer: &AccountId, amount: u128) {
        self.adopt(developer);
        self.users = self.users.saturating_sub(amount);
        self.developers = plus(self.developers, amount);
        add(&mut self.earnings, developer, amount);
    }

    /// Tokens came in for a payment key.
    pub fn fund_payment_keys(&mut self, amount: u128) {
        self.payment_keys = plus(self.payment_keys, amount);
    }

    /// Funds of payment keys become developers' earnings and fees. Panics unless the pool holds them all.
    pub fn spend_payment_keys(&mut self, entries: &[(AccountId, U128)], fees: u128) {
        let total = entries.iter().try_fold(fees, |sum, (_, amount)| sum.checked_add(amount.0));
        let left = total.and_then(|total| self.payment_keys.checked_sub(total)).unwrap_or_else(|| {
            env::panic_str(&format!(
                "The batch is worth more than the payment keys' funds of {} micro-USD",
                self.payment_keys
            ))
        });
        for (developer, amount) in entries {
            self.adopt(developer);
            add(&mut self.earnings, developer, amount.0);
        }
        self.developers = plus(self.developers, self.payment_keys - left - fees);
        self.fees = plus(self.fees, fees);
        self.payment_keys = left;
    }

    /// Take all that an account has earned. Its entry stays, so that the amount can come back.
    pub fn take_earnings(&mut self, developer: &AccountId) -> u128 {
        self.adopt(developer);
        let taken = amount(&self.earnings, developer);
        if taken > 0 {
            self.earnings.insert(developer.clone(), 0);
            self.developers = self.developers.saturating_sub(taken);
        }
        taken
    }

    /// The transfer of earnings has ended: what was not paid comes back.
    pub fn settle_earnings(&mut self, developer: &AccountId, unpaid: u128) {
        self.developers = plus(self.developers, unpaid);
        let left = plus(amount(&self.earnings, developer), unpaid);
        put(&mut self.earnings, developer, left);
    }

    /// Take fees, all of them if no amount is given. Panics if there are fewer.
    pub fn take_fees(&mut self, amount: Option<u128>) -> u128 {
        let amount = amount.unwrap_or(self.fees);
        require!(amount > 0, "No stablecoin fees to withdraw");
        self.fees = self.fees.checked_sub(amount).unwrap_or_else(|| {
            env::panic_str(&format!("Only {} micro-USD of fees can be withdrawn", self.fees))
        });
        amount
    }

    pub fn restore_fees(&mut self, amount: u128) {
        self.fees = plus(self.fees, amount);
    }

    /// Count an account's amounts of an earlier version's state; gives whether there were any.
    pub fn adopt(&mut self, account_id: &AccountId) -> bool {
        let Some(old) = self.old.as_mut() else { return false };
        let balance = old.balances.remove(account_id).unwrap_or(0);
        let earned = old.earnings.remove(account_id).unwrap_or(0);
        self.users = plus(self.users, balance);
        self.developers = plus(self.developers, earned);
        add(&mut self.balances, account_id, balance);
        add(&mut self.earnings, account_id, earned);
        balance > 0 || earned > 0
    }

    pub fn flush(&mut self) {
        self.balances.flush();
        self.earnings.flush();
        if let Some(old) = self.old.as_mut() {
            old.balances.flush();
            old.earnings.flush();
        }
    }
}

#[near]
impl Contract {
    /// The four sums, in micro-USD.
    pub fn get_stablecoin_pools(&self) -> PoolSums {
        self.pools.sums()
    }

    /// Count the amounts that these accounts have in the state of an earlier version; gives how many had any. Anyone
    /// may call this; it happens by itself when an account is first used.
    pub fn adopt_balances(&mut self, account_ids: Vec<AccountId>) -> u64 {
        account_ids.iter().map(|account_id| u64::from(self.pools.adopt(account_id))).sum()
    }
}

fn amount(map: &LookupMap<AccountId, u128>, account_id: &AccountId) -> u128 {
    map.get(account_id).copied().unwrap_or(0)
}

fn add(map: &mut LookupMap<AccountId, u128>, account_id: &AccountId, more: u128) {
    if more > 0 {
        let sum = plus(amount(map, account_id), more);
        map.insert(account_id.clone(), sum);
    }
}

/// Keep an amount; zero needs no entry.
fn put(map: &mut LookupMap<AccountId, u128>, account_id: &AccountId, amount: u128) {
    if amount == 0 {
        map.remove(account_id);
    } else {
        map.insert(account_id.clone(), amount);
    }
}

/// No token has so many units.
fn plus(a: u128, b: u128) -> u128 {
    a.saturating_add(b)
}

#[cfg(test)]
mod tests {
    use near_sdk::test_utils::VMContextBuilder;
    use near_sdk::testing_env;

    use super::*;

    const NAMES: [&str; 3] = ["alice.test", "bob.test", "carol.test"];

    fn name(seed: u64) -> AccountId {
        NAMES[(seed % 3) as usize].parse().unwrap()
    }

    /// What came in, less what went out and what waits, is in the sums; the two with owners are the sums of their entries.
    fn check(pools: &Pools, inside: u128, attached: u128) {
        let of = |map: &LookupMap<AccountId, u128>| {
            NAMES.iter().map(|name| amount(map, &name.parse().unwrap())).sum::<u128>()
        };
        assert_eq!(pools.users, of(&pools.balances) + attached);
        assert_eq!(pools.developers, of(&pools.earnings));
        assert_eq!(pools.users + pools.developers + pools.payment_keys + pools.fees, inside);
    }

    #[test]
    fn each_unit_is_in_exactly_one_sum_after_every_step() {
        testing_env!(VMContextBuilder::new().build());
        let mut pools = Pools::new();
        let (mut inside, mut attached) = (0_u128, 0_u128);
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..1_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let (who, other, some) = (name(seed >> 8), name(seed >> 16), u128::from(seed >> 44));
            match seed % 8 {
                0 => {
                    pools.deposit(&who, some);
                    inside += some;
                }
                1 => {
                    let part = some.min(pools.balance(&who));
                    pools.attach(&who, part);
                    attached += part;
                }
                2 => {
                    let part = some.min(attached);
                    pools.give_back(&who, part);
                    attached -= part;
                }
                3 => {
                    let part = some.min(attached);
                    pools.earn(&who, part);
                    attached -= part;
                }
                4 => {
                    pools.fund_payment_keys(some);
                    inside += some;
                }
                5 => {
                    let third = pools.payment_keys / 3;
                    let entries = [(who, U128(some.min(third))), (other, U128(some.min(third)))];
                    pools.spend_payment_keys(&entries, some.min(third));
                }
                6 => {
                    let taken = pools.take_earnings(&who);
                    let unpaid = if seed & 1 << 30 == 0 { 0 } else { taken };
                    pools.settle_earnings(&who, unpaid);
                    inside -= taken - unpaid;
                }
                _ if pools.fees > 0 => {
                    let taken = pools.take_fees(Some(some.clamp(1, pools.fees)));
                    if seed & 1 << 30 == 0 {
                        inside -= taken;
                    } else {
                        pools.restore_fees(taken);
                    }
                }
                _ => {}
            }
            check(&pools, inside, attached);
        }
    }
}
