// SPDX-License-Identifier: MIT
//! What the pre-check reads from certificates and CRLs (RFC 5280): who signed, whose key, which times.
//!
//! Path building, constraints, revocation and the SGX extension are dcap-qvl's part.

use chrono::NaiveDate;

use crate::crypto;
use crate::der::{
    bit_string, ecdsa_signature, single, DerError, Element, Reader, BIT_STRING, GENERALIZED_TIME, INTEGER,
    SEQUENCE, UTC_TIME,
};

const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const EXPLICIT_VERSION: u8 = 0xa0;
/// id-at-commonName, 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// ecdsa-with-SHA256, 1.2.840.10045.4.3.2
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// id-ecPublicKey and prime256v1, as the content of AlgorithmIdentifier
const EC_P256: &[u8] = &[
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];

/// `SEQUENCE { tbs, signatureAlgorithm, signature }`: a certificate or a CRL.
struct Signed<'a> {
    tbs: Element<'a>,
    signature: [u8; 64],
}

impl<'a> Signed<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let mut reader = Reader::new(single(der, SEQUENCE)?.content);
        let tbs = reader.expect(SEQUENCE)?;
        let algorithm = single(reader.expect(SEQUENCE)?.content, OBJECT_IDENTIFIER)?;
        if algorithm.content != ECDSA_WITH_SHA256 {
            return Err(DerError("signed by another algorithm than ECDSA with SHA-256"));
        }
        let signature = ecdsa_signature(bit_string(reader.expect(BIT_STRING)?)?)?;
        reader.end()?;
        Ok(Signed { tbs, signature })
    }

    fn is_signed_by(&self, public_key: &[u8]) -> bool {
        crypto::verify(public_key, self.tbs.raw, &self.signature)
    }
}

/// A certificate with an EC P-256 key.
pub struct Certificate<'a> {
    signed: Signed<'a>,
    pub subject: &'a [u8],
    pub issuer: &'a [u8],
    /// SEC1 uncompressed, 65 bytes.
    pub public_key: &'a [u8],
    pub not_before: u64,
    pub not_after: u64,
}

impl<'a> Certificate<'a> {
    pub fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let signed = Signed::parse(der)?;
        let mut tbs = Reader::new(signed.tbs.content);
        tbs.expect(EXPLICIT_VERSION)?;
        tbs.expect(INTEGER)?;
        tbs.expect(SEQUENCE)?;
        let issuer = tbs.expect(SEQUENCE)?.raw;
        let mut validity = Reader::new(tbs.expect(SEQUENCE)?.content);
        let not_before = time(validity.any()?)?;
        let not_after = time(validity.any()?)?;
        validity.end()?;
        let subject = tbs.expect(SEQUENCE)?.raw;
        let mut key = Reader::new(tbs.expect(SEQUENCE)?.content);
        if key.expect(SEQUENCE)?.content != EC_P256 {
            return Err(DerError("another kind of key than EC P-256"));
        }
        let public_key = bit_string(key.expect(BIT_STRING)?)?;
        key.end()?;
        Ok(Certificate { signed, subject, issuer, public_key, not_before, not_after })
    }

    pub fn is_issued_by(&self, issuer: &Certificate) -> bool {
        self.issuer == issuer.subject && self.signed.is_signed_by(issuer.public_key)
    }

    pub fn is_valid_at(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The common name of the subject, when it has exactly one.
    pub fn common_name(&self) -> Option<&'a [u8]> {
        let mut found = None;
        let mut names = Reader::new(single(self.subject, SEQUENCE).ok()?.content);
        while names.peek_tag().is_some() {
            let mut attributes = Reader::new(names.expect(SET).ok()?.content);
            while attributes.peek_tag().is_some() {
                let mut attribute = Reader::new(attributes.expect(SEQUENCE).ok()?.content);
                let kind = attribute.expect(OBJECT_IDENTIFIER).ok()?;
                let value = attribute.any().ok()?;
                attribute.end().ok()?;
                if kind.content == COMMON_NAME && found.replace(value.content).is_some() {
                    return None;
                }
            }
        }
        found
    }
}

/// A certificate revocation list: its issuer and times. The entries are for dcap-qvl to read.
pub struct Crl<'a> {
    signed: Signed<'a>,
    pub issuer: &'a [u8],
    pub this_update: u64,
    pub next_update: Option<u64>,
}

impl<'a> Crl<'a> {
    pub fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let signed = Signed::parse(der)?;
        let mut tbs = Reader::new(signed.tbs.content);
        if tbs.peek_tag() == Some(INTEGER) {
            tbs.any()?;
        }
        tbs.expect(SEQUENCE)?;
        let issuer = tbs.expect(SEQUENCE)?.raw;
        let this_update = time(tbs.any()?)?;
        let next_update = match tbs.peek_tag() {
            Some(UTC_TIME | GENERALIZED_TIME) => Some(time(tbs.any()?)?),
            _ => None,
        };
        Ok(Crl { signed, issuer, this_update, next_update })
    }

    pub fn is_issued_by(&self, issuer: &Certificate) -> bool {
        self.issuer == issuer.subject && self.signed.is_signed_by(issuer.public_key)
    }
}

/// UTCTime or GeneralizedTime in the one form RFC 5280 allows (`…SSZ`), as unix seconds.
fn time(element: Element<'_>) -> Result<u64, DerError> {
    const WRONG: DerError = DerError("not a time");
    let digits = element.content.strip_suffix(b"Z").ok_or(WRONG)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let number =
        |digits: &[u8]| digits.iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    let (year, rest) = match (element.tag, digits.len()) {
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        _ => return Err(WRONG),
    };
    let part = |index: usize| number(&rest[2 * index..2 * index + 2]);
    NaiveDate::from_ymd_opt(i32::try_from(year).map_err(|_| WRONG)?, part(0), part(1))
        .and_then(|date| date.and_hms_opt(part(2), part(3), part(4)))
        .and_then(|moment| u64::try_from(moment.and_utc().timestamp()).ok())
        .ok_or(WRONG)
}

/// The certificates of a PEM text, leaf first.
pub fn read_pem_chain(text: &str) -> Option<Vec<Vec<u8>>> {
    let blocks = pem::parse_many(text.as_bytes()).ok()?;
    blocks.iter().all(|block| block.tag() == "CERTIFICATE").then_some(())?;
    Some(blocks.into_iter().map(pem::Pem::into_contents).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::INTEL_ROOT_CA_DER;

    fn at(tag: u8, text: &str) -> Result<u64, DerError> {
        time(Element { tag, content: text.as_bytes(), raw: &[] })
    }

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(at(UTC_TIME, "180521104510Z"), Ok(1_526_899_510));
        assert_eq!(at(GENERALIZED_TIME, "20491231235959Z"), Ok(2_524_607_999));
        assert_eq!(at(UTC_TIME, "991231235959Z"), Ok(946_684_799));
    }

    #[test]
    fn other_forms_of_time_are_refused() {
        for text in ["1805211045Z", "180521104510", "180521104510+0000", "181321104510Z", "180521106010Z", ""]
        {
            assert!(at(UTC_TIME, text).is_err(), "{text}");
        }
        assert!(at(GENERALIZED_TIME, "180521104510Z").is_err());
        assert!(at(SEQUENCE, "180521104510Z").is_err());
    }

    #[test]
    fn intels_root_is_its_own_issuer() {
        let root = Certificate::parse(INTEL_ROOT_CA_DER).unwrap();
        assert!(root.is_issued_by(&root));
        assert_eq!(root.common_name(), Some(&b"Intel SGX Root CA"[..]));
        assert_eq!((root.not_before, root.not_after), (1_526_899_510, 2_524_607_999));
        assert!(root.is_valid_at(1_526_899_510) && !root.is_valid_at(1_526_899_509));
    }

    #[test]
    fn one_changed_byte_breaks_the_signature_or_the_form() {
        for index in 0..INTEL_ROOT_CA_DER.len() {
            let mut other = INTEL_ROOT_CA_DER.to_vec();
            other[index] ^= 1;
            let holds = Certificate::parse(&other).is_ok_and(|root| root.is_issued_by(&root));
            assert!(!holds, "byte {index}");
        }
    }

    #[test]
    fn a_truncated_certificate_is_refused() {
        for length in 0..INTEL_ROOT_CA_DER.len() {
            assert!(Certificate::parse(&INTEL_ROOT_CA_DER[..length]).is_err());
        }
    }
}
