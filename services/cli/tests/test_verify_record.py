# SPDX-License-Identifier: MIT
"""``verify record`` and ``verify bundle`` on what the original project published: no stack, no network."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation import policy, testing
from outlayer_attestation.base58 import encode_ed25519_key
from outlayer_attestation.original import V1_SCHEME
from outlayer_attestation.platform.machine import SoftwarePlatform
from outlayer_attestation.record import TaskRecordV1, sha256_hex
from outlayer_cli.commands.verify_record import judge_records, original_trust, read_collaterals
from outlayer_cli.errors import EXIT_FAILED, EXIT_UNPROVEN, EXIT_USAGE, UsageError
from outlayer_cli.main import run

INPUT, OUTPUT = b'{"a":1}', b'{"b":2}'
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def machine() -> SoftwarePlatform:
    return testing.platform()


def published(machine: SoftwarePlatform, task_id: int = 1) -> dict[str, Any]:
    value = {
        "task_type": "execute",
        "task_id": task_id,
        "input_hash": sha256_hex(INPUT),
        "output_hash": sha256_hex(OUTPUT),
        "timestamp": testing.NOW,
    }
    data = TaskRecordV1.from_json(value).report_data()
    quote = testing.quote_with(machine, testing.Faults(td={"report_data": data}))
    return value | {"id": 5, "tdx_quote": base64.b64encode(quote).decode()}


@pytest.fixture
def files(machine: SoftwarePlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a record, its collateral, root, payload and a policy; the clock is an hour later."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    collateral = testing.collateral_with(machine, testing.Faults())
    (tmp_path / "record.json").write_text(json.dumps(published(machine)))
    (tmp_path / "collateral.json").write_text(collateral.to_text())
    (tmp_path / "root.der").write_bytes(machine.root_der)
    (tmp_path / "in").write_bytes(INPUT)
    (tmp_path / "out").write_bytes(OUTPUT)
    document = policy.local_document(
        [("original", testing.MEASUREMENTS)],
        fmspc=[collateral.fmspc()],
        not_before=testing.NOW - 1000,
        not_after=testing.NOW + 10**6,
        version=1,
    )
    document["report_data"]["scheme"] = V1_SCHEME
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    policy.write_signed(tmp_path / "policy.json", document, [key])
    public = encode_ed25519_key(key.public_key().public_bytes_raw())
    (tmp_path / "maintainers").write_text(public + "\n")
    monkeypatch.setattr("time.time", lambda: testing.NOW + 3600)
    return tmp_path


def verify(files: Path, *more: str, collateral: bool = True, root: bool = True) -> int:
    words = ["--state", str(files / "no stack"), "--json", "verify", "record", str(files / "record.json")]
    words += ["--collateral", str(files / "collateral.json")] if collateral else []
    words += ["--root-ca", str(files / "root.der")] if root else []
    return run([*words, *more])


def with_policy(files: Path) -> list[str]:
    return ["--policy", str(files / "policy.json"), "--policy-key", str(files / "maintainers")]


def with_payload(files: Path) -> list[str]:
    return ["--input", str(files / "in"), "--output", str(files / "out")]


def test_a_genuine_record_is_proven_by_ones_own_policy_with_no_stack_and_no_connection(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert verify(files, *with_policy(files), *with_payload(files)) == 0
    reply = json.loads(capsys.readouterr().out)
    assert (reply["verdict"], reply["simulated"]) == ("PASS", True)


def test_without_a_policy_it_is_unproven_and_under_intels_root_this_one_fails(files: Path) -> None:
    assert verify(files, *with_payload(files)) == EXIT_UNPROVEN
    assert verify(files, *with_policy(files), *with_payload(files), root=False) == EXIT_FAILED


def test_what_a_record_says_cannot_break_or_colour_the_table(
    files: Path, machine: SoftwarePlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("[/red]", "[bold]x", "\x1b[2J", "[link=http://x]"):
        wrong = published(machine) | {"worker_measurement": text, text: 1}
        (files / "record.json").write_text(json.dumps(wrong))
        words = ["--state", str(files), "--verbose", "verify", "record", str(files / "record.json")]
        words += ["--collateral", str(files / "collateral.json"), "--root-ca", str(files / "root.der")]
        assert run(words) == EXIT_UNPROVEN
        shown = "".join(capsys.readouterr().out.split())
        assert "\x1b" not in shown
        assert text not in ("[/red]", "[bold]x") or text in shown


def test_a_bundle_of_format_1_is_judged_with_no_stack_by_ones_own_policy(
    files: Path, machine: SoftwarePlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = {
        "bundle_format": 1,
        "network": "mainnet",
        "attestation": published(machine),
        "collateral": (files / "collateral.json").read_text(),
        "measurements_approved": True,
        "input_raw": INPUT.decode(),
        "output_raw": OUTPUT.decode(),
    }
    (files / "bundle.json").write_text(json.dumps(bundle))
    words = ["--state", str(files / "no stack"), "--json", "verify", "bundle", str(files / "bundle.json")]
    words += ["--root-ca", str(files / "root.der")]
    assert run(words) == EXIT_UNPROVEN
    reply = json.loads(capsys.readouterr().out)
    assert reply["layers"]["Approval"] == "UNPROVEN"
    assert "Approval/measurements_approved" in reply["rests_on"]["stated"]
    assert run([*words, *with_policy(files)]) == 0


def test_several_records_give_several_verdicts_and_the_worst_exit_code(
    files: Path, machine: SoftwarePlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = published(machine), published(machine, task_id=2) | {"task_id": 3}
    (files / "record.json").write_text(json.dumps([good, bad]))
    assert verify(files) == EXIT_FAILED
    assert [item["verdict"] for item in json.loads(capsys.readouterr().out)["all"]] == ["UNPROVEN", "FAIL"]
    assert verify(files, *with_payload(files)) == EXIT_USAGE


@pytest.mark.parametrize("name", ["record.json", "collateral.json", "root.der", "policy.json", "maintainers"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"a":1,"a":2}', None])
def test_a_damaged_or_missing_file_ends_with_an_exit_code(
    files: Path, name: str, content: bytes | None
) -> None:
    if content is None:
        (files / name).unlink()
    else:
        (files / name).write_bytes(content)
    code = verify(files, *with_policy(files), *with_payload(files))
    assert code in (EXIT_FAILED, EXIT_UNPROVEN, EXIT_USAGE)
    assert code == EXIT_USAGE or content is not None


def test_a_policy_needs_its_keys(files: Path) -> None:
    assert verify(files, "--policy", str(files / "policy.json")) == EXIT_USAGE


def test_the_real_record_is_judged_under_intels_root_by_default(tmp_path: Path) -> None:
    vectors = REPOSITORY.parent / "shared" / "vectors" / "outlayer"
    if not vectors.is_dir():
        pytest.skip("the shared vectors are not beside the repository (../shared/vectors)")
    (verdict,) = judge_records(
        vectors / "testnet-2008-chain.json",
        collaterals=read_collaterals([vectors / "our_collateral.json"]),
        trust=original_trust(None),
        policy=None,
        input_file=None,
        output_file=None,
        now=1_790_000_000,
    )
    assert (verdict.exit_code, verdict.simulated) == (EXIT_UNPROVEN, False)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(2**33)
    with pytest.raises(UsageError, match="longer than"):
        read_collaterals([large])
