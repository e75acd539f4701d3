"""Writer of the answer of a call."""

from __future__ import annotations

from functools import partial
from operator import methodcaller

from google.protobuf.message import Message

from service.core.message_writer import MessageWriter
from service.core.reader_rate import ReaderRate
from service.domain.deadline import Clock
from service.rpc.calls import Rpc, write


class CallWriter(MessageWriter[Message]):
    """Sends the messages of a call one at a time, as gRPC requires; `send` also raises `answer_too_large`."""

    def __init__(self, rpc: Rpc, *, rate: ReaderRate, clock: Clock) -> None:
        super().__init__(partial(write, rpc), num_bytes=methodcaller("ByteSize"), rate=rate, clock=clock)
