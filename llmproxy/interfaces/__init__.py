"""The seams: every interface between rooms, with its full contract.

Implementations live in the rooms above and are handed to their users by constructor, in the parts
list. Nothing is implemented here.
"""

from __future__ import annotations

from llmproxy.interfaces.backends import (
    IBackendActivity,
    IBackendControl,
    IBackendLease,
    IBackendStatuses,
    ICandidate,
    IHealthSink,
    IModelCatalog,
    IProgress,
    IRouter,
    IStrategy,
    IUpstreamClient,
    IUpstreamResponse,
)
from llmproxy.interfaces.client import IByteBudget, IClientRequest
from llmproxy.interfaces.logs import ILogSink
from llmproxy.interfaces.rights import IAuthenticator, IGrant, IKeySource, ILimiter
from llmproxy.interfaces.stores import ICounterStore, IDatabase, IKeyStore, IRecordStore, IRedis
from llmproxy.interfaces.usage import (
    IAlerts,
    IMetering,
    IReporter,
    IResending,
    IUsageSink,
    IUsageTotals,
)

__all__ = [
    "IAlerts",
    "IAuthenticator",
    "IBackendActivity",
    "IBackendControl",
    "IBackendLease",
    "IBackendStatuses",
    "IByteBudget",
    "ICandidate",
    "IClientRequest",
    "ICounterStore",
    "IDatabase",
    "IGrant",
    "IHealthSink",
    "IKeySource",
    "IKeyStore",
    "ILimiter",
    "ILogSink",
    "IMetering",
    "IModelCatalog",
    "IProgress",
    "IRecordStore",
    "IRedis",
    "IReporter",
    "IResending",
    "IRouter",
    "IStrategy",
    "IUpstreamClient",
    "IUpstreamResponse",
    "IUsageSink",
    "IUsageTotals",
]
