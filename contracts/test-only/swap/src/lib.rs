// SPDX-License-Identifier: MIT
//! Test only: sells stablecoin that it holds for NEAR, one dollar for each, and sends it on with the buyer's message. It
//! can be told to fail; and it gives the NEAR back for tokens that nobody kept.

use near_sdk::json_types::U128;
use near_sdk::{env, near, require, AccountId, Gas, NearToken, Promise};

const TRANSFER_GAS: Gas = Gas::from_tgas(80);
const CALLBACK_GAS: Gas = Gas::from_tgas(5);
/// YoctoNEAR for a millionth of a dollar.
const UNIT_PRICE: u128 = 1_000_000_000_000_000_000;
const MAX_ANSWER: usize = 100;

#[near(contract_state)]
#[derive(Default)]
pub struct Swap {
    fails: bool,
}

#[near]
impl Swap {
    pub fn set_failing(&mut self, fails: bool) {
        self.fails = fails;
    }

    #[payable]
    pub fn swap_near_to_stablecoin(
        &mut self,
        sender_id: AccountId,
        token_id: AccountId,
        receiver_id: AccountId,
        msg: String,
    ) -> Promise {
        require!(!self.fails, "There is nothing to sell");
        let paid = env::attached_deposit();
        let amount = U128(paid.as_yoctonear() / UNIT_PRICE);
        let arguments = serde_json::json!({ "receiver_id": receiver_id, "amount": amount, "msg": msg });
        Promise::new(token_id)
            .function_call(
                "ft_transfer_call".to_string(),
                arguments.to_string().into_bytes(),
                NearToken::from_yoctonear(1),
                TRANSFER_GAS,
            )
            .then(
                Self::ext(env::current_account_id())
                    .with_static_gas(CALLBACK_GAS)
                    .with_unused_gas_weight(0)
                    .on_sent(sender_id, paid),
            )
    }

    /// Gives how many tokens were kept; for none the NEAR goes back.
    #[private]
    pub fn on_sent(&mut self, sender_id: AccountId, paid: NearToken) -> U128 {
        let answer = env::promise_result_checked(0, MAX_ANSWER);
        let kept =
            answer.ok().and_then(|answer| serde_json::from_slice::<U128>(&answer).ok()).unwrap_or(U128(0));
        if kept.0 == 0 {
            let _ = Promise::new(sender_id).transfer(paid);
        }
        kept
    }
}
