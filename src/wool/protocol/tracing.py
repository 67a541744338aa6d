"""The headers of W3C Trace Context, as a peer says them: checked, or nothing.

Why it exists: what stands in an offer beside the task is a stranger's text until it has been looked at, and it goes on
into the application's tracer and from there into requests to others. Whoever sends nonsense loses its trace, not its
call.

https://www.w3.org/TR/trace-context/#traceparent-header and #tracestate-header say what is well-formed. Of
``traceparent`` only version 00 is known, which is what wool sends.
"""

from __future__ import annotations

import re

from wool.limits import MOST_TRACE_MEMBERS, MOST_TRACE_STATE_BYTES
from wool.protocol.frames import Trace

_PARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_KEY = rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_VALUE = rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(rb"(" + _KEY + rb")=" + _VALUE)


def checked(parent: bytes, state: bytes) -> Trace | None:
    """Return the two as text; without ``state`` if that is malformed, and None if ``parent`` is."""
    if _PARENT.fullmatch(parent) is None:
        return None
    return Trace(parent.decode("ascii"), state.decode("ascii") if _is_state(state) else "")


def _is_state(state: bytes) -> bool:
    if len(state) > MOST_TRACE_STATE_BYTES:
        return False
    found = [_MEMBER.fullmatch(member.strip(b" \t")) for member in state.split(b",")]
    keys = {match[1] for match in found if match is not None}
    # As many keys as members: each is well-formed, and none comes twice.
    return len(keys) == len(found) <= MOST_TRACE_MEMBERS
