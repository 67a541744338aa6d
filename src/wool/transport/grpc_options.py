"""Addresses and options of the gRPC transport: what both ends must agree on, in one place.

gRPC's defaults suit a web service, not two processes that must notice within seconds that the other is
gone: with the defaults a frozen peer is found after a minute or never, a proxy from the environment captures
loopback, two servers share a port without a word, and keepalive that the other side does not expect ends
the connection. Owns the choice of every option; `check` proves that the two sides fit. Opens nothing.
"""

from __future__ import annotations

import ipaddress
import resource
import sys
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import quote

from wool.limits import Limits

Options: TypeAlias = list[tuple[str, int | str]]

UNIX_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket: ``sun_path`` without its final zero (#34305)."""

_PREFIX = "unix:"

_NOTHING_IS_UNPACKED = ("grpc.per_message_decompression", 0)
"""We compress nothing, and what anybody sends compressed stays as it is, and is no message of ours. gRPC would unpack
it, and some releases hold the limit of a message against its size before: a MiB from a stranger would become a GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen or to connect, parsed."""

    kind: Literal["unix", "tcp"]
    text: str
    """As wool says it: ``unix:/path`` or ``host:port``."""
    target: str
    """As a gRPC channel wants it: a scheme that involves no name resolution."""
    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def binding(self) -> str:
        """As a gRPC server wants it: it knows ``ipv4:`` and ``ipv6:`` as targets only."""
        return self.target if self.kind == "unix" else join(self.host, self.port)


def join(host: str, port: int) -> str:
    """Write host and port as an address, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(address: str) -> Address:
    """Understand ``unix:/absolute/path`` and ``host:port`` with a literal IPv4 or IPv6 host.

    Names are refused: ``localhost`` may be ``::1`` first, and resolving is discovery's business. Raises
    `ValueError` with a text that names the address and what is wrong with it.
    """
    if address.startswith(_PREFIX):
        return _parse_unix(address)
    host, colon, digits = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        raise ValueError(
            f"{address!r} is not an address: expected unix:/path, or host:port with a literal IPv4 or IPv6 host"
        ) from None
    if bracketed != (version == 6):
        raise ValueError(f"{address!r} is not an address: an IPv6 host, and only that, stands in brackets")
    if not (colon and digits.isascii() and digits.isdigit() and int(digits) <= 65535):
        raise ValueError(f"{address!r} is not an address: the port must be a number from 0 to 65535")
    port = int(digits)
    return Address(
        kind="tcp",
        text=join(host, port),
        target=f"ipv{version}:" + quote(join(host, port), safe=":"),
        host=host,
        port=port,
    )


def _parse_unix(address: str) -> Address:
    path = address[len(_PREFIX) :]
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{address!r} is not an address: the path of a Unix socket must be absolute")
    size = len(path.encode())
    if size > UNIX_PATH_BYTES:
        raise ValueError(
            f"{address!r} is not an address: the path of a Unix socket has {size} bytes, at most {UNIX_PATH_BYTES} fit"
        )
    return Address(kind="unix", text=address, target=_PREFIX + quote(path), path=path)


def channel_options(kind: Literal["unix", "tcp"], limits: Limits) -> Options:
    """Options of the connecting end."""
    options = _both_ends(kind, limits)
    options += [
        # One connection per stream: streams must not share, or block, or break each other's connection.
        ("grpc.use_local_subchannel_pool", 1),
        # Transparent retries (gRFC A6) would open a second stream behind our back.
        ("grpc.enable_retries", 0),
        # http_proxy in the environment captures loopback and LAN targets too (#11751, #40366).
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        # Only matters until `connect` has seen the first failure; the default grows to 120 s (#29996, #11411).
        ("grpc.initial_reconnect_backoff_ms", _milliseconds(limits.reconnect_first_seconds)),
        ("grpc.max_reconnect_backoff_ms", _milliseconds(limits.reconnect_most_seconds)),
        # In gRPC this is also how long one attempt may take: a listener that says nothing ends here.
        ("grpc.min_reconnect_backoff_ms", _milliseconds(limits.handshake_seconds)),
    ]
    if kind == "unix":
        # The default is the percent-encoded path, which some servers refuse (#38142).
        options.append(("grpc.default_authority", "localhost"))
    return options


def server_options(kind: Literal["unix", "tcp"], limits: Limits) -> Options:
    """Options of the listening end."""
    options = _both_ends(kind, limits)
    options += [
        ("grpc.so_reuseport", 0),  # else a second server shares the port silently
        # By default a connection that never finishes TLS or HTTP/2's preface is kept for two minutes, one that then
        # opens no stream for ever, and each may open as many as it likes: all of that by anybody who can connect.
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.handshake_seconds)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.handshake_seconds)),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.max_allowed_incoming_connections", _connections(limits.connections)),
    ]
    return options


def health_options(limits: Limits) -> Options:
    """Options of the server that answers probes: whoever can connect may ask, and nobody stays for long."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_send_message_length", limits.probe_bytes),
        ("grpc.max_receive_message_length", limits.probe_bytes),
        _NOTHING_IS_UNPACKED,
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.handshake_seconds)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.handshake_seconds)),
        # Who watches is never idle, and who keeps a call open neither.
        ("grpc.max_connection_age_ms", _milliseconds(limits.probe_connection_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(limits.handshake_seconds)),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.max_allowed_incoming_connections", _connections(limits.probe_connections)),
    ]


def _connections(most: int) -> int:
    """Return how many connections to take: beyond what files the system allows, nothing would work any more."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if files == resource.RLIM_INFINITY else max(1, min(most, files // 2))


def _both_ends(kind: Literal["unix", "tcp"], limits: Limits) -> Options:
    keepalive, ping_timeout = _keepalive_seconds(kind, limits)
    options: Options = [
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.keepalive_time_ms", _milliseconds(keepalive)),
        ("grpc.keepalive_timeout_ms", _milliseconds(ping_timeout)),
        # This, not keepalive_timeout_ms, bounds how long a frozen peer is waited for; its default is 60 s.
        ("grpc.http2.ping_timeout_ms", _milliseconds(ping_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Never answer a peer's pings with GOAWAY too_many_pings.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(keepalive / 2)),
        _NOTHING_IS_UNPACKED,
    ]
    if kind == "unix":
        # A larger window leaves no room for the keepalive ping while bulk data waits; see grpc_pulse.
        options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", limits.unix_lookahead_bytes)]
    return options


def _keepalive_seconds(kind: Literal["unix", "tcp"], limits: Limits) -> tuple[float, float]:
    if kind == "unix":
        return limits.unix_keepalive_seconds, limits.unix_ping_timeout_seconds
    return limits.tcp_keepalive_seconds, limits.tcp_ping_timeout_seconds


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def check(channel: Options, server: Options) -> None:
    """Raise `ValueError` if the two ends of a connection do not fit each other."""
    here, there = dict(channel), dict(server)
    for sender, receiver in ((here, there), (there, here)):
        keepalive = _number(sender, "grpc.keepalive_time_ms")
        if keepalive < 1000:
            raise ValueError(f"gRPC takes a keepalive below 1 s for 1 s, got {keepalive} ms")
        if _number(sender, "grpc.http2.ping_timeout_ms") != _number(sender, "grpc.keepalive_timeout_ms"):
            raise ValueError("both ping timeouts must be equal, the longer one hides the other")
        if _number(sender, "grpc.http2.max_pings_without_data") != 0:
            raise ValueError("keepalive pings must go on while the stream is idle")
        if _number(receiver, "grpc.http2.max_ping_strikes") != 0:
            raise ValueError("pings must not be punished")
        if _number(receiver, "grpc.http2.min_recv_ping_interval_without_data_ms") >= keepalive:
            raise ValueError("one end pings more often than the other expects")
        if _number(sender, "grpc.max_send_message_length") > _number(receiver, "grpc.max_receive_message_length"):
            raise ValueError("one end may send larger messages than the other reads")


def _number(options: dict[str, int | str], name: str) -> int:
    value = options.get(name)
    if not isinstance(value, int):
        raise ValueError(f"{name} must be set to a number")
    return value
