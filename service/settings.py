"""Settings from the environment (AVES_*). Only service.cli and service.wiring read them; components get policies."""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.domain.redis_address import parse_redis_address

_MIB = 1024**2
_GIB = 1024**3
_DECODERS_PER_CORE = 4
# A decoder takes up to about 100 MB.
_MAX_DECODERS = 32


class Settings(BaseSettings):
    """Effective settings; every field is AVES_<NAME> in the environment (see `.env.example`)."""

    model_config = SettingsConfigDict(env_prefix="AVES_", frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to bind")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port (0: any free one)")
    grpc_port: int = Field(50051, ge=0, le=65535, description="gRPC port (0: any free one)")
    worker_port: int = Field(8001, ge=0, le=65535, description="Ops port of `avesformer worker`")
    checkpoint: Path | None = Field(
        None, description="Checkpoint file or shipped name (lite, tiny, tiny-semantic); empty: lite"
    )
    input_px: int | None = Field(
        None,
        ge=64,
        le=1024,
        multiple_of=16,
        description="Height and width of the frames that the model gets: smaller is faster and sees less; "
        "empty: the checkpoint's",
    )
    device: Literal["auto", "cpu", "cuda"] | str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Compute type; auto: bfloat16 on CUDA, float32 on a CPU",
    )
    parallel_calls: int | None = Field(
        None, ge=1, le=64, description="Calls of the model at once on a CPU; empty: one per core, at most 4"
    )
    torch_threads: int | None = Field(
        None, ge=1, le=256, description="Threads of a call of the model on a CPU; empty: measured rule"
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Most samples a batch, on a CPU fewer where larger ones save no time; empty: 64 on GPU, 16 on CPU",
    )
    batch_window_s: float = Field(
        0.005,
        ge=0,
        le=1,
        description="Longest wait for more samples, seconds (0.2 on a CPU that decoders keep busy); 0: no wait at all",
    )
    device_timeout_s: float = Field(
        20.0,
        ge=1,
        le=3600,
        description="Seconds after which a device call counts as hung (20 times a measured batch where that is more)",
    )
    max_concurrent_requests: int = Field(64, ge=1, le=10_000, description="Requests that are worked on at once")
    max_waiting_requests: int = Field(64, ge=0, le=10_000, description="Requests that may wait for their work to start")
    max_open_requests: int = Field(
        2048, ge=1, le=65_536, description="Requests at once, uploading and reading ones included"
    )
    root_path: str = Field("", description="Path prefix behind a proxy, such as /avs")
    trusted_proxies: str = Field(
        "", description="Proxies whose X-Forwarded-* is believed: addresses or networks, comma separated"
    )
    cors_origins: str = Field("", description="Origins of other sites that may call, comma separated; * for all")
    max_connections: int = Field(2048, ge=16, le=65_536, description="Connections at once, on each of both ports")
    max_live_streams: int = Field(32, ge=0, le=10_000, description="Live streams admitted at once")
    max_queued_bytes: int = Field(1 * _GIB, ge=_MIB, description="Decoded samples waiting, bytes")
    max_upload_bytes: int = Field(256 * _MIB, ge=1024, description="Largest upload, bytes")
    max_clip_s: float = Field(600.0, gt=0, le=86_400, description="Longest clip, seconds (1 s of grace)")
    job_max_clip_s: float = Field(7200.0, gt=0, le=86_400, description="Longest clip of a job, seconds (1 s of grace)")
    max_pixels: int = Field(4096 * 2304, ge=1024, description="Largest picture, pixels")
    max_samples: int = Field(18_000, ge=1, description="Most samples of one request")
    max_answer_bytes: int = Field(512 * _MIB, ge=1024, description="Largest JSON answer, bytes")
    request_timeout_s: float = Field(120.0, gt=0, description="Deadline of a JSON request, seconds")
    upload_min_bytes_per_s: int = Field(16_384, ge=0, description="Least upload rate after 10 s, bytes per second")
    reader_min_bytes_per_s: int = Field(
        4096, ge=0, description="Least rate of a reader while an answer waits, over 30 s, bytes per second"
    )
    decode_processes: int | None = Field(
        None, ge=1, le=256, description="Decoders at once; empty: four per core, at most 32"
    )
    max_decode_memory: int = Field(
        4 * _GIB, ge=64 * _MIB, description="Memory of all decoders together as estimated from the clips, bytes"
    )
    spool_dir: Path | None = Field(None, description="Uploads and answers on their way; empty: the system's")
    spool_bytes: int = Field(4 * _GIB, ge=_MIB, description="Most bytes in the spool")
    state_dir: Path | None = Field(None, description="Jobs without Redis; empty: ~/.local/state/avesformer")
    state_bytes: int = Field(
        16 * _GIB,
        ge=_MIB,
        description="Most bytes of all that is kept in folders: jobs, uploads, answers, idempotency keys",
    )
    redis_url: SecretStr | None = Field(None, description="Redis for jobs and keys (append-only)")
    redis_data_url: SecretStr | None = Field(None, description="Redis for chunks; empty: the same")
    redis_max_bytes: int = Field(1 * _GIB, ge=_MIB, description="Outstanding chunk bytes in Redis, per front")
    lease_s: float = Field(10.0, gt=0, le=600, description="Lease of a chunk or job, seconds")
    blob_url: str | None = Field(None, description="Uploads of jobs: folder or s3://; empty: under STATE_DIR")
    cache_bytes: int = Field(256 * _MIB, ge=0, description="Result cache, bytes (0: off)")
    cache_ttl_s: float = Field(3600.0, gt=0, description="Result cache, seconds")
    cache_shared: bool = Field(False, description="Callers with different API keys share cached answers")
    job_ttl_s: float = Field(86_400.0, gt=0, description="Finished jobs are kept for, seconds")
    idempotency_ttl_s: float = Field(86_400.0, gt=0, description="Idempotency keys are kept for, seconds")
    api_keys_file: Path | None = Field(None, description="File of hashed API keys; empty: no keys asked")
    tls_cert: Path | None = Field(None, description="PEM certificate chain for both ports")
    tls_key: Path | None = Field(None, description="PEM private key")
    webhook_hosts: str = Field("", description="Private hosts that webhooks may reach, comma separated")
    fetch_hosts: str = Field("", description="Hosts of clips by URL: names, * or whole origins, comma separated")
    result_hosts: str = Field("", description="Hosts that results of jobs may be put to, listed like FETCH_HOSTS")
    drain_s: float = Field(30.0, ge=0, le=3600, description="Longest drain after SIGTERM, seconds")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged")
    otlp_endpoint: str | None = Field(None, description="OpenTelemetry collector, http://host:4318; empty: no traces")
    bench_routes: bool = Field(False, description="Serve POST /bench/batch on an emulated accelerator")
    bench_batch_ms: float = Field(20.0, ge=0, description="Emulated accelerator: milliseconds a batch")
    bench_item_ms: float = Field(1.0, ge=0, description="Emulated accelerator: milliseconds an item")

    @field_validator("port", "grpc_port", "worker_port", mode="before")
    @classmethod
    def _port_is_no_service_link(cls, given: object) -> object:
        if isinstance(given, str) and "://" in given:
            detail = "Kubernetes sets it for a Service named `aves`: set enableServiceLinks: false in the pod"
            raise ValueError(f"{given[:64]!r} is no port number; {detail}, or rename the Service")
        return given

    @field_validator("host")
    @classmethod
    def _host_has_no_brackets(cls, given: str) -> str:
        return given.strip("[]")

    def bounds(self) -> dict[str, int | float]:
        """Every bound in force by setting name, for the log: sizes in bytes, times in seconds."""
        names = [name for name in type(self).model_fields if name.startswith("max_") or name.endswith(("_bytes", "_s"))]
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None} | {"decoders": self.num_decoders}

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector_is_an_address(cls, given: str | None) -> str | None:
        if given is None:
            return None
        parts = urlsplit(given)
        has_more = parts.username or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or has_more:
            raise ValueError("give http://host:port or https://host:port; what asks for a key goes behind a collector")
        return given

    @field_validator("redis_url", "redis_data_url")
    @classmethod
    def _redis_is_an_address(cls, given: SecretStr | None) -> SecretStr | None:
        if given is None:
            return None
        address = parse_redis_address(given.get_secret_value())
        for option in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            if option in address.tls_options and not Path(address.tls_options[option]).is_file():
                raise ValueError(f"{option} names no file: {address.tls_options[option]}")
        return given

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, given: str) -> str:
        for text in filter(None, (part.strip() for part in given.split(","))):
            ip_network(text)
        return given

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_path(cls, given: str) -> str:
        if given.strip("/") and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", given):
            raise ValueError("give a path such as /avs, of letters, digits and ._~-")
        return given.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, given: str) -> str:
        for text in filter(None, (part.strip() for part in given.split(","))):
            if text != "*" and not re.fullmatch(r"https?://[^/?#@\s]+", text):
                raise ValueError(f"{text[:64]!r} is no origin; give https://host or https://host:port")
        return given

    @model_validator(mode="after")
    def _tls_comes_in_pairs(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or none")
        return self

    @property
    def num_decoders(self) -> int:
        """Decoder children at once.

        Four per core by default, since a decoder also waits: for its upload, and for a model that is slower than it.
        Neither these nor long clips then keep others waiting.
        """
        cores = os.cpu_count() or 1
        return self.decode_processes or max(cores, min(_DECODERS_PER_CORE * cores, _MAX_DECODERS))
