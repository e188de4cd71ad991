// SPDX-License-Identifier: MIT
//! What is kept of a request: a record of bounded size, and under keys of their own its input and its output when they
//! are long. Nothing here moves money; `execution.rs` decides, these functions keep.

use near_sdk::borsh::{self, BorshDeserialize};
use near_sdk::store::IterableMap;
use near_sdk::{env, near, AccountId};

use crate::blobs;
use crate::storage::entry_bytes;
use crate::types::*;
use crate::Contract;

/// An input that the event shows and that has at most so many bytes stands in the record as well.
pub const MOST_INLINE_INPUT: usize = 1_024;
/// An output of at most so many bytes stands in the record.
const MOST_INLINE_OUTPUT: usize = 4_096;

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct Request {
    /// Bytes of state that the record and its input take while it waits, without an output. The first field: it is
    /// known when the rest is written.
    pub occupied: u32,
    pub data_id: [u8; 32],
    pub sender_id: AccountId,
    /// Who gets back what is not charged; None: the sender.
    pub payer_account_id: Option<AccountId>,
    pub code: CodeSource,
    /// The caller named no build target.
    pub default_target: bool,
    pub project: Option<RequestedProject>,
    pub limits: ResourceLimits,
    pub payment: u128,
    pub attached_usd: u128,
    pub timestamp: u64,
    pub secrets_ref: Option<SecretsReference>,
    pub response_format: ResponseFormat,
    pub input: Input,
    pub output: Option<Output>,
    pub settled: Option<Settled>,
}

/// The project whose code is run; its owner at that time is the first part of its id (R3).
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct RequestedProject {
    pub project_id: String,
    /// The caller chose the version; otherwise it was the active one.
    pub version_given: bool,
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub enum Input {
    /// Only the event holds it.
    Announced,
    /// The event holds it, and this record.
    Kept(String),
    /// Only the state holds it, under a key of its own.
    Stored { bytes: u32 },
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct Output {
    pub kind: OutputKind,
    pub place: Place,
}

#[near(serializers = [borsh])]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    Bytes,
    Text,
    Json,
}

/// Where an output is, in the form in which the callback returns it.
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub enum Place {
    Record(Vec<u8>),
    Stored { bytes: u32 },
}

impl Place {
    pub fn len(&self) -> usize {
        match self {
            Place::Record(value) => value.len(),
            Place::Stored { bytes } => *bytes as usize,
        }
    }
}

/// How a request ended. The money has moved; the callback tells.
#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct Settled {
    pub success: bool,
    pub error: Option<String>,
    pub used: ResourceMetrics,
    pub note: Option<String>,
    pub charged: u128,
    pub refunded: u128,
    pub record_sha256: Option<String>,
}

/// Of the key of a record or of a long text: a prefix, and the request's number.
const KEY_BYTES: usize = 9;

impl Request {
    /// The record as it is kept, with `occupied` set by its own length.
    pub fn weighed(&mut self) -> Vec<u8> {
        self.occupied = 0;
        let mut record = self.to_bytes();
        let input = match self.input {
            Input::Stored { bytes } => entry_bytes(KEY_BYTES, bytes as usize),
            _ => 0,
        };
        self.occupied = (entry_bytes(KEY_BYTES, record.len()) + input) as u32;
        let (occupied, _) = record.split_at_mut(4);
        occupied.copy_from_slice(&self.occupied.to_le_bytes());
        record
    }

    fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).unwrap_or_else(|_| env::panic_str("The request could not be written"))
    }

    fn from_bytes(record: Vec<u8>) -> Self {
        Request::try_from_slice(&record).unwrap_or_else(|_| env::panic_str("The request could not be read"))
    }

    pub fn payer(&self) -> &AccountId {
        self.payer_account_id.as_ref().unwrap_or(&self.sender_id)
    }

    pub fn project_owner(&self) -> Option<AccountId> {
        let (owner, _) = self.project.as_ref()?.project_id.split_once('/')?;
        owner.parse().ok()
    }

    /// The bytes of an input that only the state holds.
    pub fn stored_input(&self) -> usize {
        match self.input {
            Input::Stored { bytes } => bytes as usize,
            _ => 0,
        }
    }

    pub fn input_text(&self, request_id: u64) -> Option<String> {
        match &self.input {
            Input::Announced => None,
            Input::Kept(text) => Some(text.clone()),
            Input::Stored { .. } => {
                blobs::INPUTS.read(request_id).and_then(|text| String::from_utf8(text).ok())
            }
        }
    }

    /// What the callback returns.
    pub fn return_value(&self, request_id: u64) -> Option<Vec<u8>> {
        match &self.output.as_ref()?.place {
            Place::Record(value) => Some(value.clone()),
            Place::Stored { .. } => blobs::OUTPUTS.read(request_id),
        }
    }

    /// The source as the caller gave it.
    pub fn execution_source(&self) -> ExecutionSource {
        if let Some(project) = &self.project {
            return ExecutionSource::Project {
                project_id: project.project_id.clone(),
                version_key: project.version_given.then(|| self.code.version_key()),
            };
        }
        let given = |target: Option<String>| target.filter(|_| !self.default_target);
        match self.code.clone() {
            CodeSource::GitHub { repo, commit, build_target } => {
                ExecutionSource::GitHub { repo, commit, build_target: given(build_target) }
            }
            CodeSource::WasmUrl { url, hash, build_target } => {
                ExecutionSource::WasmUrl { url, hash, build_target: given(build_target) }
            }
        }
    }
}

impl Contract {
    /// The record of a request, settled or not.
    pub(crate) fn request(&self, request_id: u64) -> Option<Request> {
        blobs::RECORDS.read(request_id).map(Request::from_bytes)
    }

    /// The same; one of an earlier version's state is carried over first.
    pub(crate) fn adopted(&mut self, request_id: u64) -> Option<Request> {
        self.adopt_request(request_id);
        self.request(request_id)
    }

    /// Remove a record, and give it: in one step, which is cheaper than to read first.
    pub(crate) fn take_request(&mut self, request_id: u64) -> Option<Request> {
        self.adopt_request(request_id);
        blobs::RECORDS.take(request_id).map(Request::from_bytes)
    }

    pub(crate) fn put_request(&mut self, request_id: u64, request: &Request) {
        blobs::RECORDS.write(request_id, &request.to_bytes());
    }

    /// The record of a request that waits for its answer. Panics for any other.
    pub(crate) fn waiting(&mut self, request_id: u64) -> Request {
        match self.adopted(request_id) {
            None => env::panic_str("Execution request not found"),
            Some(request) if request.settled.is_some() => {
                env::panic_str(&format!("Execution request {request_id} is already answered"))
            }
            Some(request) => request,
        }
    }

    /// A request begins to wait.
    pub(crate) fn hold(&mut self, request: &Request) {
        self.held_payments = self.held_payments.saturating_add(request.payment);
        self.waiting_bytes = self.waiting_bytes.saturating_add(u64::from(request.occupied));
    }

    /// A request is answered or cancelled: its input is not needed any more, and its payment is not held any more.
    pub(crate) fn stop_waiting(&mut self, request_id: u64, request: &Request) {
        self.pending.remove(request_id);
        self.held_payments = self.held_payments.saturating_sub(request.payment);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(u64::from(request.occupied));
        if request.stored_input() > 0 {
            blobs::INPUTS.remove(request_id);
        }
    }

    /// Keep an output in the form in which it is returned.
    pub(crate) fn keep_output(&mut self, request_id: u64, kind: OutputKind, value: Vec<u8>) -> Output {
        let place = if value.len() <= MOST_INLINE_OUTPUT {
            Place::Record(value)
        } else {
            blobs::OUTPUTS.write(request_id, &value);
            Place::Stored { bytes: value.len() as u32 }
        };
        Output { kind, place }
    }

    pub(crate) fn drop_output(&mut self, request_id: u64, output: Option<&Output>) {
        if output.is_some_and(|output| matches!(output.place, Place::Stored { .. })) {
            blobs::OUTPUTS.remove(request_id);
        }
    }
}

/// Requests as states before version 3 keep them, in a map that moves its entries about.
#[near(serializers = [borsh])]
pub struct OldRequests(pub IterableMap<u64, OldRequest>);

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub struct OldRequest {
    pub request_id: u64,
    pub data_id: [u8; 32],
    pub sender_id: AccountId,
    pub execution_source: ExecutionSource,
    pub resolved_source: CodeSource,
    pub resource_limits: ResourceLimits,
    pub payment: u128,
    pub timestamp: u64,
    pub secrets_ref: Option<SecretsReference>,
    pub response_format: ResponseFormat,
    pub input_data: Option<String>,
    pub payer_account_id: AccountId,
    pub attached_usd: u128,
    pub project_owner: Option<AccountId>,
    pub pending_output: Option<OldOutput>,
}

#[near(serializers = [borsh])]
#[derive(Clone, Debug)]
pub enum OldOutput {
    Bytes(Vec<u8>),
    Text(Vec<u8>),
    Json(Vec<u8>),
}

impl OldRequest {
    pub fn output(&self) -> Option<ExecutionOutput> {
        match self.pending_output.clone()? {
            OldOutput::Bytes(bytes) => Some(ExecutionOutput::Bytes(bytes)),
            OldOutput::Text(text) => Some(ExecutionOutput::Text(String::from_utf8_lossy(&text).into_owned())),
            OldOutput::Json(json) => serde_json::from_slice(&json).ok().map(ExecutionOutput::Json),
        }
    }

    pub fn view(&self) -> ExecutionRequestView {
        ExecutionRequestView {
            request_id: self.request_id,
            data_id: self.data_id.to_vec(),
            sender_id: self.sender_id.clone(),
            execution_source: self.execution_source.clone(),
            resolved_source: self.resolved_source.clone(),
            resource_limits: self.resource_limits.clone(),
            payment: self.payment,
            timestamp: self.timestamp,
            secrets_ref: self.secrets_ref.clone(),
            response_format: self.response_format,
            input_data: self.input_data.clone(),
            payer_account_id: self.payer_account_id.clone(),
            attached_usd: self.attached_usd,
            project_owner: self.project_owner.clone(),
            pending_output: self.output().map(OutputBytes::from),
            output_submitted: self.pending_output.is_some(),
        }
    }
}

impl Contract {
    pub(crate) fn old_request(&self, request_id: u64) -> Option<&OldRequest> {
        self.old_requests.as_ref()?.0.get(&request_id)
    }

    pub(crate) fn old_request_ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.old_requests.iter().flat_map(|old| old.0.keys().copied())
    }

    /// Carry up to `limit` requests of an earlier version's state over, the last of the list first, which moves none.
    pub(crate) fn adopt_requests(&mut self, limit: u64, enough_gas: impl Fn() -> bool) -> u64 {
        let mut adopted = 0;
        while adopted < limit && enough_gas() {
            let last = self.old_requests.as_ref().and_then(|old| {
                let count = old.0.len() as usize;
                count.checked_sub(1).and_then(|at| old.0.keys().nth(at).copied())
            });
            let Some(request_id) = last else { break };
            self.adopt_request(request_id);
            adopted += 1;
        }
        adopted
    }

    fn adopt_request(&mut self, request_id: u64) {
        let Some(old) = self.old_requests.as_mut() else { return };
        if let Some(request) = old.0.remove(&request_id) {
            old.0.flush();
            self.pools.adopt_attached(request.attached_usd);
            let record = self.carried_over(request_id, request);
            self.hold(&record);
            self.pending.insert(request_id);
            self.put_request(request_id, &record);
        }
        if self.old_requests.as_ref().is_some_and(|old| old.0.is_empty()) {
            self.old_requests = None;
        }
    }

    fn carried_over(&mut self, request_id: u64, old: OldRequest) -> Request {
        let input = match old.input_data {
            None => Input::Announced,
            Some(text) => store_input(request_id, &text),
        };
        let output = old.pending_output.map(|output| {
            let (kind, value) = match output {
                OldOutput::Bytes(bytes) => (OutputKind::Bytes, base64_json(bytes)),
                OldOutput::Text(text) => (OutputKind::Text, text_json(&String::from_utf8_lossy(&text))),
                OldOutput::Json(json) => (OutputKind::Json, json),
            };
            self.keep_output(request_id, kind, value)
        });
        let default_target = matches!(
            &old.execution_source,
            ExecutionSource::GitHub { build_target: None, .. }
                | ExecutionSource::WasmUrl { build_target: None, .. }
        );
        let project = match old.execution_source {
            ExecutionSource::Project { project_id, version_key } => {
                Some(RequestedProject { project_id, version_given: version_key.is_some() })
            }
            _ => None,
        };
        let mut record = Request {
            occupied: 0,
            data_id: old.data_id,
            payer_account_id: (old.payer_account_id != old.sender_id).then_some(old.payer_account_id),
            sender_id: old.sender_id,
            code: old.resolved_source,
            default_target,
            project,
            limits: old.resource_limits,
            payment: old.payment,
            attached_usd: old.attached_usd,
            timestamp: old.timestamp,
            secrets_ref: old.secrets_ref,
            response_format: old.response_format,
            input,
            output: None,
            settled: None,
        };
        record.weighed();
        record.output = output;
        record
    }
}

/// Keep an input that only the state holds.
pub fn store_input(request_id: u64, text: &str) -> Input {
    if text.is_empty() {
        return Input::Kept(String::new());
    }
    blobs::INPUTS.write(request_id, text.as_bytes());
    Input::Stored { bytes: text.len() as u32 }
}
