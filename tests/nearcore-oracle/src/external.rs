// SPDX-License-Identifier: MIT
//! The world around a replayed call: nearcore's mock, plus what its runtime charges for the trie, and the
//! yields of calls before it.

use std::collections::VecDeque;

use near_crypto::PublicKey;
use near_primitives_core::hash::{CryptoHash, YieldId};
use near_primitives_core::types::{AccountId, Balance, Gas, GasWeight, Nonce, NonceIndex};
use near_primitives_core::universal_state_init::{
    DecodeMode, RawStateInit, StateInitError, UniversalStateInitCounts,
};
use near_vm_runner::logic::mocks::mock_external::{MockAction, MockedExternal};
use near_vm_runner::logic::types::{
    ActionIndex, GlobalContractDeployMode, GlobalContractIdentifier, ReceiptIndex,
};
use near_vm_runner::logic::{External, HostError, StorageAccessTracker, VMLogicError, ValuePtr};

type Result<T> = std::result::Result<T, VMLogicError>;

pub struct Replay {
    pub inner: MockedExternal,
    trie_nodes: Vec<u64>,
    changes: usize,
    chain_id: String,
    data_ids: VecDeque<CryptoHash>,
    pending: Vec<(CryptoHash, Option<CryptoHash>)>,
}

impl Replay {
    pub fn new(
        trie_nodes: Vec<u64>,
        chain_id: String,
        data_ids: VecDeque<CryptoHash>,
        pending: Vec<(CryptoHash, Option<CryptoHash>)>,
    ) -> Self {
        Self { inner: MockedExternal::new(), trie_nodes, changes: 0, chain_id, data_ids, pending }
    }

    /// Give the yield that was made last the id that it had on its chain.
    fn rename_yield(&mut self, made: (ReceiptIndex, CryptoHash)) -> (ReceiptIndex, CryptoHash) {
        let Some(known) = self.data_ids.pop_front() else { return made };
        if let Some(MockAction::YieldCreate { data_id, .. }) = self.inner.action_log.last_mut() {
            *data_id = known;
        }
        (made.0, known)
    }

    fn resume_pending(&mut self, data_id: CryptoHash, data: Vec<u8>) -> bool {
        self.inner.action_log.push(MockAction::YieldResume { data_id, data });
        true
    }

    /// Trie nodes that this change is charged for.
    fn touched(&mut self) -> u64 {
        let last = self.trie_nodes.len().saturating_sub(1);
        let nodes = self.trie_nodes.get(self.changes.min(last)).copied().unwrap_or(0);
        self.changes += 1;
        nodes
    }
}

macro_rules! delegate {
    () => {};
    (write $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?; $($rest:tt)*) => {
        fn $name(&mut self $(, $arg: $ty)*) $(-> $ret)? { self.inner.$name($($arg),*) }
        delegate! { $($rest)* }
    };
    (read $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?; $($rest:tt)*) => {
        fn $name(&self $(, $arg: $ty)*) $(-> $ret)? { self.inner.$name($($arg),*) }
        delegate! { $($rest)* }
    };
}

impl External for Replay {
    fn storage_set<'a>(
        &'a mut self,
        tracker: &mut dyn StorageAccessTracker,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let old = self.inner.storage_set(tracker, key, value)?;
        tracker.trie_node_touched(self.touched())?;
        if let Some(old) = &old {
            tracker.deref_write_evicted_value_bytes(old.len() as u64)?;
        }
        Ok(old)
    }

    fn storage_get<'a>(
        &'a self,
        tracker: &mut dyn StorageAccessTracker,
        key: &[u8],
    ) -> Result<Option<Box<dyn ValuePtr + 'a>>> {
        self.inner.storage_get(tracker, key)
    }

    fn storage_remove(
        &mut self,
        tracker: &mut dyn StorageAccessTracker,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let old = self.inner.storage_remove(tracker, key)?;
        tracker.trie_node_touched(self.touched())?;
        if let Some(old) = &old {
            tracker.deref_removed_value_bytes(old.len() as u64)?;
        }
        Ok(old)
    }

    fn storage_has_key(
        &mut self,
        tracker: &mut dyn StorageAccessTracker,
        key: &[u8],
    ) -> Result<bool> {
        self.inner.storage_has_key(tracker, key)
    }

    fn chain_id(&self) -> String {
        self.chain_id.clone()
    }

    fn append_action_function_call_weight(
        &mut self,
        receipt_index: ReceiptIndex,
        method_name: Vec<u8>,
        args: Vec<u8>,
        attached_deposit: Balance,
        prepaid_gas: Gas,
        gas_weight: GasWeight,
    ) -> Result<()> {
        // nearcore's runtime keeps method names as text
        if std::str::from_utf8(&method_name).is_err() {
            return Err(HostError::InvalidMethodName.into());
        }
        self.inner.append_action_function_call_weight(
            receipt_index,
            method_name,
            args,
            attached_deposit,
            prepaid_gas,
            gas_weight,
        )
    }

    fn create_promise_yield_receipt(
        &mut self,
        receiver_id: AccountId,
    ) -> Result<(ReceiptIndex, CryptoHash)> {
        let made = self.inner.create_promise_yield_receipt(receiver_id)?;
        Ok(self.rename_yield(made))
    }

    fn create_promise_yield_receipt_with_id(
        &mut self,
        receiver_id: AccountId,
        user_yield_id: YieldId,
    ) -> Result<Option<(ReceiptIndex, CryptoHash)>> {
        let wanted = user_yield_id.0;
        if self.pending.iter().any(|(_, id)| *id == Some(wanted)) {
            return Ok(None);
        }
        let made = self.inner.create_promise_yield_receipt_with_id(receiver_id, user_yield_id)?;
        Ok(made.map(|made| self.rename_yield(made)))
    }

    fn submit_promise_resume_data(&mut self, data_id: CryptoHash, data: Vec<u8>) -> Result<bool> {
        if self.pending.iter().any(|(id, _)| *id == data_id) {
            return Ok(self.resume_pending(data_id, data));
        }
        self.inner.submit_promise_resume_data(data_id, data)
    }

    fn submit_promise_resume_data_with_yield_id(
        &mut self,
        user_yield_id: YieldId,
        data: Vec<u8>,
    ) -> Result<bool> {
        let wanted = user_yield_id.0;
        let found = self.pending.iter().find(|(_, id)| *id == Some(wanted)).map(|(id, _)| *id);
        match found {
            Some(data_id) => Ok(self.resume_pending(data_id, data)),
            None => self.inner.submit_promise_resume_data_with_yield_id(user_yield_id, data),
        }
    }

    delegate! {
        write generate_data_id() -> CryptoHash;
        read get_recorded_storage_size() -> usize;
        read storage_proof_size_before_receipt() -> usize;
        read validator_stake(account_id: &AccountId) -> Result<Option<Balance>>;
        read validator_total_stake() -> Result<Balance>;
        write create_action_receipt(receipt_indices: Vec<ReceiptIndex>, receiver_id: AccountId
        ) -> Result<ReceiptIndex>;
        write append_action_create_account(receipt_index: ReceiptIndex);
        write append_action_deploy_contract(receipt_index: ReceiptIndex, code: Vec<u8>);
        write append_action_deploy_global_contract(receipt_index: ReceiptIndex, code: Vec<u8>, mode: GlobalContractDeployMode
        );
        write append_action_use_global_contract(receipt_index: ReceiptIndex, contract_id: GlobalContractIdentifier
        );
        write append_action_deterministic_state_init(receipt_index: ReceiptIndex,
            contract_id: GlobalContractIdentifier,
            amount: Balance
        ) -> ActionIndex;
        write set_deterministic_state_init_data_entry(receipt_index: ReceiptIndex,
            action_index: ActionIndex,
            key: Vec<u8>,
            value: Vec<u8>
        ) -> Result<()>;
        read check_state_init(state_init: &RawStateInit
        ) -> std::result::Result<(), StateInitError>;
        read state_init_send_counts(state_init: &RawStateInit, mode: DecodeMode
        ) -> UniversalStateInitCounts;
        write append_action_universal_state_init(receipt_index: ReceiptIndex, state_init: RawStateInit, amount: Balance
        );
        write append_action_transfer(receipt_index: ReceiptIndex, deposit: Balance);
        write append_action_transfer_to_gas_key(receipt_index: ReceiptIndex, public_key: PublicKey, deposit: Balance
        );
        write append_action_add_gas_key_with_full_access(receipt_index: ReceiptIndex, public_key: PublicKey, num_nonces: NonceIndex
        );
        write append_action_add_gas_key_with_function_call(receipt_index: ReceiptIndex,
            public_key: PublicKey,
            num_nonces: NonceIndex,
            allowance: Option<Balance>,
            receiver_id: AccountId,
            method_names: Vec<Vec<u8>>
        ) -> Result<()>;
        write append_action_stake(receipt_index: ReceiptIndex, stake: Balance, public_key: PublicKey
        );
        write append_action_add_key_with_full_access(receipt_index: ReceiptIndex, public_key: PublicKey, nonce: Nonce
        );
        write append_action_add_key_with_function_call(receipt_index: ReceiptIndex,
            public_key: PublicKey,
            nonce: Nonce,
            allowance: Option<Balance>,
            receiver_id: AccountId,
            method_names: Vec<Vec<u8>>
        ) -> Result<()>;
        write append_action_delete_key(receipt_index: ReceiptIndex, public_key: PublicKey);
        write append_action_delete_account(receipt_index: ReceiptIndex, beneficiary_id: AccountId
        );
        read get_receipt_receiver(receipt_index: ReceiptIndex) -> &AccountId;
        write set_refund_to(receipt_index: ReceiptIndex, refund_to: AccountId);
        read post_quantum_keys_enabled() -> bool;
    }
}
