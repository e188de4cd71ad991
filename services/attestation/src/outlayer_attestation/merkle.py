# SPDX-License-Identifier: MIT
"""Merkle tree of the shape of RFC 6962 over leaf hashes of 32 bytes.

Leaf hashes come in ready made (``SHA-256(0x00 ‖ …)``, see ``record``); an inner node is
``SHA-256(0x01 ‖ left ‖ right)``, so that no leaf can be read as a node. A tree of one leaf has that
leaf as its root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from outlayer_attestation.errors import MerkleError

LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"
HASH_SIZE = 32

MAX_LEAVES = 1 << 16
"""A batch is the work that finished while one quote was made; more leaves than this is an error."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Root (32 bytes) and, per leaf, its inclusion proof: sibling hashes from the leaf upwards."""

    root: bytes
    proofs: tuple[tuple[bytes, ...], ...]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self.proofs)


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node (RFC 6962 §2.1)."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


def build(leaves: Sequence[bytes]) -> Tree:
    """Build the tree over at least one leaf hash.

    Pairing neighbours level by level and carrying an odd last node up unchanged gives the tree of
    RFC 6962 §2.1, which splits at the largest power of two below the size.

    Raises:
        MerkleError: no leaves, too many, or a leaf that is not 32 bytes.
    """
    if not 0 < len(leaves) <= MAX_LEAVES:
        raise MerkleError(f"a tree has 1 to {MAX_LEAVES} leaves, not {len(leaves)}")
    if any(len(leaf) != HASH_SIZE for leaf in leaves):
        raise MerkleError("a leaf hash is 32 bytes")
    proofs: list[list[bytes]] = [[] for _ in leaves]
    positions = list(range(len(leaves)))
    level = [bytes(leaf) for leaf in leaves]
    while len(level) > 1:
        for leaf, position in enumerate(positions):
            sibling = position ^ 1
            if sibling < len(level):
                proofs[leaf].append(level[sibling])
            positions[leaf] = position >> 1
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return Tree(root=level[0], proofs=tuple(map(tuple, proofs)))


def verify(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``leaf`` is the leaf number ``index`` of the tree of ``size`` leaves with this root.

    The algorithm of RFC 9162 §2.1.3.2, which allows exactly one proof length per (index, size).
    Values out of range give False, never an exception.
    """
    if not 0 <= index < size <= MAX_LEAVES or len(leaf) != HASH_SIZE or len(root) != HASH_SIZE:
        return False
    position, last, running = index, size - 1, leaf
    for sibling in proof:
        if last == 0 or len(sibling) != HASH_SIZE:
            return False
        if position & 1 or position == last:
            running = node_hash(sibling, running)
            while not position & 1 and position != 0:
                position, last = position >> 1, last >> 1
        else:
            running = node_hash(running, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and running == root
