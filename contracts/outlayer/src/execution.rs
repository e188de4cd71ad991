// SPDX-License-Identifier: MIT
//! Requests, their answers, their settlement.
//!
//! The operator's call settles: it needs a request that waits, keeps the answer, marks the record settled, pays, and
//! resumes the yield; all of it, or nothing. The callback goes by the record alone: a settled one is delivered and moves
//! no money; one that still waits has timed out. So nothing that a stranger chooses (gas, sizes, neighbours) can let
//! money move twice or not at all: in the block that delivers a time-out a yield still takes an answer that it drops.

use near_sdk::{env, near, require, AccountId, Gas};

use crate::cost;
use crate::events::{escaped_len, fits, Completed, RequestData, Requested};
use crate::requests::{
    store_input, Input, Output, Place, Request, RequestedProject, Settled, MOST_INLINE_INPUT,
};
use crate::storage::{self, pay_or};
use crate::types::*;
use crate::{blobs, yields, Contract, ContractExt};

/// The callback needs at most half of it, with the longest input to remove or the longest output to deliver.
const CALLBACK_GAS: Gas = Gas::from_tgas(50);
const STALE_AFTER_NS: u64 = 600 * 1_000_000_000;
const EVENT_INPUT_LIMIT: usize = 10_000;
pub const MOST_INPUT_BYTES: usize = 1_048_576;
/// As JSON text in a view, which gives at most 4 MiB.
const MOST_ESCAPED_INPUT: usize = 3 * MOST_INPUT_BYTES;
pub const MOST_OUTPUT_BYTES: usize = 250_000;
const MOST_PROFILE: usize = 64;
/// Of the texts of an answer, as JSON: with the longest source the last event fits a log.
const MOST_ERROR: usize = 1_200;
const MOST_NOTE: usize = 600;
/// What a yield is resumed with; the record tells the rest.
const RESUMED: &[u8] = b"\"settled\"";

/// A source after a look at the projects.
struct Resolved {
    code: CodeSource,
    project: Option<(String, Project)>,
}

/// A request that may be made, before it is priced.
struct Admitted {
    source: ExecutionSource,
    resolved: Resolved,
    limits: ResourceLimits,
    input: String,
    secrets_ref: Option<SecretsReference>,
    response_format: ResponseFormat,
    params: RequestParams,
    compile_only: bool,
    predecessor: AccountId,
    payer_account_id: Option<AccountId>,
    attached_usd: u128,
    payment: u128,
}

#[near]
impl Contract {
    /// Ask for an execution. The returned promise gives the value once a worker has answered, or null.
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
        let request = Admitted {
            resolved: self.resolve_admissible(&source, params.as_ref()),
            source,
            compile_only: params.as_ref().is_some_and(|params| params.compile_only)
                || resource_limits.is_none(),
            limits: ResourceLimits::from(resource_limits.unwrap_or_default()),
            input: input_data.unwrap_or_default(),
            secrets_ref,
            response_format: response_format.unwrap_or_default(),
            attached_usd: params.as_ref().and_then(|params| params.attached_usd).map_or(0, |usd| usd.0),
            params: params.unwrap_or_default(),
            predecessor: env::predecessor_account_id(),
            payer_account_id,
            payment: env::attached_deposit().as_yoctonear(),
        };
        self.validate(&request);
        if let Some((_, project)) = request.resolved.project.as_ref().filter(|_| request.attached_usd > 0) {
            self.pools.attach(&request.predecessor, request.attached_usd);
            // an entry for earnings is the contract's to hold
            if self.pools.earnings(&project.owner) == 0 {
                self.check_reserve();
            }
        }
        let required = self.price(&request);
        let announcement = self.store(request, required);
        env::log_str(&announcement);
    }

    /// Answer a request.
    ///
    /// `record_sha256` is the leaf of the run's task record; the request's last event carries it.
    pub fn resolve_execution(
        &mut self,
        request_id: u64,
        response: ExecutionResponse,
        record_sha256: Option<String>,
    ) {
        self.assert_operator();
        let record_sha256 = record_sha256.or_else(|| response.record_sha256.clone());
        self.answer(request_id, ExecutionResponse { record_sha256, ..response });
    }

    /// Keep an output for a `resolve_execution` that brings none itself.
    pub fn submit_execution_output(&mut self, request_id: u64, output: ExecutionOutput) {
        self.assert_operator();
        let mut request = self.waiting(request_id);
        require!(request.output.is_none(), "Output already submitted for this request");
        request.output = Some(self.accept_output(request_id, &request, output));
        self.put_request(request_id, &request);
        self.require_reserve(&request);
    }

    /// Answer a request: the form for long outputs.
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
        self.assert_operator();
        let response = ExecutionResponse {
            success,
            output: Some(output),
            error,
            resources_used,
            compilation_note,
            refund_usd,
            record_sha256,
        };
        self.answer(request_id, response);
    }

    /// The end of a request's yield: deliver what the record holds, or end a request that timed out. Never panics.
    #[private]
    pub fn on_execution_response(&mut self, request_id: u64) {
        match self.take_request(request_id) {
            Some(Request { settled: Some(settled), output, code, sender_id, .. }) => {
                self.deliver(request_id, &sender_id, &code, &settled, output);
            }
            Some(request) => self.time_out(request_id, &request),
            None => {
                env::log_str(&format!("Request {request_id} not found in pending requests"));
                env::value_return(b"null");
            }
        }
    }

    /// Get everything back for a request whose callback never came. Of one that was answered only the rest is removed.
    pub fn cancel_stale_execution(&mut self, request_id: u64) {
        let Some(request) = self.adopted(request_id) else { env::panic_str("Execution request not found") };
        require!(
            env::predecessor_account_id() == request.sender_id,
            "Only the sender can cancel this execution"
        );
        require!(
            env::block_timestamp().saturating_sub(request.timestamp) >= STALE_AFTER_NS,
            "Execution is not yet stale, please wait"
        );
        if request.settled.is_some() {
            self.drop_output(request_id, request.output.as_ref());
            self.take_request(request_id);
        } else {
            self.cancel(request_id);
        }
    }

    /// Carry requests of an earlier version's state over, at most `limit`; gives how many are left. Anyone may.
    pub fn migrate_requests(&mut self, limit: Option<u64>) -> u32 {
        self.adopt_requests(limit.unwrap_or(u64::MAX), has_gas_for_one_more);
        self.old_requests.as_ref().map_or(0, |old| old.0.len())
    }
}

// --- a new request: validate, price, store, announce
impl Contract {
    fn resolve_admissible(&self, source: &ExecutionSource, params: Option<&RequestParams>) -> Resolved {
        require!(!self.paused, "Contract is paused");
        require!(
            params.is_none_or(|params| params.project_uuid.is_none()),
            "project_uuid cannot be given: it comes from a Project source alone"
        );
        self.resolve_source(source)
    }

    fn validate(&self, request: &Admitted) {
        if request.resolved.project.is_none() {
            request.resolved.code.check_length();
        }
        check_params(&request.resolved.code, &request.params, request.compile_only, &request.input);
        check_limits(&request.limits, self.max_memory_mb);
        check_input(&request.input);
        require!(
            request.secrets_ref.as_ref().is_none_or(|secrets| secrets.profile.len() <= MOST_PROFILE),
            "Profile name too long (max 64 chars)"
        );
        require!(
            request.attached_usd == 0 || request.resolved.project.is_some(),
            "attached_usd is only valid for Project execution source"
        );
    }

    /// YoctoNEAR for compute, as the original asks. Panics if less is attached.
    fn price(&self, request: &Admitted) -> u128 {
        let limits = if request.compile_only { None } else { Some(&request.limits) };
        let required = cost::estimate(&self.pricing, limits);
        require!(
            request.payment >= required,
            format!(
                "Insufficient payment: required {required} yoctoNEAR for compute, got {}",
                request.payment
            )
        );
        required
    }

    /// Keep the request and begin its yield; gives the line that announces it. The payment must cover what the request
    /// occupies while it waits.
    fn store(&mut self, request: Admitted, compute: u128) -> String {
        let request_id = self.next_request_id;
        self.next_request_id += 1;
        let arguments = format!("{{\"request_id\":{request_id}}}");
        let data_id = yields::create("on_execution_response", arguments.as_bytes(), CALLBACK_GAS);
        let (line, in_state) = self.announcement(&request, request_id, data_id);
        // pages are shared, and kept: not this request's to pay
        self.pending.insert(request_id);
        self.pending.flush();
        let before = env::storage_usage();
        let Admitted { input, payment, .. } = request;
        let mut record = Request {
            occupied: 0,
            data_id,
            payer_account_id: request.payer_account_id.filter(|payer| *payer != request.predecessor),
            sender_id: request.predecessor,
            default_target: has_no_target(&request.source),
            project: request.resolved.project.map(|(project_id, _)| RequestedProject {
                project_id,
                version_given: matches!(
                    request.source,
                    ExecutionSource::Project { version_key: Some(_), .. }
                ),
            }),
            code: request.resolved.code,
            limits: request.limits,
            payment,
            attached_usd: request.attached_usd,
            timestamp: env::block_timestamp(),
            secrets_ref: request.secrets_ref,
            response_format: request.response_format,
            input: match in_state {
                true => store_input(request_id, &input),
                // for who reads requests in place of events
                false if input.len() <= MOST_INLINE_INPUT => Input::Kept(input),
                false => Input::Announced,
            },
            output: None,
            settled: None,
        };
        let mut bytes = record.weighed();
        if matches!(record.input, Input::Kept(_)) && payment < storage::price(record.occupied as usize) {
            record.input = Input::Announced;
            bytes = record.weighed();
        }
        blobs::RECORDS.write(request_id, &bytes);
        let occupied = storage::used_since(before);
        let needed = cost::waiting(compute, record.stored_input(), occupied);
        require!(
            payment >= needed,
            format!(
                "Insufficient payment: the request occupies {occupied} bytes while it waits, so it needs {needed} \
                 yoctoNEAR held, got {payment}"
            )
        );
        self.hold(&record);
        line
    }

    /// The line that announces a request, and whether only the state holds its input.
    fn announcement(&self, request: &Admitted, request_id: u64, data_id: [u8; 32]) -> (String, bool) {
        let project = request.resolved.project.as_ref();
        let signer = env::signer_account_id();
        let line = |input: Option<&str>| {
            let request_data = RequestData {
                request_id,
                sender_id: &signer,
                predecessor_id: &request.predecessor,
                code_source: &request.resolved.code,
                resource_limits: &request.limits,
                input_data: input.unwrap_or_default(),
                input_data_in_state: input.is_none(),
                secrets_ref: &request.secrets_ref,
                response_format: request.response_format,
                payment: request.payment.to_string(),
                attached_usd: request.attached_usd.to_string(),
                timestamp: env::block_timestamp(),
                compile_only: request.compile_only,
                force_rebuild: request.params.force_rebuild,
                store_on_fastfs: request.params.store_on_fastfs,
                project_uuid: project.map(|(_, project)| project.uuid.as_str()),
                project_id: project.map(|(id, _)| id.as_str()),
            };
            let request_data = serde_json::to_string(&request_data)
                .unwrap_or_else(|_| env::panic_str("The request could not be written as JSON"));
            let data = Requested { request_data, data_id, timestamp: env::block_timestamp() };
            self.event_line("execution_requested", data)
        };
        // an event escapes its input twice, so one below the limit may not fit either
        let input = Some(request.input.as_str()).filter(|text| text.len() < EVENT_INPUT_LIMIT);
        match input.map(|text| line(Some(text))) {
            Some(line) if fits(&line) => (line, false),
            _ => (line(None), true),
        }
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
}

// --- an answer
impl Contract {
    fn answer(&mut self, request_id: u64, response: ExecutionResponse) {
        let mut request = self.waiting(request_id);
        require!(
            response.record_sha256.as_deref().is_none_or(is_sha256_hex),
            "record_sha256 must be 64 lower-case hex digits: the leaf hash of the run's task record"
        );
        self.stop_waiting(request_id, &request);
        let submitted = request.output.take();
        request.output = match (response.success, response.output) {
            (true, None) => submitted,
            (success, given) => {
                self.drop_output(request_id, submitted.as_ref());
                given.filter(|_| success).map(|output| self.accept_output(request_id, &request, output))
            }
        };
        let refund_usd = match response.success {
            true => u128::from(response.refund_usd.unwrap_or(0)).min(request.attached_usd),
            false => request.attached_usd,
        };
        let cost = match response.success {
            true => cost::actual(&self.pricing, &response.resources_used),
            false => self.pricing.base_fee,
        };
        let of_output = |output: &Output| cost::of_output(output.kind, output.place.len());
        let sizes = cost::of_input(request.stored_input()) + request.output.as_ref().map_or(0, of_output);
        let cost = cost.saturating_add(sizes);
        let (charged, refunded) = self.pay_out(&request, cost, refund_usd);
        request.settled = Some(Settled {
            success: response.success,
            error: response.error.map(|text| clip(&text, MOST_ERROR)),
            used: response.resources_used,
            note: response.compilation_note.map(|text| clip(&text, MOST_NOTE)),
            charged,
            refunded,
            record_sha256: response.record_sha256,
        });
        // nothing of these is told at the end
        request.input = Input::Announced;
        request.secrets_ref = None;
        let data_id = request.data_id;
        self.put_request(request_id, &request);
        self.require_reserve(&request);
        yields::resume(&data_id, RESUMED);
    }

    /// Keep an output that is not too long and that the payment covers. Panics for any other.
    fn accept_output(&mut self, request_id: u64, request: &Request, output: ExecutionOutput) -> Output {
        let (kind, value) = output.into_return_value();
        require!(
            value.len() <= MOST_OUTPUT_BYTES,
            format!("The output is {} bytes, a callback delivers at most {MOST_OUTPUT_BYTES}", value.len())
        );
        let of_output = cost::of_output(kind, value.len());
        let price = self.pricing.base_fee.saturating_add(cost::of_input(request.stored_input()) + of_output);
        require!(
            of_output == 0 || request.payment >= price,
            format!(
                "The payment of {} does not pay for an output of {} bytes: needs {price} yoctoNEAR",
                request.payment,
                value.len()
            )
        );
        self.keep_output(request_id, kind, value)
    }

    /// Charge and refund a payment, and the attached USD. Gives the charged and the refunded yoctoNEAR (R8).
    fn pay_out(&mut self, request: &Request, cost: u128, refund_usd: u128) -> (u128, u128) {
        let (charged, refunded) = cost::split(request.payment, cost);
        self.total_executions += 1;
        self.total_fees_collected = self.total_fees_collected.saturating_add(charged);
        self.fees = self.fees.saturating_add(charged);
        pay_or(request.payer(), &request.sender_id, refunded);
        self.pools.give_back(&request.sender_id, refund_usd);
        let earned = request.attached_usd - refund_usd;
        match request.project_owner() {
            Some(owner) => self.pools.earn(&owner, earned),
            None => self.pools.give_back(&request.sender_id, earned),
        }
        (charged, refunded)
    }

    /// A long output occupies state until its callback, the next block. That must not use what belongs to others.
    fn require_reserve(&self, request: &Request) {
        if !matches!(&request.output, Some(Output { place: Place::Stored { .. }, .. })) {
            return;
        }
        let free = storage::free_balance();
        let kept = self.kept_balance();
        require!(
            free >= kept,
            format!(
                "The contract's reserve is used up, try again: {free} yoctoNEAR are free and {kept} must be kept. If \
                 this goes on, the owner sends NEAR to {}",
                env::current_account_id()
            )
        );
    }
}

// --- the end
impl Contract {
    fn deliver(
        &mut self,
        request_id: u64,
        sender_id: &AccountId,
        code: &CodeSource,
        settled: &Settled,
        output: Option<Output>,
    ) {
        log_charged(settled.charged);
        let completed = self.event_line(
            "execution_completed",
            Completed {
                sender_id,
                code_source: code,
                resources_used: &settled.used,
                success: settled.success,
                error_message: settled.error.as_deref(),
                payment_charged: settled.charged.to_string(),
                payment_refunded: settled.refunded.to_string(),
                compilation_note: settled.note.as_deref(),
                timestamp: env::block_timestamp(),
                record_sha256: settled.record_sha256.as_deref(),
            },
        );
        // a source from before sources had a limit may be too long
        if fits(&completed) {
            env::log_str(&completed);
        } else {
            env::log_str(&format!("Request {request_id} has ended; its event is too long"));
        }
        let value = match output.map(|output| output.place) {
            Some(Place::Record(value)) => Some(value),
            Some(Place::Stored { .. }) => blobs::OUTPUTS.take(request_id),
            None => None,
        };
        env::value_return(value.as_deref().unwrap_or(b"null"));
    }

    /// Nobody answered in time: that costs the base fee; the rest, and all attached USD, goes back.
    fn time_out(&mut self, request_id: u64, request: &Request) {
        env::log_str(&format!("Request {request_id} failed: the yield timed out"));
        self.stop_waiting(request_id, request);
        self.drop_output(request_id, request.output.as_ref());
        let (charged, _) = self.pay_out(request, self.pricing.base_fee, request.attached_usd);
        log_charged(charged);
        env::value_return(b"null");
    }

    /// Remove a request that waits; payment and attached USD go back whole (R6).
    pub(crate) fn cancel(&mut self, request_id: u64) -> bool {
        let Some(request) = self.adopted(request_id).filter(|request| request.settled.is_none()) else {
            return false;
        };
        self.take_request(request_id);
        self.stop_waiting(request_id, &request);
        self.drop_output(request_id, request.output.as_ref());
        self.pools.give_back(&request.sender_id, request.attached_usd);
        pay_or(request.payer(), &request.sender_id, request.payment);
        true
    }
}

/// Whether another request can be carried over in this call.
pub(crate) fn has_gas_for_one_more() -> bool {
    // the longest that an earlier version took
    const ONE_REQUEST: u64 = 150_000_000_000_000;
    env::prepaid_gas().as_gas().saturating_sub(env::used_gas().as_gas()) > ONE_REQUEST
}

fn has_no_target(source: &ExecutionSource) -> bool {
    matches!(
        source,
        ExecutionSource::GitHub { build_target: None, .. }
            | ExecutionSource::WasmUrl { build_target: None, .. }
    )
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

fn check_limits(limits: &ResourceLimits, max_memory_mb: u32) {
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
    require!(
        limits.max_memory_mb <= max_memory_mb,
        format!("Requested max_memory_mb {} exceeds hard limit of {max_memory_mb} MB", limits.max_memory_mb)
    );
}

fn check_input(input: &str) {
    require!(
        input.len() <= MOST_INPUT_BYTES,
        format!("input_data has {} bytes, a request takes at most {MOST_INPUT_BYTES}", input.len())
    );
    // only a long one can be too long when it is escaped
    if input.len() > MOST_ESCAPED_INPUT / 6 {
        let escaped = escaped_len(input);
        require!(
            escaped <= MOST_ESCAPED_INPUT,
            format!(
                "input_data has {escaped} bytes as JSON text, a request takes at most {MOST_ESCAPED_INPUT}"
            )
        );
    }
}

/// As much of a text as takes `most` bytes in JSON.
fn clip(text: &str, most: usize) -> String {
    let mut left = most;
    let fitting = text.chars().take_while(|c| {
        let size = escaped_len(c.encode_utf8(&mut [0; 4]));
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    });
    fitting.collect()
}

fn log_charged(charged: u128) {
    env::log_str(&format!("[[yNEAR charged: \"{charged}\"]]"));
}
