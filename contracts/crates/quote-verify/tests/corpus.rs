// SPDX-License-Identifier: MIT
//! The shared test vectors: 101 generated cases under a root of their own, and real quotes of Intel platforms.
//!
//! The folder is `OUTLAYER_VECTORS`, or `shared/vectors` beside the repository; without it the tests are skipped.

use std::fs;
use std::path::{Path, PathBuf};

use quote_verify::{
    Collateral, ParsedQuote, Policy, Prepared, Reason, Rejection, Verified, INTEL_ROOT_CA_DER,
};
use serde_json::Value;

const DAY: u64 = 86_400;

fn vectors() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/vectors");
    let folder = std::env::var_os("OUTLAYER_VECTORS").map_or(default, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no test vectors at {} (set OUTLAYER_VECTORS)", folder.display());
    None
}

/// Any TCB status and advisory: what the corpus calls "accept". Attributes and collateral age are our rules.
fn lenient() -> Policy {
    let statuses = [
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
    ];
    Policy {
        tcb_statuses: statuses.map(str::to_string).to_vec(),
        informational_advisories: vec!["INTEL-".to_string()],
        max_collateral_age_seconds: Some(7 * DAY),
        ..Policy::default()
    }
}

fn verify(quote: &[u8], collateral: &str, root: &[u8], now: u64) -> Result<Verified, Rejection> {
    let (parsed, collateral) = (ParsedQuote::parse(quote)?, Collateral::from_json(collateral)?);
    let prepared = collateral.prepare(root)?;
    parsed.verify(collateral.split().0, prepared, root, now)
}

fn unix(text: &str) -> u64 {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp().try_into().unwrap()
}

#[test]
fn every_synthetic_case_gets_our_verdict() {
    let Some(folder) = vectors() else { return };
    let root = fs::read(folder.join("synthetic/root_ca.der")).unwrap();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(folder.join("synthetic")).unwrap() {
        let case = entry.unwrap().path();
        let Ok(expected) = fs::read_to_string(case.join("expected.json")) else { continue };
        cases += 1;
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let now = expected["now"].as_u64().unwrap();
        let quote = fs::read(case.join("quote.bin")).unwrap();
        let collateral = fs::read_to_string(case.join("collateral.json")).unwrap();
        let verdict = verify(&quote, &collateral, &root, now);
        let judged = verdict.clone().and_then(|verified| lenient().judge(&verified, now));
        let accept = expected["ours"]["verdict"] == "accept";
        let check = expected["ours"]["check"].as_str();
        let right = match (&judged, check) {
            (Ok(()), _) => accept,
            (Err(rejection), Some(check)) => !accept && rejection.check == check,
            (Err(_), None) => !accept,
        };
        let want = expected["want"].as_str().unwrap();
        let status_right =
            !accept || want == "accept" || want == "reject" || verdict.is_ok_and(|v| v.tcb_status == want);
        if !(right && status_right) {
            wrong.push(format!("{}: expected {}, got {judged:?}", case.display(), expected["ours"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cases, 101);
}

#[test]
fn signatures_that_are_known_change_no_verdict() {
    let Some(folder) = vectors() else { return };
    let root = fs::read(folder.join("synthetic/root_ca.der")).unwrap();
    let read = |case: &Path| {
        let quote = fs::read(case.join("quote.bin")).unwrap();
        (quote, Collateral::from_json(&fs::read_to_string(case.join("collateral.json")).unwrap()))
    };
    let now = 1_893_456_000;
    let (_, good) = read(&folder.join("synthetic/ok_v4_td10"));
    let of_the_good = good.unwrap().verify(&root, now).unwrap();
    let mut cases = 0;
    for entry in fs::read_dir(folder.join("synthetic")).unwrap() {
        let case = entry.unwrap().path();
        if !case.join("expected.json").is_file() {
            continue;
        }
        let (quote, Ok(collateral)) = read(&case) else { continue };
        let Ok(none) = collateral.prepare(&root) else { continue };
        let own = collateral.verify(&root, now).unwrap_or_else(|_| none.clone());
        let verdict = |prepared: &Prepared| {
            ParsedQuote::parse(&quote)?.verify(collateral.clone().split().0, prepared.clone(), &root, now)
        };
        let plain = verdict(&none);
        assert_eq!(verdict(&own), plain, "{}", case.display());
        // also what another, genuine collateral left behind vouches for nothing else
        assert_eq!(verdict(&none.clone().knowing(of_the_good.known().to_vec())), plain, "{}", case.display());
        cases += 1;
    }
    assert!(cases > 80, "{cases}");
}

#[test]
fn r12_only_up_to_date_without_advisories_is_admitted() {
    let Some(folder) = vectors() else { return };
    let root = fs::read(folder.join("synthetic/root_ca.der")).unwrap();
    let judge = |case: &str| {
        let case = folder.join("synthetic").join(case);
        let quote = fs::read(case.join("quote.bin")).unwrap();
        let collateral = fs::read_to_string(case.join("collateral.json")).unwrap();
        let now = 1_893_456_000;
        let verified = verify(&quote, &collateral, &root, now).unwrap();
        Policy::default().judge(&verified, now).map_err(|rejection| rejection.reason)
    };
    assert_eq!(judge("ok_v4_td10"), Ok(()));
    assert_eq!(judge("tcb_status_OutOfDate"), Err(Reason::TcbStatus));
    assert_eq!(judge("tcb_status_SWHardeningNeeded"), Err(Reason::TcbStatus));
    assert_eq!(judge("tcb_relaunch_advised"), Err(Reason::TcbStatus));
    assert_eq!(judge("tcb_status_UpToDate_sa_advisory"), Err(Reason::Advisories));
    assert_eq!(judge("tcb_status_UpToDate_doc_advisory"), Err(Reason::Advisories));
}

fn real() -> Option<(Vec<u8>, String)> {
    let folder = vectors()?.join("dcap-qvl");
    let quote = fs::read(folder.join("tdx_quote")).unwrap();
    Some((quote, fs::read_to_string(folder.join("tdx_quote_collateral.json")).unwrap()))
}

#[test]
fn a_real_quote_verifies_inside_its_window_only() {
    let Some((quote, collateral)) = real() else { return };
    let at = |now: &str| verify(&quote, &collateral, INTEL_ROOT_CA_DER, unix(now));
    let verified = at("2025-07-01T00:00:00Z").unwrap();
    assert_eq!((verified.tcb_status.as_str(), verified.advisory_ids.len()), ("UpToDate", 0));
    assert_eq!(Policy::default().judge(&verified, unix("2025-07-01T00:00:00Z")), Ok(()));
    assert!(at("2025-06-19T10:32:27Z").is_ok());
    assert_eq!(at("2025-06-19T10:32:26Z").unwrap_err().reason, Reason::CollateralInvalid);
    assert_eq!(at("2025-07-19T10:30:00Z").unwrap_err().reason, Reason::CollateralExpired);
}

#[test]
fn each_changed_byte_of_the_signed_part_is_refused() {
    let Some((quote, collateral)) = real() else { return };
    let now = unix("2025-07-01T00:00:00Z");
    for index in (0..636).step_by(7) {
        let mut other = quote.clone();
        other[index] ^= 0x10;
        assert!(verify(&other, &collateral, INTEL_ROOT_CA_DER, now).is_err(), "byte {index}");
    }
}

#[test]
fn another_root_accepts_nothing_of_intel() {
    let Some((quote, collateral)) = real() else { return };
    let root = fs::read(vectors().unwrap().join("synthetic/root_ca.der")).unwrap();
    let now = unix("2025-07-01T00:00:00Z");
    assert_eq!(verify(&quote, &collateral, &root, now).unwrap_err().check, "tcb_signing_certificate");
}

#[test]
fn stored_collateral_is_verified_to_the_root() {
    let Some((_, text)) = real() else { return };
    let now = unix("2025-07-01T00:00:00Z");
    let collateral = Collateral::from_json(&text).unwrap();
    let prepared = collateral.verify(INTEL_ROOT_CA_DER, now).unwrap();
    assert_eq!(prepared.known().len(), 6);
    let facts = prepared.facts;
    assert_eq!(facts.issue_date, unix("2025-06-19T10:16:03Z"));
    assert_eq!(facts.next_update, unix("2025-07-19T10:00:35Z"));
    type Change = fn(&mut Collateral);
    let changes: [(&str, Change); 7] = [
        ("tcb_info_signature", |c| c.tcb_info.push(' ')),
        ("qe_identity_signature", |c| c.qe_identity.push(' ')),
        ("tcb_info_signature", |c| c.tcb_info_signature[10] ^= 1),
        ("qe_identity_signature", |c| c.qe_identity_signature[10] ^= 1),
        ("crl_signature", |c| *c.root_ca_crl.last_mut().unwrap() ^= 1),
        ("crl_signature", |c| *c.pck_crl.last_mut().unwrap() ^= 1),
        ("crl_signature", |c| c.pck_crl = c.root_ca_crl.clone()),
    ];
    for (check, change) in changes {
        let mut other = collateral.clone();
        change(&mut other);
        assert_eq!(other.verify(INTEL_ROOT_CA_DER, now).unwrap_err().check, check);
    }
}

#[test]
fn the_json_of_collateral_is_canonical_and_carries_no_pck_chain() {
    let Some((_, text)) = real() else { return };
    let collateral = Collateral::from_json(&text).unwrap();
    let canonical = collateral.to_json();
    assert_eq!(Collateral::from_json(&canonical).unwrap(), collateral);
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["pck_certificate_chain"] = Value::String("anything".to_string());
    assert_eq!(Collateral::from_json(&value.to_string()).unwrap().to_json(), canonical);
    value["other"] = Value::Null;
    assert!(Collateral::from_json(&value.to_string()).is_err());
}

#[test]
fn real_quotes_that_must_not_pass_do_not() {
    let Some(folder) = vectors() else { return };
    let collateral = fs::read_to_string(folder.join("dcap-qvl/tdx_quote_outdated_collateral.json")).unwrap();
    let now = unix("2026-03-05T00:00:00Z");
    for name in
        ["automata/quotev5.dat", "trustee/tdx_quote_4.dat", "trustee/tdx_quote_5.dat", "dcap-qvl/sgx_quote"]
    {
        let quote = fs::read(folder.join(name)).unwrap();
        assert!(verify(&quote, &collateral, INTEL_ROOT_CA_DER, now).is_err(), "{name}");
    }
}
