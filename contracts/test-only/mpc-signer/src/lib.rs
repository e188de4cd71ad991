// SPDX-License-Identifier: MIT
//! Test only: the confidential key derivation of NEAR's MPC network, with the network's key in one contract.
//!
//! The key that an account asks for is msk·H(pk ‖ app_id); it comes blinded by the app's own key A = a·G1, as
//! Y = y·G1 and C = key + y·A. The real network keeps msk in shares and answers some blocks later; the values are
//! made the same way. Here everybody could compute them: never use it for a secret.

mod curve;

use near_sdk::{env, near, require, NearToken, PanicOnDefault};
use sha3::{Digest, Sha3_256};

use curve::{add_g1, compress, hash_to_g1, multiply_g1, multiply_g2, G1, G2};

const APP_ID_PREFIX: &str = "near-mpc v0.1.0 app_id derivation:";
const G1_PREFIX: &str = "bls12381g1:";
const G2_PREFIX: &str = "bls12381g2:";
/// The domain of BLS12-381 on the networks.
const DOMAIN_ID: u64 = 2;

#[near(serializers = [json])]
pub struct CkdRequest {
    pub derivation_path: String,
    pub app_public_key: AppPublicKey,
    pub domain_id: u64,
}

/// A text is the older form.
#[near(serializers = [json])]
#[serde(untagged)]
pub enum AppPublicKey {
    Text(String),
    Tagged(TaggedKey),
}

#[near(serializers = [json])]
pub enum TaggedKey {
    AppPublicKey(String),
    /// The same scalar on both curves, so that anyone can check the answer.
    AppPublicKeyPV {
        pk1: String,
        pk2: String,
    },
}

#[near(serializers = [json])]
pub struct CkdResponse {
    pub big_y: String,
    pub big_c: String,
}

#[near(contract_state)]
#[derive(PanicOnDefault)]
pub struct MpcSigner {
    /// Little-endian.
    secret: [u8; 32],
}

#[near]
impl MpcSigner {
    /// `secret_hex` is the network's secret scalar, 32 bytes big-endian in hex, below the order of the curve.
    #[init]
    pub fn new(secret_hex: String) -> Self {
        let mut secret = [0u8; 32];
        require!(hex::decode_to_slice(secret_hex, &mut secret).is_ok(), "secret_hex is not 32 bytes in hex");
        secret.reverse();
        MpcSigner { secret }
    }

    /// Gives the caller's own key, blinded: the caller decides which key it is.
    #[payable]
    pub fn request_app_private_key(&mut self, request: CkdRequest) -> CkdResponse {
        require!(env::attached_deposit() >= NearToken::from_yoctonear(1), "Attach at least 1 yoctoNEAR");
        require!(request.domain_id == DOMAIN_ID, format!("There is no domain {}", request.domain_id));
        let app_key = read_app_key(request.app_public_key);
        let app_id = app_id(env::predecessor_account_id().as_str(), &request.derivation_path);
        let public_key = compress(&multiply_g2(&G2, &self.secret));
        let key = multiply_g1(&hash_to_g1(&[&public_key[..], &app_id].concat()), &self.secret);
        let blinding = env::sha256_array(env::random_seed_array());
        CkdResponse {
            big_y: g1_text(&multiply_g1(&G1, &blinding)),
            big_c: g1_text(&add_g1(&key, &multiply_g1(&app_key, &blinding))),
        }
    }

    pub fn public_key(&self, domain_id: u64) -> String {
        require!(domain_id == DOMAIN_ID, format!("There is no domain {domain_id}"));
        let point = compress(&multiply_g2(&G2, &self.secret));
        format!("{G2_PREFIX}{}", bs58::encode(point).into_string())
    }
}

/// Which key it is: SHA3-256 of the account that asked and its path.
fn app_id(account_id: &str, derivation_path: &str) -> [u8; 32] {
    Sha3_256::digest(format!("{APP_ID_PREFIX}{account_id},{derivation_path}")).into()
}

/// The app's key on G1, uncompressed.
fn read_app_key(key: AppPublicKey) -> Vec<u8> {
    match key {
        AppPublicKey::Text(text) | AppPublicKey::Tagged(TaggedKey::AppPublicKey(text)) => read_g1(&text),
        AppPublicKey::Tagged(TaggedKey::AppPublicKeyPV { pk1, pk2 }) => {
            let (first, second) = (read_g1(&pk1), read_g2(&pk2));
            // e(-pk1, G2) · e(G1, pk2) = 1
            let minus = env::bls12381_p1_sum([&[1], &first[..]].concat());
            let same = env::bls12381_pairing_check([&minus, &G2[..], &G1[..], &second].concat());
            require!(same, "pk1 and pk2 are not the same key");
            first
        }
    }
}

fn read_g1(text: &str) -> Vec<u8> {
    env::bls12381_p1_decompress(read(text, G1_PREFIX, 48))
}

fn read_g2(text: &str) -> Vec<u8> {
    env::bls12381_p2_decompress(read(text, G2_PREFIX, 96))
}

fn read(text: &str, prefix: &str, size: usize) -> Vec<u8> {
    text.strip_prefix(prefix)
        .and_then(|rest| bs58::decode(rest).into_vec().ok())
        .filter(|bytes| bytes.len() == size)
        .unwrap_or_else(|| env::panic_str(&format!("Not a key of the form {prefix}<base58 of {size} bytes>")))
}

fn g1_text(point: &[u8]) -> String {
    format!("{G1_PREFIX}{}", bs58::encode(compress(point)).into_string())
}
