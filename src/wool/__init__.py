"""Run async functions on worker processes, as if they were local. See the README.

>>> import wool
>>> @wool.routine
... async def add(x: int, y: int) -> int:
...     return x + y
"""

from wool._version import __version__
from wool.balancer import LeastLoadedLoadBalancer, LoadBalancerLike, RoundRobinLoadBalancer, WorkerStatus
from wool.context import RuntimeContext
from wool.discovery.base import (
    DiscoveryEvent,
    DiscoveryLike,
    DiscoveryPublisherLike,
    DiscoverySubscriberLike,
    WorkerMetadata,
)
from wool.discovery.dns import DnsDiscovery
from wool.discovery.lan import LanDiscovery
from wool.discovery.local import LocalDiscovery
from wool.discovery.static import StaticDiscovery
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
from wool.failure import Origin, TaskException, origin
from wool.pool import WorkerPool, WorkerProxy
from wool.routine import routine
from wool.task import Task, current_task
from wool.worker.child import WorkerStartError
from wool.worker.local import LocalWorker

__all__ = [
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
    "RemoteError",
    "RoundRobinLoadBalancer",
    "RpcError",
    "RuntimeContext",
    "SerializationError",
    "StaticDiscovery",
    "Task",
    "TaskException",
    "TaskInterrupted",
    "TransientRpcError",
    "UnexpectedResponse",
    "WoolError",
    "WorkerLost",
    "WorkerMetadata",
    "WorkerPool",
    "WorkerProxy",
    "WorkerStartError",
    "WorkerStatus",
    "__version__",
    "current_task",
    "origin",
    "routine",
]
