// SPDX-License-Identifier: MIT
//! How a contract asks for an execution: `ask` calls `request_execution`, and `on_answer` gets the value.

use near_sdk::{env, ext_contract, near, AccountId, Gas, NearToken, PanicOnDefault, Promise, PromiseError};
use serde_json::value::RawValue;
use serde_json::{json, Value};

/// What is left for the callback; the main contract gets all the rest.
const CALLBACK_GAS: Gas = Gas::from_tgas(15);

/// The part of the main contract that this contract uses.
#[ext_contract(ext_outlayer)]
#[allow(dead_code)]
trait Outlayer {
    fn request_execution(
        &mut self,
        source: Value,
        resource_limits: Value,
        input_data: String,
        response_format: String,
    );
}

#[near(serializers = [borsh])]
pub struct Answer {
    request_tx_input: String,
    value: Option<String>,
}

#[near(serializers = [json])]
pub struct AnswerView {
    pub request_tx_input: String,
    pub value: Option<Box<RawValue>>,
    pub ok: bool,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct Caller {
    outlayer_contract_id: AccountId,
    last_answer: Option<Answer>,
}

#[near]
impl Caller {
    #[init]
    pub fn new(outlayer_contract_id: AccountId) -> Self {
        Caller { outlayer_contract_id, last_answer: None }
    }

    /// Run a project on an input. The attached deposit pays; what is not used comes back to this contract.
    #[payable]
    pub fn ask(
        &mut self,
        project_id: String,
        input_data: String,
        response_format: Option<String>,
        resource_limits: Option<Value>,
    ) -> Promise {
        let source = json!({ "Project": { "project_id": project_id } });
        ext_outlayer::ext(self.outlayer_contract_id.clone())
            .with_attached_deposit(env::attached_deposit())
            .with_unused_gas_weight(1)
            .request_execution(
                source,
                resource_limits.unwrap_or_else(|| json!({})),
                input_data.clone(),
                response_format.unwrap_or_else(|| "Json".to_string()),
            )
            .then(
                Self::ext(env::current_account_id())
                    .with_static_gas(CALLBACK_GAS)
                    .with_unused_gas_weight(0)
                    .with_attached_deposit(NearToken::from_yoctonear(0))
                    .on_answer(input_data),
            )
    }

    /// `Ok(Some)` is a value, `Ok(None)` a failed execution, `Err` a refused request.
    #[private]
    pub fn on_answer(
        &mut self,
        input_data: String,
        #[callback_result] result: Result<Option<Box<RawValue>>, PromiseError>,
    ) -> Option<Box<RawValue>> {
        let value = result.ok().flatten();
        self.last_answer = Some(Answer {
            request_tx_input: input_data,
            value: value.as_ref().map(|value| value.get().to_string()),
        });
        value
    }

    /// What the last callback got.
    pub fn last_answer(&self) -> Option<AnswerView> {
        self.last_answer.as_ref().map(|answer| AnswerView {
            request_tx_input: answer.request_tx_input.clone(),
            ok: answer.value.is_some(),
            value: answer.value.clone().and_then(|text| RawValue::from_string(text).ok()),
        })
    }
}
