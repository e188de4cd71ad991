// SPDX-License-Identifier: MIT
//! Requests, their results, their settlement.

use near_sdk::{env, near, require, AccountId, Gas};

use crate::cost;
use crate::events::{fits, Completed, RequestData, Requested};
use crate::storage::{self, pay};
use crate::types::*;
use crate::yields::{self, RESUME_LIMIT};
use crate::{Contract, ContractExt};

const CALLBACK_GAS: Gas = Gas::from_tgas(50);
const STALE_AFTER_NS: u64 = 600 * 1_000_000_000;
const EVENT_INPUT_LIMIT: usize = 10_000;

/// A source after a look at the projects.
struct Resolved {
    code: CodeSource,
    project: Option<(String, Project)>,
}

#[near]
impl Contract {
    /// Ask for an execution. The returned promise gives the value once a worker has resolved the request, or null.
    #[payable]
    pub fn request_execution(
        &mut self,
        source: ExecutionSource,
        resource_limits: Option<PartialLimits>,
        input_data: Option<String>,
        secrets_ref: Option<SecretsReference>,
        response_format: Option<ResponseFormat>,
        payer_account_id: Option<AccountId>,
        params: Option<RequestParams>,
    ) {
        require!(!self.paused, "Contract is paused");
        let params = params.unwrap_or_default();
        require!(
            params.project_uuid.is_none(),
            "project_uuid cannot be given: it comes from a Project source alone"
        );
        let resolved = self.resolve_source(&source);
        if resolved.project.is_none() {
            resolved.code.check_length();
        }
        let compile_only = params.compile_only || resource_limits.is_none();
        let input = input_data.unwrap_or_default();
        check_params(&resolved.code, &params, compile_only, &input);
        let limits = ResourceLimits::from(resource_limits.unwrap_or_default());
        check_limits(&limits);

        let predecessor = env::predecessor_account_id();
        let attached_usd = params.attached_usd.map_or(0, |amount| amount.0);
        if attached_usd > 0 {
            require!(resolved.project.is_some(), "attached_usd is only valid for Project execution source");
            self.take_stablecoin(&predecessor, attached_usd);
        }
        let payment = env::attached_deposit().as_yoctonear();
        let required = cost::estimate(&self.pricing, if compile_only { None } else { Some(&limits) });
        require!(
            payment >= required,
            format!("Insufficient payment: required {required} yoctoNEAR for compute, got {payment}")
        );

        let request_id = self.next_request_id;
        self.next_request_id += 1;
        let arguments = format!("{{\"request_id\":{request_id}}}");
        let data_id = yields::create("on_execution_response", arguments.as_bytes(), CALLBACK_GAS);
        let response_format = response_format.unwrap_or_default();
        let project = resolved.project.as_ref();
        let signer = env::signer_account_id();
        let requested = |input: Option<&str>| {
            let request_data = RequestData {
                request_id,
                sender_id: &signer,
                predecessor_id: &predecessor,
                code_source: &resolved.code,
                resource_limits: &limits,
                input_data: input.unwrap_or_default(),
                input_data_in_state: input.is_none(),
                secrets_ref: &secrets_ref,
                response_format,
                payment: payment.to_string(),
                attached_usd: attached_usd.to_string(),
                timestamp: env::block_timestamp(),
                compile_only,
                force_rebuild: params.force_rebuild,
                store_on_fastfs: params.store_on_fastfs,
                project_uuid: project.map(|(_, project)| project.uuid.as_str()),
                project_id: project.map(|(id, _)| id.as_str()),
            };
            let request_data = serde_json::to_string(&request_data)
                .unwrap_or_else(|_| env::panic_str("The request could not be written as JSON"));
            let data = Requested { request_data, data_id, timestamp: env::block_timestamp() };
            self.event_line("execution_requested", data)
        };
        // an event escapes its input twice, so one below the limit may not fit either
        let inline =
            Some(&input).filter(|text| text.len() < EVENT_INPUT_LIMIT).map(|text| requested(Some(text)));
        let (line, in_state) = match inline {
            Some(line) if fits(&line) => (line, false),
            _ => (requested(None), true),
        };
        if in_state {
            check_input_storage(payment, &input);
        }
        env::log_str(&line);
        let request = ExecutionRequest {
            request_id,
            data_id,
            payer_account_id: payer_account_id.unwrap_or_else(|| predecessor.clone()),
            sender_id: predecessor,
            execution_source: source,
            resolved_source: resolved.code,
            resource_limits: limits,
            payment,
            timestamp: env::block_timestamp(),
            secrets_ref,
            response_format,
            input_data: in_state.then_some(input),
            attached_usd,
            project_owner: resolved.project.map(|(_, project)| project.owner),
            pending_output: None,
        };
        self.pending_requests.insert(request_id, request);
    }

    /// Give the result of a request. Output and all must fit into what a yield can be resumed with.
    ///
    /// `record_sha256` is the leaf of the run's task record; the request's last event carries it.
    pub fn resolve_execution(
        &mut self,
        request_id: u64,
        response: ExecutionResponse,
        record_sha256: Option<String>,
    ) {
        self.assert_operator();
        let record_sha256 = record_sha256.or(response.record_sha256);
        self.resume(request_id, &ExecutionResponse { record_sha256, ..response });
    }

    /// Store an output that is too large to resume a yield with.
    pub fn submit_execution_output(&mut self, request_id: u64, output: ExecutionOutput) {
        self.assert_operator();
        let request = self.pending_request_mut(request_id);
        require!(request.pending_output.is_none(), "Output already submitted for this request");
        request.pending_output = Some(output.into());
    }

    /// Store a large output and resume the yield, in one transaction.
    pub fn submit_execution_output_and_resolve(
        &mut self,
        request_id: u64,
        output: ExecutionOutput,
        success: bool,
        error: Option<String>,
        resources_used: ResourceMetrics,
        compilation_note: Option<String>,
        refund_usd: Option<u64>,
        record_sha256: Option<String>,
    ) {
        self.submit_execution_output(request_id, output);
        let response = ExecutionResponse {
            success,
            output: None,
            error,
            resources_used,
            compilation_note,
            refund_usd,
            record_sha256,
        };
        self.resume(request_id, &response);
    }

    /// Settle a request: called when its yield is resumed or has timed out. Never panics.
    #[private]
    pub fn on_execution_response(&mut self, request_id: u64) {
        let Some(request) = self.pending_requests.remove(&request_id) else {
            env::log_str(&format!("Request {request_id} not found in pending requests"));
            env::value_return(b"null");
            return;
        };
        let response = yields::result().map_err(str::to_string).and_then(|payload| {
            serde_json::from_slice::<ExecutionResponse>(&payload).map_err(|error| error.to_string())
        });
        self.total_executions += 1;
        match response {
            Ok(response) if response.success => self.settle_success(request, response),
            Ok(response) => {
                let (charged, refunded) = self.settle_failure(&request);
                self.emit_completed(&request, &response, charged, refunded);
            }
            Err(reason) => {
                env::log_str(&format!("Request {request_id} failed: {reason}"));
                self.settle_failure(&request);
            }
        }
    }

    /// Get everything back for a request whose callback never came.
    pub fn cancel_stale_execution(&mut self, request_id: u64) {
        let request = self.pending_request_mut(request_id);
        require!(
            env::predecessor_account_id() == request.sender_id,
            "Only the sender can cancel this execution"
        );
        require!(
            env::block_timestamp().saturating_sub(request.timestamp) >= STALE_AFTER_NS,
            "Execution is not yet stale, please wait"
        );
        self.cancel(request_id);
    }
}

impl Contract {
    /// Remove a request; payment and attached USD go back whole (R6).
    pub(crate) fn cancel(&mut self, request_id: u64) -> bool {
        let Some(request) = self.pending_requests.remove(&request_id) else {
            return false;
        };
        self.credit_stablecoin(&request.sender_id, request.attached_usd);
        pay(&request.payer_account_id, request.payment);
        true
    }

    fn pending_request_mut(&mut self, request_id: u64) -> &mut ExecutionRequest {
        self.pending_requests
            .get_mut(&request_id)
            .unwrap_or_else(|| env::panic_str("Execution request not found"))
    }

    fn resolve_source(&self, source: &ExecutionSource) -> Resolved {
        let code = match source {
            ExecutionSource::GitHub { repo, commit, build_target } => CodeSource::GitHub {
                repo: repo.clone(),
                commit: commit.clone(),
                build_target: build_target.clone(),
            },
            ExecutionSource::WasmUrl { url, hash, build_target } => CodeSource::WasmUrl {
                url: url.clone(),
                hash: hash.clone(),
                build_target: build_target.clone(),
            },
            ExecutionSource::Project { project_id, version_key } => {
                return self.resolve_project(project_id, version_key.as_deref());
            }
        };
        Resolved { code: code.with_default_target(), project: None }
    }

    fn resolve_project(&self, project_id: &str, version_key: Option<&str>) -> Resolved {
        let project = self.projects.get(project_id).unwrap_or_else(|| env::panic_str("Project not found"));
        let key = version_key.unwrap_or(&project.active_version);
        let version = self.version(&project.uuid, key).unwrap_or_else(|| env::panic_str("Version not found"));
        Resolved {
            code: version.source.clone().with_default_target(),
            project: Some((project_id.to_string(), project.clone())),
        }
    }

    fn take_stablecoin(&mut self, account_id: &AccountId, amount: u128) {
        let available = self.user_stablecoin_balances.get(account_id).copied().unwrap_or(0);
        require!(
            available >= amount,
            format!("Insufficient stablecoin balance. Required: {amount}, available: {available}")
        );
        self.user_stablecoin_balances.insert(account_id.clone(), available - amount);
    }

    fn resume(&mut self, request_id: u64, response: &ExecutionResponse) {
        require!(
            response.record_sha256.as_deref().is_none_or(is_sha256_hex),
            "record_sha256 must be 64 lower-case hex digits: the leaf hash of the run's task record"
        );
        let data_id = self.pending_request_mut(request_id).data_id;
        let payload = serde_json::to_vec(response)
            .unwrap_or_else(|_| env::panic_str("The response could not be written as JSON"));
        require!(
            payload.len() <= RESUME_LIMIT,
            format!(
                "The response is {} bytes, a yield takes {RESUME_LIMIT}: use submit_execution_output_and_resolve",
                payload.len()
            )
        );
        yields::resume(&data_id, &payload);
    }

    fn settle_success(&mut self, request: ExecutionRequest, response: ExecutionResponse) {
        let cost = cost::actual(&self.pricing, &response.resources_used);
        let (charged, refunded) = cost::split(request.payment, cost);
        self.total_fees_collected = self.total_fees_collected.saturating_add(charged);
        log_charged(charged);
        pay(&request.payer_account_id, refunded);
        let refund_usd = u128::from(response.refund_usd.unwrap_or(0)).min(request.attached_usd);
        self.credit_stablecoin(&request.sender_id, refund_usd);
        if let Some(owner) = request.project_owner.clone() {
            self.credit_developer(&owner, request.attached_usd - refund_usd);
        }
        self.emit_completed(&request, &response, charged, refunded);
        let output = request.pending_output.or_else(|| response.output.map(StoredOutput::from));
        env::value_return(output.map_or_else(|| b"null".to_vec(), |output| output.to_return_value()));
    }

    /// A failure costs the base fee; the rest, and all attached USD, goes back. Gives charged and refunded.
    fn settle_failure(&mut self, request: &ExecutionRequest) -> (u128, u128) {
        let (charged, refunded) = cost::split(request.payment, self.pricing.base_fee);
        self.total_fees_collected = self.total_fees_collected.saturating_add(charged);
        log_charged(charged);
        pay(&request.payer_account_id, refunded);
        self.credit_stablecoin(&request.sender_id, request.attached_usd);
        env::value_return(b"null");
        (charged, refunded)
    }

    fn emit_completed(
        &self,
        request: &ExecutionRequest,
        response: &ExecutionResponse,
        charged: u128,
        refunded: u128,
    ) {
        let completed = self.event_line(
            "execution_completed",
            Completed {
                sender_id: &request.sender_id,
                code_source: &request.resolved_source,
                resources_used: &response.resources_used,
                success: response.success,
                error_message: response.error.as_deref(),
                payment_charged: charged.to_string(),
                payment_refunded: refunded.to_string(),
                compilation_note: response.compilation_note.as_deref(),
                timestamp: env::block_timestamp(),
                record_sha256: response.record_sha256.as_deref(),
            },
        );
        // settlement never fails: a source from before sources had a limit may be too long
        if fits(&completed) {
            env::log_str(&completed);
        } else {
            env::log_str(&format!("Request {} has ended; its event is too long", request.request_id));
        }
    }
}

/// The payment is held until the request has ended, and with it the price of what its input occupies.
fn check_input_storage(payment: u128, input: &str) {
    let price = storage::price(input.len());
    require!(
        payment >= price,
        format!(
            "Insufficient payment: an input of {} bytes needs {price} yoctoNEAR held for its storage, got {payment}",
            input.len()
        )
    );
}

fn check_params(code: &CodeSource, params: &RequestParams, compile_only: bool, input: &str) {
    let is_url = matches!(code, CodeSource::WasmUrl { .. });
    require!(!(params.force_rebuild && is_url), "force_rebuild is not applicable for WasmUrl code source");
    require!(
        !params.store_on_fastfs || params.force_rebuild,
        "store_on_fastfs requires force_rebuild to be set"
    );
    require!(!compile_only || input.is_empty(), "input_data must be empty for compile_only mode");
}

fn check_limits(limits: &ResourceLimits) {
    require!(
        limits.max_instructions <= MAX_INSTRUCTIONS,
        format!(
            "Requested max_instructions {} exceeds hard limit of {MAX_INSTRUCTIONS}",
            limits.max_instructions
        )
    );
    require!(
        limits.max_execution_seconds <= MAX_EXECUTION_SECONDS,
        format!(
            "Requested max_execution_seconds {} exceeds hard limit of {MAX_EXECUTION_SECONDS} seconds",
            limits.max_execution_seconds
        )
    );
}

fn log_charged(charged: u128) {
    env::log_str(&format!("[[yNEAR charged: \"{charged}\"]]"));
}
