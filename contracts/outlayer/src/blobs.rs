// SPDX-License-Identifier: MIT
//! What is kept under keys of their own, raw: records of requests, long inputs, long outputs. Nothing is read but by who
//! needs it, and what is removed is not read before.

use near_sdk::env;

/// The first byte of these keys; the contract's maps begin with smaller ones (their number in `StorageKey`).
const PREFIX: u8 = 0xb0;

pub const INPUTS: Blobs = Blobs(PREFIX);
pub const OUTPUTS: Blobs = Blobs(PREFIX + 1);
pub const RECORDS: Blobs = Blobs(PREFIX + 2);

#[derive(Clone, Copy)]
pub struct Blobs(u8);

impl Blobs {
    pub fn write(self, request_id: u64, bytes: &[u8]) {
        env::storage_write(&self.key(request_id), bytes);
    }

    pub fn read(self, request_id: u64) -> Option<Vec<u8>> {
        env::storage_read(&self.key(request_id))
    }

    pub fn remove(self, request_id: u64) {
        env::storage_remove(&self.key(request_id));
    }

    /// Remove and give, in one step: cheaper than to read first.
    pub fn take(self, request_id: u64) -> Option<Vec<u8>> {
        env::storage_remove(&self.key(request_id)).then(env::storage_get_evicted).flatten()
    }

    fn key(self, request_id: u64) -> [u8; 9] {
        let mut key = [self.0; 9];
        key[1..].copy_from_slice(&request_id.to_le_bytes());
        key
    }
}
