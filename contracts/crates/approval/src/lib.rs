// SPDX-License-Identifier: MIT
//! What contracts that admit TDs share: the root that quotes chain to, collateral per FMSPC, measurement sets, and
//! the appraisal of a quote by them.
//!
//! Time is block time; all times are unix seconds. A refusal is a value with a stable reason code.

mod event;
mod key_index;
mod policy;

use measurements::{MeasurementSet, MeasurementSets, Measurements, PlatformRules, Role};
use near_sdk::store::LookupMap;
use near_sdk::{env, near, require, CurveType, PublicKey};
use quote_verify::{
    decode_hex, is_root_certificate, Collateral, CollateralFacts, Fmspc, IssuerChains, ParsedQuote, Policy,
    Prepared, Rejection, SignedParts, Verified, INTEL_ROOT_CA_DER,
};

pub use event::{emit, SetsEnd};
pub use key_index::KeyIndex;
pub use policy::{v2 as policies_v2, Activation, PendingPolicy, Policies, PolicyError, PolicyVersion};
pub use quote_verify::encode_hex;

/// A refusal: reason code, which is part of the ABI, and words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub detail: String,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Refusal { reason: rejection.reason.code(), detail: rejection.to_string() }
    }
}

#[near(serializers = [borsh])]
pub enum StoredCollateral {
    V1(Collateral, CollateralInfo),
    /// With digests of the signatures that verified when it was stored, which are not used any more.
    V2(Collateral, CollateralInfo, Vec<[u8; 32]>),
    /// With all that holds whatever the quote, and without the issuers' chains, which are kept apart.
    V3(SignedParts, CollateralInfo, Prepared),
}

impl StoredCollateral {
    fn info(&self) -> &CollateralInfo {
        match self {
            StoredCollateral::V1(_, info)
            | StoredCollateral::V2(_, info, _)
            | StoredCollateral::V3(_, info, _) => info,
        }
    }

    fn facts(&self) -> Result<CollateralFacts, Rejection> {
        match self {
            StoredCollateral::V1(collateral, _) | StoredCollateral::V2(collateral, ..) => collateral.facts(),
            StoredCollateral::V3(.., prepared) => Ok(prepared.facts.clone()),
        }
    }

    /// What a quote is judged by; of older forms what does not depend on the quote is found out again.
    fn prepared(&self, root_ca_der: &[u8]) -> Result<(SignedParts, Prepared), Rejection> {
        match self {
            StoredCollateral::V1(collateral, _) | StoredCollateral::V2(collateral, ..) => {
                Ok((collateral.clone().split().0, collateral.prepare(root_ca_der)?))
            }
            StoredCollateral::V3(parts, _, prepared) => Ok((parts.clone(), prepared.clone())),
        }
    }
}

/// Collateral that may be stored.
pub struct CheckedCollateral {
    collateral: Collateral,
    info: CollateralInfo,
    prepared: Prepared,
}

impl CheckedCollateral {
    /// The one text of this collateral: members sorted, no white space.
    pub fn to_json(&self) -> String {
        self.collateral.to_json()
    }
}

/// About stored collateral; `sha256` is of its JSON as `get_collateral` gives it.
#[near(serializers = [json, borsh])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollateralInfo {
    pub fmspc: String,
    pub sha256: String,
    pub tcb_evaluation_data_number: u32,
    pub issue_date: u64,
    pub next_update: u64,
    pub stored_at: u64,
}

#[near(serializers = [json])]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootCa {
    pub sha256: String,
    pub simulated: bool,
}

/// What a quote showed that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraised {
    pub set: u32,
    pub role: Role,
    pub measurements: Measurements,
    pub tcb_status: String,
    pub fmspc: Fmspc,
    /// SHA-256 of the quote's signed bytes.
    pub report_sha256: [u8; 32],
}

/// Root, measurement sets and collateral: by what quotes are judged.
#[near(serializers = [borsh])]
pub struct Approvals {
    /// None is Intel's. Set at init, never after.
    root_ca_der: Option<Vec<u8>>,
    pub sets: MeasurementSets,
    fmspcs: Vec<Fmspc>,
    collateral: LookupMap<Fmspc, StoredCollateral>,
    chains: LookupMap<Fmspc, IssuerChains>,
}

/// The form in which all sets were kept in the state of the contract.
pub mod v2 {
    use super::{near, Approvals, Fmspc, LookupMap, MeasurementSets, StoredCollateral};

    #[near(serializers = [borsh])]
    pub struct ApprovalsV2 {
        pub root_ca_der: Option<Vec<u8>>,
        pub sets: measurements::v2::MeasurementSets,
        pub fmspcs: Vec<Fmspc>,
        pub collateral: LookupMap<Fmspc, StoredCollateral>,
    }

    impl ApprovalsV2 {
        /// Nothing is written: the sets stay in the state until `MeasurementSets::move_older`.
        pub fn upgrade(self, prefix: &[u8]) -> Approvals {
            Approvals {
                root_ca_der: self.root_ca_der,
                sets: MeasurementSets::of_older(prefix, self.sets.sets),
                fmspcs: self.fmspcs,
                collateral: self.collateral,
                chains: LookupMap::new([prefix, b"c"].concat()),
            }
        }
    }
}

impl Approvals {
    /// Nothing approved yet. `root_ca_der_hex` is for local networks with a simulated platform; without it the root
    /// is Intel's. Panics if it is no root certificate. Sets and issuers' chains lie under storage keys that begin with
    /// `prefix`.
    pub fn new(
        root_ca_der_hex: Option<String>,
        collateral: LookupMap<Fmspc, StoredCollateral>,
        prefix: &[u8],
    ) -> Self {
        let root_ca_der = root_ca_der_hex.map(|text| {
            let der = decode_hex(&text).unwrap_or_else(|| env::panic_str("root_ca_der_hex is not hex"));
            require!(is_root_certificate(&der), "root_ca_der_hex is not a self-signed EC P-256 certificate");
            der
        });
        Approvals {
            root_ca_der: root_ca_der.filter(|der| der != INTEL_ROOT_CA_DER),
            sets: MeasurementSets::new(prefix),
            fmspcs: Vec::new(),
            collateral,
            chains: LookupMap::new([prefix, b"c"].concat()),
        }
    }

    pub fn root_ca(&self) -> RootCa {
        RootCa { sha256: encode_hex(&env::sha256_array(self.root())), simulated: self.root_ca_der.is_some() }
    }

    fn root(&self) -> &[u8] {
        self.root_ca_der.as_deref().unwrap_or(INTEL_ROOT_CA_DER)
    }

    // --- collateral ---

    /// Whether this collateral may be stored now: it verifies to the root, is current, and no part of it is older
    /// than what is stored for its FMSPC.
    pub fn check_collateral(&self, text: &str) -> Result<(Fmspc, CheckedCollateral), Refusal> {
        let collateral = Collateral::from_json(text)?;
        let prepared = collateral.verify(self.root(), now())?;
        let facts = &prepared.facts;
        if let Some(stored) = self.collateral.get(&facts.fmspc) {
            if let Some(part) = facts.behind(&stored.facts()?) {
                let detail = format!("The collateral is older than what is stored: {part}");
                return Err(Refusal { reason: "collateral_older", detail });
            }
        }
        let info = CollateralInfo {
            fmspc: encode_hex(&facts.fmspc),
            sha256: encode_hex(&env::sha256_array(collateral.to_json().as_bytes())),
            tcb_evaluation_data_number: facts.tcb_evaluation_data_number,
            issue_date: facts.issue_date,
            next_update: facts.next_update,
            stored_at: now(),
        };
        Ok((facts.fmspc, CheckedCollateral { collateral, info, prepared }))
    }

    /// Store collateral for the FMSPC that its TCB info names.
    pub fn store_collateral(&mut self, text: &str) -> Result<CollateralInfo, Refusal> {
        let (fmspc, CheckedCollateral { collateral, info, prepared }) = self.check_collateral(text)?;
        if !self.collateral.contains_key(&fmspc) {
            self.fmspcs.push(fmspc);
        }
        self.keep_collateral(fmspc, collateral, info.clone(), prepared);
        Ok(info)
    }

    fn keep_collateral(
        &mut self,
        fmspc: Fmspc,
        collateral: Collateral,
        info: CollateralInfo,
        prepared: Prepared,
    ) {
        let (parts, chains) = collateral.split();
        self.chains.insert(fmspc, chains);
        self.collateral.insert(fmspc, StoredCollateral::V3(parts, info, prepared));
    }

    fn json_of(&self, fmspc: &Fmspc) -> Option<String> {
        Some(match self.collateral.get(fmspc)? {
            StoredCollateral::V1(collateral, _) | StoredCollateral::V2(collateral, ..) => {
                collateral.to_json()
            }
            StoredCollateral::V3(parts, ..) => {
                Collateral::join(parts.clone(), self.chains.get(fmspc)?.clone()).to_json()
            }
        })
    }

    /// The stored collateral of an FMSPC (12 hex digits), or what was stored last, as JSON.
    pub fn collateral_json(&self, fmspc: Option<String>) -> Option<String> {
        let fmspc = match fmspc {
            Some(text) => {
                let mut fmspc = Fmspc::default();
                hex::decode_to_slice(text, &mut fmspc).ok()?;
                fmspc
            }
            None => *self.fmspcs.iter().max_by_key(|fmspc| self.info_of(fmspc).map(|i| i.stored_at))?,
        };
        self.json_of(&fmspc)
    }

    /// The stored collaterals as JSON, by their place.
    pub fn collaterals(&self, from: u32, limit: u32) -> Vec<String> {
        let page = self.fmspcs.iter().skip(from as usize).take(limit as usize);
        page.filter_map(|fmspc| self.json_of(fmspc)).collect()
    }

    /// Bring stored collateral that still is current into the newest form, in which a quote costs least.
    pub fn refresh_collateral(&mut self) {
        for fmspc in self.fmspcs.clone() {
            let (collateral, info) = match self.collateral.get(&fmspc) {
                Some(StoredCollateral::V1(collateral, info) | StoredCollateral::V2(collateral, info, _)) => {
                    (collateral.clone(), info.clone())
                }
                _ => continue,
            };
            if let Ok(prepared) = collateral.verify(self.root(), now()) {
                self.keep_collateral(fmspc, collateral, info, prepared);
            }
        }
    }

    pub fn collateral_info(&self) -> Vec<&CollateralInfo> {
        self.fmspcs.iter().filter_map(|fmspc| self.info_of(fmspc)).collect()
    }

    fn info_of(&self, fmspc: &Fmspc) -> Option<&CollateralInfo> {
        self.collateral.get(fmspc).map(StoredCollateral::info)
    }

    // --- quotes ---

    /// Verify a quote and judge it by the active sets of these roles. Its REPORTDATA must be exactly this.
    pub fn appraise(
        &self,
        tdx_quote_hex: &str,
        report_data: &[u8; 64],
        roles: &[Role],
    ) -> Result<Appraised, Refusal> {
        let quote = decode_hex(tdx_quote_hex).ok_or_else(|| Refusal {
            reason: "quote_malformed",
            detail: "quote_layout: the quote is not hex".to_string(),
        })?;
        let parsed = ParsedQuote::parse(&quote)?;
        let Some(stored) = self.collateral.get(&parsed.fmspc()) else {
            let detail = format!("collateral: none is stored for FMSPC {}", encode_hex(&parsed.fmspc()));
            return Err(Refusal { reason: "collateral_missing", detail });
        };
        let (parts, prepared) = stored.prepared(self.root())?;
        let verified = parsed.verify(parts, prepared, self.root(), now())?;
        self.judge(&verified, report_data, roles)
    }

    /// The second half of `appraise`: a genuine quote against the sets.
    pub fn judge(
        &self,
        verified: &Verified,
        report_data: &[u8; 64],
        roles: &[Role],
    ) -> Result<Appraised, Refusal> {
        Policy::default().judge_attributes(verified)?;
        let measurements = Measurements::new(verified.mrtd, verified.rtmr);
        let mut matching = self.sets.matching(&measurements, now());
        matching.retain(|set| roles.contains(&set.role));
        let set = accepting(&matching, verified)?.ok_or_else(|| not_approved(&measurements))?;
        if verified.report_data != *report_data {
            let detail = "REPORTDATA is not what this key must show".to_string();
            return Err(Refusal { reason: "report_data_mismatch", detail });
        }
        Ok(Appraised {
            set: set.id,
            role: set.role,
            measurements,
            tcb_status: verified.tcb_status.clone(),
            fmspc: verified.fmspc,
            report_sha256: verified.report_sha256,
        })
    }
}

/// The first of the sets whose rules the platform meets. If there are sets but none accepts, the first one's reason.
fn accepting<'a>(
    sets: &'a [MeasurementSet],
    verified: &Verified,
) -> Result<Option<&'a MeasurementSet>, Rejection> {
    let mut refused = None;
    for set in sets {
        match rules(&set.platform).judge_platform(verified, now()) {
            Ok(()) => return Ok(Some(set)),
            Err(rejection) => refused = refused.or(Some(rejection)),
        }
    }
    refused.map_or(Ok(None), Err)
}

fn rules(platform: &PlatformRules) -> Policy {
    Policy {
        tcb_statuses: platform.statuses.iter().map(|status| status.as_str().to_string()).collect(),
        informational_advisories: platform.advisory_prefix_informational.clone(),
        min_tcb_evaluation_data_number: platform.min_tcb_evaluation_data_number,
        ..Policy::default()
    }
}

fn not_approved(measurements: &Measurements) -> Refusal {
    let Measurements { mrtd, rtmr0, rtmr1, rtmr2, rtmr3 } = measurements;
    let detail = format!(
        "Worker measurements not approved. MRTD={mrtd} RTMR0={rtmr0} RTMR1={rtmr1} RTMR2={rtmr2} RTMR3={rtmr3}"
    );
    Refusal { reason: "measurements_not_approved", detail }
}

/// REPORTDATA of a registration: the raw ed25519 key, then 32 zero bytes. All 64 bytes count.
pub fn registration_report_data(public_key: &PublicKey) -> [u8; 64] {
    let mut data = [0u8; 64];
    for (target, byte) in data.iter_mut().zip(raw_key(public_key)) {
        *target = *byte;
    }
    data
}

/// REPORTDATA of a later quote for a registered key: SHA-512 of tag, contract, key, and the challenge that the
/// contract gave the key when it last accepted a quote for it; so each quote counts once.
pub fn reverification_report_data(public_key: &PublicKey, challenge: &str) -> [u8; 64] {
    let challenge = decode_hex(challenge).unwrap_or_else(|| env::panic_str("The challenge is not hex"));
    let mut preimage = b"outlayer/reverification/v1\0".to_vec();
    for field in [env::current_account_id().as_bytes(), raw_key(public_key), &challenge] {
        preimage.extend((field.len() as u32).to_be_bytes());
        preimage.extend(field);
    }
    quote_verify::sha512(&preimage)
}

/// What the next quote for this key must commit to: 32 bytes that were not known before this block.
pub fn new_challenge(public_key: &PublicKey) -> [u8; 32] {
    env::sha256_array([&env::random_seed_array()[..], public_key.as_bytes()].concat())
}

/// Without near-sdk's first byte, the curve.
fn raw_key(public_key: &PublicKey) -> &[u8] {
    public_key.as_bytes().get(1..).unwrap_or_default()
}

pub fn require_ed25519(public_key: &PublicKey) {
    require!(public_key.curve_type() == CurveType::ED25519, "Only ed25519 keys can be registered");
}

/// Block time in unix seconds.
pub fn now() -> u64 {
    env::block_timestamp() / 1_000_000_000
}
