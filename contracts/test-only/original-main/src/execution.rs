// SPDX-License-Identifier: MIT
//! Requests, answers, and the settlement in the yield's callback.

use near_sdk::{env, near, require, AccountId, Gas};
use serde_json::json;

use crate::types::*;
use crate::{begin_yield, pay, yielded, OriginalMain, OriginalMainExt};

const CALLBACK_GAS: Gas = Gas::from_tgas(50);
const STALE_AFTER_NS: u64 = 600 * 1_000_000_000;
const EVENT_INPUT_LIMIT: usize = 10_000;

#[near]
impl OriginalMain {
    #[payable]
    pub fn request_execution(
        &mut self,
        source: Source,
        resource_limits: Option<ResourceLimits>,
        input_data: Option<String>,
        secrets_ref: Option<SecretsRef>,
        response_format: Option<ResponseFormat>,
        payer_account_id: Option<AccountId>,
        params: Option<Params>,
    ) {
        require!(!self.paused, "Contract is paused");
        let params = params.unwrap_or_default();
        let (code, project) = self.resolve(&source);
        let compile_only = params.compile_only || resource_limits.is_none();
        let limits = resource_limits.unwrap_or_default();
        let input = input_data.unwrap_or_default();
        check(&code, &params, compile_only, &limits, &input);
        let predecessor = env::predecessor_account_id();
        let attached_usd = params.attached_usd.map_or(0, |amount| amount.0);
        if attached_usd > 0 {
            require!(project.is_some(), "attached_usd is only valid for Project execution source");
            self.take_balance(&predecessor, attached_usd);
        }
        let payment = env::attached_deposit().as_yoctonear();
        let required = if compile_only { self.prices.base_fee.0 } else { self.prices.estimate(&limits) };
        require!(
            payment >= required,
            format!("Insufficient payment: required {required} yoctoNEAR for compute, got {payment}")
        );
        let request_id = self.next_request_id;
        self.next_request_id += 1;
        let data_id =
            begin_yield("on_execution_response", &json!({ "request_id": request_id }), CALLBACK_GAS);
        let timestamp = env::block_timestamp();
        let in_state = input.len() >= EVENT_INPUT_LIMIT;
        let response_format = response_format.unwrap_or_default();
        let (project_id, found_uuid) = project.unzip();
        let request_data = json!({
            "request_id": request_id,
            "sender_id": env::signer_account_id(),
            "predecessor_id": predecessor,
            "code_source": code,
            "resource_limits": limits,
            "input_data": if in_state { "" } else { input.as_str() },
            "input_data_in_state": in_state,
            "secrets_ref": secrets_ref,
            "response_format": response_format,
            "payment": payment.to_string(),
            "attached_usd": attached_usd.to_string(),
            "timestamp": timestamp,
            "compile_only": compile_only,
            "force_rebuild": params.force_rebuild,
            "store_on_fastfs": params.store_on_fastfs,
            "project_uuid": params.project_uuid.or(found_uuid),
            "project_id": project_id,
        });
        let request_data = request_data.to_string();
        let data = json!({ "request_data": request_data, "data_id": data_id, "timestamp": timestamp });
        self.emit("execution_requested", data);
        let request = Request {
            request_id,
            data_id,
            payer_account_id: payer_account_id.unwrap_or_else(|| predecessor.clone()),
            sender_id: predecessor,
            execution_source: source,
            resolved_source: code,
            resource_limits: limits,
            payment,
            timestamp,
            secrets_ref,
            response_format,
            input_data: Some(input),
            attached_usd,
            pending_output: None,
            output_submitted: false,
        };
        self.pending_requests.insert(request_id, request);
    }

    pub fn resolve_execution(&mut self, request_id: u64, response: Response) {
        self.assert_operator();
        self.resume(request_id, &response);
    }

    pub fn submit_execution_output(&mut self, request_id: u64, output: Output) {
        self.assert_operator();
        let request = self.pending_mut(request_id);
        require!(!request.output_submitted, "Output already submitted for this request");
        request.pending_output = Some(output.stored());
        request.output_submitted = true;
    }

    pub fn submit_execution_output_and_resolve(
        &mut self,
        request_id: u64,
        output: Output,
        success: bool,
        error: Option<String>,
        resources_used: Metrics,
        compilation_note: Option<String>,
    ) {
        self.submit_execution_output(request_id, output);
        let rest =
            Response { success, output: None, error, resources_used, compilation_note, refund_usd: None };
        self.resume(request_id, &rest);
    }

    #[private]
    pub fn on_execution_response(&mut self, request_id: u64) {
        let Some(request) = self.pending_requests.remove(&request_id) else {
            env::log_str(&format!("Request {request_id} not found in pending requests"));
            return env::value_return(b"null");
        };
        let response = yielded().and_then(|bytes| serde_json::from_slice::<Response>(&bytes).ok());
        self.total_executions += 1;
        let value = match response {
            Some(response) if response.success => self.succeed(request, response),
            failed => {
                self.fail(&request, failed.as_ref());
                serde_json::Value::Null
            }
        };
        env::value_return(value.to_string().as_bytes());
    }

    pub fn cancel_stale_execution(&mut self, request_id: u64) {
        let request = self.pending_mut(request_id);
        require!(
            env::predecessor_account_id() == request.sender_id,
            "Only the sender can cancel this execution"
        );
        let age = env::block_timestamp() - request.timestamp;
        require!(age >= STALE_AFTER_NS, "Execution is not yet stale, please wait");
        self.cancel(request_id);
    }

    pub fn get_request(&self, request_id: u64) -> Option<Request> {
        self.pending_requests.get(&request_id).cloned()
    }

    pub fn get_pending_output(&self, request_id: u64) -> Option<Output> {
        let output = self.pending_requests.get(&request_id)?.pending_output.as_ref()?;
        Some(output.output())
    }

    pub fn has_pending_output(&self, request_id: u64) -> bool {
        self.pending_requests.get(&request_id).is_some_and(|request| request.output_submitted)
    }

    pub fn get_pending_request_ids(&self, from_index: Option<u64>, limit: Option<u64>) -> Vec<u64> {
        let waiting = (0..self.next_request_id).filter(|id| self.pending_requests.contains_key(id));
        waiting.skip(from_index.unwrap_or(0) as usize).take(limit.unwrap_or(100) as usize).collect()
    }
}

impl OriginalMain {
    pub(crate) fn cancel(&mut self, request_id: u64) -> bool {
        let Some(request) = self.pending_requests.remove(&request_id) else { return false };
        pay(&request.payer_account_id, request.payment);
        self.credit_balance(&request.sender_id, request.attached_usd);
        true
    }

    fn pending_mut(&mut self, request_id: u64) -> &mut Request {
        let found = self.pending_requests.get_mut(&request_id);
        found.unwrap_or_else(|| env::panic_str("Execution request not found"))
    }

    /// The code of a source; of a project its id and uuid, too.
    fn resolve(&self, source: &Source) -> (Source, Option<(String, String)>) {
        let Source::Project { project_id, version_key } = source else {
            return (source.clone(), None);
        };
        let project = self.projects.get(project_id).unwrap_or_else(|| env::panic_str("Project not found"));
        let key = version_key.as_ref().unwrap_or(&project.active_version);
        let versions = self.versions.get(&project.uuid);
        let versions = versions.unwrap_or_else(|| env::panic_str("Project versions not found"));
        let found = versions.iter().find(|(name, _)| name == key);
        let (_, version) = found.unwrap_or_else(|| env::panic_str("Version not found"));
        (version.source.clone(), Some((project_id.clone(), project.uuid.clone())))
    }

    fn take_balance(&mut self, account_id: &AccountId, amount: u128) {
        let available = self.user_stablecoin_balances.get(account_id).copied().unwrap_or(0);
        require!(
            available >= amount,
            format!("Insufficient stablecoin balance. Required: {amount}, available: {available}")
        );
        self.user_stablecoin_balances.insert(account_id.clone(), available - amount);
    }

    fn resume(&mut self, request_id: u64, response: &Response) {
        let data_id = self.pending_mut(request_id).data_id;
        let payload = json!(response).to_string();
        let resumed = env::promise_yield_resume(&data_id, payload.as_bytes());
        require!(resumed, "Unable to resume execution promise");
    }

    fn succeed(&mut self, request: Request, response: Response) -> serde_json::Value {
        let cost = self.prices.actual(&response.resources_used);
        let refund_usd = u128::from(response.refund_usd.unwrap_or(0)).min(request.attached_usd);
        let earned = request.attached_usd - refund_usd;
        self.credit_balance(&request.sender_id, refund_usd);
        match self.project_owner(&request.execution_source) {
            Some(owner) => self.credit_earnings(&owner, earned),
            None => self.credit_balance(&request.sender_id, earned),
        }
        self.settle(&request, Some(&response), cost);
        let submitted = request.pending_output.map(|stored| stored.output());
        submitted.or(response.output).map_or(serde_json::Value::Null, |output| output.value())
    }

    fn fail(&mut self, request: &Request, response: Option<&Response>) {
        self.credit_balance(&request.sender_id, request.attached_usd);
        self.settle(request, response, self.prices.base_fee.0);
    }

    /// Move the NEAR and tell; a request that timed out has no event. The cost is told uncapped.
    fn settle(&mut self, request: &Request, response: Option<&Response>, cost: u128) {
        let refund = request.payment.saturating_sub(cost);
        self.total_fees_collected += cost;
        env::log_str(&format!("[[yNEAR charged: \"{cost}\"]]"));
        pay(&request.payer_account_id, refund);
        let Some(response) = response else { return };
        let data = json!({
            "sender_id": request.sender_id,
            "code_source": request.resolved_source,
            "resources_used": response.resources_used,
            "success": response.success,
            "error_message": response.error,
            "payment_charged": cost.to_string(),
            "payment_refunded": refund.to_string(),
            "compilation_note": response.compilation_note,
            "timestamp": env::block_timestamp(),
        });
        self.emit("execution_completed", data);
    }
}

fn check(code: &Source, params: &Params, compile_only: bool, limits: &ResourceLimits, input: &str) {
    let url = matches!(code, Source::WasmUrl { .. });
    require!(!(params.force_rebuild && url), "force_rebuild is not applicable for WasmUrl code source");
    require!(
        params.force_rebuild || !params.store_on_fastfs,
        "store_on_fastfs requires force_rebuild to be set"
    );
    require!(!compile_only || input.is_empty(), "input_data must be empty for compile_only mode");
    let instructions = limits.max_instructions.unwrap_or(0);
    require!(
        instructions <= MAX_INSTRUCTIONS,
        format!("Requested max_instructions {instructions} exceeds hard limit of {MAX_INSTRUCTIONS}")
    );
    let seconds = limits.max_execution_seconds.unwrap_or(0);
    require!(
        seconds <= MAX_EXECUTION_SECONDS,
        format!(
            "Requested max_execution_seconds {seconds} exceeds hard limit of {MAX_EXECUTION_SECONDS} seconds"
        )
    );
}
