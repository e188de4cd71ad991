// SPDX-License-Identifier: MIT
//! Hashes and ECDSA P-256: host functions in a contract, RustCrypto elsewhere. With the feature `software-p256` a
//! contract uses RustCrypto for the signatures too, for networks before protocol 85; it costs several times the gas.
//!
//! The host function `p256_verify` (NEP-635, protocol 85) takes a 32-byte prehash, r ‖ s and the compressed
//! key. Keys arrive uncompressed and are compressed here, natively too, so that both give the same verdicts.

use std::cell::RefCell;

use borsh::{BorshDeserialize, BorshSerialize};
use dcap_qvl::config::{Config, CryptoProvider};
use rustls_pki_types::{alg_id, AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use crate::der;

/// dcap-qvl with its own certificate parser and signature encoder, and our cryptography.
pub struct ContractConfig;

impl Config for ContractConfig {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = ContractCrypto;
}

pub struct ContractCrypto;

impl CryptoProvider for ContractCrypto {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &EcdsaP256Sha256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        sha256(data)
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        use sha2::Digest;
        sha2::Sha384::digest(data).into()
    }
}

#[derive(Debug)]
struct EcdsaP256Sha256;

impl SignatureVerificationAlgorithm for EcdsaP256Sha256 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let signature = der::ecdsa_signature(signature).map_err(|_| InvalidSignature)?;
        if verify(public_key, message, &signature) {
            Ok(())
        } else {
            Err(InvalidSignature)
        }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

/// A signature that verified: compressed key, SHA-256 of the message, r ‖ s.
#[derive(BorshSerialize, BorshDeserialize, Clone, Debug, PartialEq, Eq)]
pub struct KnownSignature {
    key: [u8; 33],
    prehash: [u8; 32],
    signature: [u8; 64],
}

thread_local! {
    static MEMO: RefCell<Option<Vec<KnownSignature>>> = const { RefCell::new(None) };
}

/// Run with signatures that have verified before: those are not computed again. Gives them and what else verified.
///
/// Whether a signature verifies is a pure function of key, message and signature, and all three are compared; who is
/// allowed to sign what, and when, is checked as ever.
pub fn remembering<T>(known: Vec<KnownSignature>, run: impl FnOnce() -> T) -> (T, Vec<KnownSignature>) {
    MEMO.with(|memo| memo.replace(Some(known)));
    let result = run();
    (result, MEMO.with(RefCell::take).unwrap_or_default())
}

/// Whether `signature` (r ‖ s) of SHA-256(`message`) verifies under a key in SEC1 uncompressed form (65 bytes).
pub fn verify(public_key: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    let Some(key) = compress(public_key) else { return false };
    let prehash = sha256(message);
    let this = KnownSignature { key, prehash, signature: *signature };
    MEMO.with(|memo| {
        let mut memo = memo.borrow_mut();
        if memo.as_ref().is_some_and(|known| known.contains(&this)) {
            return true;
        }
        let verifies = ecdsa::verify(&this.key, &this.prehash, signature);
        if let (true, Some(known)) = (verifies, memo.as_mut()) {
            known.push(this);
        }
        verifies
    })
}

pub fn sha256(data: &[u8]) -> [u8; 32] {
    hash::sha256(data)
}

pub fn sha512(data: &[u8]) -> [u8; 64] {
    use sha2::Digest;
    sha2::Sha512::digest(data).into()
}

/// 0x04 ‖ x ‖ y to (0x02 or 0x03) ‖ x. What y adds beyond its parity is redundant: each key that gets here
/// is itself covered by a signature or a hash.
fn compress(key: &[u8]) -> Option<[u8; 33]> {
    let (x, y) = match key {
        [4, point @ ..] if point.len() == 64 => point.split_at(32),
        _ => return None,
    };
    let mut compressed = [0u8; 33];
    let (tag, rest) = compressed.split_at_mut(1);
    tag.copy_from_slice(&[2 | (y.last()? & 1)]);
    rest.copy_from_slice(x);
    Some(compressed)
}

#[cfg(any(not(target_arch = "wasm32"), feature = "software-p256"))]
mod ecdsa {
    use p256::ecdsa::signature::hazmat::PrehashVerifier;
    use p256::ecdsa::{Signature, VerifyingKey};

    pub fn verify(key: &[u8; 33], prehash: &[u8; 32], signature: &[u8; 64]) -> bool {
        match (VerifyingKey::from_sec1_bytes(key), Signature::from_slice(signature)) {
            (Ok(key), Ok(signature)) => key.verify_prehash(prehash, &signature).is_ok(),
            _ => false,
        }
    }
}

#[cfg(all(target_arch = "wasm32", not(feature = "software-p256")))]
mod ecdsa {
    // near-sys 0.2 does not declare it
    extern "C" {
        fn p256_verify(
            signature_len: u64,
            signature_ptr: u64,
            message_len: u64,
            message_ptr: u64,
            public_key_len: u64,
            public_key_ptr: u64,
        ) -> u64;
    }

    pub fn verify(key: &[u8; 33], prehash: &[u8; 32], signature: &[u8; 64]) -> bool {
        // SAFETY: lengths and pointers describe live arrays, which the host only reads
        unsafe {
            p256_verify(
                signature.len() as u64,
                signature.as_ptr() as u64,
                prehash.len() as u64,
                prehash.as_ptr() as u64,
                key.len() as u64,
                key.as_ptr() as u64,
            ) == 1
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod hash {
    /// The register that near-sdk uses for short-lived values too.
    const REGISTER: u64 = u64::MAX - 2;

    pub fn sha256(data: &[u8]) -> [u8; 32] {
        let mut hash = [0u8; 32];
        // SAFETY: the host reads `data` and writes the 32 bytes of the register into `hash`
        unsafe {
            near_sys::sha256(data.len() as u64, data.as_ptr() as u64, REGISTER);
            near_sys::read_register(REGISTER, hash.as_mut_ptr() as u64);
        }
        hash
    }

    fn no_randomness(_: &mut [u8]) -> Result<(), getrandom::Error> {
        Err(getrandom::Error::UNSUPPORTED)
    }

    // verification is deterministic; whoever asks for randomness in a contract gets an error
    getrandom::register_custom_getrandom!(no_randomness);
}

#[cfg(not(target_arch = "wasm32"))]
mod hash {
    pub fn sha256(data: &[u8]) -> [u8; 32] {
        use sha2::Digest;
        sha2::Sha256::digest(data).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 6979 A.2.5: P-256, SHA-256, message "sample"
    const KEY: &str = "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
    const SIGNATURE: &str = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";

    fn vector() -> (Vec<u8>, [u8; 64]) {
        (hex::decode(KEY).unwrap(), hex::decode(SIGNATURE).unwrap().try_into().unwrap())
    }

    #[test]
    fn the_vector_of_rfc_6979_verifies() {
        let (key, signature) = vector();
        assert!(verify(&key, b"sample", &signature));
        assert!(!verify(&key, b"Sample", &signature));
    }

    #[test]
    fn a_changed_signature_or_key_does_not_verify() {
        let (key, signature) = vector();
        for index in 0..64 {
            let mut other = signature;
            other[index] ^= 1;
            assert!(!verify(&key, b"sample", &other), "byte {index}");
        }
        for index in 0..33 {
            let mut other = key.clone();
            other[index] ^= 1;
            assert!(!verify(&other, b"sample", &signature), "byte {index}");
        }
    }

    #[test]
    fn a_key_in_another_form_is_refused() {
        let (key, signature) = vector();
        assert!(!verify(&key[..64], b"sample", &signature));
        assert!(!verify(&key[..33], b"sample", &signature));
        assert!(!verify(&[], b"sample", &signature));
    }

    #[test]
    fn what_verified_is_remembered_and_nothing_else_is() {
        let (key, signature) = vector();
        let mut other = signature;
        other[0] ^= 1;
        let (results, known) = remembering(Vec::new(), || {
            [&signature, &other, &signature].map(|signature| verify(&key, b"sample", signature))
        });
        assert_eq!((results, known.len()), ([true, false, true], 1));
        let (results, again) = remembering(known.clone(), || {
            [(b"sample", &signature), (b"Sample", &signature), (b"sample", &other)]
                .map(|(message, signature)| verify(&key, message, signature))
        });
        assert_eq!((results, again), ([true, false, false], known));
        // outside nothing is kept
        assert!(verify(&key, b"sample", &signature));
        assert_eq!(remembering(Vec::new(), || ()).1, Vec::<KnownSignature>::new());
    }

    #[test]
    fn zeros_are_no_signature() {
        let (key, _) = vector();
        assert!(!verify(&key, b"sample", &[0; 64]));
    }
}
