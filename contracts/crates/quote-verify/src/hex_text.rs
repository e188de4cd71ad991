// SPDX-License-Identifier: MIT
//! Hex, without the price per byte that a general decoder has in a contract.

/// The bytes that an even number of hex digits, of either case, stand for.
pub fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let mut bytes = vec![0u8; digits.len() / 2];
    let mut wrong = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        wrong |= high | low;
        *byte = high << 4 | low & 0x0f;
    }
    (wrong & NO_DIGIT == 0).then_some(bytes)
}

/// In lower case.
pub fn encode_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 0x0f)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

const NO_DIGIT: u8 = 0x80;
const VALUES: [u8; 256] = values();

const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
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
    fn each_byte_that_is_no_digit_is_refused_in_both_places() {
        for byte in 0..128u8 {
            for text in [format!("{}0", byte as char), format!("0{}", byte as char)] {
                assert_eq!(decode_hex(&text), hex::decode(&text).ok(), "{text:?}");
            }
        }
        for text in ["0", "abc", "é", "0é0"] {
            assert_eq!(decode_hex(text), None, "{text}");
        }
    }
}
