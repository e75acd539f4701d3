"""Server reflection in both versions that clients use: v1, and v1alpha for older ones.

grpcio-reflection implements v1alpha. Version 1 has the same messages and fields under another package name, so its
descriptors are derived from those of v1alpha and one servicer answers both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

_ALPHA_PACKAGE = "grpc.reflection.v1alpha"
_PACKAGE = "grpc.reflection.v1"
_FILE = "grpc/reflection/v1/reflection.proto"
NAMES = (f"{_PACKAGE}.ServerReflection", reflection.SERVICE_NAME)


def enable_reflection(services: Iterable[str], server: aio.Server) -> None:
    """Describe `services` and the reflection services themselves.

    Args:
        services: full names.
        server: not yet started.
    """
    _add_descriptors(descriptor_pool.Default())
    names = (*services, *NAMES)
    reflection.enable_server_reflection(names, server)
    servicer = reflection.aio.ReflectionServicer(names)
    handler: Any = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(NAMES[0], {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))


def _add_descriptors(pool: descriptor_pool.DescriptorPool) -> None:
    """Add the descriptors of v1 to the pool that reflection reads. Done once per process."""
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name, file.package = _FILE, _PACKAGE
        for message in file.message_type:
            for field in (field for field in message.field if field.HasField("type_name")):
                field.type_name = field.type_name.replace(_ALPHA_PACKAGE, _PACKAGE)
        for service in file.service:
            for method in service.method:
                method.input_type = method.input_type.replace(_ALPHA_PACKAGE, _PACKAGE)
                method.output_type = method.output_type.replace(_ALPHA_PACKAGE, _PACKAGE)
        pool.Add(file)
