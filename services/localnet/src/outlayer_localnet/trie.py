# SPDX-License-Identifier: MIT
"""The shape of NEAR's state trie: ordered keys, and how many nodes a lookup touches.

nearcore charges 2.28 Ggas for every trie node that a write or removal passes on its way to the key.
The count depends only on the keys in state, so this keeps keys and no values or hashes. A node is a
nibble prefix plus children; nearcore stores one with children and a prefix as two nodes (extension and
branch), one with children only as a branch, and one without children as a leaf.
"""

from __future__ import annotations

from collections.abc import Iterator


class _Node:
    __slots__ = ("children", "prefix", "present")

    def __init__(self, prefix: str, present: bool) -> None:
        self.prefix = prefix
        self.present = present
        self.children: dict[str, _Node] = {}


def _common(a: str, b: str) -> int:
    """Length of the common prefix of two nibble strings."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    for index in range(limit):
        if a[index] != b[index]:
            return index
    return limit


class Trie:
    """A set of byte keys as a compressed 16-way trie; nibbles are the characters of ``key.hex()``."""

    def __init__(self) -> None:
        self._root: _Node | None = None

    def insert(self, key: bytes) -> None:
        """Add a key; adding one that is there changes nothing."""
        path = key.hex()
        if self._root is None:
            self._root = _Node(path, True)
            return
        node = self._root
        while True:
            shared = _common(node.prefix, path)
            if shared < len(node.prefix):
                self._split(node, shared)
            path = path[shared:]
            if not path:
                node.present = True
                return
            child = node.children.get(path[0])
            if child is None:
                node.children[path[0]] = _Node(path[1:], True)
                return
            node, path = child, path[1:]

    @staticmethod
    def _split(node: _Node, at: int) -> None:
        lower = _Node(node.prefix[at + 1 :], node.present)
        lower.children = node.children
        node.children = {node.prefix[at]: lower}
        node.prefix = node.prefix[:at]
        node.present = False

    def remove(self, key: bytes) -> None:
        """Take a key out; removing one that is not there changes nothing."""
        path = key.hex()
        trail: list[tuple[_Node, str]] = []
        node = self._root
        while node is not None:
            if not path.startswith(node.prefix):
                return
            path = path[len(node.prefix) :]
            if not path:
                break
            trail.append((node, path[0]))
            node, path = node.children.get(path[0]), path[1:]
        if node is None or not node.present:
            return
        node.present = False
        self._tidy(node, trail)

    def _tidy(self, node: _Node, trail: list[tuple[_Node, str]]) -> None:
        if not node.children:
            if not trail:
                self._root = None
                return
            parent, nibble = trail.pop()
            del parent.children[nibble]
            node = parent
        if not node.present and len(node.children) == 1:
            [(nibble, child)] = node.children.items()
            node.prefix += nibble + child.prefix
            node.present = child.present
            node.children = child.children

    def path_nodes(self, key: bytes) -> int:
        """How many stored nodes a lookup of ``key`` reads, whether or not it is found."""
        path = key.hex()
        touched = 0
        node = self._root
        while node is not None:
            matches = path.startswith(node.prefix)
            if node.children:
                touched += 1 if node.prefix else 0
                if not matches:
                    return touched
            touched += 1
            if not matches:
                return touched
            path = path[len(node.prefix) :]
            if not path:
                return touched
            node, path = node.children.get(path[0]), path[1:]
        return touched

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        """All keys that begin with ``prefix``, in byte order."""
        wanted = prefix.hex()
        node, path, seen = self._root, wanted, ""
        while node is not None:
            if len(path) <= len(node.prefix):
                if node.prefix.startswith(path):
                    yield from self._walk(node, seen)
                return
            if not path.startswith(node.prefix):
                return
            path = path[len(node.prefix) :]
            seen += node.prefix + path[0]
            node, path = node.children.get(path[0]), path[1:]

    def _walk(self, root: _Node, above: str) -> Iterator[bytes]:
        # iterative: keys may be 4 KB long, deeper than the interpreter's stack allows
        stack = [(root, above)]
        while stack:
            node, seen = stack.pop()
            seen += node.prefix
            if node.present:
                yield bytes.fromhex(seen)
            for nibble in sorted(node.children, reverse=True):
                stack.append((node.children[nibble], seen + nibble))
