"""What gRPC clients do at the edges: messages that are none, too many connections, both versions of reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from support.servers.front import RunningFront, beside, running_front

from service.client.failures import grpc_error
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
GARBAGE = b"\xff\xff\xff\xff"
SERVICE = "/avesformer.v1.Segmentation"
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front() as running:
        yield running


@pytest.mark.parametrize(
    ("method", "messages"),
    [
        (f"{SERVICE}/Segment", [GARBAGE]),
        (f"{SERVICE}/Segment", [pb.SegmentRequest(options=pb.SegmentOptions()).SerializeToString(), GARBAGE]),
        (f"{SERVICE}/SegmentLive", [GARBAGE]),
        (f"{SERVICE}/SegmentLive", [pb.LiveRequest(options=pb.LiveOptions()).SerializeToString(), GARBAGE]),
        (f"{SERVICE}/GetModel", [GARBAGE]),
        ("/grpc.health.v1.Health/Check", [GARBAGE]),
        ("/grpc.health.v1.Health/Watch", [GARBAGE]),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", [GARBAGE]),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", [GARBAGE]),
    ],
)
async def test_what_is_no_message_is_an_invalid_argument(
    front: RunningFront, method: str, messages: list[bytes]
) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async with asyncio.timeout(HANG_S), aio.insecure_channel(front.grpc_target) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            async for _ in channel.stream_stream(method)(requests()):
                pass
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = grpc_error(refused.value.code(), refused.value.details(), tuple(refused.value.trailing_metadata()))
    assert error.code == "malformed_body"


async def test_connections_of_the_grpc_port_are_bounded(front: RunningFront) -> None:
    async with beside(front, max_connections=3) as narrow, asyncio.timeout(HANG_S):
        held = []
        for number in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", narrow.grpc_port)
            held.append(writer)
            try:
                writer.write(HTTP2_HELLO)
                greeting = await reader.read(9)
            except ConnectionError:
                greeting = b""
            assert bool(greeting) == (number < 3)
        for writer in held:
            writer.transport.abort()
        async with aio.insecure_channel(narrow.grpc_target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_of_reflection_describe_the_service_and_themselves(
    front: RunningFront, version: str
) -> None:
    """As grpcurl asks: the services, then the file of each."""
    call = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"

    async def ask(channel: aio.Channel, **question: str) -> reflection_pb2.ServerReflectionResponse:
        async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(**question)

        method = channel.stream_stream(
            call,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return await anext(aiter(method(questions())))

    async with asyncio.timeout(HANG_S), aio.insecure_channel(front.grpc_target) as channel:
        listed = await ask(channel, list_services="")
        names = {service.name for service in listed.list_services_response.service}
        assert names == {
            "avesformer.v1.Segmentation",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        for name in names:
            answer = await ask(channel, file_containing_symbol=name)
            found = answer.file_descriptor_response.file_descriptor_proto
            files = [FileDescriptorProto.FromString(file) for file in found]
            package, _, service = name.rpartition(".")
            assert [file.package for file in files if service in [each.name for each in file.service]] == [package]
            for file in files:
                for message in file.message_type:
                    for field in message.field:
                        if field.type_name and file.package.startswith("grpc.reflection"):
                            assert field.type_name.startswith(f".{file.package}.")
        missing = await ask(channel, file_containing_symbol="none.Such")
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
