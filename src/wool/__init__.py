"""Run async functions on worker processes, as if they were local. See the README.

>>> import wool
>>> @wool.routine
... async def add(x: int, y: int) -> int:
...     return x + y
"""

from typing import TYPE_CHECKING

from wool._version import __version__
from wool.balancer import LeastLoadedLoadBalancer, LoadBalancerLike, RoundRobinLoadBalancer, WorkerStatus
from wool.context import RuntimeContext
from wool.credentials import CredentialFiles, WorkerCredentials
from wool.discovery.base import (
    DiscoveryEvent,
    DiscoveryLike,
    DiscoveryPublisherLike,
    DiscoverySubscriberLike,
    WorkerMetadata,
)
from wool.discovery.local import LocalDiscovery
from wool.errors import (
    DispatchTimeout,
    NoWorkersAvailable,
    RemoteError,
    RpcError,
    SerializationError,
    TaskInterrupted,
    TransientRpcError,
    UnexpectedResponse,
    WoolError,
    WorkerLost,
)
from wool.events import TaskEvent
from wool.failure import Origin, TaskException, origin
from wool.mapping import map
from wool.pool import WorkerPool, WorkerProxy
from wool.routine import routine
from wool.tally import PoolStatistics
from wool.task import Task, current_task
from wool.tasklog import TaskLogFilter
from wool.variables import ContextVar, Token
from wool.worker.admission import TaskOffer
from wool.worker.child import WorkerStartError
from wool.worker.local import LocalWorker

if TYPE_CHECKING:
    from wool.discovery.dns import DnsDiscovery
    from wool.discovery.lan import LanDiscovery
    from wool.discovery.static import StaticDiscovery

__all__ = [
    "ContextVar",
    "CredentialFiles",
    "DiscoveryEvent",
    "DiscoveryLike",
    "DiscoveryPublisherLike",
    "DiscoverySubscriberLike",
    "DispatchTimeout",
    "DnsDiscovery",
    "LanDiscovery",
    "LeastLoadedLoadBalancer",
    "LoadBalancerLike",
    "LocalDiscovery",
    "LocalWorker",
    "NoWorkersAvailable",
    "Origin",
    "PoolStatistics",
    "RemoteError",
    "RoundRobinLoadBalancer",
    "RpcError",
    "RuntimeContext",
    "SerializationError",
    "StaticDiscovery",
    "Task",
    "TaskEvent",
    "TaskException",
    "TaskInterrupted",
    "TaskLogFilter",
    "TaskOffer",
    "Token",
    "TransientRpcError",
    "UnexpectedResponse",
    "WoolError",
    "WorkerCredentials",
    "WorkerLost",
    "WorkerMetadata",
    "WorkerPool",
    "WorkerProxy",
    "WorkerStartError",
    "WorkerStatus",
    "__version__",
    "current_task",
    "map",
    "origin",
    "routine",
]

# Imported when first used: a program has one discovery, and most have none of these.
_LATE = {"DnsDiscovery": "dns", "LanDiscovery": "lan", "StaticDiscovery": "static"}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"wool.discovery.{_LATE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
