# SPDX-License-Identifier: MIT
"""Views of the contracts: one typed function per view method."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from outlayer_near.models import (
    CollateralInfo,
    MeasurementSet,
    PendingRequest,
    Pricing,
    Project,
    RegisterConfig,
    RootCa,
    Version,
    WorkerKey,
)
from outlayer_near.rpc import NearRpc


@dataclass(frozen=True)
class OutlayerViews:
    """The main contract, at the newest block or, with ``block``, at a height or hash."""

    rpc: NearRpc
    contract_id: str
    block: int | str | None = None

    async def _view(self, method: str, **args: Any) -> Any:
        return await self.rpc.view(self.contract_id, method, args, self.block)

    async def get_request(self, request_id: int) -> PendingRequest | None:
        """A request that has not been settled; None for any other."""
        found = await self._view("get_request", request_id=request_id)
        return None if found is None else PendingRequest.model_validate(found)

    async def get_project(self, project_id: str) -> Project | None:
        found = await self._view("get_project", project_id=project_id)
        return None if found is None else Project.model_validate(found)

    async def get_version(self, project_id: str, version_key: str) -> Version | None:
        found = await self._view("get_version", project_id=project_id, version_key=version_key)
        return None if found is None else Version.model_validate(found)

    async def list_versions(self, project_id: str, from_index: int = 0, limit: int = 50) -> list[Version]:
        args = {"project_id": project_id, "from_index": from_index, "limit": limit}
        return [Version.model_validate(item) for item in await self._view("list_versions", **args)]

    async def get_version_count(self, project_id: str) -> int:
        return int(await self._view("get_version_count", project_id=project_id))

    async def list_user_projects(self, account_id: str) -> list[Project]:
        found = await self._view("list_user_projects", account_id=account_id)
        return [Project.model_validate(item) for item in found]

    async def get_pricing(self) -> Pricing:
        return Pricing.model_validate(await self._view("get_pricing_full"))

    async def get_max_limits(self) -> tuple[int, int, int]:
        """Instructions, execution seconds, compilation seconds."""
        instructions, execution, compilation = await self._view("get_max_limits")
        return int(instructions), int(execution), int(compilation)

    async def estimate_execution_cost(self, limits: dict[str, int] | None) -> int:
        """YoctoNEAR that a request with these limits must attach."""
        return int(await self._view("estimate_execution_cost", resource_limits=limits))

    async def is_paused(self) -> bool:
        return bool(await self._view("is_paused"))

    async def get_config(self) -> tuple[str, str]:
        """Owner and operator."""
        owner, operator = await self._view("get_config")
        return str(owner), str(operator)

    async def get_stats(self) -> tuple[int, int]:
        """Executions that came to their end, and yoctoNEAR of fees."""
        executions, fees = await self._view("get_stats")
        return int(executions), int(fees)

    async def get_event_metadata(self) -> tuple[str, str]:
        """Standard and version that the contract writes into its events."""
        standard, version = await self._view("get_event_metadata")
        return str(standard), str(version)

    async def get_pending_request_ids(self, from_index: int = 0, limit: int = 50) -> list[int]:
        found = await self._view("get_pending_request_ids", from_index=from_index, limit=limit)
        return [int(item) for item in found]

    async def has_pending_output(self, request_id: int) -> bool:
        return bool(await self._view("has_pending_output", request_id=request_id))

    async def get_pending_output(self, request_id: int) -> bytes | None:
        """A large output that was handed in and not delivered yet."""
        found = await self._view("get_pending_output", request_id=request_id)
        return None if found is None else base64.b64decode(found, validate=True)

    async def get_payment_token_contract(self) -> str | None:
        found = await self._view("get_payment_token_contract")
        return None if found is None else str(found)

    async def get_developer_earnings(self, account_id: str) -> int:
        """Micro-USD that projects of this account earned and that were not withdrawn."""
        return int(await self._view("get_developer_earnings", account_id=account_id))

    async def get_user_stablecoin_balance(self, account_id: str) -> int:
        """Micro-USD that this account deposited for attached_usd."""
        return int(await self._view("get_user_stablecoin_balance", account_id=account_id))


@dataclass(frozen=True)
class RegisterViews:
    """The register contract, at the newest block or, with ``block``, at a height or hash."""

    rpc: NearRpc
    contract_id: str
    block: int | str | None = None

    async def _view(self, method: str, **args: Any) -> Any:
        return await self.rpc.view(self.contract_id, method, args, self.block)

    async def get_measurement_sets(self) -> list[MeasurementSet]:
        return [MeasurementSet.model_validate(item) for item in await self._view("get_measurement_sets")]

    async def is_measurements_approved(self, measurements: dict[str, str]) -> bool:
        return bool(await self._view("is_measurements_approved", measurements=measurements))

    async def get_worker_key(self, public_key: str) -> WorkerKey | None:
        found = await self._view("get_worker_key", public_key=public_key)
        return None if found is None else WorkerKey.model_validate(found)

    async def get_worker_keys(self, from_index: int = 0, limit: int = 50) -> list[WorkerKey]:
        found = await self._view("get_worker_keys", from_index=from_index, limit=limit)
        return [WorkerKey.model_validate(item) for item in found]

    async def is_worker_key_valid(self, public_key: str) -> bool:
        return bool(await self._view("is_worker_key_valid", public_key=public_key))

    async def get_collateral(self, fmspc: str | None = None) -> dict[str, Any] | None:
        """The collateral JSON that the contract holds for a platform (12 hex digits)."""
        found = await self._view("get_collateral", fmspc=fmspc)
        if found is None:
            return None
        collateral: dict[str, Any] = json.loads(found)
        return collateral

    async def get_collateral_info(self) -> list[CollateralInfo]:
        found = await self._view("get_collateral_info")
        return [CollateralInfo.model_validate(item) for item in found]

    async def get_approved_measurements(self) -> list[dict[str, str]]:
        """Measurements of the sets that are active now."""
        found: list[dict[str, str]] = await self._view("get_approved_measurements")
        return found

    async def get_root_ca(self) -> RootCa:
        return RootCa.model_validate(await self._view("get_root_ca"))

    async def get_config(self) -> RegisterConfig:
        return RegisterConfig.model_validate(await self._view("get_config"))
