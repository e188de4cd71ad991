// SPDX-License-Identifier: MIT
//! What the host functions for BLS12-381 leave to a contract: hashing to G1 (RFC 9380) and compressed points.
//!
//! The host's points are uncompressed and big-endian (G1 96 bytes, G2 192 bytes); its scalars are little-endian.

use near_sdk::env;

/// The suite's name with the signer network's prefix.
const DOMAIN: &[u8] = b"NEAR BLS12381G1_XMD:SHA-256_SSWU_RO_";
const FIELD: usize = 48;
/// Bytes of a hash that are reduced to one field element.
const WIDE: usize = 64;

/// The field's modulus, least significant limb first.
const MODULUS: [u64; 6] = [
    0xb9feffffffffaaab,
    0x1eabfffeb153ffff,
    0x6730d2a0f6b0f624,
    0x64774b84f38512bf,
    0x4b1ba7b6434bacd7,
    0x1a0111ea397fe69a,
];
/// (modulus - 1) / 2: of y and -y, the one above it is the larger.
const HALF: [u8; FIELD] = [
    0x0d, 0x00, 0x88, 0xf5, 0x1c, 0xbf, 0xf3, 0x4d, 0x25, 0x8d, 0xd3, 0xdb, 0x21, 0xa5, 0xd6, 0x6b, 0xb2,
    0x3b, 0xa5, 0xc2, 0x79, 0xc2, 0x89, 0x5f, 0xb3, 0x98, 0x69, 0x50, 0x7b, 0x58, 0x7b, 0x12, 0x0f, 0x55,
    0xff, 0xff, 0x58, 0xa9, 0xff, 0xff, 0xdc, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xd5, 0x55,
];
pub const G1: [u8; 2 * FIELD] = [
    0x17, 0xf1, 0xd3, 0xa7, 0x31, 0x97, 0xd7, 0x94, 0x26, 0x95, 0x63, 0x8c, 0x4f, 0xa9, 0xac, 0x0f, 0xc3,
    0x68, 0x8c, 0x4f, 0x97, 0x74, 0xb9, 0x05, 0xa1, 0x4e, 0x3a, 0x3f, 0x17, 0x1b, 0xac, 0x58, 0x6c, 0x55,
    0xe8, 0x3f, 0xf9, 0x7a, 0x1a, 0xef, 0xfb, 0x3a, 0xf0, 0x0a, 0xdb, 0x22, 0xc6, 0xbb, 0x08, 0xb3, 0xf4,
    0x81, 0xe3, 0xaa, 0xa0, 0xf1, 0xa0, 0x9e, 0x30, 0xed, 0x74, 0x1d, 0x8a, 0xe4, 0xfc, 0xf5, 0xe0, 0x95,
    0xd5, 0xd0, 0x0a, 0xf6, 0x00, 0xdb, 0x18, 0xcb, 0x2c, 0x04, 0xb3, 0xed, 0xd0, 0x3c, 0xc7, 0x44, 0xa2,
    0x88, 0x8a, 0xe4, 0x0c, 0xaa, 0x23, 0x29, 0x46, 0xc5, 0xe7, 0xe1,
];
pub const G2: [u8; 4 * FIELD] = [
    0x13, 0xe0, 0x2b, 0x60, 0x52, 0x71, 0x9f, 0x60, 0x7d, 0xac, 0xd3, 0xa0, 0x88, 0x27, 0x4f, 0x65, 0x59,
    0x6b, 0xd0, 0xd0, 0x99, 0x20, 0xb6, 0x1a, 0xb5, 0xda, 0x61, 0xbb, 0xdc, 0x7f, 0x50, 0x49, 0x33, 0x4c,
    0xf1, 0x12, 0x13, 0x94, 0x5d, 0x57, 0xe5, 0xac, 0x7d, 0x05, 0x5d, 0x04, 0x2b, 0x7e, 0x02, 0x4a, 0xa2,
    0xb2, 0xf0, 0x8f, 0x0a, 0x91, 0x26, 0x08, 0x05, 0x27, 0x2d, 0xc5, 0x10, 0x51, 0xc6, 0xe4, 0x7a, 0xd4,
    0xfa, 0x40, 0x3b, 0x02, 0xb4, 0x51, 0x0b, 0x64, 0x7a, 0xe3, 0xd1, 0x77, 0x0b, 0xac, 0x03, 0x26, 0xa8,
    0x05, 0xbb, 0xef, 0xd4, 0x80, 0x56, 0xc8, 0xc1, 0x21, 0xbd, 0xb8, 0x06, 0x06, 0xc4, 0xa0, 0x2e, 0xa7,
    0x34, 0xcc, 0x32, 0xac, 0xd2, 0xb0, 0x2b, 0xc2, 0x8b, 0x99, 0xcb, 0x3e, 0x28, 0x7e, 0x85, 0xa7, 0x63,
    0xaf, 0x26, 0x74, 0x92, 0xab, 0x57, 0x2e, 0x99, 0xab, 0x3f, 0x37, 0x0d, 0x27, 0x5c, 0xec, 0x1d, 0xa1,
    0xaa, 0xa9, 0x07, 0x5f, 0xf0, 0x5f, 0x79, 0xbe, 0x0c, 0xe5, 0xd5, 0x27, 0x72, 0x7d, 0x6e, 0x11, 0x8c,
    0xc9, 0xcd, 0xc6, 0xda, 0x2e, 0x35, 0x1a, 0xad, 0xfd, 0x9b, 0xaa, 0x8c, 0xbd, 0xd3, 0xa7, 0x6d, 0x42,
    0x9a, 0x69, 0x51, 0x60, 0xd1, 0x2c, 0x92, 0x3a, 0xc9, 0xcc, 0x3b, 0xac, 0xa2, 0x89, 0xe1, 0x93, 0x54,
    0x86, 0x08, 0xb8, 0x28, 0x01,
];
const INFINITY: u8 = 0x40;
const COMPRESSED: u8 = 0x80;
const LARGER: u8 = 0x20;

pub fn multiply_g1(point: &[u8], scalar: &[u8; 32]) -> Vec<u8> {
    env::bls12381_g1_multiexp([point, scalar].concat())
}

pub fn multiply_g2(point: &[u8], scalar: &[u8; 32]) -> Vec<u8> {
    env::bls12381_g2_multiexp([point, scalar].concat())
}

pub fn add_g1(one: &[u8], other: &[u8]) -> Vec<u8> {
    env::bls12381_p1_sum([&[0], one, &[0], other].concat())
}

/// hash_to_curve of RFC 9380 for G1; the host's map clears the cofactor.
pub fn hash_to_g1(message: &[u8]) -> Vec<u8> {
    let wide = expand(message);
    let (first, second) = wide.split_at(WIDE);
    let points = env::bls12381_map_fp_to_g1([reduce(first), reduce(second)].concat());
    let (one, other) = points.split_at(2 * FIELD);
    add_g1(one, other)
}

/// expand_message_xmd with SHA-256 to 128 bytes.
fn expand(message: &[u8]) -> Vec<u8> {
    let suffix = [DOMAIN, &[DOMAIN.len() as u8]].concat();
    let length = (2 * WIDE as u16).to_be_bytes();
    let first = env::sha256_array([&[0; 64], message, &length, &[0], &suffix].concat());
    let mut last = [0u8; 32];
    let mut out = Vec::with_capacity(2 * WIDE);
    for index in 1..=4u8 {
        let mixed: Vec<u8> = first.iter().zip(last).map(|(one, other)| one ^ other).collect();
        last = env::sha256_array([&mixed, &[index][..], &suffix].concat());
        out.extend(last);
    }
    out
}

/// A big-endian number modulo the field's modulus, bit by bit.
fn reduce(bytes: &[u8]) -> [u8; FIELD] {
    let mut value = [0u64; 6];
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |shift| u64::from(byte >> shift & 1))) {
        // below the modulus before, so twice of it and one fits into 384 bits
        let mut carry = bit;
        for limb in &mut value {
            (*limb, carry) = (*limb << 1 | carry, *limb >> 63);
        }
        if value.iter().rev().ge(MODULUS.iter().rev()) {
            let mut borrow = false;
            for (limb, modulus) in value.iter_mut().zip(MODULUS) {
                let (less, first) = limb.overflowing_sub(modulus);
                let (less, second) = less.overflowing_sub(u64::from(borrow));
                (*limb, borrow) = (less, first || second);
            }
        }
    }
    let mut out = [0u8; FIELD];
    for (chunk, limb) in out.chunks_exact_mut(8).zip(value.iter().rev()) {
        chunk.copy_from_slice(&limb.to_be_bytes());
    }
    out
}

/// A point of G1 or G2 in the compressed form of Zcash.
pub fn compress(point: &[u8]) -> Vec<u8> {
    let (x, y) = point.split_at(point.len() / 2);
    let mut out = x.to_vec();
    if point[0] & INFINITY != 0 {
        out[0] = COMPRESSED | INFINITY;
        return out;
    }
    // the coefficients of an element of the larger field come with the higher one first
    let decides = y.chunks_exact(FIELD).find(|part| part.iter().any(|byte| *byte != 0)).unwrap_or(y);
    out[0] |= COMPRESSED | if decides > &HALF[..] { LARGER } else { 0 };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    #[test]
    fn generators_are_compressed_as_everyone_does() {
        let g1 = "97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb";
        assert_eq!(compress(&G1), hex(g1));
        assert_eq!(compress(&G2)[..4], hex("93e02b60"));
        let infinity = [&[INFINITY][..], &[0; 95]].concat();
        assert_eq!(compress(&infinity), [&[0xc0][..], &[0; 47]].concat());
    }

    #[test]
    fn numbers_are_reduced() {
        let modulus: Vec<u8> = MODULUS.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect();
        assert_eq!(reduce(&modulus), [0; FIELD]);
        let mut more = modulus.clone();
        *more.last_mut().unwrap() += 5;
        let mut five = [0; FIELD];
        five[FIELD - 1] = 5;
        assert_eq!(reduce(&more), five);
        assert_eq!(reduce(&[&[0; 16][..], &modulus].concat()), [0; FIELD]);
        assert_eq!(reduce(&HALF), HALF);
    }
}
