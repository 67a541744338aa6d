"""The health service of gRPC, on an address of its own, for probes that bring no certificate.

It says one word, whether its process serves; where that is wanted also, by gRPC's reflection, which services there are,
these two alone. Nothing else is served there. Whoever can connect is answered, so that connections are few, short and
small: `wool.transport.grpc_options.health_options`. Needs the extra ``wool[health]``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool

from wool.limits import DEFAULT_LIMITS, Limits
from wool.transport.grpc_environment import environment_for_import
from wool.transport.grpc_options import health_options

with environment_for_import():
    import grpc
    import grpc.aio

STOP_SECONDS = 0.5


def _part(name: str) -> Any:
    """Return a module of grpcio-health-checking, which says nothing of its types."""
    return import_module(f"grpc_health.v1.{name}")


def _reflection(health: Any) -> Callable[[grpc.aio.Server], None]:
    """Return what adds gRPC's reflection to a server: of itself and of ``health``, a descriptor of a file."""
    try:
        reflection: Any = import_module("grpc_reflection.v1alpha.reflection")
        messages: Any = import_module("grpc_reflection.v1alpha.reflection_pb2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reflection needs grpcio-reflection: pip install 'wool[health]'", name=error.name
        ) from error
    # Of its own, since the one of the process knows whatever else was imported.
    pool = DescriptorPool()
    names: list[str] = []
    for file in (health, messages.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
        names.extend(service.full_name for service in file.services_by_name.values())

    def add(server: grpc.aio.Server) -> None:
        reflection.enable_server_reflection(names, server, pool)

    return add


class HealthServer:
    """Answers ``grpc.health.v1.Health`` for the service named ``""``: not serving until it is told otherwise."""

    def __init__(self, address: str, limits: Limits = DEFAULT_LIMITS, *, reflection: bool = False) -> None:
        """``address`` is ``host:port``; port 0 is a free one. Raises `ModuleNotFoundError` without the extra.

        With ``reflection`` it also tells, by ``grpc.reflection.v1alpha``, what is served there.
        """
        try:
            health, messages, service = (_part(name) for name in ("health", "health_pb2", "health_pb2_grpc"))
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the health service needs grpcio-health-checking: pip install 'wool[health]'", name=error.name
            ) from error
        self._statuses = messages.HealthCheckResponse
        self._servicer = health.aio.HealthServicer()
        self._address = address
        self._limits = limits
        self._add = service.add_HealthServicer_to_server
        self._add_reflection = _reflection(messages.DESCRIPTOR) if reflection else None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen; return the port. Raises `OSError` if that address cannot be had."""
        self._server = grpc.aio.server(options=health_options(self._limits))
        self._add(self._servicer, self._server)
        if self._add_reflection is not None:
            self._add_reflection(self._server)
        await self.tell(False)
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            await self.stop()
            raise OSError(f"cannot listen on {self._address} for the health service: in use, or not ours") from error
        await self._server.start()
        return port

    async def tell(self, serving: bool) -> None:
        """Say from now on whether the process serves; who watches hears it at once."""
        status = self._statuses.SERVING if serving else self._statuses.NOT_SERVING
        await self._servicer.set("", status)

    async def stop(self) -> None:
        """Listen no more; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(STOP_SECONDS)
