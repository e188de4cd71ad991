// SPDX-License-Identifier: MIT
//! Hex for contracts, where each instruction per byte has its price: eight digits are read at once, as the bytes of a word.

/// The bytes that an even number of hex digits, of either case, stand for.
pub fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let mut digits = text.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let length = digits.len() / 2;
    let mut bytes = vec![0u8; length.next_multiple_of(4)];
    let mut rest = &mut bytes[..];
    while let Some((eight, more)) = digits.split_first_chunk::<8>() {
        let (four, others) = std::mem::take(&mut rest).split_first_chunk_mut::<4>()?;
        *four = decode_eight(*eight)?;
        (digits, rest) = (more, others);
    }
    if let Some(four) = rest.first_chunk_mut::<4>() {
        let mut last = [b'0'; 8];
        last.iter_mut().zip(digits).for_each(|(target, digit)| *target = *digit);
        *four = decode_eight(last)?;
    }
    bytes.truncate(length);
    Some(bytes)
}

/// The four bytes that eight digits stand for. No sum of two bytes of a word carries into the next byte, as all of them
/// are ASCII.
fn decode_eight(digits: [u8; 8]) -> Option<[u8; 4]> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let word = u64::from_le_bytes(digits);
    if word & HIGH != 0 {
        return None;
    }
    // the high bit of each byte of a sum says whether the byte is at least what is missing to 0x80
    let at_least = u64::wrapping_add;
    let lower = word | (0x20 * ONES);
    let is_digit = at_least(word, (0x80 - 0x30) * ONES) & !at_least(word, (0x80 - 0x3a) * ONES);
    let is_letter = at_least(lower, (0x80 - 0x61) * ONES) & !at_least(lower, (0x80 - 0x67) * ONES);
    if (is_digit | is_letter) & HIGH != HIGH {
        return None;
    }
    let values = (word & (0x0f * ONES)).wrapping_add((word >> 6 & ONES).wrapping_mul(9));
    // the first digit of each pair is its high half; then the four pairs move together
    let pairs = (values << 4 | values >> 8) & 0x00ff_00ff_00ff_00ff;
    let pairs = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    let pairs = pairs | pairs >> 16;
    let [first, second, third, fourth, ..] = pairs.to_le_bytes();
    Some([first, second, third, fourth])
}

/// In lower case.
pub fn encode_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 0x0f)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_either_case_is_read_as_another_decoder_reads_it() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(encode_hex(&bytes), hex::encode(&bytes));
        assert_eq!(decode_hex(&hex::encode(&bytes)), Some(bytes.clone()));
        assert_eq!(decode_hex(&hex::encode_upper(&bytes)), Some(bytes));
        assert_eq!(decode_hex(""), Some(Vec::new()));
    }

    #[test]
    fn each_byte_that_is_no_digit_is_refused_wherever_it_is() {
        for byte in 0..128u8 {
            for place in 0..10 {
                let mut text = b"0a1B2c3D4e".to_vec();
                text[place] = byte;
                let text = String::from_utf8(text).unwrap();
                assert_eq!(decode_hex(&text), hex::decode(&text).ok(), "{text:?}");
            }
        }
        let digits = "0123456789abcdefABCDEF".repeat(3);
        for length in 0..digits.len() {
            let text = &digits[length / 3..length];
            assert_eq!(decode_hex(text), hex::decode(text).ok(), "{text:?}");
        }
        for text in ["0", "abc", "é", "0é0"] {
            assert_eq!(decode_hex(text), None, "{text}");
        }
    }
}
