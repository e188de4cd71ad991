// SPDX-License-Identifier: MIT
//! Where the parts of a TDX quote are (Intel TDX DCAP quote format, versions 4 and 5). Only lengths and types are read; the
//! rest is for dcap-qvl, which gets the same bytes.

use crate::{Reason, Rejection};

const HEADER_SIZE: usize = 48;
const TEE_TYPE_SGX: u32 = 0;
const TEE_TYPE_TDX: u32 = 0x81;
const QE_REPORT_SIZE: usize = 384;
const SIGNATURE_SIZE: usize = 64;
const KEY_SIZE: usize = 64;

/// The parts that are checked here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout<'a> {
    /// Header, body descriptor (version 5) and TD report: what the quote's signature covers.
    pub signed: usize,
    /// Of all that is used; only zeros follow.
    pub length: usize,
    /// A TD report of version 1.5.
    pub is_td15: bool,
    /// What kind the certification data around the quoting enclave's report are, and those in it.
    pub certification: (u16, u16),
    pub qe_authentication_data: usize,
    /// The inner certification data: the chain of the PCK certificate. They come last.
    pub chain: &'a [u8],
}

impl<'a> Layout<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let mut reader = Reader { bytes, at: 0 };
        let version = reader.u16()?;
        reader.skip(2)?;
        let tee_type = reader.u32()?;
        reader.skip(HEADER_SIZE - 8)?;
        let (report, is_td15) = match (version, tee_type) {
            (3 | 4, TEE_TYPE_SGX) => return Err(not_tdx()),
            (4, TEE_TYPE_TDX) => (584, false),
            (5, _) => {
                let (kind, size) = (reader.u16()?, reader.u32()?);
                let report = match kind {
                    1 => return Err(not_tdx()),
                    2 => (584, false),
                    3 => (648, true),
                    4 => (885, true),
                    _ => return Err(malformed("an unknown kind of body")),
                };
                if size as usize != report.0 {
                    return Err(malformed("the body has another size than its kind"));
                }
                report
            }
            _ => return Err(malformed("an unknown version or TEE type")),
        };
        reader.skip(report)?;
        let signed = reader.at;
        let size = reader.u32()? as usize;
        let length = reader.at.checked_add(size).filter(|length| *length <= bytes.len());
        let length = length.ok_or_else(|| malformed("cut off"))?;
        let mut auth = Reader { bytes: bytes.get(..length).unwrap_or_default(), at: reader.at };
        auth.skip(SIGNATURE_SIZE + KEY_SIZE)?;
        let outer = auth.u16()?;
        let outer_size = auth.u32()? as usize;
        if outer_size != length - auth.at {
            return Err(malformed("the authentication data do not fill their declared size"));
        }
        auth.skip(QE_REPORT_SIZE + SIGNATURE_SIZE)?;
        let qe_authentication_data = usize::from(auth.u16()?);
        auth.skip(qe_authentication_data)?;
        let inner = auth.u16()?;
        let inner_size = auth.u32()? as usize;
        let chain = auth.bytes.get(auth.at..).unwrap_or_default();
        if inner_size != chain.len() {
            return Err(malformed("the certification data do not fill their declared size"));
        }
        if bytes.get(length..).unwrap_or_default().iter().any(|&byte| byte != 0) {
            let detail = "bytes other than zero follow the quote";
            return Err(Rejection::new(Reason::QuoteMalformed, "quote_canonical", detail));
        }
        Ok(Layout { signed, length, is_td15, certification: (outer, inner), qe_authentication_data, chain })
    }

    /// Where the three lengths are that count the chain: of the authentication data, and of the certification data
    /// around and in the quoting enclave's report.
    pub fn lengths_of_chain(&self) -> [usize; 3] {
        let outer = self.signed + 4 + SIGNATURE_SIZE + KEY_SIZE + 2;
        [self.signed, outer, self.length - self.chain.len() - 4]
    }
}

fn malformed(detail: &str) -> Rejection {
    Rejection::new(Reason::QuoteMalformed, "quote_layout", detail)
}

fn not_tdx() -> Rejection {
    Rejection::new(Reason::NotTdx, "tee_type", "not a TDX quote")
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Rejection> {
        let start = self.at;
        self.skip(N)?;
        let taken = self.bytes.get(start..self.at).and_then(|bytes| bytes.try_into().ok());
        taken.ok_or_else(|| malformed("cut off"))
    }

    fn u16(&mut self) -> Result<u16, Rejection> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Rejection> {
        self.take().map(u32::from_le_bytes)
    }

    fn skip(&mut self, count: usize) -> Result<(), Rejection> {
        if count > self.bytes.len() - self.at {
            return Err(malformed("cut off"));
        }
        self.at += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quote of zeros with this version, kind of body, and sizes of data.
    fn quote(version: u16, kind: u16, authentication: u16, chain: usize) -> Vec<u8> {
        let report = [384, 584, 648, 885][usize::from(kind) - 1];
        let mut bytes = vec![0; HEADER_SIZE];
        bytes[..2].copy_from_slice(&version.to_le_bytes());
        bytes[4..8].copy_from_slice(&TEE_TYPE_TDX.to_le_bytes());
        if version == 5 {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((report as u32).to_le_bytes());
        }
        bytes.extend(vec![0; report]);
        let inner = QE_REPORT_SIZE + SIGNATURE_SIZE + 2 + usize::from(authentication) + 6 + chain;
        bytes.extend(((SIGNATURE_SIZE + KEY_SIZE + 6 + inner) as u32).to_le_bytes());
        bytes.extend(vec![0; SIGNATURE_SIZE + KEY_SIZE]);
        bytes.extend(6u16.to_le_bytes());
        bytes.extend((inner as u32).to_le_bytes());
        bytes.extend(vec![0; QE_REPORT_SIZE + SIGNATURE_SIZE]);
        bytes.extend(authentication.to_le_bytes());
        bytes.extend(vec![1; usize::from(authentication)]);
        bytes.extend(5u16.to_le_bytes());
        bytes.extend((chain as u32).to_le_bytes());
        bytes.extend(vec![b'c'; chain]);
        bytes
    }

    #[test]
    fn the_parts_are_found_in_each_kind_of_quote() {
        for (version, kind, signed) in [(4, 2, 632), (5, 2, 638), (5, 3, 702), (5, 4, 939)] {
            let bytes = [quote(version, kind, 32, 50), vec![0; 9]].concat();
            let layout = Layout::read(&bytes).unwrap();
            assert_eq!((layout.signed, layout.length), (signed, bytes.len() - 9));
            assert_eq!((layout.certification, layout.qe_authentication_data), ((6, 5), 32));
            assert_eq!((layout.chain, layout.is_td15), (&[b'c'; 50][..], kind > 2));
            let sizes = layout.lengths_of_chain().map(|at| {
                let size = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
                layout.length - at - 4 - size
            });
            assert_eq!(sizes, [0, 0, 0]);
        }
    }

    #[test]
    fn a_quote_that_is_cut_off_or_goes_on_is_refused() {
        let bytes = quote(5, 3, 32, 20);
        for length in 0..bytes.len() {
            assert!(Layout::read(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Layout::read(&[&bytes[..], &[0, 1]].concat()).is_err());
    }

    #[test]
    fn no_length_that_is_stated_leads_out_of_the_bytes() {
        let good = quote(4, 2, 32, 20);
        for at in 0..good.len() - 3 {
            for size in [0, 1, 0x7fff_ffff, u32::MAX - 700, u32::MAX] {
                let mut bytes = good.clone();
                bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
                if let Ok(layout) = Layout::read(&bytes) {
                    assert_eq!(layout.length, bytes.len());
                    assert!(layout.chain.len() <= bytes.len() - layout.signed, "{at} {size}");
                }
            }
        }
    }

    #[test]
    fn quotes_of_sgx_are_told_apart_from_what_cannot_be_read() {
        let mut bytes = quote(4, 2, 32, 20);
        bytes[4] = 0;
        assert_eq!(Layout::read(&bytes).unwrap_err().reason, Reason::NotTdx);
        bytes[4] = 7;
        assert_eq!(Layout::read(&bytes).unwrap_err().reason, Reason::QuoteMalformed);
        assert_eq!(Layout::read(&quote(5, 1, 32, 20)).unwrap_err().reason, Reason::NotTdx);
    }
}
