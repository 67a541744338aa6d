"""Every limit that wool imposes, named, with unit and reason.

One frozen record, so that the engine takes it by injection: the simulator makes the numbers small on
purpose, and a worker gets its owner's. Nothing here is read from a module global by the engine.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


# What a message is bounded by before anything is known of the peer, and in whatever process it is read.
MOST_PARTS = 4096
"""Parts of one payload: a pickle and its out-of-band buffers."""
MOST_FRAMES = 16384
"""Frames of one message: several times what a packet of ours holds."""
MOST_HANDSHAKE_BYTES = 2 * MIB
"""A handshake message: a pool's description and some words."""
MOST_CREDENTIAL_BYTES = MIB
"""A file of certificates, a key or a secret: the authorities of a whole system take a quarter of it."""
MOST_CHARACTERS = 1000
"""Of what somebody says before it has proven who it is."""
MOST_UID_CHARACTERS = 64
"""Of a worker's or a caller's uid: those that wool makes have 32."""
MOST_ADDRESSES = 16
"""Addresses of one worker that multicast DNS announces: a host has a few for each interface."""

MOST_TRACE_STATE_BYTES = 512
"""Of a ``tracestate``: as much as the recommendation asks everybody to pass on; a longer one is left out."""
MOST_TRACE_MEMBERS = 32
"""Of a ``tracestate``: what the recommendation allows."""
MOST_REASON_CHARACTERS = 200
"""Of an admission hook's reason, as it is told to the caller."""
MOST_LABEL_CHARACTERS = 1024
"""Where a file, a function or a type is named, by a peer or by a strange user, the name is cut here."""
MOST_FRAMES_SHOWN = 50
"""Innermost frames in the text of one traceback: what a person reads."""
MOST_LINKS_SHOWN = 8
"""Exceptions of a chain of causes and contexts, and of a group, in the text of one exception."""

# What this process keeps, beyond any session.
MOST_BUFFERS = 1024
"""Buffers of one value that travel beside it; further ones go in band, since a peer takes so many parts and no more."""
KNOWN_DEFINITIONS = 4096
"""Functions whose definition is remembered; beyond, all are forgotten, which costs a pickle each."""
MOST_GONE = 64
"""Workers that are gone, remembered to say why nobody is left."""
MOST_TOLD = 64
"""Workers that an error names; the reasons of more are no more use to anybody."""
MOST_WRAPPERS = 32
"""Taken off on the way to a raw function: more is a cycle, or nothing that anybody wrote."""
WIND_UP_SECONDS = 1.0
"""So long who lives on an I/O loop that has ended by itself has for last words, and then its tasks for their end."""
MOST_NAMED = 1024
"""So much longer than there are workers an order may be: one that repeats itself for ever is the balancer's fault."""

# What processes of one user share on one machine.
LOCK_RETRY_SECONDS = 0.002
"""Pause before a lock that somebody holds is tried again: about as long as it is ever held."""
LOCK_ATTEMPTS = 1000
"""After so many pauses (2 s) its holder must be stopped or stuck, and we say so."""
REMOVE_ATTEMPTS = 3
"""A directory into which a dying process still writes is removed again so often."""
LOOK_ATTEMPTS = 3
"""A copy of a shared table takes a fraction of a change; who is overtaken so often waits for the next poll."""
MOST_NAMESPACE_CHARACTERS = 64
"""The longest name of a namespace: it is part of a path."""
MOST_SLOTS = 1 << 20
MOST_SLOT_BYTES = 1 << 24
"""Of a shared table: beyond these a header is taken for damaged, not for large."""
MOST_LIFE_BYTES = 8 * KIB
"""The longest record of a worker's life: a path and three numbers."""

# The command.
MOST_WORKERS = 1024
"""Workers of one `wool worker`."""
MOST_LAST_LINES = 50
MOST_LAST_LINE_BYTES = 2 * KIB
"""Of what a worker of it printed last, kept to explain its end."""
MOST_DAYS = 36500
"""For which `wool certs` makes a certificate: a century."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers that bound queues, buffers, waits and retries. All are checked to be positive."""

    # Waits of the caller.
    dispatch_timeout_seconds: float = 60.0
    """Until some worker accepts; ``RuntimeContext(dispatch_timeout=…)`` overrides it per call."""
    patience_seconds: float = 1.0
    """An offer unanswered for so long is withdrawn, if another candidate exists."""
    cancel_grace_seconds: float = 5.0
    """A cancelled caller waits so long for the remote ``finally``."""
    map_concurrency: int = 64
    """Calls that `wool.map` keeps open unless it is told otherwise: enough to keep some dozen workers busy, few enough
    for whatever the bodies talk to."""
    stall_seconds: float = 0.25
    """A timer that fires later than this means that our own process stood still."""
    stall_settle_seconds: float = 0.1
    """After such a stall, what has arrived meanwhile is read for so long before a deadline fires."""

    # Sessions.
    handshake_seconds: float = 5.0
    """From connect to welcome, on both sides; slow peers and slow-loris alike end here."""
    handshakes: int = 128
    """Handshakes under way at one worker; with one more the oldest is given up, since an honest one takes some
    milliseconds. Until it is over a peer is a stranger, and may have sent one message."""
    connections: int = 4096
    """Connections to one worker; never more than half of the files that the system lets it open, since bodies need
    some too. Further ones are closed at once."""
    streams: int = 4
    """Streams of one connection. An honest caller has one."""
    refusals: int = 10
    refusal_seconds: float = 60.0
    """So many warnings in so long are written of those that a worker, or a caller, has refused; then how many more
    there were. Whoever is refused can come again at once. A handler of task events that raises is told of once in so
    long, with how often."""
    unread_answers: int = 16384
    """Accepts and rejections that wait to be written to one caller: sixteen windows. One that offers, and offers
    again, and reads nothing ends here."""
    close_seconds: float = 2.0
    """A closed stream waits so long for the other end to take what was written; a closed listener for its
    handlers, once before and once after it cancels them."""
    reconnect_first_seconds: float = 0.1
    reconnect_most_seconds: float = 5.0
    """Backoff of the probe that re-admits an unreachable worker: it doubles from first to most."""
    connects: int = 32
    """When a worker is slow to connect, so many others are asked besides the next one: of some forty that nobody hears
    from, a call has seen the last after two seconds instead of forty."""
    first_look_seconds: float = 0.2
    """In the first moments of a pool a call waits so long for the workers that its discovery has not heard yet: else
    all that a program calls at its start would go to the one that was heard first."""
    address_retry_seconds: float = 30.0
    """A worker that was found by its address alone, and refused for good, is asked again so often: nobody will
    announce its successor."""
    sessions: int = 128
    """Workers that a caller gives calls to at a time, besides those that it has started itself, and so sessions that it
    keeps open. Of more workers it uses so many, drawn by lot, and others while some of these cannot be reached."""
    sessions_most: int = 768
    """A caller with more calls under way than that uses up to twice as many workers as calls, but no more than this: a
    process has 1024 descriptors on many systems, and its program needs some."""
    sessions_idle_seconds: float = 30.0
    """When it has had no use for most of them for so long, it goes back to fewer."""
    window_tasks: int = 1024
    """Unstarted offers per session: two round trips' worth at the highest rate measured."""
    window_bytes: int = 16 * MIB
    """Payload bytes of unstarted offers per session; a single larger payload goes alone."""
    definitions: int = 1024
    """Routine definitions that a worker keeps per session before it forgets the oldest."""
    definition_bytes: int = 64 * MIB
    """Bytes of routine definitions that a worker keeps per session."""
    cancels: int = 1024
    """Cancellations of one task that a worker keeps while the step that they are for is still on its way. Each counts,
    as locally; nobody cancels so often."""
    nested_idle_seconds: float = 30.0
    """A worker that nobody's bodies have made a call from for so long ends its own sessions with the other workers, at
    the second look. Else each worker's sessions would keep the other's open, long after the pool has gone."""
    pool_description_bytes: int = 1 * MIB
    """What a caller may send, once per session, to describe its pool to nested calls."""

    # The wire.
    payload_bytes: int = 1 * GIB
    """Arguments, result or item of one task, pickled. Its own limit, not gRPC's."""
    context_bytes: int = 1 * MIB
    """What context variables (`wool.ContextVar`) add to one call, step or answer, pickled: they go along unasked, so
    that large ones would slow down every call."""
    inline_bytes: int = 32 * KIB
    """A payload up to this size travels inside its frame; a larger one in chunks."""
    chunk_bytes: int = 128 * KIB
    """What a large payload is cut into, so that small frames pass between."""
    credit_bytes: int = 4 * MIB
    """Unacknowledged chunk bytes per session and direction: at 1 MB/s four seconds, below any ping timeout."""
    task_events: int = 10_000
    """Task events that wait for one handler, or to be written to one caller; more are dropped and counted. At some
    300 bytes each a few megabytes."""
    packet_bytes: int = 256 * KIB
    """Frames are packed into one message up to about this size."""
    message_bytes: int = MOST_HANDSHAKE_BYTES
    """A message larger than this is not read: the longest honest one describes a pool. As many as there may be
    ``handshakes`` can be half sent by strangers at a time, 256 MiB."""
    text_characters: int = 16 * KIB
    """Any reason or message that a peer sends as text is cut here."""
    traceback_bytes: int = 64 * KIB
    """Pickled remote traceback of one exception; beyond it the oldest frames are dropped."""
    exceptions: int = 256
    """Exceptions in one chain of causes, contexts and groups that travel; beyond it the tail is text."""

    # gRPC keepalive: section 4 of the design. The receiving side must tolerate the sending side.
    unix_keepalive_seconds: float = 2.0
    unix_ping_timeout_seconds: float = 3.0
    unix_silence_seconds: float = 0.5
    """After the pulse of a stream has stopped: nothing arrived for so long, and the peer is gone."""
    tcp_keepalive_seconds: float = 10.0
    tcp_ping_timeout_seconds: float = 20.0
    unix_lookahead_bytes: int = 192 * KIB
    """HTTP/2 window on a Unix socket: mostly leaves room for a ping; where it does not, the pulse tells."""

    # Probes: gRPC's health service in plain text, on a port that answers anybody.
    probe_connections: int = 1024
    """Connections to it; never more than half of the files that the system allows. Further ones are closed at once."""
    probe_connection_seconds: float = 30.0
    """A connection to it is ended after about so long, even one in use: who wants to know more connects anew."""
    probe_bytes: int = 4 * KIB
    """One question of a probe, which names a service."""

    # `wool worker --metrics`: whoever reaches that port is answered.
    metrics_answer_seconds: float = 2.0
    """A worker that does not answer in time, frozen perhaps, is told of as not up."""
    metrics_connections: int = 32
    """At a time; further ones are closed at once. Two Prometheus servers and a curious person need three."""
    metrics_connection_seconds: float = 10.0
    """A connection is ended after so long, asked or not. Prometheus itself waits for ten seconds."""
    metrics_request_bytes: int = 16 * KIB
    """What a request may have of lines and headers."""

    # `wool ps`, `wool top`, `wool health`.
    asked: int = 64
    """Workers that are asked at the same time."""

    # Processes.
    worker_start_seconds: float = 60.0
    """From spawn to ready; imports on a cold disk take long."""
    drain_seconds: float = 30.0
    """What runs when a worker is told to stop may go on for so long."""
    memory_look_seconds: float = 1.0
    """How often a worker with a memory limit looks at what it holds: some microseconds each."""
    handover_seconds: float = 1.0
    """Between the announcement of a successor and the drain of the worker that it replaces: by then its callers have
    heard of the new one."""
    successor_retry_seconds: float = 30.0
    """A worker that has had enough, and whose successor did not start, goes on for so long until the next attempt."""
    retire_seconds: float = 3600.0
    """What runs on a worker that is replaced may go on for so long: nobody wants it to end, and a body that hangs must
    not keep a worn process for ever."""
    stop_seconds: float = 5.0
    """After drain and interruption, until SIGKILL."""
    output_tail_bytes: int = 16 * KIB
    """Of a worker's output, kept to explain a failed start."""
    log_lines: int = 10_000
    """Lines of the log that wait to be written, in a process that writes them for a program; more are dropped, and
    their number said. At 200 bytes each some megabytes."""
    output_line_bytes: int = 16 * KIB
    """A longer line of a worker's output is forwarded in pieces: nobody's memory pays for a missing newline."""
    control_message_bytes: int = 4 * MIB
    """One message between owner and worker. The longest, ``sys.path``, takes some kilobytes as a rule."""
    credentials_seconds: float = 5.0
    """How often a function that gives credentials is asked whether they are others, for workers that this process has
    started."""
    exit_poll_first_seconds: float = 0.001
    exit_poll_most_seconds: float = 0.5
    """Where the kernel does not announce a worker's end it is looked for: soon after a sign of it, then more rarely."""

    # Discovery.
    local_workers: int = 1024
    """Slots of a LocalDiscovery namespace."""
    record_bytes: int = 2 * KIB
    """One worker's metadata in a discovery record."""
    discovery_poll_seconds: float = 0.05
    """How often a LocalDiscovery subscriber looks at the shared table's generation."""
    discovery_lease_seconds: float = 0.5
    """How often it looks for publishers that died without a word."""
    publish_seconds: float = 5.0
    """One announcement by a pool through a discovery that was given to it, before the pool goes on without; and one by
    `wool worker`: a worker that could not be withdrawn is stopped all the same."""
    addresses: int = 1024
    """Addresses that are taken from one answer of a name server."""
    lookups: int = 32
    """Hosts of one SRV answer that are asked for at once."""
    lookup_seconds: float = 5.0
    """One attempt to look a name up."""
    lookup_least_seconds: float = 1.0
    lookup_most_seconds: float = 300.0
    """An answer is used for its own time to live, but for no less and no more than this: a name server may say 0,
    or a week."""
    lookup_retry_first_seconds: float = 1.0
    lookup_retry_most_seconds: float = 30.0
    """Backoff while nobody answers: it doubles from first to most."""
    lookup_denied_seconds: float = 5.0
    """A name that does not exist is asked for again so soon, if the denial does not say how long it holds."""
    lan_workers: int = 1024
    """Workers that a LanDiscovery subscriber keeps in view: anybody on the network can announce more."""
    lan_ttl_seconds: int = 30
    """A worker that vanished without a word is dropped by LanDiscovery after so long; each is asked for that often.
    An unanswered session is noticed sooner."""
    lan_look_seconds: float = 2.0
    """So long after a LanDiscovery subscription began, a call that nobody takes waits: by then everybody was heard."""
    lan_browse_seconds: float = 60.0
    """How often a LanDiscovery subscriber asks who is there, besides listening."""
    lan_retry_first_seconds: float = 0.25
    lan_retry_most_seconds: float = 10.0
    """Backoff of its questions for a worker that was announced and does not answer: it doubles from first to most."""
    lan_open_seconds: float = 5.0
    """To open the sockets of multicast DNS, and to say goodbye on them."""
    static_lookup_seconds: float = 30.0
    """How often a StaticDiscovery looks up a name: the system does not say how long its answer holds."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} must be positive, got {value!r}")
        if self.credit_bytes < 2 * self.chunk_bytes:
            raise ValueError("Limits.credit_bytes must hold two chunks, or a transfer would wait for its own end")
        if self.message_bytes < self.packet_bytes + self.inline_bytes + self.chunk_bytes:
            raise ValueError("Limits.message_bytes must hold a packet, an inline payload and a chunk")


DEFAULT_LIMITS = Limits()
