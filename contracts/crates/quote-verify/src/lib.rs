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
mod hex_text;
mod layout;

use std::borrow::Cow;
use std::fmt;

use dcap_qvl::quote::{Report, TDReport10};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteCollateralV3, QuotePolicy};

use certificate::{pck_platform, read_first_certificate, short_chain};
use layout::Layout;

pub use collateral::{Collateral, CollateralFacts, Fmspc, IssuerChains, Prepared, SignedParts};
pub use crypto::{sha256, sha512, ContractConfig, KnownSignature};
pub use hex_text::{decode_hex, encode_hex};

/// Intel SGX Root CA, SHA-256 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
pub const INTEL_ROOT_CA_DER: &[u8] = include_bytes!("intel_root_ca.der");

/// SEPT_VE_DISABLE and nothing else: no debugging, migration, performance counters, key locker, protection keys.
pub const TD_ATTRIBUTES: u64 = 1 << 28;

const MAX_QUOTE_SIZE: usize = 16 * 1024;
const QE_REPORT_CERTIFICATION: u16 = 6;
const PCK_CHAIN_CERTIFICATION: u16 = 5;
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
    layout: Layout<'a>,
    fmspc: Fmspc,
    pce_id: [u8; 2],
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
    /// Read a quote of version 4 or 5. Its parts fill their declared sizes, and after them only zeros may follow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Rejection> {
        if bytes.len() > MAX_QUOTE_SIZE {
            let detail = "the quote is too large";
            return Err(Rejection::new(Reason::QuoteMalformed, "quote_layout", detail));
        }
        let layout = Layout::read(bytes)?;
        let pck = |detail: &str| Rejection::new(Reason::QuoteInvalid, "pck_chain", detail);
        if layout.certification.1 != PCK_CHAIN_CERTIFICATION {
            return Err(pck("the quote does not hold the chain of its PCK certificate"));
        }
        let leaf =
            read_first_certificate(layout.chain).ok_or_else(|| pck("not a chain of certificates in PEM"))?;
        let (fmspc, pce_id) = pck_platform(&leaf).map_err(|error| pck(error.0))?;
        let canonical = bytes.get(..layout.length).unwrap_or_default();
        Ok(ParsedQuote { canonical, layout, fmspc, pce_id })
    }

    /// The platform that the quote's own PCK certificate names: which collateral to use.
    pub fn fmspc(&self) -> Fmspc {
        self.fmspc
    }

    /// Verify under a root (DER), as of `now` (unix seconds).
    ///
    /// `prepared` comes from the same collateral, by `Collateral::verify` (then its signatures are not computed again)
    /// or `Collateral::prepare`. Gives every TCB status but Revoked: `Policy::judge` decides on it.
    pub fn verify(
        self,
        collateral: SignedParts,
        prepared: Prepared,
        root_ca_der: &[u8],
        now: u64,
    ) -> Result<Verified, Rejection> {
        self.precheck(&prepared, now)?;
        let Prepared { facts, signers, known, .. } = prepared;
        let collateral = collateral.into_library(signers);
        let quote = self.for_library();
        let verify = || self.verify_by_library(&quote, &collateral, root_ca_der, now);
        let report = crypto::remembering(known, verify).0?;
        let td = report
            .report
            .as_td10()
            .ok_or_else(|| Rejection::new(Reason::NotTdx, "tee_type", "not a TDX quote"))?;
        let signed = self.canonical.get(..self.layout.signed).unwrap_or_default();
        Ok(Verified {
            mrtd: td.mr_td,
            rtmr: [td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3],
            report_data: td.report_data,
            td_attributes: td_attributes(td),
            fmspc: self.fmspc,
            report_sha256: sha256(signed),
            tcb_status: report.tcb_status,
            advisory_ids: report.advisory_ids,
            collateral: facts,
        })
    }

    /// The quote with the same certificates in the form that is read with the least instructions: without the root,
    /// which is the trust anchor by itself, and with a header, after which the reader of PEM looks for none. Nothing of
    /// this is signed; if the form is another than Intel's tools write, the quote stays as it is.
    fn for_library(&self) -> Cow<'a, [u8]> {
        let chain = self.layout.chain;
        let short = short_chain(chain).and_then(|short| {
            let start = self.canonical.len().checked_sub(chain.len())?;
            let mut quote = [self.canonical.get(..start)?, &short].concat();
            for at in self.layout.lengths_of_chain() {
                let size = u32::from_le_bytes(quote.get(at..at + 4)?.try_into().ok()?);
                let size = size.checked_sub(chain.len() as u32)?.checked_add(short.len() as u32)?;
                quote.get_mut(at..at + 4)?.copy_from_slice(&size.to_le_bytes());
            }
            Some(quote)
        });
        short.map_or(Cow::Borrowed(self.canonical), Cow::Owned)
    }

    fn verify_by_library(
        &self,
        quote: &[u8],
        collateral: &QuoteCollateralV3,
        root_ca_der: &[u8],
        now: u64,
    ) -> Result<LibraryReport, Rejection> {
        let verifier = QuoteVerifier::<ContractConfig>::new_with_config(root_ca_der.to_vec());
        let rejection = |error| library_rejection(&format!("{error:#}"));
        if !self.layout.is_td15 {
            let verified = verifier.verify(quote, collateral, now).map_err(rejection)?;
            return Ok(LibraryReport {
                report: verified.report,
                tcb_status: verified.status,
                advisory_ids: verified.advisory_ids,
            });
        }
        // the level of what a TD 1.5 runs on now is in the claims only
        let claims = verifier
            .verify_with_policy(quote, collateral.clone(), now, &QuotePolicy::claims_only(now))
            .map_err(rejection)?;
        let current = claims.platform.current_tcb_level.map(|level| level.advisory_ids);
        Ok(LibraryReport {
            report: claims.report,
            tcb_status: claims.tcb.status.to_string(),
            advisory_ids: union(claims.tcb.advisory_ids, current.unwrap_or_default()),
        })
    }

    /// What we check ourselves, whatever a version of the library checks.
    fn precheck(&self, prepared: &Prepared, now: u64) -> Result<(), Rejection> {
        let refuse = |check, detail: &str| Err(Rejection::new(Reason::QuoteInvalid, check, detail));
        if self.layout.certification.0 != QE_REPORT_CERTIFICATION {
            return refuse("certification_data_type", "the outer certification data are not of type 6");
        }
        if self.layout.qe_authentication_data != QE_AUTH_DATA_SIZE {
            return refuse("qe_auth_data", "the QE authentication data are not 32 bytes");
        }
        prepared.check_time(now)?;
        if prepared.facts.fmspc != self.fmspc {
            return refuse("tcb_info_fmspc", "the TCB info is for another FMSPC");
        }
        if prepared.facts.pce_id != self.pce_id {
            return refuse("tcb_info_pceid", "the TCB info is for another PCE");
        }
        Ok(())
    }
}

/// What is taken from dcap-qvl's verdict.
struct LibraryReport {
    report: Report,
    tcb_status: String,
    /// Of the platform's level and the TDX module's (which the library has merged), of the quoting enclave's, and for a
    /// TD 1.5 of both for the module that is loaded now.
    advisory_ids: Vec<String>,
}

/// All of both, each once.
fn union(mut all: Vec<String>, more: Vec<String>) -> Vec<String> {
    for id in more {
        if !all.contains(&id) {
            all.push(id);
        }
    }
    all
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
