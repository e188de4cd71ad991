# SPDX-License-Identifier: MIT
"""The Merkle tree: the shape of RFC 6962, proofs that verify, and nothing else that does."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlayer_attestation import merkle
from outlayer_attestation.errors import MerkleError

LEAVES = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70)


def recursive_root(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962 §2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = recursive_root(leaves[:split]), recursive_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@given(leaves=LEAVES)
def test_the_root_is_that_of_rfc_6962(leaves: list[bytes]) -> None:
    assert merkle.build(leaves).root == recursive_root(leaves)


@given(leaves=LEAVES)
def test_every_leaf_is_proven(leaves: list[bytes]) -> None:
    tree = merkle.build(leaves)
    assert tree.size == len(leaves)
    for index, leaf in enumerate(leaves):
        assert merkle.verify(leaf, index, tree.size, tree.proofs[index], tree.root)


@given(leaves=LEAVES, data=st.data())
def test_a_changed_proof_is_refused(leaves: list[bytes], data: st.DataObject) -> None:
    tree = merkle.build(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    leaf, proof = leaves[index], list(tree.proofs[index])
    position = data.draw(st.integers(0, 31))
    other = bytes(byte ^ (i == position) for i, byte in enumerate(leaf))
    assert not merkle.verify(other, index, tree.size, proof, tree.root)
    assert not merkle.verify(leaf, index, tree.size, [*proof, leaf], tree.root)
    if proof:
        step = data.draw(st.integers(0, len(proof) - 1))
        assert not merkle.verify(leaf, index, tree.size, proof[:step] + proof[step + 1 :], tree.root)
        proof[step] = bytes(byte ^ (i == position) for i, byte in enumerate(proof[step]))
        assert not merkle.verify(leaf, index, tree.size, proof, tree.root)


@given(
    leaves=st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=40, unique=True), data=st.data()
)
def test_a_proof_is_for_one_place_only(leaves: list[bytes], data: st.DataObject) -> None:
    tree = merkle.build(leaves)
    index, other = data.draw(st.lists(st.integers(0, len(leaves) - 1), min_size=2, max_size=2, unique=True))
    assert not merkle.verify(leaves[index], other, tree.size, tree.proofs[index], tree.root)


@given(
    leaf=st.binary(max_size=40),
    index=st.integers(-5, 2**70),
    size=st.integers(-5, 2**70),
    proof=st.lists(st.binary(max_size=40), max_size=20),
    root=st.binary(max_size=40),
)
def test_hostile_values_are_refused_without_exception(
    leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes
) -> None:
    expected = (size, index, proof, len(leaf)) == (1, 0, [], 32) and leaf == root
    assert merkle.verify(leaf, index, size, proof, root) is expected


def test_a_lone_leaf_is_its_own_root() -> None:
    leaf = bytes(range(32))
    assert merkle.build([leaf]) == merkle.Tree(root=leaf, proofs=((),))


def test_an_inner_node_cannot_pass_for_a_leaf() -> None:
    leaves = [bytes([i]) * 32 for i in range(4)]
    tree = merkle.build(leaves)
    node = merkle.node_hash(leaves[0], leaves[1])
    assert merkle.verify(node, 0, 2, [merkle.node_hash(leaves[2], leaves[3])], tree.root)
    # so the size is bound into REPORTDATA, and a real leaf hash starts from 0x00, a node from 0x01
    assert hashlib.sha256(b"\x00" + leaves[0] + leaves[1]).digest() != node


def test_no_leaves_too_many_and_wrong_sizes_are_errors() -> None:
    for leaves in ([], [bytes(31)], [bytes(32)] * (merkle.MAX_LEAVES + 1)):
        with pytest.raises(MerkleError):
            merkle.build(leaves)
