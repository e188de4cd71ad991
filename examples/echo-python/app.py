# SPDX-License-Identifier: MIT
"""Echo: writes what it reads. The smallest guest there is, in Python."""

import sys

from wit_world import exports


def write_all(data: bytes) -> None:
    """stdout is unbuffered here: one write takes 8 KiB at most and says how much it took."""
    view = memoryview(data)
    while view:
        view = view[sys.stdout.buffer.write(view) :]


class Run(exports.Run):
    """``wasi:cli/run``: called once per request, in a fresh instance."""

    def run(self) -> None:
        write_all(sys.stdin.buffer.read())
