// SPDX-License-Identifier: MIT
//! Collateral: what Intel says about a platform, and our checks of it.
//!
//! The JSON is that of `QuoteCollateralV3` (byte fields in hex). A PCK chain found in it is dropped: the
//! quote's own chain decides.

use borsh::{BorshDeserialize, BorshSerialize};
use dcap_qvl::{QeIdentity, QuoteCollateralV3, TcbInfo};
use serde::{Deserialize, Serialize};

use crate::certificate::{read_pem_chain, write_certificate, Certificate, Crl};
use crate::{crypto, KnownSignature, Reason, Rejection};

const TCB_SIGNING_COMMON_NAME: &[u8] = b"Intel SGX TCB Signing";
/// A JSON text of collateral is about 24 KB.
const MAX_JSON_SIZE: usize = 256 * 1024;

/// FMSPC: family, model, stepping, platform and custom SKU of a processor.
pub type Fmspc = [u8; 6];

/// Collateral as it is stored.
#[derive(BorshSerialize, BorshDeserialize, Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    pub pck_crl: Vec<u8>,
    pub pck_crl_issuer_chain: String,
    pub qe_identity: String,
    pub qe_identity_issuer_chain: String,
    pub qe_identity_signature: Vec<u8>,
    pub root_ca_crl: Vec<u8>,
    pub tcb_info: String,
    pub tcb_info_issuer_chain: String,
    pub tcb_info_signature: Vec<u8>,
}

/// Collateral without the chains of those who signed it.
#[derive(BorshSerialize, BorshDeserialize, Clone, Debug, PartialEq, Eq)]
pub struct SignedParts {
    pub pck_crl: Vec<u8>,
    pub qe_identity: String,
    pub qe_identity_signature: Vec<u8>,
    pub root_ca_crl: Vec<u8>,
    pub tcb_info: String,
    pub tcb_info_signature: Vec<u8>,
}

/// The chains of those who signed it, as PEM.
#[derive(BorshSerialize, BorshDeserialize, Clone, Debug, PartialEq, Eq)]
pub struct IssuerChains {
    pub pck_crl: String,
    pub qe_identity: String,
    pub tcb_info: String,
}

impl SignedParts {
    /// For the library, which gets the signers without the root: that one is given to it as the root to trust. (The
    /// CRL of the PCK CA it verifies under the CA that the quote holds.)
    pub(crate) fn into_library(self, signers: [String; 2]) -> QuoteCollateralV3 {
        let [tcb_info_signer, qe_identity_signer] = signers;
        QuoteCollateralV3 {
            pck_crl_issuer_chain: String::new(),
            root_ca_crl: self.root_ca_crl,
            pck_crl: self.pck_crl,
            tcb_info_issuer_chain: tcb_info_signer,
            tcb_info: self.tcb_info,
            tcb_info_signature: self.tcb_info_signature,
            qe_identity_issuer_chain: qe_identity_signer,
            qe_identity: self.qe_identity,
            qe_identity_signature: self.qe_identity_signature,
            pck_certificate_chain: None,
        }
    }
}

/// The same as JSON; members in alphabetical order, which makes the text canonical.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(with = "hex")]
    pck_crl: Vec<u8>,
    pck_crl_issuer_chain: String,
    #[serde(default, skip_serializing)]
    #[allow(dead_code)] // named so that it is known, and dropped
    pck_certificate_chain: Option<serde::de::IgnoredAny>,
    qe_identity: String,
    qe_identity_issuer_chain: String,
    #[serde(with = "hex")]
    qe_identity_signature: Vec<u8>,
    #[serde(with = "hex")]
    root_ca_crl: Vec<u8>,
    tcb_info: String,
    tcb_info_issuer_chain: String,
    #[serde(with = "hex")]
    tcb_info_signature: Vec<u8>,
}

/// What collateral says about itself. Times are unix seconds.
#[derive(BorshSerialize, BorshDeserialize, Clone, Debug, PartialEq, Eq)]
pub struct CollateralFacts {
    pub fmspc: Fmspc,
    pub pce_id: [u8; 2],
    /// Of TCB info.
    pub tcb_evaluation_data_number: u32,
    pub qe_evaluation_data_number: u32,
    /// The older of TCB info and QE identity.
    pub issue_date: u64,
    /// When the first part of it expires.
    pub next_update: u64,
    /// When each part was issued: TCB info, QE identity, root CA CRL, PCK CRL.
    pub issued: [u64; 4],
}

const PARTS: [&str; 4] = ["the TCB info", "the QE identity", "the CRL of the root", "the CRL of the PCK CA"];

impl CollateralFacts {
    /// What is older here than in `stored`, if anything. Each part counts for itself: an old CRL beside newer TCB
    /// info would let a revoked certificate back in.
    pub fn behind(&self, stored: &CollateralFacts) -> Option<&'static str> {
        if self.tcb_evaluation_data_number < stored.tcb_evaluation_data_number {
            return Some("the evaluation data number of the TCB info");
        }
        if self.qe_evaluation_data_number < stored.qe_evaluation_data_number {
            return Some("the evaluation data number of the QE identity");
        }
        let parts = self.issued.iter().zip(&stored.issued).zip(PARTS);
        parts.into_iter().find(|((new, old), _)| new < old).map(|(_, part)| part)
    }
}

impl Collateral {
    /// Read the JSON; any `pck_certificate_chain` is dropped, other unknown members are an error.
    pub fn from_json(text: &str) -> Result<Self, Rejection> {
        if text.len() > MAX_JSON_SIZE {
            return Err(invalid("collateral", "the text is too large"));
        }
        let wire: Wire =
            serde_json::from_str(text).map_err(|error| invalid("collateral", &error.to_string()))?;
        Ok(Collateral {
            pck_crl: wire.pck_crl,
            pck_crl_issuer_chain: wire.pck_crl_issuer_chain,
            qe_identity: wire.qe_identity,
            qe_identity_issuer_chain: wire.qe_identity_issuer_chain,
            qe_identity_signature: wire.qe_identity_signature,
            root_ca_crl: wire.root_ca_crl,
            tcb_info: wire.tcb_info,
            tcb_info_issuer_chain: wire.tcb_info_issuer_chain,
            tcb_info_signature: wire.tcb_info_signature,
        })
    }

    /// The one JSON text of this collateral: members sorted, no spaces, lower-case hex. Its SHA-256 names it.
    pub fn to_json(&self) -> String {
        let wire = Wire {
            pck_crl: self.pck_crl.clone(),
            pck_crl_issuer_chain: self.pck_crl_issuer_chain.clone(),
            pck_certificate_chain: None,
            qe_identity: self.qe_identity.clone(),
            qe_identity_issuer_chain: self.qe_identity_issuer_chain.clone(),
            qe_identity_signature: self.qe_identity_signature.clone(),
            root_ca_crl: self.root_ca_crl.clone(),
            tcb_info: self.tcb_info.clone(),
            tcb_info_issuer_chain: self.tcb_info_issuer_chain.clone(),
            tcb_info_signature: self.tcb_info_signature.clone(),
        };
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// What a quote is judged by, and what is not needed for that once it has been checked.
    pub fn split(self) -> (SignedParts, IssuerChains) {
        let parts = SignedParts {
            pck_crl: self.pck_crl,
            qe_identity: self.qe_identity,
            qe_identity_signature: self.qe_identity_signature,
            root_ca_crl: self.root_ca_crl,
            tcb_info: self.tcb_info,
            tcb_info_signature: self.tcb_info_signature,
        };
        let chains = IssuerChains {
            pck_crl: self.pck_crl_issuer_chain,
            qe_identity: self.qe_identity_issuer_chain,
            tcb_info: self.tcb_info_issuer_chain,
        };
        (parts, chains)
    }

    pub fn join(parts: SignedParts, chains: IssuerChains) -> Self {
        Collateral {
            pck_crl: parts.pck_crl,
            pck_crl_issuer_chain: chains.pck_crl,
            qe_identity: parts.qe_identity,
            qe_identity_issuer_chain: chains.qe_identity,
            qe_identity_signature: parts.qe_identity_signature,
            root_ca_crl: parts.root_ca_crl,
            tcb_info: parts.tcb_info,
            tcb_info_issuer_chain: chains.tcb_info,
            tcb_info_signature: parts.tcb_info_signature,
        }
    }

    /// What it says about itself, whoever signed it and whenever.
    pub fn facts(&self) -> Result<CollateralFacts, Rejection> {
        Ok(self.read()?.0)
    }

    /// The facts, and when each part is issued and expires.
    fn read(&self) -> Result<(CollateralFacts, [Window; 4]), Rejection> {
        // in full, so an unknown TCB status is a fault of the collateral and not of a platform
        let tcb_info: TcbInfo =
            serde_json::from_str(&self.tcb_info).map_err(|error| invalid("tcb_info", &error.to_string()))?;
        let qe_identity: QeIdentity = serde_json::from_str(&self.qe_identity)
            .map_err(|error| invalid("qe_identity", &error.to_string()))?;
        require(tcb_info.id == "TDX" && tcb_info.version >= 3, "tcb_info", "not TDX TCB info of version 3")?;
        require(qe_identity.id == "TD_QE", "qe_identity", "not the identity of the TD quoting enclave")?;
        require(tcb_info.tcb_type == 0, "tcb_info_type", "tcbType is not 0")?;
        let windows = [
            json_window("tcb_info_time", &tcb_info.issue_date, &tcb_info.next_update)?,
            json_window("qe_identity_time", &qe_identity.issue_date, &qe_identity.next_update)?,
            crl_window(&self.root_ca_crl)?,
            crl_window(&self.pck_crl)?,
        ];
        let facts = CollateralFacts {
            fmspc: from_hex("tcb_info_fmspc", &tcb_info.fmspc)?,
            pce_id: from_hex("tcb_info_pceid", &tcb_info.pce_id)?,
            tcb_evaluation_data_number: tcb_info.tcb_evaluation_data_number,
            qe_evaluation_data_number: qe_identity.tcb_evaluation_data_number,
            issue_date: windows[0].0.min(windows[1].0),
            next_update: windows.iter().map(|window| window.1).min().unwrap_or_default(),
            issued: windows.map(|window| window.0),
        };
        Ok((facts, windows))
    }

    /// All that neither costs a signature nor depends on the time: what it says, who may sign it. No signature in it is
    /// known to verify.
    pub fn prepare(&self, root_ca_der: &[u8]) -> Result<Prepared, Rejection> {
        let signers = [
            check_signing_chain(&self.tcb_info_issuer_chain, root_ca_der)?,
            check_signing_chain(&self.qe_identity_issuer_chain, root_ca_der)?,
        ];
        let (facts, windows) = self.read()?;
        Ok(Prepared { facts, windows, signers, known: Vec::new() })
    }

    /// `prepare`, its dates, and every signature from these bytes up to the root.
    ///
    /// Whether a signer has been revoked or its chain is otherwise unfit is dcap-qvl's to say, with each quote.
    pub fn verify(&self, root_ca_der: &[u8], now: u64) -> Result<Prepared, Rejection> {
        let (prepared, known) = crypto::remembering(Vec::new(), || self.verify_all(root_ca_der, now));
        Ok(Prepared { known, ..prepared? })
    }

    fn verify_all(&self, root_ca_der: &[u8], now: u64) -> Result<Prepared, Rejection> {
        let prepared = self.prepare(root_ca_der)?;
        prepared.check_time(now)?;
        let root = certificate(root_ca_der)?;
        for (check, chain, text, signature) in [
            ("tcb_info_signature", &self.tcb_info_issuer_chain, &self.tcb_info, &self.tcb_info_signature),
            (
                "qe_identity_signature",
                &self.qe_identity_issuer_chain,
                &self.qe_identity,
                &self.qe_identity_signature,
            ),
        ] {
            let ders = read_chain(chain)?;
            let signer = certificate(&ders[0])?;
            require(signer.is_issued_by(&root), "tcb_signing_certificate", "not signed by the root")?;
            require(signer.is_valid_at(now), "certificate_time", "the signing certificate is not valid now")?;
            let signature = signature.as_slice().try_into().map_err(|_| invalid(check, "not 64 bytes"))?;
            let verifies = crypto::verify(signer.public_key, text.as_bytes(), signature);
            require(verifies, check, "the signature does not verify")?;
        }
        let ders = read_chain(&self.pck_crl_issuer_chain)?;
        let pck_ca = certificate(&ders[0])?;
        require(
            pck_ca.is_issued_by(&root),
            "crl_signature",
            "the PCK CRL's issuer is not signed by the root",
        )?;
        for (der, issuer) in [(&self.root_ca_crl, &root), (&self.pck_crl, &pck_ca)] {
            let crl = Crl::parse(der).map_err(|error| invalid("crl", error.0))?;
            require(crl.is_issued_by(issuer), "crl_signature", "the signature of a CRL does not verify")?;
        }
        Ok(prepared)
    }
}

/// What holds for collateral whatever the quote and the time, so that it is found out once.
#[derive(BorshSerialize, BorshDeserialize, Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub facts: CollateralFacts,
    /// When each part is issued and expires, in the order of `CollateralFacts::issued`.
    windows: [Window; 4],
    /// The certificates that signed TCB info and QE identity, as PEM.
    pub(crate) signers: [String; 2],
    /// The signatures that verified when the collateral was stored.
    pub(crate) known: Vec<KnownSignature>,
}

/// From, and until: that of a CRL ends just before `until`, that of JSON with it.
type Window = (u64, u64);

/// The checks that say it, and whether the last second counts.
const WINDOWS: [(&str, bool); 4] =
    [("tcb_info_time", true), ("qe_identity_time", true), ("crl_time", false), ("crl_time", false)];

impl Prepared {
    /// The signatures that are known to verify.
    pub fn known(&self) -> &[KnownSignature] {
        &self.known
    }

    /// With these signatures known to verify.
    pub fn knowing(self, known: Vec<KnownSignature>) -> Self {
        Prepared { known, ..self }
    }

    /// Whether every part is current.
    pub fn check_time(&self, now: u64) -> Result<(), Rejection> {
        for ((from, until), (check, last_included)) in self.windows.iter().zip(WINDOWS) {
            require(*from <= now, check, "dated in the future")?;
            not_expired(if last_included { now <= *until } else { now < *until }, check)?;
        }
        Ok(())
    }
}

fn json_window(check: &'static str, from: &str, until: &str) -> Result<Window, Rejection> {
    Ok((unix_seconds(check, from)?, unix_seconds(check, until)?))
}

fn crl_window(der: &[u8]) -> Result<Window, Rejection> {
    let crl = Crl::parse(der).map_err(|error| invalid("crl", error.0))?;
    let until = crl.next_update.ok_or_else(|| invalid("crl_time", "a CRL without nextUpdate"))?;
    Ok((crl.this_update, until))
}

/// The chain is Intel's TCB signing certificate and the root, nothing else. Gives the former, as PEM.
fn check_signing_chain(chain: &str, root_ca_der: &[u8]) -> Result<String, Rejection> {
    const CHECK: &str = "tcb_signing_certificate";
    let ders = read_chain(chain)?;
    require(ders.len() == 2, CHECK, "the chain is not signer and root")?;
    require(ders[1] == root_ca_der, CHECK, "the chain ends in another root than the trusted one")?;
    let signer = certificate(&ders[0])?;
    require(
        signer.common_name() == Some(TCB_SIGNING_COMMON_NAME),
        CHECK,
        "the signer is not Intel's TCB signing certificate",
    )?;
    require(
        signer.issuer == certificate(root_ca_der)?.subject,
        CHECK,
        "the signer's issuer is not the root",
    )?;
    Ok(write_certificate(&ders[0]))
}

/// At least one certificate.
fn read_chain(chain: &str) -> Result<Vec<Vec<u8>>, Rejection> {
    read_pem_chain(chain)
        .filter(|ders| !ders.is_empty())
        .ok_or_else(|| invalid("certificate_chain", "not a chain of certificates in PEM"))
}

fn certificate(der: &[u8]) -> Result<Certificate<'_>, Rejection> {
    Certificate::parse(der).map_err(|error| invalid("certificate_chain", error.0))
}

fn unix_seconds(check: &'static str, text: &str) -> Result<u64, Rejection> {
    chrono::DateTime::parse_from_rfc3339(text)
        .ok()
        .and_then(|moment| u64::try_from(moment.timestamp()).ok())
        .ok_or_else(|| invalid(check, "not a date"))
}

fn from_hex<const N: usize>(check: &'static str, text: &str) -> Result<[u8; N], Rejection> {
    let mut bytes = [0u8; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid(check, "not hex of the right length"))?;
    Ok(bytes)
}

fn invalid(check: &'static str, detail: &str) -> Rejection {
    Rejection::new(Reason::CollateralInvalid, check, detail)
}

fn require(condition: bool, check: &'static str, detail: &str) -> Result<(), Rejection> {
    if condition {
        Ok(())
    } else {
        Err(invalid(check, detail))
    }
}

fn not_expired(condition: bool, check: &'static str) -> Result<(), Rejection> {
    if condition {
        Ok(())
    } else {
        Err(Rejection::new(Reason::CollateralExpired, check, "nextUpdate has passed"))
    }
}
