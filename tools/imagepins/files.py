# SPDX-License-Identifier: MIT
"""The files of an image beside its pin, format ``outlayer/image-files/v1``: `images/pins/<role>.files.json`.

The same as the listing that a build writes, in a form whose differences can be read: package, folder, then one line
for each file, "mode size sha256", "mode -> target" or, for a folder, "mode"; " user:group" follows the mode where
that is not root. Small texts that the build made itself are there in full. The pin binds it: `tree` holds the digest
over what each package has here (`root_of`), so that nobody has to trust this file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outlayer_attestation.measure.pin import ImagePin
from tools.imagebuild.errors import ImageBuildError

FORMAT = "outlayer/image-files/v1"
_HINT = "it is written by: make images-pin"
_ITEM = re.compile(
    r"(?P<mode>[0-7]{6})(?: (?P<user>[0-9]{1,10}):(?P<group>[0-9]{1,10}))?"
    r"(?: -> (?P<target>.+)| (?P<size>[0-9]{1,12}) (?P<sha256>[0-9a-f]{64}))?",
    re.ASCII | re.DOTALL,
)
# what the digest of a package's files does not cover: the package itself, and contents that have a hash
_NOT_HASHED = frozenset({"owner", "text"})
Listing = Mapping[str, Mapping[str, Any]]


def root_of(files: Listing) -> dict[str, str]:
    """Package -> SHA-256 over paths, rights and contents of what it has in the image."""
    hashers: dict[str, Any] = {}
    for path, item in sorted(files.items()):
        kept = {name: value for name, value in item.items() if name not in _NOT_HASHED}
        line = json.dumps([path, kept], sort_keys=True)
        hashers.setdefault(item["owner"], hashlib.sha256()).update(line.encode() + b"\n")
    return {owner: hasher.hexdigest() for owner, hasher in sorted(hashers.items())}


def files_text(role: str, files: Listing) -> str:
    """The document of a listing."""
    tree: dict[str, dict[str, dict[str, str]]] = {}
    texts: dict[str, list[str]] = {}
    for path, item in sorted(files.items()):
        folder, _, name = path.rpartition("/")
        tree.setdefault(item["owner"], {}).setdefault(folder, {})[name] = _line(item)
        if "text" in item:
            texts[path] = item["text"].split("\n")
    document = {"format": FORMAT, "role": role, "files": tree, "texts": texts}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _line(item: Mapping[str, Any]) -> str:
    owned = f" {item['user']}:{item['group']}" if item["user"] or item["group"] else ""
    if "target" in item:
        return f"{item['mode']}{owned} -> {item['target']}"
    if "sha256" in item:
        return f"{item['mode']}{owned} {item['size']} {item['sha256']}"
    return f"{item['mode']}{owned}"


def parse_files(data: bytes | str, role: str) -> dict[str, dict[str, Any]]:
    """The listing of a document.

    Errors:
        ImageBuildError: it is none of this role, or a text has another hash than its file.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageBuildError(f"the list of files is not JSON: {error}", hint=_HINT) from error
    names = {"format", "role", "files", "texts"}
    if not isinstance(document, dict) or set(document) != names or document["format"] != FORMAT:
        raise ImageBuildError(f"a list of files has the fields {', '.join(sorted(names))}", hint=_HINT)
    if document["role"] != role:
        raise ImageBuildError(f"the list of files is of {document['role']!r}, not of {role}", hint=_HINT)
    found: dict[str, dict[str, Any]] = {}
    for owner, folders in _object(document["files"], "files"):
        for folder, items in _object(folders, owner):
            for name, line in _object(items, folder):
                path = f"{folder}/{name}" if folder else name
                if path in found:
                    raise ImageBuildError(f"{path} is in the list of files twice", hint=_HINT)
                found[path] = {"owner": owner, **_item(path, line)}
    for path, lines in _object(document["texts"], "texts"):
        _add_text(found, path, lines)
    return dict(sorted(found.items()))


def _object(value: object, what: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ImageBuildError(f"{what!r} in the list of files is no object", hint=_HINT)
    return list(value.items())


def _item(path: str, line: object) -> dict[str, Any]:
    match = _ITEM.fullmatch(line) if isinstance(line, str) else None
    if match is None:
        raise ImageBuildError(f"{path} in the list of files has the wrong form: {line!r}", hint=_HINT)
    item: dict[str, Any] = {
        "mode": match["mode"], "user": int(match["user"] or 0), "group": int(match["group"] or 0),
    }  # fmt: skip
    if match["target"] is not None:
        item["target"] = match["target"]
    if match["sha256"] is not None:
        item |= {"sha256": match["sha256"], "size": int(match["size"])}
    return item


def _add_text(found: dict[str, dict[str, Any]], path: str, lines: object) -> None:
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ImageBuildError(f"the text of {path} is no list of lines", hint=_HINT)
    text = "\n".join(lines)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    if path not in found or found[path].get("sha256") != digest:
        raise ImageBuildError(f"the text of {path} is not that of the file in the list", hint=_HINT)
    found[path]["text"] = text


def pinned_files(files: Path, pinned: ImagePin) -> dict[str, dict[str, Any]]:
    """The listing beside a pin.

    Errors:
        ImageBuildError: it is missing, cannot be read, or is not the one that the pin binds.
    """
    if not files.is_file():
        raise ImageBuildError(f"{files.name} is missing beside the pins", hint="make images-pin")
    expected = parse_files(files.read_bytes(), pinned.role)
    if root_of(expected) != pinned.tree:
        raise ImageBuildError(
            f"{files.name} is not the list of files that the pin binds", hint="make images-pin writes both"
        )
    return expected
