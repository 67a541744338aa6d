from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Handshake(_message.Message):
    __slots__ = ("hello", "challenge", "response", "welcome", "refusal")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    challenge: Challenge
    response: Response
    welcome: Welcome
    refusal: Refusal
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping[str, object]]] = ..., challenge: _Optional[_Union[Challenge, _Mapping[str, object]]] = ..., response: _Optional[_Union[Response, _Mapping[str, object]]] = ..., welcome: _Optional[_Union[Welcome, _Mapping[str, object]]] = ..., refusal: _Optional[_Union[Refusal, _Mapping[str, object]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("nonce", "body", "proof")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    body: bytes
    proof: bytes
    def __init__(self, nonce: _Optional[bytes] = ..., body: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("body", "proof")
    BODY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    proof: bytes
    def __init__(self, body: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("statistics",)
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    statistics: Statistics
    def __init__(self, statistics: _Optional[_Union[Statistics, _Mapping[str, object]]] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("in_flight", "done", "failed", "cancelled", "up_milliseconds", "draining", "lost", "accepted", "rejected", "loop_lag_microseconds", "memory_bytes", "sessions")
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    UP_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_MICROSECONDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    in_flight: int
    done: int
    failed: int
    cancelled: int
    up_milliseconds: int
    draining: bool
    lost: int
    accepted: int
    rejected: int
    loop_lag_microseconds: int
    memory_bytes: int
    sessions: int
    def __init__(self, in_flight: _Optional[int] = ..., done: _Optional[int] = ..., failed: _Optional[int] = ..., cancelled: _Optional[int] = ..., up_milliseconds: _Optional[int] = ..., draining: bool = ..., lost: _Optional[int] = ..., accepted: _Optional[int] = ..., rejected: _Optional[int] = ..., loop_lag_microseconds: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., sessions: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "permanent")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PERMANENT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    permanent: bool
    def __init__(self, reason: _Optional[str] = ..., permanent: bool = ...) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("protocol", "python", "session", "metadata", "window_tasks", "window_bytes", "payload_bytes", "credit_bytes", "one_way")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TASKS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    ONE_WAY_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    python: str
    session: bytes
    metadata: bytes
    window_tasks: int
    window_bytes: int
    payload_bytes: int
    credit_bytes: int
    one_way: bool
    def __init__(self, protocol: _Optional[int] = ..., python: _Optional[str] = ..., session: _Optional[bytes] = ..., metadata: _Optional[bytes] = ..., window_tasks: _Optional[int] = ..., window_bytes: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., credit_bytes: _Optional[int] = ..., one_way: bool = ...) -> None: ...

class CallerInfo(_message.Message):
    __slots__ = ("protocol", "python", "uid", "pool", "payload_bytes", "credit_bytes", "expects")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPECTS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    python: str
    uid: str
    pool: bytes
    payload_bytes: int
    credit_bytes: int
    expects: str
    def __init__(self, protocol: _Optional[int] = ..., python: _Optional[str] = ..., uid: _Optional[str] = ..., pool: _Optional[bytes] = ..., payload_bytes: _Optional[int] = ..., credit_bytes: _Optional[int] = ..., expects: _Optional[str] = ...) -> None: ...

class Packet(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping[str, object]]]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("offer", "start", "withdraw", "cancel", "step", "accept", "reject", "result", "draining", "chunk", "credit", "goodbye", "starts", "accepts", "offers", "returns", "watch", "report")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    REJECT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    RETURNS_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    start: int
    withdraw: int
    cancel: Cancel
    step: Step
    accept: int
    reject: Reject
    result: Result
    draining: Draining
    chunk: Chunk
    credit: int
    goodbye: Goodbye
    starts: Numbers
    accepts: Numbers
    offers: Offers
    returns: Returns
    watch: int
    report: Report
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping[str, object]]] = ..., start: _Optional[int] = ..., withdraw: _Optional[int] = ..., cancel: _Optional[_Union[Cancel, _Mapping[str, object]]] = ..., step: _Optional[_Union[Step, _Mapping[str, object]]] = ..., accept: _Optional[int] = ..., reject: _Optional[_Union[Reject, _Mapping[str, object]]] = ..., result: _Optional[_Union[Result, _Mapping[str, object]]] = ..., draining: _Optional[_Union[Draining, _Mapping[str, object]]] = ..., chunk: _Optional[_Union[Chunk, _Mapping[str, object]]] = ..., credit: _Optional[int] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping[str, object]]] = ..., starts: _Optional[_Union[Numbers, _Mapping[str, object]]] = ..., accepts: _Optional[_Union[Numbers, _Mapping[str, object]]] = ..., offers: _Optional[_Union[Offers, _Mapping[str, object]]] = ..., returns: _Optional[_Union[Returns, _Mapping[str, object]]] = ..., watch: _Optional[int] = ..., report: _Optional[_Union[Report, _Mapping[str, object]]] = ...) -> None: ...

class Numbers(_message.Message):
    __slots__ = ("numbers",)
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ...) -> None: ...

class Offers(_message.Message):
    __slots__ = ("numbers", "definition", "tasks", "parents", "inline")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    definition: bytes
    tasks: bytes
    parents: bytes
    inline: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ..., definition: _Optional[bytes] = ..., tasks: _Optional[bytes] = ..., parents: _Optional[bytes] = ..., inline: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Returns(_message.Message):
    __slots__ = ("numbers", "inline")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    inline: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ..., inline: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("number", "task", "definition", "defines", "sizes", "inline", "chunked", "parent", "dispatch_timeout", "context", "trace", "waits")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    DEFINES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    CHUNKED_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DISPATCH_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    number: int
    task: bytes
    definition: bytes
    defines: bool
    sizes: _containers.RepeatedScalarFieldContainer[int]
    inline: bytes
    chunked: bool
    parent: bytes
    dispatch_timeout: float
    context: bool
    trace: Trace
    waits: bool
    def __init__(self, number: _Optional[int] = ..., task: _Optional[bytes] = ..., definition: _Optional[bytes] = ..., defines: bool = ..., sizes: _Optional[_Iterable[int]] = ..., inline: _Optional[bytes] = ..., chunked: bool = ..., parent: _Optional[bytes] = ..., dispatch_timeout: _Optional[float] = ..., context: bool = ..., trace: _Optional[_Union[Trace, _Mapping[str, object]]] = ..., waits: bool = ...) -> None: ...

class Trace(_message.Message):
    __slots__ = ("parent", "state")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    parent: bytes
    state: bytes
    def __init__(self, parent: _Optional[bytes] = ..., state: _Optional[bytes] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("number", "message")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    number: int
    message: str
    def __init__(self, number: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("number", "kind", "sizes", "inline", "chunked", "context")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Step.Kind]
        NEXT: _ClassVar[Step.Kind]
        SEND: _ClassVar[Step.Kind]
        THROW: _ClassVar[Step.Kind]
        CLOSE: _ClassVar[Step.Kind]
    UNSPECIFIED: Step.Kind
    NEXT: Step.Kind
    SEND: Step.Kind
    THROW: Step.Kind
    CLOSE: Step.Kind
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    CHUNKED_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: Step.Kind
    sizes: _containers.RepeatedScalarFieldContainer[int]
    inline: bytes
    chunked: bool
    context: bool
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[_Union[Step.Kind, str]] = ..., sizes: _Optional[_Iterable[int]] = ..., inline: _Optional[bytes] = ..., chunked: bool = ..., context: bool = ...) -> None: ...

class Reject(_message.Message):
    __slots__ = ("number", "code", "reason")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Reject.Code]
        DRAINING: _ClassVar[Reject.Code]
        ADMISSION: _ClassVar[Reject.Code]
        TOO_LARGE: _ClassVar[Reject.Code]
        UNKNOWN_DEFINITION: _ClassVar[Reject.Code]
        BUSY: _ClassVar[Reject.Code]
    UNSPECIFIED: Reject.Code
    DRAINING: Reject.Code
    ADMISSION: Reject.Code
    TOO_LARGE: Reject.Code
    UNKNOWN_DEFINITION: Reject.Code
    BUSY: Reject.Code
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    number: int
    code: Reject.Code
    reason: str
    def __init__(self, number: _Optional[int] = ..., code: _Optional[_Union[Reject.Code, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("number", "kind", "sizes", "inline", "chunked", "echo", "cancels", "context")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Result.Kind]
        YIELD: _ClassVar[Result.Kind]
        RETURN: _ClassVar[Result.Kind]
        RAISE: _ClassVar[Result.Kind]
        INTERRUPTED: _ClassVar[Result.Kind]
        CANCELLED: _ClassVar[Result.Kind]
        UNLOADABLE: _ClassVar[Result.Kind]
        UNSENDABLE: _ClassVar[Result.Kind]
        UNBEGUN: _ClassVar[Result.Kind]
    UNSPECIFIED: Result.Kind
    YIELD: Result.Kind
    RETURN: Result.Kind
    RAISE: Result.Kind
    INTERRUPTED: Result.Kind
    CANCELLED: Result.Kind
    UNLOADABLE: Result.Kind
    UNSENDABLE: Result.Kind
    UNBEGUN: Result.Kind
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    CHUNKED_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: Result.Kind
    sizes: _containers.RepeatedScalarFieldContainer[int]
    inline: bytes
    chunked: bool
    echo: bool
    cancels: int
    context: bool
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[_Union[Result.Kind, str]] = ..., sizes: _Optional[_Iterable[int]] = ..., inline: _Optional[bytes] = ..., chunked: bool = ..., echo: bool = ..., cancels: _Optional[int] = ..., context: bool = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("number", "type", "timestamp", "kind", "step", "missed")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CREATED: _ClassVar[Report.Type]
        STARTED: _ClassVar[Report.Type]
        STOPPED: _ClassVar[Report.Type]
        ITERATION_STARTED: _ClassVar[Report.Type]
    CREATED: Report.Type
    STARTED: Report.Type
    STOPPED: Report.Type
    ITERATION_STARTED: Report.Type
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    number: int
    type: Report.Type
    timestamp: int
    kind: Step.Kind
    step: int
    missed: int
    def __init__(self, number: _Optional[int] = ..., type: _Optional[_Union[Report.Type, str]] = ..., timestamp: _Optional[int] = ..., kind: _Optional[_Union[Step.Kind, str]] = ..., step: _Optional[int] = ..., missed: _Optional[int] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("number", "data")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    number: int
    data: bytes
    def __init__(self, number: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...
