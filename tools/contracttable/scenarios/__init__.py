# SPDX-License-Identifier: MIT
"""Which scenario measures which artifact."""

from collections.abc import Mapping

from tools.contracttable.scenarios import caller, keystore_dao, outlayer, register, stand_ins
from tools.contracttable.table import Scenario

SCENARIOS: Mapping[str, Scenario] = {
    "caller": caller.SCENARIO,
    "dao-policy": stand_ins.POLICY,
    "keystore-dao": keystore_dao.SCENARIO,
    "mpc-signer": stand_ins.SIGNER,
    "nft": stand_ins.NFT,
    "stablecoin": stand_ins.STABLECOIN,
    "outlayer": outlayer.SCENARIO,
    "register": register.SCENARIO,
}
