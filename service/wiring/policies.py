"""Derive the policies of the components from the settings. Only `service.wiring` imports this module."""

from __future__ import annotations

from service.core.admission import AdmissionPolicy
from service.core.answer_spool import AnswerSpoolPolicy
from service.core.pipeline import PipelinePolicy
from service.media.policy import MediaPolicy
from service.outbound.fetch import FetchPolicy
from service.rest.app import EdgePolicy
from service.rest.connection.policy import ConnectionPolicy
from service.rest.connection.proxy import proxy_policy
from service.rest.connection.server import ServerPolicy
from service.rest.parts import RestPolicy
from service.rpc.server import GrpcPolicy, TlsPair
from service.rpc.servicer import ServicerPolicy
from service.settings import Settings


def media_policy(settings: Settings) -> MediaPolicy:
    """Return the limits of the decoders."""
    return MediaPolicy(
        max_clip_s=settings.max_clip_s,
        max_pixels=settings.max_pixels,
        max_samples=settings.max_samples,
        max_total_bytes=settings.max_decode_memory,
    )


def pipeline_policy(settings: Settings) -> PipelinePolicy:
    """Return the limits of the pipeline."""
    return PipelinePolicy(
        max_queued_bytes=settings.max_queued_bytes,
        max_growing=2 * settings.num_decoders,
        spool=AnswerSpoolPolicy(max_bytes=settings.spool_bytes),
    )


def admission_policy(settings: Settings) -> AdmissionPolicy:
    """Return the limits on requests and live streams."""
    return AdmissionPolicy(
        max_requests=settings.max_concurrent_requests,
        max_live_streams=settings.max_live_streams,
        max_waiting=settings.max_waiting_requests,
        max_open=settings.max_open_requests,
    )


def server_policy(settings: Settings) -> ServerPolicy:
    """Return the addresses and limits of the HTTP server."""
    return ServerPolicy(
        host=settings.host,
        port=settings.port,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        connections=ConnectionPolicy(max_connections=settings.max_connections),
    )


def edge_policy(settings: Settings) -> EdgePolicy:
    """Return the trusted proxies and the allowed CORS origins."""
    origins = tuple(origin.strip() for origin in settings.cors_origins.split(",") if origin.strip())
    return EdgePolicy(proxy_policy(settings.root_path, settings.trusted_proxies.split(",")), origins)


def fetch_policy(settings: Settings) -> FetchPolicy:
    """Return what may be fetched by URL."""
    return FetchPolicy(hosts_of(settings.fetch_hosts), settings.max_upload_bytes, settings.upload_min_bytes_per_s)


def hosts_of(listed: str) -> frozenset[str]:
    """Return the hosts of a setting that lists them, comma separated."""
    return frozenset(host.strip().rstrip("/") for host in listed.split(",") if host.strip())


def grpc_policy(settings: Settings) -> GrpcPolicy:
    """Return the address and TLS files of the gRPC server. Raises OSError if a TLS file cannot be read."""
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = TlsPair(certificate=settings.tls_cert.read_bytes(), key=settings.tls_key.read_bytes())
    servicer = ServicerPolicy(
        max_upload_bytes=settings.max_upload_bytes,
        upload_min_bytes_per_s=settings.upload_min_bytes_per_s,
        reader_min_bytes_per_s=settings.reader_min_bytes_per_s,
    )
    return GrpcPolicy(
        host=settings.host,
        port=settings.grpc_port,
        servicer=servicer,
        tls=tls,
        max_connections=settings.max_connections,
    )


def rest_policy(settings: Settings) -> RestPolicy:
    """Return the limits of the HTTP routes."""
    return RestPolicy(
        max_upload_bytes=settings.max_upload_bytes,
        max_answer_bytes=settings.max_answer_bytes,
        request_timeout_s=settings.request_timeout_s,
        upload_min_bytes_per_s=settings.upload_min_bytes_per_s,
        reader_min_bytes_per_s=settings.reader_min_bytes_per_s,
    )
