# SPDX-License-Identifier: MIT
"""Views of the contracts: one typed function per view method, under the method's own name.

An answer of another form than the method's raises ``ModelError``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from outlayer_near.errors import ModelError
from outlayer_near.models import (
    U64,
    U128,
    AccessCondition,
    CallerAnswer,
    CollateralInfo,
    DaoConfig,
    ExecutionOutput,
    Keystore,
    KeystoreProposal,
    MeasurementSet,
    NearBooks,
    PendingRequest,
    PolicyVersion,
    Pricing,
    Project,
    RegisterConfig,
    Role,
    RootCa,
    SecretAccessor,
    SecretProfile,
    SizeLimits,
    StablecoinPools,
    StorageBalance,
    StorageBalanceBounds,
    UserSecret,
    Version,
    WaitingPolicy,
    WorkerKey,
)
from outlayer_near.models.base import WHAT_TO_DO, first_problem, to_json_text
from outlayer_near.rpc import NearRpc

T = TypeVar("T")

_SETS_PAGE = 200

_TEXT: TypeAdapter[str] = TypeAdapter(str)
_TEXT_OR_NONE: TypeAdapter[str | None] = TypeAdapter(str | None)
_TEXTS: TypeAdapter[list[str]] = TypeAdapter(list[str])
_TWO_TEXTS: TypeAdapter[tuple[str, str]] = TypeAdapter(tuple[str, str])
_BOOL: TypeAdapter[bool] = TypeAdapter(bool)
_NUMBER: TypeAdapter[int] = TypeAdapter(U64)
_NUMBERS: TypeAdapter[list[int]] = TypeAdapter(list[U64])
_AMOUNT: TypeAdapter[int] = TypeAdapter(U128)
_LIMITS: TypeAdapter[tuple[int, int, int]] = TypeAdapter(tuple[U64, U64, U64])
_FEES: TypeAdapter[tuple[int, int, int, int]] = TypeAdapter(tuple[U128, U128, U128, U128])
_STATS: TypeAdapter[tuple[int, int]] = TypeAdapter(tuple[U64, U128])
_REGISTERS: TypeAdapter[list[dict[str, str]]] = TypeAdapter(list[dict[str, str]])
_REQUEST: TypeAdapter[PendingRequest | None] = TypeAdapter(PendingRequest | None)
_PROJECT: TypeAdapter[Project | None] = TypeAdapter(Project | None)
_PROJECTS: TypeAdapter[list[Project]] = TypeAdapter(list[Project])
_VERSION: TypeAdapter[Version | None] = TypeAdapter(Version | None)
_VERSIONS: TypeAdapter[list[Version]] = TypeAdapter(list[Version])
_PRICING: TypeAdapter[Pricing] = TypeAdapter(Pricing)
_NEAR_BOOKS: TypeAdapter[NearBooks] = TypeAdapter(NearBooks)
_POOLS: TypeAdapter[StablecoinPools] = TypeAdapter(StablecoinPools)
_SIZE_LIMITS: TypeAdapter[SizeLimits] = TypeAdapter(SizeLimits)
_OUTPUT: TypeAdapter[dict[str, Any] | str | None] = TypeAdapter(ExecutionOutput | str | None)
_SECRET: TypeAdapter[SecretProfile | None] = TypeAdapter(SecretProfile | None)
_SECRETS: TypeAdapter[list[UserSecret]] = TypeAdapter(list[UserSecret])
_SET: TypeAdapter[MeasurementSet | None] = TypeAdapter(MeasurementSet | None)
_SETS: TypeAdapter[list[MeasurementSet]] = TypeAdapter(list[MeasurementSet])
_WORKER_KEY: TypeAdapter[WorkerKey | None] = TypeAdapter(WorkerKey | None)
_WORKER_KEYS: TypeAdapter[list[WorkerKey]] = TypeAdapter(list[WorkerKey])
_COLLATERAL: TypeAdapter[list[CollateralInfo]] = TypeAdapter(list[CollateralInfo])
_ROOT: TypeAdapter[RootCa] = TypeAdapter(RootCa)
_REGISTER_CONFIG: TypeAdapter[RegisterConfig] = TypeAdapter(RegisterConfig)
_BALANCE: TypeAdapter[StorageBalance | None] = TypeAdapter(StorageBalance | None)
_BOUNDS: TypeAdapter[StorageBalanceBounds] = TypeAdapter(StorageBalanceBounds)
_POLICIES: TypeAdapter[list[PolicyVersion]] = TypeAdapter(list[PolicyVersion])
_WAITING_POLICY: TypeAdapter[WaitingPolicy | None] = TypeAdapter(WaitingPolicy | None)
_KEYSTORE: TypeAdapter[Keystore | None] = TypeAdapter(Keystore | None)
_KEYSTORES: TypeAdapter[list[Keystore]] = TypeAdapter(list[Keystore])
_PROPOSAL: TypeAdapter[KeystoreProposal | None] = TypeAdapter(KeystoreProposal | None)
_PROPOSALS: TypeAdapter[list[KeystoreProposal]] = TypeAdapter(list[KeystoreProposal])
_DAO_CONFIG: TypeAdapter[DaoConfig] = TypeAdapter(DaoConfig)
_ANSWER: TypeAdapter[CallerAnswer | None] = TypeAdapter(CallerAnswer | None)


@dataclass(frozen=True)
class _Views:
    """A contract, at the newest block or, with ``block``, at a height or hash."""

    rpc: NearRpc
    contract_id: str
    block: int | str | None = None

    async def _ask(self, answer: TypeAdapter[T], method: str, args: Mapping[str, Any] | None = None) -> T:
        data = to_json_text(args or {}).encode()
        found = await self.rpc.view_bytes(self.contract_id, method, data, self.block)
        try:
            return answer.validate_json(found or b"null", strict=True)
        except ValidationError as error:
            problem = first_problem(f"{self.contract_id}.{method}", error)
            raise ModelError(problem, hint=WHAT_TO_DO) from None


class OutlayerViews(_Views):
    """The main contract."""

    # -- requests ------------------------------------------------------------------------------------

    async def get_request(self, request_id: int) -> PendingRequest | None:
        """A request that has not been settled; None for any other."""
        return await self._ask(_REQUEST, "get_request", {"request_id": request_id})

    async def get_pending_request_ids(self, from_index: int = 0, limit: int = 50) -> list[int]:
        return await self._ask(_NUMBERS, "get_pending_request_ids", _page(from_index, limit))

    async def has_pending_output(self, request_id: int) -> bool:
        return await self._ask(_BOOL, "has_pending_output", {"request_id": request_id})

    async def get_pending_output(self, request_id: int) -> dict[str, Any] | str | None:
        """A large output that was handed in and not delivered yet: Bytes, Text or Json, externally tagged.

        Contracts before state version 3 tell its bytes as base64.
        """
        return await self._ask(_OUTPUT, "get_pending_output", {"request_id": request_id})

    # -- projects ------------------------------------------------------------------------------------

    async def get_project(self, project_id: str) -> Project | None:
        return await self._ask(_PROJECT, "get_project", {"project_id": project_id})

    async def get_project_offer(self, project_id: str) -> str | None:
        """The account that may accept the project."""
        return await self._ask(_TEXT_OR_NONE, "get_project_offer", {"project_id": project_id})

    async def list_user_projects(self, account_id: str) -> list[Project]:
        return await self._ask(_PROJECTS, "list_user_projects", {"account_id": account_id})

    async def get_version(self, project_id: str, version_key: str) -> Version | None:
        args = {"project_id": project_id, "version_key": version_key}
        return await self._ask(_VERSION, "get_version", args)

    async def list_versions(self, project_id: str, from_index: int = 0, limit: int = 50) -> list[Version]:
        args = {"project_id": project_id, **_page(from_index, limit)}
        return await self._ask(_VERSIONS, "list_versions", args)

    async def get_version_count(self, project_id: str) -> int:
        return await self._ask(_NUMBER, "get_version_count", {"project_id": project_id})

    # -- secrets -------------------------------------------------------------------------------------

    async def get_secrets(self, accessor: SecretAccessor, profile: str, owner: str) -> SecretProfile | None:
        """For a repository the exact branch comes first, then the entry without a branch."""
        return await self._ask(_SECRET, "get_secrets", _secret(accessor, profile, owner))

    async def secrets_exist(self, accessor: SecretAccessor, profile: str, owner: str) -> bool:
        return await self._ask(_BOOL, "secrets_exist", _secret(accessor, profile, owner))

    async def list_profiles(self, accessor: SecretAccessor, owner: str) -> list[str]:
        """Profiles of the owner's secrets under one accessor."""
        return await self._ask(_TEXTS, "list_profiles", {"accessor": accessor.to_json(), "owner": owner})

    async def list_user_secrets(
        self, account_id: str, from_index: int = 0, limit: int = 50
    ) -> list[UserSecret]:
        args = {"account_id": account_id, **_page(from_index, limit)}
        return await self._ask(_SECRETS, "list_user_secrets", args)

    async def estimate_storage_cost(
        self,
        accessor: SecretAccessor,
        profile: str,
        owner: str,
        encrypted_secrets_base64: str,
        access: AccessCondition,
    ) -> int:
        """YoctoNEAR that storing this needs."""
        args = {
            **_secret(accessor, profile, owner),
            "encrypted_secrets_base64": encrypted_secrets_base64,
            "access": access.to_json(),
        }
        return await self._ask(_AMOUNT, "estimate_storage_cost", args)

    # -- money ---------------------------------------------------------------------------------------

    async def get_pricing(self) -> tuple[int, int, int, int]:
        """The NEAR fees: base, per million instructions, per ms, per ms of compilation."""
        return await self._ask(_FEES, "get_pricing")

    async def get_pricing_full(self) -> Pricing:
        return await self._ask(_PRICING, "get_pricing_full")

    async def get_max_limits(self) -> tuple[int, int, int]:
        """Instructions, execution seconds, compilation seconds."""
        return await self._ask(_LIMITS, "get_max_limits")

    async def get_size_limits(self) -> SizeLimits:
        """Raises ``NoSuchMethodError`` for a contract that is older than this view."""
        return await self._ask(_SIZE_LIMITS, "get_size_limits")

    async def get_near_books(self) -> NearBooks:
        """What of the contract's NEAR is not its own to use."""
        return await self._ask(_NEAR_BOOKS, "get_near_books")

    async def get_max_memory_mb(self) -> int:
        """MiB; the contract refuses requests for more."""
        return await self._ask(_NUMBER, "get_max_memory_mb")

    async def estimate_execution_cost(self, limits: Mapping[str, int] | None) -> int:
        """YoctoNEAR that a request with these limits must attach."""
        return await self._ask(_AMOUNT, "estimate_execution_cost", {"resource_limits": limits})

    async def get_payment_token_contract(self) -> str | None:
        return await self._ask(_TEXT_OR_NONE, "get_payment_token_contract")

    async def get_stablecoin_pools(self) -> StablecoinPools:
        return await self._ask(_POOLS, "get_stablecoin_pools")

    async def get_settlement_account(self) -> str | None:
        """The account that settles HTTPS calls."""
        return await self._ask(_TEXT_OR_NONE, "get_settlement_account")

    async def is_https_batch_credited(self, batch_id: str) -> bool:
        return await self._ask(_BOOL, "is_https_batch_credited", {"batch_id": batch_id})

    async def get_swap_contract(self) -> str | None:
        """The contract through which keys may be topped up with NEAR."""
        return await self._ask(_TEXT_OR_NONE, "get_swap_contract")

    async def get_developer_earnings(self, account_id: str) -> int:
        """Micro-USD that projects of this account earned and that were not withdrawn."""
        return await self._ask(_AMOUNT, "get_developer_earnings", {"account_id": account_id})

    async def get_user_stablecoin_balance(self, account_id: str) -> int:
        """Micro-USD that this account deposited for attached_usd."""
        return await self._ask(_AMOUNT, "get_user_stablecoin_balance", {"account_id": account_id})

    async def get_next_payment_key_nonce(self, account_id: str) -> int:
        """One more than the account's highest; 1 for the first."""
        return await self._ask(_NUMBER, "get_next_payment_key_nonce", {"account_id": account_id})

    # -- the contract itself -------------------------------------------------------------------------

    async def is_paused(self) -> bool:
        return await self._ask(_BOOL, "is_paused")

    async def get_config(self) -> tuple[str, str]:
        """Owner and operator."""
        return await self._ask(_TWO_TEXTS, "get_config")

    async def get_stats(self) -> tuple[int, int]:
        """Executions that came to their end, and yoctoNEAR of fees."""
        return await self._ask(_STATS, "get_stats")

    async def get_event_metadata(self) -> tuple[str, str]:
        """Standard and version that the contract writes into its events."""
        return await self._ask(_TWO_TEXTS, "get_event_metadata")

    async def get_storage_version(self) -> int:
        """Version of the state, which ``migrate`` raises."""
        return await self._ask(_AMOUNT, "get_storage_version")


class _ApprovalViews(_Views):
    """What contracts that admit TDs have in common."""

    async def get_measurement_sets(self) -> list[MeasurementSet]:
        """All sets that there are, page by page; older contracts, which do not page, give all at once.

        Several questions may be one too many for sets that are pruned meanwhile: ask at one block where that matters.
        """
        found: dict[int, MeasurementSet] = {}
        while True:
            page = await self._ask(_SETS, "get_measurement_sets", _page(len(found), _SETS_PAGE))
            known = len(found)
            found |= {entry.id: entry for entry in page}
            if len(page) != _SETS_PAGE or len(found) == known:
                return list(found.values())

    async def get_measurement_set(self, set_id: int) -> MeasurementSet | None:
        """A set by its id; None if there is none, or if it was pruned."""
        return await self._ask(_SET, "get_measurement_set", {"id": set_id})

    async def get_collateral(self, fmspc: str | None = None) -> dict[str, Any] | None:
        """The collateral JSON that the contract holds for a platform (12 hex digits), or what was stored last."""
        return _collateral(await self._ask(_TEXT_OR_NONE, "get_collateral", {"fmspc": fmspc}))

    async def get_collaterals(self, from_index: int = 0, limit: int = 20) -> list[str]:
        """The collateral of each platform that the contract holds, as the texts that it keeps."""
        return await self._ask(_TEXTS, "get_collaterals", _page(from_index, limit))

    async def get_collateral_info(self) -> list[CollateralInfo]:
        return await self._ask(_COLLATERAL, "get_collateral_info")

    async def get_root_ca(self) -> RootCa:
        return await self._ask(_ROOT, "get_root_ca")


class RegisterViews(_ApprovalViews):
    """The register contract."""

    async def is_measurements_approved(self, measurements: dict[str, str], role: Role = "worker") -> bool:
        args = {"measurements": measurements, "role": role}
        return await self._ask(_BOOL, "is_measurements_approved", args)

    async def get_approved_measurements(self, role: Role = "worker") -> list[dict[str, str]]:
        """Measurements of the sets that are active now for a role."""
        return await self._ask(_REGISTERS, "get_approved_measurements", {"role": role})

    async def get_policies(self, from_index: int = 0, limit: int = 50) -> list[PolicyVersion]:
        """Policy versions that were activated, oldest first."""
        return await self._ask(_POLICIES, "get_policies", _page(from_index, limit))

    async def get_pending_policy(self) -> WaitingPolicy | None:
        return await self._ask(_WAITING_POLICY, "get_pending_policy")

    async def get_worker_key(self, public_key: str) -> WorkerKey | None:
        return await self._ask(_WORKER_KEY, "get_worker_key", {"public_key": public_key})

    async def get_worker_keys(self, from_index: int = 0, limit: int = 50) -> list[WorkerKey]:
        return await self._ask(_WORKER_KEYS, "get_worker_keys", _page(from_index, limit))

    async def is_worker_key_valid(self, public_key: str) -> bool:
        return await self._ask(_BOOL, "is_worker_key_valid", {"public_key": public_key})

    async def get_init_worker_account(self) -> str:
        return await self._ask(_TEXT, "get_init_worker_account")

    async def get_config(self) -> RegisterConfig:
        return await self._ask(_REGISTER_CONFIG, "get_config")

    async def get_keys_without_approval(self) -> int:
        """Keys of sets that ended, which ``remove_expired_keys`` has still to remove."""
        return await self._ask(_NUMBER, "get_keys_without_approval")

    async def storage_balance_of(self, account_id: str) -> StorageBalance | None:
        """What the registering account has left for registrations; None for any other account."""
        return await self._ask(_BALANCE, "storage_balance_of", {"account_id": account_id})

    async def storage_balance_bounds(self) -> StorageBalanceBounds:
        """What one registration costs."""
        return await self._ask(_BOUNDS, "storage_balance_bounds")


class DaoViews(_ApprovalViews):
    """The keystore DAO."""

    async def get_proposal(self, proposal_id: int) -> KeystoreProposal | None:
        return await self._ask(_PROPOSAL, "get_proposal", {"proposal_id": proposal_id})

    async def get_proposals(self, from_index: int = 0, limit: int = 50) -> list[KeystoreProposal]:
        return await self._ask(_PROPOSALS, "get_proposals", _page(from_index, limit))

    async def get_dao_members(self) -> list[str]:
        return await self._ask(_TEXTS, "get_dao_members")

    async def get_approved_measurements(self) -> list[dict[str, str]]:
        return await self._ask(_REGISTERS, "get_approved_measurements")

    async def is_measurements_approved(self, measurements: dict[str, str]) -> bool:
        return await self._ask(_BOOL, "is_measurements_approved", {"measurements": measurements})

    async def is_keystore_approved(self, public_key: str) -> bool:
        return await self._ask(_BOOL, "is_keystore_approved", {"public_key": public_key})

    async def get_keystore(self, public_key: str) -> Keystore | None:
        return await self._ask(_KEYSTORE, "get_keystore", {"public_key": public_key})

    async def get_keystores(self, from_index: int = 0, limit: int = 50) -> list[Keystore]:
        return await self._ask(_KEYSTORES, "get_keystores", _page(from_index, limit))

    async def get_approved_keystores(self, from_index: int = 0, limit: int = 100) -> list[str]:
        """Keys of the keystores that count now."""
        return await self._ask(_TEXTS, "get_approved_keystores", _page(from_index, limit))

    async def get_owner(self) -> str:
        return await self._ask(_TEXT, "get_owner")

    async def get_config(self) -> DaoConfig:
        return await self._ask(_DAO_CONFIG, "get_config")


class CallerViews(_Views):
    """The example contract that asks for executions."""

    async def last_answer(self) -> CallerAnswer | None:
        """What the last callback got."""
        return await self._ask(_ANSWER, "last_answer")


def _page(from_index: int, limit: int) -> dict[str, int]:
    return {"from_index": from_index, "limit": limit}


def _secret(accessor: SecretAccessor, profile: str, owner: str) -> dict[str, Any]:
    return {"accessor": accessor.to_json(), "profile": profile, "owner": owner}


def _collateral(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        collateral = json.loads(text)
    except (ValueError, RecursionError):
        collateral = None
    if not isinstance(collateral, dict):
        raise ModelError("the stored collateral is not a JSON object", hint=WHAT_TO_DO)
    return collateral
