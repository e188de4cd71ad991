// SPDX-License-Identifier: MIT
//! TDX quote verification for contracts.
//!
//! Three layers, each on its own: `ParsedQuote::parse` (canonical bytes, one layout), `ParsedQuote::verify`
//! (our pre-check, then dcap-qvl under the root that the caller trusts), `Policy::judge` (what a genuine quote
//! must also be). A rejection is a value with a reason; nothing here panics on what a quote or collateral holds.

mod certificate;
mod collateral;
mod crypto;
mod der;

use std::fmt;

use dcap_qvl::intel::{extract_cert_chain, parse_pck_extension_with};
use dcap_qvl::quote::{AuthData, AuthDataV4, Quote, TDReport10};
use dcap_qvl::verify::QuoteVerifier;

pub use collateral::{Collateral, CollateralFacts, Fmspc};
pub use crypto::{sha256, sha512, ContractConfig, SignatureDigest};

/// Intel SGX Root CA, SHA-256 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
pub const INTEL_ROOT_CA_DER: &[u8] = include_bytes!("intel_root_ca.der");

/// SEPT_VE_DISABLE and nothing else: no debugging, migration, performance counters, key locker, protection keys.
pub const TD_ATTRIBUTES: u64 = 1 << 28;

const MAX_QUOTE_SIZE: usize = 16 * 1024;
const HEADER_SIZE: usize = 48;
const BODY_DESCRIPTOR_SIZE: usize = 6;
const QE_REPORT_CERTIFICATION: u16 = 6;
const QE_AUTH_DATA_SIZE: usize = 32;

/// Why a quote was not accepted; the codes are part of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    QuoteMalformed,
    CollateralInvalid,
    CollateralExpired,
    QuoteInvalid,
    NotTdx,
    TcbStatus,
    Advisories,
    EvaluationNumber,
}

impl Reason {
    pub fn code(self) -> &'static str {
        match self {
            Reason::QuoteMalformed => "quote_malformed",
            Reason::CollateralInvalid => "collateral_invalid",
            Reason::CollateralExpired => "collateral_expired",
            Reason::QuoteInvalid => "quote_invalid",
            Reason::NotTdx => "not_tdx",
            Reason::TcbStatus => "tcb_status",
            Reason::Advisories => "advisories",
            Reason::EvaluationNumber => "evaluation_number",
        }
    }
}

/// A refusal: the reason, the check that said it (named as in the off-chain verifier), and words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    pub check: &'static str,
    pub detail: String,
}

impl Rejection {
    fn new(reason: Reason, check: &'static str, detail: impl fmt::Display) -> Self {
        Rejection { reason, check, detail: detail.to_string().chars().take(300).collect() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.check, self.detail)
    }
}

/// A TDX quote that can be read. Nothing in it has been verified.
pub struct ParsedQuote<'a> {
    /// Cut to the computed length.
    canonical: &'a [u8],
    quote: Quote,
    fmspc: Fmspc,
    pce_id: Vec<u8>,
}

/// What a genuine quote says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub mrtd: [u8; 48],
    pub rtmr: [[u8; 48]; 4],
    pub report_data: [u8; 64],
    pub td_attributes: u64,
    pub fmspc: Fmspc,
    /// As Intel spells it: "UpToDate", "OutOfDate", …
    pub tcb_status: String,
    pub advisory_ids: Vec<String>,
    /// SHA-256 of the signed bytes: header and TD report. (The rest of a quote can be varied.)
    pub report_sha256: [u8; 32],
    pub collateral: CollateralFacts,
}

impl<'a> ParsedQuote<'a> {
    /// Read a quote of version 4 or 5. After its computed length only zeros may follow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let malformed = |detail: &str| Rejection::new(Reason::QuoteMalformed, "quote_layout", detail);
        if bytes.len() > MAX_QUOTE_SIZE {
            return Err(malformed("the quote is too large"));
        }
        let quote = Quote::parse(bytes).map_err(|error| malformed(&format!("{error:#}")))?;
        if quote.report.as_td10().is_none() {
            return Err(Rejection::new(Reason::NotTdx, "tee_type", "not a TDX quote"));
        }
        let AuthData::V4(auth) = &quote.auth_data else {
            return Err(malformed("not the authentication data of version 4"));
        };
        let (auth_size, exact) = auth_data_size(auth);
        let signed = signed_size(&quote).ok_or_else(|| malformed("unknown TD report"))?;
        let declared =
            bytes.get(signed..signed + 4).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes);
        if !exact || declared != u32::try_from(auth_size).ok() {
            return Err(malformed("the authentication data do not fill their declared size"));
        }
        let (canonical, padding) =
            bytes.split_at_checked(signed + 4 + auth_size).ok_or_else(|| malformed("cut off"))?;
        if padding.iter().any(|&byte| byte != 0) {
            let detail = "bytes other than zero follow the quote";
            return Err(Rejection::new(Reason::QuoteMalformed, "quote_canonical", detail));
        }
        let pck = |error| Rejection::new(Reason::QuoteInvalid, "pck_chain", error);
        let chain = extract_cert_chain(&quote).map_err(|error| pck(format!("{error:#}")))?;
        let leaf = chain.first().ok_or_else(|| pck("no PCK certificate".to_string()))?;
        let extension =
            parse_pck_extension_with::<ContractConfig>(leaf).map_err(|error| pck(format!("{error:#}")))?;
        Ok(ParsedQuote { canonical, fmspc: extension.fmspc, pce_id: extension.pce_id, quote })
    }

    /// The platform that the quote's own PCK certificate names: which collateral to use.
    pub fn fmspc(&self) -> Fmspc {
        self.fmspc
    }

    /// Verify under a root (DER), as of `now` (unix seconds).
    ///
    /// `known` are the signatures that verified when the collateral was stored (`Collateral::verify`), or none: then
    /// all of them are computed. Gives every TCB status but Revoked: `Policy::judge` decides on it.
    pub fn verify(
        self,
        collateral: Collateral,
        known: Vec<SignatureDigest>,
        root_ca_der: &[u8],
        now: u64,
    ) -> Result<Verified, Rejection> {
        crypto::remembering(known, || self.verify_all(collateral, root_ca_der, now)).0
    }

    fn verify_all(self, collateral: Collateral, root_ca_der: &[u8], now: u64) -> Result<Verified, Rejection> {
        let facts = self.precheck(&collateral, root_ca_der, now)?;
        let verifier = QuoteVerifier::<ContractConfig>::new_with_config(root_ca_der.to_vec());
        let report = verifier
            .verify(self.canonical, &collateral.into_library(), now)
            .map_err(|error| library_rejection(&format!("{error:#}")))?;
        let td = report
            .report
            .as_td10()
            .ok_or_else(|| Rejection::new(Reason::NotTdx, "tee_type", "not a TDX quote"))?;
        let signed = signed_size(&self.quote).and_then(|size| self.canonical.get(..size)).unwrap_or_default();
        Ok(Verified {
            mrtd: td.mr_td,
            rtmr: [td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3],
            report_data: td.report_data,
            td_attributes: td_attributes(td),
            fmspc: self.fmspc,
            report_sha256: sha256(signed),
            tcb_status: report.status,
            advisory_ids: report.advisory_ids,
            collateral: facts,
        })
    }

    /// What we check ourselves, whatever a version of the library checks.
    fn precheck(&self, collateral: &Collateral, root: &[u8], now: u64) -> Result<CollateralFacts, Rejection> {
        let AuthData::V4(auth) = &self.quote.auth_data else {
            return Err(Rejection::new(Reason::QuoteMalformed, "quote_layout", "not version 4 or 5"));
        };
        let refuse = |check, detail: &str| Err(Rejection::new(Reason::QuoteInvalid, check, detail));
        if auth.certification_data.cert_type != QE_REPORT_CERTIFICATION {
            return refuse("certification_data_type", "the outer certification data are not of type 6");
        }
        if auth.qe_report_data.qe_auth_data.data.len() != QE_AUTH_DATA_SIZE {
            return refuse("qe_auth_data", "the QE authentication data are not 32 bytes");
        }
        let facts = collateral.check(root, now)?;
        if facts.fmspc != self.fmspc {
            return refuse("tcb_info_fmspc", "the TCB info is for another FMSPC");
        }
        if facts.pce_id[..] != self.pce_id[..] {
            return refuse("tcb_info_pceid", "the TCB info is for another PCE");
        }
        Ok(facts)
    }
}

/// What a genuine quote must also be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub tcb_statuses: Vec<String>,
    /// An advisory id with one of these prefixes is informational; any other refuses (R12).
    pub informational_advisories: Vec<String>,
    /// TDATTRIBUTES, all 64 bits.
    pub td_attributes: u64,
    pub max_collateral_age_seconds: Option<u64>,
    /// At least this, of TCB info and of QE identity.
    pub min_tcb_evaluation_data_number: u32,
}

impl Default for Policy {
    /// R12: `UpToDate` and no advisory.
    fn default() -> Self {
        Policy {
            tcb_statuses: vec!["UpToDate".to_string()],
            informational_advisories: Vec::new(),
            td_attributes: TD_ATTRIBUTES,
            max_collateral_age_seconds: None,
            min_tcb_evaluation_data_number: 0,
        }
    }
}

impl Policy {
    pub fn judge(&self, verified: &Verified, now: u64) -> Result<(), Rejection> {
        self.judge_attributes(verified)?;
        self.judge_platform(verified, now)
    }

    /// How the TD was made, which is the TD's part and not the platform's.
    pub fn judge_attributes(&self, verified: &Verified) -> Result<(), Rejection> {
        if verified.td_attributes != self.td_attributes {
            let detail = format!("{:#x}, expected {:#x}", verified.td_attributes, self.td_attributes);
            return Err(Rejection::new(Reason::QuoteInvalid, "td_attributes", detail));
        }
        Ok(())
    }

    pub fn judge_platform(&self, verified: &Verified, now: u64) -> Result<(), Rejection> {
        let age = now.saturating_sub(verified.collateral.issue_date);
        if self.max_collateral_age_seconds.is_some_and(|limit| age > limit) {
            let detail = format!("the collateral is {age} seconds old");
            return Err(Rejection::new(Reason::CollateralExpired, "collateral_age", detail));
        }
        let facts = &verified.collateral;
        let number = facts.tcb_evaluation_data_number.min(facts.qe_evaluation_data_number);
        if number < self.min_tcb_evaluation_data_number {
            let detail = format!("{number}, at least {}", self.min_tcb_evaluation_data_number);
            return Err(Rejection::new(Reason::EvaluationNumber, "tcb_evaluation_data_number", detail));
        }
        if !self.tcb_statuses.contains(&verified.tcb_status) {
            let detail = format!("the TCB status is {}", verified.tcb_status);
            return Err(Rejection::new(Reason::TcbStatus, "tcb_status", detail));
        }
        let counts =
            |id: &&String| !self.informational_advisories.iter().any(|prefix| id.starts_with(prefix));
        let advisories: Vec<&str> = verified.advisory_ids.iter().filter(counts).map(String::as_str).collect();
        if !advisories.is_empty() {
            return Err(Rejection::new(Reason::Advisories, "advisories", advisories.join(", ")));
        }
        Ok(())
    }
}

/// Whether these bytes are a self-signed EC P-256 certificate that can serve as root.
pub fn is_root_certificate(der: &[u8]) -> bool {
    certificate::Certificate::parse(der).is_ok_and(|root| root.is_issued_by(&root))
}

fn td_attributes(report: &TDReport10) -> u64 {
    u64::from_le_bytes(report.td_attributes)
}

/// Bytes of header, body descriptor (version 5) and TD report: what the quote's signature covers.
fn signed_size(quote: &Quote) -> Option<usize> {
    let report = match (quote.report.as_td15_ex(), quote.report.as_td15(), quote.report.as_td10()) {
        (Some(_), _, _) => 885,
        (_, Some(_), _) => 648,
        (_, _, Some(_)) => 584,
        _ => return None,
    };
    let descriptor = if quote.header.version == 5 { BODY_DESCRIPTOR_SIZE } else { 0 };
    Some(HEADER_SIZE + descriptor + report)
}

/// Size of the authentication data by their parts, and whether the parts leave nothing over.
fn auth_data_size(auth: &AuthDataV4) -> (usize, bool) {
    let outer = auth.certification_data.body.data.len();
    let qe = &auth.qe_report_data;
    let inner = 384 + 64 + 2 + qe.qe_auth_data.data.len() + 2 + 4 + qe.certification_data.body.data.len();
    (64 + 64 + 2 + 4 + outer, outer == inner)
}

/// Words of dcap-qvl 0.7.0, and the check and reason they mean; the first match counts. What the pre-check
/// covers does not get here.
const LIBRARY_WORDS: [(&str, Reason, &str); 22] = [
    ("CrlExpired", Reason::CollateralExpired, "crl_time"),
    ("Failed to parse root CA CRL", Reason::CollateralInvalid, "crl_signature"),
    ("Failed to parse PCK CRL", Reason::CollateralInvalid, "crl_signature"),
    ("InvalidCrlSignatureForPublicKey", Reason::CollateralInvalid, "crl_signature"),
    ("UnknownRevocationStatus", Reason::CollateralInvalid, "revocation"),
    ("CertRevoked", Reason::QuoteInvalid, "revocation"),
    // before "Revoked", which the error of an unknown status lists among the known ones
    ("Failed to decode TcbInfo", Reason::CollateralInvalid, "tcb_info"),
    ("Failed to decode QeIdentity", Reason::CollateralInvalid, "qe_identity"),
    ("Revoked", Reason::TcbStatus, "tcb_level"),
    ("invalid for tcb_info", Reason::CollateralInvalid, "tcb_info_signature"),
    ("invalid for qe_identity", Reason::CollateralInvalid, "qe_identity_signature"),
    ("component count", Reason::CollateralInvalid, "tcb_info"),
    ("Unsupported QE Identity", Reason::CollateralInvalid, "qe_identity"),
    ("TDX module", Reason::QuoteInvalid, "tdx_module"),
    ("TCB level", Reason::QuoteInvalid, "tcb_level"),
    ("TD attributes", Reason::QuoteInvalid, "td_attributes"),
    ("Debug mode", Reason::QuoteInvalid, "td_attributes"),
    ("SEPT_VE_DISABLE", Reason::QuoteInvalid, "td_attributes"),
    ("TD migration", Reason::QuoteInvalid, "td_attributes"),
    ("certificate chain", Reason::QuoteInvalid, "pck_chain"),
    ("ISV enclave report signature", Reason::QuoteInvalid, "quote_signature"),
    ("qe_report in quote", Reason::QuoteInvalid, "qe_report_signature"),
];

fn library_rejection(message: &str) -> Rejection {
    let found = LIBRARY_WORDS.iter().find(|(words, _, _)| message.contains(words));
    let (reason, check) =
        found.map_or((Reason::QuoteInvalid, "dcap_qvl"), |&(_, reason, check)| (reason, check));
    Rejection::new(reason, check, message)
}
