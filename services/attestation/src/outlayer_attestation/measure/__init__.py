# SPDX-License-Identifier: MIT
"""The measurement calculator: MRTD and RTMR0 to RTMR3 of a TDX VM, from files and before it boots.

Everything here is a pure function over bytes, except ``qtest``, which asks a QEMU for the tables that it
would give to a VM of some shape. ``predict`` puts the parts together; ``explain`` finds the first event in
which a recorded boot differs.
"""
