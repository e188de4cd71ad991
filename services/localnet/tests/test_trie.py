# SPDX-License-Identifier: MIT
"""The trie's shape against a model that knows only the set of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outlayer_localnet.trie import Trie

keys = st.binary(max_size=4)


def build(members: set[bytes]) -> Trie:
    trie = Trie()
    for key in members:
        trie.insert(key)
    return trie


def model_nodes(members: set[bytes], key: bytes) -> int:
    """Nodes on the lookup path, from the definition: split the set by nibbles, level by level."""
    group = {member.hex() for member in members}
    path, touched = key.hex(), 0
    while group:
        shared = common_prefix(group)
        inner = len(group) > 1
        if inner and shared:
            touched += 1
        if not path.startswith(shared):
            return touched if inner else touched + 1
        touched += 1
        path = path[len(shared) :]
        if not path or not inner:
            return touched
        group = {member[len(shared) + 1 :] for member in group if member[len(shared) :].startswith(path[0])}
        path = path[1:]
    return touched


def common_prefix(texts: set[str]) -> str:
    low, high = min(texts), max(texts)
    size = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[:size]


@given(st.sets(keys, max_size=20), keys)
def test_lookup_reads_as_many_nodes_as_the_definition_says(members, key):
    assert build(members).path_nodes(key) == model_nodes(members, key)


@given(st.sets(keys, max_size=20), st.sets(keys, max_size=20), keys)
def test_removing_leaves_the_same_trie_as_never_inserting(members, gone, key):
    trie = build(members)
    for each in gone:
        trie.remove(each)
    left = members - gone
    assert list(trie.keys()) == sorted(left)
    assert trie.path_nodes(key) == build(left).path_nodes(key)


@given(st.sets(keys, max_size=20), keys)
def test_keys_come_in_order_by_prefix(members, prefix):
    assert list(build(members).keys(prefix)) == sorted(k for k in members if k.startswith(prefix))


def test_a_long_key_does_not_exhaust_the_stack():
    trie = build({bytes(range(256)) * 16, bytes(range(256)) * 15})
    assert len(list(trie.keys())) == 2


def test_a_known_path_counts_extension_branch_and_leaf():
    # 0x12 and 0x13 share the nibble 1: extension "1", branch, two empty leaves
    trie = build({b"\x12", b"\x13"})
    assert trie.path_nodes(b"\x12") == 3
    assert trie.path_nodes(b"\x14") == 2
    assert trie.path_nodes(b"\x20") == 1
