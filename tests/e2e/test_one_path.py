# SPDX-License-Identifier: MIT
"""The thin path through every layer, as its users walk it."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outlayer_attestation.measure.pin import ImagePin
from outlayer_attestation.simulated import ROLE_PACKAGES, installed_code_digest
from outlayer_cli.measurement_set import of_pin
from tests.e2e.conftest import ARTIFACTS, ROOT, Cli

pytestmark = pytest.mark.e2e


def test_up_prints_what_it_did_and_where_things_are(up_output: str, cli: Cli) -> None:
    for words in ("SIMULATED", "verify", "curl", str(cli.state / "logs"), "credentials"):
        assert words in up_output


def test_up_registers_the_measurements_of_the_pinned_image_or_says_why_not(up_output: str, cli: Cli) -> None:
    pin = ImagePin.from_bytes((ROOT / "images/pins/worker-small.json").read_bytes())
    registered = json.loads((cli.state / "tdx/worker.measurements.json").read_text())
    if pin.code_sha256 == installed_code_digest(ROLE_PACKAGES["worker"]).hex():
        assert "those pinned for the image worker-small" in up_output
        configuration = (cli.state / "tdx/worker.config.json").read_bytes()
        assert registered == of_pin(pin, configuration).to_json()
    else:
        assert "derived from the installed code, which is not that of the pinned image" in up_output
        assert registered["rtmr1"] != pin.metadata.measurements.rtmr1


def test_the_approved_measurements_are_read_from_the_chain(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "approved.json"
    said = cli.json("image", "approved", "worker", "--out", str(out))
    registered = json.loads((cli.state / "tdx/worker.measurements.json").read_text())
    assert json.loads(out.read_text()) == said["measurements"] == registered
    nobody = cli.run("image", "approved", "keystore")
    assert nobody.code == 1
    assert "approves no measurements of the role keystore" in nobody.err


def test_the_curl_line_that_up_prints_works(up_output: str, cli: Cli) -> None:
    line = next(line for line in up_output.splitlines() if line.strip().startswith("curl"))
    answer = subprocess.run(line, shell=True, capture_output=True, text=True, check=True, env=cli.env)
    assert json.loads(answer.stdout)["status"] == "completed"


def test_a_call_is_answered_and_proven(cli: Cli) -> None:
    reply = cli.json("call", "alice.test/echo", '{"hello":"world"}')
    assert reply["output"] == {"hello": "world"}
    verdict = cli.json("verify", "call", reply["call_id"])
    assert verdict["verdict"] == "PASS"
    assert verdict["simulated"] is True


def test_evidence_proves_the_call_again_without_any_network(cli: Cli, tmp_path: Path) -> None:
    reply = cli.json("call", "alice.test/echo", '{"n":1}')
    bundle = tmp_path / "evidence.json"
    cli.ok("verify", "call", reply["call_id"], "--save", str(bundle))
    isolated = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    prefix = ("unshare", "-rn") if isolated else ()
    outcome = cli.run("verify", "bundle", str(bundle), prefix=prefix)
    assert outcome.code == 0, outcome.out + outcome.err
    assert "SIMULATED" in outcome.out


def flip_hex(text: str, position: int) -> str:
    digit = "0" if text[position] != "0" else "1"
    return text[:position] + digit + text[position + 1 :]


def _quote_byte(offset: int) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        bundle["batch"]["quote"] = flip_hex(bundle["batch"]["quote"], offset * 2)

    return change


def _payload(name: str) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        bundle["payload"][name] = base64.b64encode(b'{"other":true}').decode()

    return change


def _record(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        assert bundle["record"][name] != value
        bundle["record"][name] = value

    return change


MUTATIONS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "output hash of the record": ("Binding", _record("output_sha256", "00" * 32)),
    "code hash of the record": ("Binding", _record("wasm_sha256", "00" * 32)),
    "call id of the record": ("Binding", _record("call_id", "00000000-0000-0000-0000-000000000000")),
    "MRTD in the quote": ("Platform", _quote_byte(184)),
    "RTMR3 in the quote": ("Platform", _quote_byte(520)),
    "REPORTDATA in the quote": ("Platform", _quote_byte(568)),
    "quote signature": ("Platform", _quote_byte(640)),
    "QE report signature": ("Platform", _quote_byte(1160)),
    "input": ("Payload", _payload("input_base64")),
    "output": ("Payload", _payload("output_base64")),
}


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_changed_bundle_fails_in_the_right_layer(cli: Cli, tmp_path: Path, name: str) -> None:
    reply = cli.json("call", "alice.test/echo", '{"hello":"mutation"}')
    path = tmp_path / "bundle.json"
    cli.ok("verify", "call", reply["call_id"], "--save", str(path))
    bundle = copy.deepcopy(json.loads(path.read_text()))
    layer, change = MUTATIONS[name]
    change(bundle)
    path.write_text(json.dumps(bundle))
    outcome = cli.run("--json", "verify", "bundle", str(path))
    assert outcome.code == 1, outcome.out + outcome.err
    failed = {check["layer"] for check in outcome.json()["checks"] if check["outcome"] == "FAIL"}
    assert layer in failed


@pytest.mark.parametrize("via", [None, "bob.test"])
def test_a_request_with_a_large_input_pays_for_itself_and_says_what_came_back(
    cli: Cli, tmp_path: Path, via: str | None
) -> None:
    """Its input is only in the contract's state, and its answer is longer than what is free."""
    document = tmp_path / "input.json"
    document.write_text(json.dumps({"text": "x" * 100_000}))
    words = ["request", "alice.test/echo", f"@{document}", "--account", "alice.test"]
    reply = cli.json(*words, *(["--via", via] if via else []))
    assert reply["value"] == {"text": "x" * 100_000}
    assert reply["payer"] == (via or "alice.test")
    attached, charged, refunded = (int(reply[name]) for name in ("attached", "charged", "refunded"))
    assert attached == charged + refunded
    assert 0 < charged < 10**24 // 10
    verdict = cli.json("verify", "tx", reply["tx_hash"])
    assert verdict["verdict"] == "PASS"


def test_a_request_prints_its_payment(cli: Cli) -> None:
    said = cli.ok("request", "alice.test/echo", '{"n":7}', "--account", "alice.test").out
    assert "NEAR attached, " in said
    assert "back to alice.test" in said


def test_a_contract_gets_the_value_in_its_callback_and_the_transaction_is_proven(cli: Cli) -> None:
    words = ("request", "alice.test/echo", '{"hello":"chain"}', "--account", "alice.test")
    reply = cli.json(*words, "--via", "bob.test")
    assert reply["value"] == {"hello": "chain"}
    verdict = cli.json("verify", "tx", reply["tx_hash"])
    assert verdict["verdict"] == "PASS"


def test_a_saved_request_is_bounded_by_the_chain_and_says_what_is_only_stated(
    cli: Cli, tmp_path: Path
) -> None:
    reply = cli.json("request", "alice.test/echo", '{"n":9}', "--account", "alice.test")
    path = tmp_path / "evidence.json"
    live = cli.json("verify", "tx", reply["tx_hash"], "--save", str(path))
    assert live["time"]["not_before"] <= live["time"]["not_after"]
    assert live["rests_on"]["stated"] == []
    saved = cli.json("verify", "bundle", str(path))
    assert saved["verdict"] == "PASS"
    assert {"Approval/worker_key", "Binding/not_before", "Binding/not_after"} <= set(
        saved["rests_on"]["stated"]
    )


def test_a_call_without_a_receipt_is_unproven_and_names_what_could_have_been_changed(cli: Cli) -> None:
    reply = cli.json("call", "alice.test/echo", '{"n":10}', "--no-receipt")
    outcome = cli.run("--json", "verify", "call", reply["call_id"])
    assert outcome.code == 2
    checks = outcome.json()["checks"]
    open_ = {check["name"] for check in checks if check["reason"] == "no_receipt"}
    assert {"receipt_input", "receipt_project", "receipt_limits", "receipt_caller"} <= open_


def test_a_request_without_a_contract_in_between_is_answered_too(cli: Cli) -> None:
    reply = cli.json("request", "alice.test/echo", '{"a":[1,2.5,"ä"]}', "--account", "alice.test")
    assert reply["value"] == {"a": [1, 2.5, "ä"]}
    assert cli.json("verify", "tx", reply["tx_hash"])["verdict"] == "PASS"


def test_rust_components_and_python_guests_run(cli: Cli) -> None:
    for name in ("echo-p2", "echo-python"):
        wasm = ARTIFACTS / f"{name}.wasm"
        if name == "echo-python":
            wasm = build_python_guest(cli)
        cli.json("project", "deploy", name, "--wasm", str(wasm), "--account", "alice.test")
        reply = cli.json("call", f"alice.test/{name}", '{"hello":"guest"}')
        assert reply["output"] == {"hello": "guest"}, name
        assert cli.json("verify", "call", reply["call_id"])["verdict"] == "PASS"


def build_python_guest(cli: Cli) -> Path:
    import sys

    target = cli.state.parent / "echo-python.wasm"
    script = ARTIFACTS.parent / "echo-python" / "build.py"
    subprocess.run([sys.executable, str(script), "--out", str(target)], check=True, capture_output=True)
    return target


def test_an_unknown_project_is_a_clear_error_and_costs_nothing(cli: Cli) -> None:
    before = cli.json("keys", "balance")
    outcome = cli.run("call", "alice.test/nothing-here", "{}")
    assert outcome.code == 1
    assert "nothing-here" in outcome.err + outcome.out
    after = cli.json("keys", "balance")
    assert before["available"] == after["available"]


def test_health_is_reported_apart_from_readiness(cli: Cli) -> None:
    url = cli.stack()["coordinator_url"]
    for path in ("/health", "/health/ready", "/metrics", "/openapi.json"):
        with urllib.request.urlopen(url + path, timeout=10) as answer:
            assert answer.status == 200, path
