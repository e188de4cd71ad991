# SPDX-License-Identifier: MIT
"""Change methods of the contracts: one function per method, each building the action that calls it.

One module per contract: ``main``, ``register``, ``dao``, ``token`` (NEP-141), ``caller``. The actions are pure
values: send one or several with ``Sender.send``. Deposits are in yoctoNEAR, gas in units. JSON that must arrive
as it is (an output) is taken as bytes and spliced in, never parsed and written again.
"""
