"""Addresses are understood or refused clearly, and the options of both ends fit each other."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wool.limits import Limits
from wool.transport.grpc_options import (
    UNIX_PATH_BYTES,
    Options,
    channel_options,
    check,
    health_options,
    parse,
    server_options,
)

Kind = Literal["unix", "tcp"]
KINDS: tuple[Kind, ...] = ("unix", "tcp")
both = pytest.mark.parametrize("kind", KINDS)


@both
def test_the_two_ends_fit(kind: Kind) -> None:
    check(channel_options(kind, Limits()), server_options(kind, Limits()))


@both
@given(
    keepalive=st.floats(min_value=1, max_value=1e4),
    timeout=st.floats(min_value=0.001, max_value=1e4),
    size=st.integers(min_value=8 << 20, max_value=1 << 30),
)
def test_the_two_ends_fit_whatever_the_limits(kind: Kind, keepalive: float, timeout: float, size: int) -> None:
    limits = Limits(
        unix_keepalive_seconds=keepalive,
        unix_ping_timeout_seconds=timeout,
        tcp_keepalive_seconds=keepalive,
        tcp_ping_timeout_seconds=timeout,
        message_bytes=size,
    )
    check(channel_options(kind, limits), server_options(kind, limits))


@both
def test_no_option_is_given_twice(kind: Kind) -> None:
    for options in (channel_options(kind, Limits()), server_options(kind, Limits())):
        assert len(dict(options)) == len(options)


def test_a_frozen_peer_is_found_in_time() -> None:
    bounds = {"unix": 6.0, "tcp": 31.0}
    for kind in KINDS:
        for options in (channel_options(kind, Limits()), server_options(kind, Limits())):
            numbers = dict(options)
            pings = (numbers["grpc.keepalive_time_ms"], numbers["grpc.http2.ping_timeout_ms"])
            assert sum(int(number) for number in pings) <= bounds[kind] * 1000


@both
def test_what_a_proxy_a_retry_or_a_shared_port_could_do_is_off(kind: Kind) -> None:
    channel, server = dict(channel_options(kind, Limits())), dict(server_options(kind, Limits()))
    assert channel["grpc.enable_http_proxy"] == 0
    assert channel["grpc.enable_retries"] == 0
    assert channel["grpc.use_local_subchannel_pool"] == 1
    assert server["grpc.so_reuseport"] == 0


def test_nothing_that_was_sent_compressed_is_unpacked() -> None:
    made = [make(kind, Limits()) for make in (channel_options, server_options) for kind in KINDS]
    for options in (*made, health_options(Limits())):
        assert dict(options)["grpc.per_message_decompression"] == 0


def test_a_unix_socket_has_a_small_window_so_that_pings_are_written_under_bulk() -> None:
    for options in (channel_options("unix", Limits()), server_options("unix", Limits())):
        assert dict(options)["grpc.http2.bdp_probe"] == 0
        assert int(dict(options)["grpc.http2.lookahead_bytes"]) <= 192 * 1024
    assert dict(channel_options("unix", Limits()))["grpc.default_authority"] == "localhost"


@both
@pytest.mark.parametrize(
    ("side", "name", "value", "words"),
    [
        ("server", "grpc.http2.min_recv_ping_interval_without_data_ms", 10_000, "pings more often"),
        ("server", "grpc.http2.max_ping_strikes", 2, "punished"),
        ("channel", "grpc.http2.max_pings_without_data", 2, "idle"),
        ("channel", "grpc.http2.ping_timeout_ms", 60_000, "equal"),
        ("channel", "grpc.keepalive_time_ms", 500, "below 1 s"),
        ("server", "grpc.max_receive_message_length", 1 << 20, "larger messages"),
        ("server", "grpc.max_receive_message_length", "much", "must be set"),
    ],
)
def test_ends_that_do_not_fit_are_refused(kind: Kind, side: str, name: str, value: int | str, words: str) -> None:
    def changed(options: Options, mine: str) -> Options:
        return [*options, (name, value)] if side == mine else options

    channel = changed(channel_options(kind, Limits()), "channel")
    server = changed(server_options(kind, Limits()), "server")
    with pytest.raises(ValueError, match=words):
        check(channel, server)


@pytest.mark.parametrize(
    ("address", "target", "binding"),
    [
        ("127.0.0.1:0", "ipv4:127.0.0.1:0", "127.0.0.1:0"),
        ("0.0.0.0:65535", "ipv4:0.0.0.0:65535", "0.0.0.0:65535"),
        ("[::1]:80", "ipv6:%5B::1%5D:80", "[::1]:80"),
        ("[fe80::1%eth0]:80", "ipv6:%5Bfe80::1%25eth0%5D:80", "[fe80::1%eth0]:80"),
        ("unix:/run/wool/s", "unix:/run/wool/s", "unix:/run/wool/s"),
        ("unix:/a b?c#d%e/ü", "unix:/a%20b%3Fc%23d%25e/%C3%BC", "unix:/a%20b%3Fc%23d%25e/%C3%BC"),
    ],
)
def test_an_address_is_understood(address: str, target: str, binding: str) -> None:
    parsed = parse(address)
    assert (parsed.text, parsed.target, parsed.binding) == (address, target, binding)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "expected unix:/path, or host:port"),
        ("localhost:80", "literal IPv4 or IPv6"),
        ("127.0.0.1", "literal IPv4 or IPv6"),
        ("::1", "literal IPv4 or IPv6"),
        ("::1:80", "brackets"),
        ("[127.0.0.1]:80", "brackets"),
        ("127.0.0.1:", "port"),
        ("127.0.0.1:-1", "port"),
        ("127.0.0.1:65536", "port"),
        ("127.0.0.1:²", "port"),
        ("unix:relative", "absolute"),
        ("unix:", "absolute"),
        ("unix:/a\0b", "absolute"),
        ("unix:/" + "x" * UNIX_PATH_BYTES, f"at most {UNIX_PATH_BYTES} fit"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(address: str, words: str) -> None:
    with pytest.raises(ValueError, match="is not an address") as raised:
        parse(address)
    assert words in str(raised.value)
    assert repr(address) in str(raised.value)


@given(st.text())
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse(parse(text).text) == parse(text)


@both
def test_a_connection_has_no_more_streams_than_the_limit(kind: Kind) -> None:
    assert dict(server_options(kind, Limits(streams=3)))["grpc.max_concurrent_streams"] == 3


@both
@pytest.mark.parametrize(
    ("files", "wanted", "taken"), [(1024, 4096, 512), (100_000, 4096, 4096), (1, 4096, 1), (-1, 7, 7)]
)
def test_connections_leave_half_of_the_files_that_the_system_allows(
    kind: Kind, files: int, wanted: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (files, files))
    options = dict(server_options(kind, Limits(connections=wanted)))
    assert options["grpc.max_allowed_incoming_connections"] == taken


@both
def test_who_is_slow_in_the_handshake_or_opens_no_stream_is_let_go_after_its_time(kind: Kind) -> None:
    options = dict(server_options(kind, Limits(handshake_seconds=2.5)))
    assert options["grpc.server_handshake_timeout_ms"] == options["grpc.max_connection_idle_ms"] == 2500
