# SPDX-License-Identifier: MIT
"""Which scenario measures which artifact."""

from collections.abc import Mapping

from tools.contracttable.scenarios import caller, keystore_dao, outlayer, register
from tools.contracttable.table import Scenario

SCENARIOS: Mapping[str, Scenario] = {
    "caller": caller.SCENARIO,
    "keystore-dao": keystore_dao.SCENARIO,
    "outlayer": outlayer.SCENARIO,
    "register": register.SCENARIO,
}
