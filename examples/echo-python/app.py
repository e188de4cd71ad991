# SPDX-License-Identifier: MIT
"""Echo: writes what it reads. The smallest guest there is, in Python."""

import sys

from wit_world import exports


class Run(exports.Run):
    """``wasi:cli/run``: called once per request, in a fresh instance."""

    def run(self) -> None:
        sys.stdout.buffer.write(sys.stdin.buffer.read())
        sys.stdout.flush()
