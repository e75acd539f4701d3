"""docker-compose.yml and its CPU override: valid, hardened, and in agreement with the settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from support.fleets.deploy_files import DEPLOY, ROOT, compose, filled, load_script
from support.servers.ports import free_port
from support.servers.redis_server import BINARY

from service.settings import Settings

GPU = compose()
CPU = compose("docker-compose.yml", "docker-compose.cpu.yml")
OURS = ("front", "worker")


@pytest.mark.parametrize("merged", [GPU, CPU], ids=["gpu", "cpu"])
def test_files_keep_to_the_compose_specification(merged: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "compose.json"
    path.write_text(json.dumps(merged))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_worker_reserves_a_gpu_and_the_override_takes_that_back() -> None:
    (device,) = GPU["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert GPU["services"]["worker"]["environment"]["AVES_DEVICE"] == "cuda", "never the CPU in silence"
    worker = CPU["services"]["worker"]
    assert "deploy" not in worker
    assert worker["environment"]["AVES_DEVICE"] == "cpu"
    assert worker["build"]["args"]["TORCH"] == "cpu"
    assert worker["environment"]["AVES_REDIS_URL"] == GPU["services"]["worker"]["environment"]["AVES_REDIS_URL"]


@pytest.mark.parametrize("name", sorted(GPU["services"]))
def test_every_service_is_hardened(name: str) -> None:
    service = GPU["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & service.keys()
    assert "image" in service
    assert ":" in service["image"], "a version, never `latest`"
    assert all(port.startswith("${PUBLISH_HOST:-127.0.0.1}:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", OURS)
def test_processes_get_settings_that_exist(name: str) -> None:
    given = GPU["services"][name]["environment"]
    fields = {f"AVES_{field.upper()}" for field in Settings.model_fields}
    assert given.keys() <= fields
    values = {key.removeprefix("AVES_").lower(): value for key, value in given.items()}
    settings = Settings(**values)
    assert (settings.host, settings.port, settings.grpc_port, settings.worker_port) == ("0.0.0.0", 8000, 50051, 8001)
    assert str(settings.spool_dir).startswith("/var/lib/avesformer/")


@pytest.mark.parametrize("name", OURS)
def test_processes_are_given_the_time_to_drain(name: str) -> None:
    grace = GPU["services"][name]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > Settings.model_fields["drain_s"].default + 5
    assert GPU["services"][name]["init"] is True


@pytest.mark.parametrize("name", OURS)
def test_targets_and_commands_are_the_images(name: str) -> None:
    service = GPU["services"][name]
    stages = load_script("check_image.py").parse((ROOT / "Dockerfile").read_text())
    assert service["build"]["target"] in stages
    assert "command" in service
    assert service["command"] == ["serve" if name == "front" else "worker"]
    needed = {condition["condition"] for condition in service["depends_on"].values()}
    assert service["depends_on"].keys() == {"redis-jobs", "redis-data"}
    assert needed == {"service_healthy"}


def test_every_written_folder_of_the_front_is_a_volume() -> None:
    service = GPU["services"]["front"]
    targets = {volume["target"] for volume in service["volumes"]}
    environment = service["environment"]
    assert {environment["AVES_SPOOL_DIR"], environment["AVES_BLOB_URL"], "/tmp"} <= targets


@pytest.mark.parametrize("name", OURS)
def test_nothing_leaves_an_anonymous_volume(name: str) -> None:
    """The image declares volumes; each must be mounted from a named volume or a tmpfs."""
    stages = load_script("check_image.py").parse((ROOT / "Dockerfile").read_text())
    [declared] = [json.loads(rest) for word, rest in stages["runtime"].steps if word == "VOLUME"]
    mounts = [volume for volume in GPU["services"][name]["volumes"] if isinstance(volume, dict)]
    assert set(declared) <= {volume["target"] for volume in mounts}
    for volume in mounts:
        assert volume["type"] == "tmpfs" or volume["source"] in GPU["volumes"]


def test_only_the_front_and_the_screens_reach_the_outside() -> None:
    networks = {name: set(service["networks"]) for name, service in GPU["services"].items()}
    assert {name for name, used in networks.items() if "edge" in used} == {
        "front",
        "prometheus",
        "grafana",
        "jaeger",
    }
    assert GPU["networks"]["backend"] == {"internal": True}


def test_traces_are_kept_on_demand_where_the_service_can_send_them() -> None:
    jaeger = GPU["services"]["jaeger"]
    assert jaeger["profiles"] == ["tracing"]
    assert [name for name, service in GPU["services"].items() if "profiles" in service] == ["jaeger"]
    written = re.search(r"AVES_OTLP_ENDPOINT=(http://(\w+):\d+)", (ROOT / "docker-compose.yml").read_text())
    assert written is not None
    assert written[2] in GPU["services"]
    assert Settings(otlp_endpoint=written[1]).otlp_endpoint == "http://jaeger:4318"
    for name in OURS:
        assert "AVES_OTLP_ENDPOINT" not in GPU["services"][name]["environment"], "it would hide the one in .env"
        assert set(GPU["services"][name]["networks"]) & set(jaeger["networks"])


def test_what_is_mounted_exists() -> None:
    mounts = [v for s in GPU["services"].values() for v in s.get("volumes", []) if isinstance(v, str)]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (ROOT / source).exists(), source
        assert mode == "ro"


def test_prometheus_scrapes_the_services_by_name() -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    for name, port in (("front", "8000"), ("worker", "8001")):
        assert name in GPU["services"]
        assert f"{{names: [{name}], type: A, port: {port}," in text


@pytest.mark.redis
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("redis-jobs", {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}),
        (
            "redis-data",
            {"appendonly": "no", "save": "", "maxmemory": str(2 * 1024**3), "maxmemory-policy": "noeviction"},
        ),
    ],
)
def test_redis_takes_its_command(name: str, expected: dict[str, str], tmp_path: Path) -> None:
    assert BINARY is not None, "redis-server is needed: apt-get install redis-server"
    port = free_port()
    command = [filled(argument) for argument in GPU["services"][name]["command"]]
    assert command[0] == "redis-server"
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    with subprocess.Popen([BINARY, *command[1:], *place], stdout=subprocess.DEVNULL) as process:
        try:
            retry = Retry(ConstantBackoff(0.1), 300)
            with redis.Redis(port=port, decode_responses=True, retry=retry) as client:
                for key, value in expected.items():
                    assert client.config_get(key)[key] == value
        finally:
            process.kill()
