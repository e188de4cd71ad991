# SPDX-License-Identifier: MIT
"""Views of the contracts: one typed function per view method."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from outlayer_near.models import MeasurementSet, PendingRequest, Pricing, Project, Version, WorkerKey
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

    async def is_worker_key_valid(self, public_key: str) -> bool:
        return bool(await self._view("is_worker_key_valid", public_key=public_key))

    async def get_collateral(self, fmspc: str | None = None) -> dict[str, Any] | None:
        """The collateral JSON that the contract holds for a platform (12 hex digits)."""
        found = await self._view("get_collateral", fmspc=fmspc)
        if found is None:
            return None
        collateral: dict[str, Any] = json.loads(found)
        return collateral

    async def get_root_ca(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._view("get_root_ca")
        return found
