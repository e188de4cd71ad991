// SPDX-License-Identifier: MIT
//! The little DER (X.690) that the pre-check reads itself: strict, borrowing, without recursion.

pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const UTC_TIME: u8 = 0x17;
pub const GENERALIZED_TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;

/// Why bytes are not the DER that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DerError(pub &'static str);

/// One element: its tag, its content, and all of its bytes (header included), which signatures cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    pub raw: &'a [u8],
}

/// Reads elements one after another. Lengths must be in their shortest form.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn peek_tag(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element, whatever it is.
    pub fn any(&mut self) -> Result<Element<'a>, DerError> {
        let all = self.rest;
        let (&tag, after_tag) = all.split_first().ok_or(DerError("no bytes left"))?;
        if tag & 0x1f == 0x1f {
            return Err(DerError("a tag of more than one byte"));
        }
        let (length, header) = read_length(after_tag)?;
        let start = header + 1;
        let end = start.checked_add(length).ok_or(DerError("the length overflows"))?;
        let raw = all.get(..end).ok_or(DerError("the length exceeds the bytes"))?;
        let content = raw.get(start..).ok_or(DerError("the length exceeds the bytes"))?;
        self.rest = all.get(end..).unwrap_or_default();
        Ok(Element { tag, content, raw })
    }

    pub fn expect(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        let element = self.any()?;
        if element.tag == tag {
            Ok(element)
        } else {
            Err(DerError("another type than expected"))
        }
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), DerError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DerError("bytes follow the last element"))
        }
    }
}

/// The one element that these bytes are.
pub fn single(bytes: &[u8], tag: u8) -> Result<Element<'_>, DerError> {
    let mut reader = Reader::new(bytes);
    let element = reader.expect(tag)?;
    reader.end()?;
    Ok(element)
}

/// A definite length: its value, and how many bytes it takes.
fn read_length(bytes: &[u8]) -> Result<(usize, usize), DerError> {
    let (&first, after) = bytes.split_first().ok_or(DerError("the length is missing"))?;
    if first < 0x80 {
        return Ok((usize::from(first), 1));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 3 {
        return Err(DerError("an indefinite or huge length"));
    }
    let digits = after.get(..count).ok_or(DerError("the length is cut off"))?;
    let length = digits.iter().fold(0usize, |value, &digit| value << 8 | usize::from(digit));
    if digits.first() == Some(&0) || length < 0x80 {
        return Err(DerError("a length not in its shortest form"));
    }
    Ok((length, count + 1))
}

/// `Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }` (RFC 3279 §2.2.3) as r ‖ s, 32 bytes each.
///
/// Integers must be positive, in their shortest form, and fit into 32 bytes; nothing may follow them.
/// Whether they are below the order of the curve is for the verification of the signature to say.
pub fn ecdsa_signature(der: &[u8]) -> Result<[u8; 64], DerError> {
    let sequence = single(der, SEQUENCE)?;
    let mut reader = Reader::new(sequence.content);
    let r = reader.expect(INTEGER)?.content;
    let s = reader.expect(INTEGER)?.content;
    reader.end()?;
    let mut signature = [0u8; 64];
    let (first, second) = signature.split_at_mut(32);
    positive_integer(r, first)?;
    positive_integer(s, second)?;
    Ok(signature)
}

fn positive_integer(content: &[u8], target: &mut [u8]) -> Result<(), DerError> {
    let magnitude = match content {
        [] => return Err(DerError("an INTEGER without content")),
        [0] => return Err(DerError("zero in a signature")),
        [0, second, ..] if *second < 0x80 => return Err(DerError("an INTEGER not in its shortest form")),
        [0, rest @ ..] => rest,
        [first, ..] if *first >= 0x80 => return Err(DerError("a negative INTEGER")),
        all => all,
    };
    let start =
        target.len().checked_sub(magnitude.len()).ok_or(DerError("an INTEGER of more than 32 bytes"))?;
    target.get_mut(start..).ok_or(DerError("an INTEGER of more than 32 bytes"))?.copy_from_slice(magnitude);
    Ok(())
}

/// The content of a BIT STRING of whole bytes.
pub fn bit_string(element: Element<'_>) -> Result<&[u8], DerError> {
    match element.content.split_first() {
        Some((0, bytes)) if element.tag == BIT_STRING => Ok(bytes),
        _ => Err(DerError("not a BIT STRING of whole bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(r: &[u8], s: &[u8]) -> Vec<u8> {
        let integer = |content: &[u8]| [&[INTEGER, content.len() as u8], content].concat();
        let body = [integer(r), integer(s)].concat();
        [&[SEQUENCE, body.len() as u8], &body[..]].concat()
    }

    #[test]
    fn a_signature_is_padded_to_64_bytes() {
        let mut expected = [0u8; 64];
        expected[31] = 1;
        expected[62..].copy_from_slice(&[0x80, 0x02]);
        assert_eq!(ecdsa_signature(&signature(&[1], &[0, 0x80, 2])), Ok(expected));
    }

    #[test]
    fn the_largest_integers_fit() {
        let largest = [&[0u8][..], &[0xff; 32]].concat();
        assert_eq!(ecdsa_signature(&signature(&largest, &largest)), Ok([0xff; 64]));
    }

    #[test]
    fn a_negative_integer_is_refused() {
        assert_eq!(ecdsa_signature(&signature(&[0x80], &[1])), Err(DerError("a negative INTEGER")));
        assert_eq!(ecdsa_signature(&signature(&[1], &[0xff, 1])), Err(DerError("a negative INTEGER")));
    }

    #[test]
    fn an_integer_with_a_needless_zero_is_refused() {
        let expected = Err(DerError("an INTEGER not in its shortest form"));
        assert_eq!(ecdsa_signature(&signature(&[0, 1], &[1])), expected);
        assert_eq!(ecdsa_signature(&signature(&[1], &[0, 0x7f])), expected);
    }

    #[test]
    fn zero_and_emptiness_are_refused() {
        assert!(ecdsa_signature(&signature(&[0], &[1])).is_err());
        assert!(ecdsa_signature(&signature(&[1], &[])).is_err());
        assert!(ecdsa_signature(&[]).is_err());
    }

    #[test]
    fn an_integer_of_more_than_32_bytes_is_refused() {
        assert!(ecdsa_signature(&signature(&[1; 33], &[1])).is_err());
        let padded = [&[0u8, 0x80][..], &[0; 32]].concat();
        assert!(ecdsa_signature(&signature(&[1], &padded)).is_err());
    }

    #[test]
    fn bytes_after_the_signature_are_refused_inside_and_outside() {
        let good = signature(&[1], &[2]);
        assert!(ecdsa_signature(&good).is_ok());
        assert!(ecdsa_signature(&[&good[..], &[0]].concat()).is_err());
        let mut inside = good.clone();
        inside.extend([INTEGER, 1, 3]);
        inside[1] += 3;
        assert!(ecdsa_signature(&inside).is_err());
    }

    #[test]
    fn every_truncation_is_refused() {
        let good = signature(&[1; 32], &[2; 32]);
        for length in 0..good.len() {
            assert!(ecdsa_signature(&good[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_length_must_be_in_its_shortest_form() {
        let body = signature(&[1], &[2])[2..].to_vec();
        for header in [&[SEQUENCE, 0x81, 6][..], &[SEQUENCE, 0x82, 0, 6], &[SEQUENCE, 0x80]] {
            assert!(ecdsa_signature(&[header, &body[..]].concat()).is_err(), "{header:?}");
        }
    }

    #[test]
    fn the_types_must_be_sequence_and_integer() {
        let good = signature(&[1], &[2]);
        for index in [0, 2, 5] {
            for tag in [0x31, 0x04, 0x1f, 0xff] {
                let mut other = good.clone();
                other[index] = tag;
                assert!(ecdsa_signature(&other).is_err());
            }
        }
    }

    #[test]
    fn long_lengths_are_read() {
        let content = vec![7u8; 300];
        let bytes = [&[0x04, 0x82, 1, 44][..], &content].concat();
        let element = single(&bytes, 0x04).unwrap();
        assert_eq!((element.content, element.raw.len()), (&content[..], 304));
    }

    #[test]
    fn a_bit_string_has_whole_bytes() {
        let read = |content: &'static [u8]| bit_string(Element { tag: BIT_STRING, content, raw: content });
        assert_eq!(read(&[0, 1, 2]), Ok(&[1u8, 2][..]));
        assert!(read(&[1, 2]).is_err());
        assert!(read(&[]).is_err());
    }
}
