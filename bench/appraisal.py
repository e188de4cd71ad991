# SPDX-License-Identifier: MIT
"""What an appraisal costs, as a ratio to the bare library (``dcap_qvl.verify``) in the same run.

The library checks each signature once; an appraisal checks each by a second implementation as well. Three
cases: ``same_collateral`` (new quotes of a platform whose collateral is known: a coordinator, a verifier of
a batch), ``new_collateral`` (the same, with collateral never seen before) and ``first`` (a process that has
seen nothing). In the last two both sides start from the collateral's JSON text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

import dcap_qvl

from outlayer_attestation import memory, testing
from outlayer_attestation.appraisal import appraise
from outlayer_attestation.checks import Outcome
from outlayer_attestation.collateral import Collateral
from outlayer_attestation.platform.machine import SoftwarePlatform

_ROUNDS: Final = 400
_BLOCK: Final = 20

Work = Callable[[], object]


def _quiet_ms(pairs: Sequence[tuple[Work, Work]]) -> tuple[float, float]:
    """CPU time of the two sides, which take turns by blocks: each in its own steady state. The first decile
    counts, which other load on the machine disturbs least."""
    times: tuple[list[float], list[float]] = ([], [])
    for start in range(0, len(pairs), _BLOCK):
        for side, measured in enumerate(times):
            for pair in pairs[start : start + _BLOCK]:
                started = time.thread_time()
                pair[side]()
                measured.append(time.thread_time() - started)
    appraisal, baseline = (statistics.quantiles(side, n=10)[0] * 1000 for side in times)
    return appraisal, baseline


def measure_appraisal(rounds: int = _ROUNDS) -> dict[str, Any]:
    """Milliseconds for one appraisal and for one bare verification, and their ratio, for each case."""
    platform = testing.platform()
    root, now = platform.root_der, testing.NOW
    quotes = [
        testing.quote_with(platform, testing.Faults(td={"report_data": number.to_bytes(64, "big")}))
        for number in range(rounds)
    ]
    texts = [item.to_text() for item in _collateral(platform, rounds)]
    known = Collateral.from_json(texts[0])
    known_to_library = dcap_qvl.QuoteCollateralV3.from_json(texts[0])

    def ours(quote: bytes, collateral: Collateral) -> None:
        result = appraise(quote, collateral, root_ca_der=root, now=now)
        if result.outcome is not Outcome.PASS:
            raise RuntimeError(f"the bench measures a refusal: {result.failing()}")

    def ours_from_text(quote: bytes, text: str) -> None:
        ours(quote, Collateral.from_json(text))

    def ours_first(quote: bytes, text: str) -> None:
        memory.forget()
        ours_from_text(quote, text)

    def bare(quote: bytes, collateral: dcap_qvl.QuoteCollateralV3) -> None:
        dcap_qvl.verify_with_root_ca(quote, collateral, root, now)

    def bare_from_text(quote: bytes, text: str) -> None:
        bare(quote, dcap_qvl.QuoteCollateralV3.from_json(text))

    ours(quotes[0], known)
    cases: dict[str, list[tuple[Work, Work]]] = {
        "same_collateral": [
            (partial(ours, quote, known), partial(bare, quote, known_to_library)) for quote in quotes
        ],
        "new_collateral": [
            (partial(ours_from_text, quote, text), partial(bare_from_text, quote, text))
            for quote, text in zip(quotes[1:], texts[1:], strict=True)
        ],
        "first": [
            (partial(ours_first, quote, text), partial(bare_from_text, quote, text))
            for quote, text in zip(quotes, texts, strict=True)
        ],
    }
    return {"baseline": "dcap_qvl.verify", "cases": {name: _row(pairs) for name, pairs in cases.items()}}


def _row(pairs: list[tuple[Work, Work]]) -> dict[str, float]:
    appraisal, baseline = _quiet_ms(pairs)
    return {
        "appraisal_ms": round(appraisal, 3),
        "baseline_ms": round(baseline, 3),
        "ratio_to_baseline": round(appraisal / baseline, 2),
    }


def _collateral(platform: SoftwarePlatform, rounds: int) -> list[Collateral]:
    """Collateral as Intel issues it anew: TCB info, QE identity and PCK CRL differ, the root CRL does not."""
    made = []
    for number in range(rounds):
        age = timedelta(hours=1, seconds=number)
        made.append(testing.collateral_with(platform, testing.Faults(tcb_age=age, qe_age=age, crl_age=age)))
    return [replace(item, root_ca_crl=made[0].root_ca_crl) for item in made]


def main() -> None:
    """Measure and write bench/results/appraisal.json; needs no stack."""
    from bench.__main__ import write

    found = measure_appraisal()
    for name, row in found["cases"].items():
        print(f"appraisal, {name}: {row['appraisal_ms']} ms, {row['ratio_to_baseline']} of dcap_qvl.verify")
    write("appraisal", found)


if __name__ == "__main__":
    main()
