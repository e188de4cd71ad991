# SPDX-License-Identifier: MIT
"""Measure and write ``bench/results/*.json``: ``python -m bench`` (needs a stack that runs: ``make up``)."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from bench import appraisal
from bench.calls import measure_calls
from bench.gas import measure_gas
from bench.guests import measure_guests
from bench.measure import measure_prediction
from outlayer_cli.errors import CliError
from outlayer_cli.layout import Stack, default_state
from outlayer_cli.payment_keys import choose_key

RESULTS = Path(__file__).resolve().parent / "results"


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}


def write(name: str, value: Any) -> None:
    """Write results/<name>.json."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": _machine(), "results": value}, indent=2, sort_keys=True) + "\n")
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=default_state())
    options = parser.parse_args()
    try:
        key = choose_key(Stack.load(options.state), None)
    except CliError as error:
        parser.error(f"{error}; {error.hint}")
    rows = measure_calls(options.state, key.header)
    for row in rows:
        call, ratio = row["call"], row["rate_ratio_to_baseline"]
        print(
            f"{row['clients']} client(s): p50 {call['p50_ms']} ms, {call['per_second']} calls/s, "
            f"{ratio:.1%} of a bare insert's rate"
        )
    write("calls", rows)
    guests = measure_guests()
    print(
        f"a warm guest: {guests['echo']['run_ms']} ms, {guests['echo']['ratio_to_baseline']} of starting a process"
    )
    write("guests", guests)
    gas = measure_gas()
    for method, parts in gas.items():
        print(f"{method}: {parts['contract']} Tgas in the contract, {parts['all']} in all")
    write("gas", gas)
    prediction = measure_prediction()
    print(
        f"measurements of an image of {prediction['image_mib']} MiB: {prediction['prediction_s']} s, "
        f"{prediction['ratio_to_baseline']} of hashing it once"
    )
    write("measure", prediction)
    appraisal.main()


if __name__ == "__main__":
    main()
