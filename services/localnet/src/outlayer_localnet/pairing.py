# SPDX-License-Identifier: MIT
"""The pairing curves of py_ecc, imported without what its import does to the process.

py_ecc raises the interpreter's recursion limit to 100,000, and then any nested JSON ends the whole process with
a stack overflow instead of a RecursionError. What is used of it needs no deep recursion.
"""

from __future__ import annotations

import sys

_limit = sys.getrecursionlimit()
try:
    from py_ecc import optimized_bls12_381, optimized_bn128
    from py_ecc.bls.hash_to_curve import (
        clear_cofactor_G1,
        clear_cofactor_G2,
        map_to_curve_G1,
        map_to_curve_G2,
    )
    from py_ecc.bls.point_compression import modular_squareroot_in_FQ2
finally:
    sys.setrecursionlimit(_limit)

__all__ = [
    "clear_cofactor_G1",
    "clear_cofactor_G2",
    "map_to_curve_G1",
    "map_to_curve_G2",
    "modular_squareroot_in_FQ2",
    "optimized_bls12_381",
    "optimized_bn128",
]
