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
const EXPLICIT_EXTENSIONS: u8 = 0xa3;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
/// 1.2.840.113741.1.13.1, and of its values .4 and .3
const SGX_EXTENSION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
const FMSPC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x04];
const PCE_ID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x03];
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

/// The first certificate of a PEM text that begins with it, in the form that Intel's tools write: lines of base64 in
/// groups of four, none of them empty. (Whatever is read here dcap-qvl reads as the same certificate; it verifies the chain.)
pub fn read_first_certificate(text: &[u8]) -> Option<Vec<u8>> {
    let mut rest = text.strip_prefix(b"-----BEGIN CERTIFICATE-----")?;
    let mut der = vec![0u8; rest.len()];
    let mut target = &mut der[..];
    let mut padding = 0;
    loop {
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n"))?;
        if rest.starts_with(b"-----END CERTIFICATE-----") {
            let left = target.len();
            der.truncate(der.len().checked_sub(left)?.checked_sub(padding)?);
            return Some(der);
        }
        let mut empty = true;
        while let Some((&[first, second, third, fourth], more)) = rest.split_first_chunk::<4>() {
            if first == b'\r' || first == b'\n' {
                break;
            }
            let first = u32::from(BASE64[usize::from(first)]);
            let second = u32::from(BASE64[usize::from(second)]);
            let third = u32::from(BASE64[usize::from(third)]);
            let fourth = u32::from(BASE64[usize::from(fourth)]);
            let all = first | second | third | fourth;
            if all & NO_DIGIT != 0 || padding > 0 {
                return None;
            }
            if all & PADDING != 0 {
                padding = 1 + usize::from(third & PADDING != 0);
            }
            let word = (first & 0x3f) << 18 | (second & 0x3f) << 12 | (third & 0x3f) << 6 | fourth & 0x3f;
            let (three, others) = std::mem::take(&mut target).split_first_chunk_mut::<3>()?;
            *three = [(word >> 16) as u8, (word >> 8) as u8, word as u8];
            (rest, target, empty) = (more, others, false);
        }
        if empty {
            return None;
        }
    }
}

const NO_DIGIT: u32 = 0x80;
/// Of `=`, whose other bits are those of zero.
const PADDING: u32 = 0x40;
const BASE64: [u8; 256] = {
    let mut values = [NO_DIGIT as u8; 256];
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut index = 0;
    while index < digits.len() {
        values[digits[index] as usize] = index as u8;
        index += 1;
    }
    values[b'=' as usize] = PADDING as u8;
    values
};

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----\n";
const END: &[u8] = b"-----END CERTIFICATE-----\n";
const HEADER: &[u8] = b"Of: PCK\n\n";

/// A chain of three, the root last, without the root and with a header in each certificate.
pub fn short_chain(text: &[u8]) -> Option<Vec<u8>> {
    let mut short = Vec::with_capacity(text.len());
    let mut rest = text;
    for _ in 0..2 {
        let body = rest.strip_prefix(BEGIN)?;
        let length = body.iter().position(|&byte| byte == b'-')?;
        let (data, after) = body.split_at(length);
        rest = after.strip_prefix(END)?;
        for part in [BEGIN, HEADER, data, END] {
            short.extend_from_slice(part);
        }
    }
    rest.starts_with(BEGIN).then_some(short)
}

/// A certificate as PEM in the same form.
pub fn write_certificate(der: &[u8]) -> String {
    let mut certificate = pem::Pem::new("CERTIFICATE", der);
    // a header without a colon or twice the same is an error, which these are not
    let _ = certificate.headers_mut().add("Of", "signer");
    pem::encode_config(&certificate, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

/// FMSPC and PCE-ID of a PCK certificate, from Intel's SGX extension.
pub fn pck_platform(der: &[u8]) -> Result<([u8; 6], [u8; 2]), DerError> {
    let mut reader = Reader::new(single(der, SEQUENCE)?.content);
    let mut tbs = Reader::new(reader.expect(SEQUENCE)?.content);
    let extensions = loop {
        let element = tbs.any()?;
        if element.tag == EXPLICIT_EXTENSIONS {
            break single(element.content, SEQUENCE)?;
        }
    };
    let values = single(extension(extensions.content, SGX_EXTENSION)?.content, SEQUENCE)?;
    let wrong = |_| DerError("an FMSPC or PCE-ID of another length");
    Ok((
        extension(values.content, FMSPC)?.content.try_into().map_err(wrong)?,
        extension(values.content, PCE_ID)?.content.try_into().map_err(wrong)?,
    ))
}

/// The OCTET STRING that ends the first of these sequences that begins with the identifier.
fn extension<'a>(sequences: &'a [u8], identifier: &[u8]) -> Result<Element<'a>, DerError> {
    let mut reader = Reader::new(sequences);
    while reader.peek_tag().is_some() {
        let mut entry = Reader::new(reader.expect(SEQUENCE)?.content);
        if entry.expect(OBJECT_IDENTIFIER)?.content != identifier {
            continue;
        }
        if entry.peek_tag() == Some(BOOLEAN) {
            entry.any()?;
        }
        let value = entry.expect(OCTET_STRING)?;
        entry.end()?;
        return Ok(value);
    }
    Err(DerError("not a PCK certificate: a value of the SGX extension is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::INTEL_ROOT_CA_DER;

    fn chain(ends: &str) -> String {
        let pem = |der: &[u8]| {
            let config = pem::EncodeConfig::new().set_line_ending(match ends {
                "\r\n" => pem::LineEnding::CRLF,
                _ => pem::LineEnding::LF,
            });
            pem::encode_config(&pem::Pem::new("CERTIFICATE", der), config)
        };
        [&INTEL_ROOT_CA_DER[..200], &INTEL_ROOT_CA_DER[..301], INTEL_ROOT_CA_DER].map(pem).concat()
    }

    #[test]
    fn the_first_certificate_is_read_as_another_reader_reads_it() {
        for ends in ["\n", "\r\n"] {
            let text = chain(ends);
            let first = read_first_certificate(text.as_bytes());
            assert_eq!(first, read_pem_chain(&text).map(|all| all[0].clone()));
            for index in 0..text.len() {
                for byte in [b'\n', b' ', b'-', b':', b'A', 0, 0xff] {
                    let mut other = text.clone().into_bytes();
                    other[index] = byte;
                    let Some(first) = read_first_certificate(&other) else { continue };
                    let again = std::str::from_utf8(&other).ok().and_then(read_pem_chain);
                    // what the other reader does not read it refuses, and the quote with it
                    assert!(again.is_none_or(|all| all[0] == first), "{index} {byte}");
                }
            }
        }
    }

    #[test]
    fn a_short_chain_holds_the_same_certificates_without_the_root() {
        let text = chain("\n");
        let all = read_pem_chain(&text).unwrap();
        let short = String::from_utf8(short_chain(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(read_pem_chain(&short).unwrap(), all[..2]);
        assert_eq!(read_pem_chain(&write_certificate(&all[1])).unwrap(), all[1..2]);
        assert_eq!(short_chain(chain("\r\n").as_bytes()), None);
        for cut in 0..text.len() {
            let Some(short) = short_chain(&text.as_bytes()[..cut]) else { continue };
            assert_eq!(read_pem_chain(std::str::from_utf8(&short).unwrap()).unwrap(), all[..2], "{cut}");
        }
    }

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
