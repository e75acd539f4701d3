"""The Dockerfile, its locks, its build context and its health check."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.fleets.deploy_files import DEPLOY, ROOT, load_script
from support.servers.ports import free_port

LOCKS = DEPLOY / "locks"
TRAINING_ONLY = {"pillow", "tensorboard"}


def stages() -> dict:
    """The Dockerfile's stages."""
    return load_script("check_image.py").parse((ROOT / "Dockerfile").read_text())


def pins(name: str) -> dict[str, str]:
    """Package and version of each line of a lock."""
    lines = (LOCKS / name).read_text().splitlines()
    found = [re.match(r"([a-z0-9-]+)==([^ ;\\]+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("target", "command", "ports"), [("front", "serve", "8000"), ("worker", "worker", "8001")])
def test_image_runs_its_command_as_nobody_special_with_a_health_check(target: str, command: str, ports: str) -> None:
    found = stages()
    steps = [*found["runtime"].steps, *found[target].steps]
    words = [word for word, _ in steps]
    assert found[target].base == "runtime"
    assert ("USER", "10001:10001") in steps
    assert ("CMD", f'["{command}"]') in steps
    assert ("ENTRYPOINT", '["avesformer"]') in steps
    assert ports in dict(steps)["EXPOSE"].split()
    assert "HEALTHCHECK" in words
    assert "AVES_HOST=0.0.0.0" in " ".join(rest for word, rest in steps if word == "ENV")


def test_images_hold_the_bytecode_that_nothing_may_write_later() -> None:
    steps = stages()["runtime"].steps
    assert any(word == "ENV" and "PYTHONDONTWRITEBYTECODE=1" in rest for word, rest in steps)
    assert any(word == "RUN" and "python -m compileall" in rest for word, rest in steps)


def test_last_layers_hold_no_build_tools() -> None:
    found = stages()
    assert found["runtime"].base == found["build"].base, "the interpreter of the copied environment must be the same"
    assert any("pip uninstall" in rest for word, rest in found["runtime"].steps if word == "RUN")
    for target in ("front", "worker"):
        assert not [rest for word, rest in found[target].steps if word == "RUN"]
        assert [rest for word, rest in found[target].steps if word == "COPY"] == [
            f"--from=build-{target} /opt/avesformer /opt/avesformer"
        ]


def test_front_image_has_no_torch() -> None:
    front = pins("front.txt")
    assert not {"torch", "transformers", "triton"} & front.keys()
    assert not [name for name in front if name.startswith("nvidia-")]
    copied = " ".join(rest for _, rest in stages()["build-front"].steps)
    assert "torch" not in copied
    assert "model.txt" not in copied


@pytest.mark.parametrize("name", ["build.txt", "front.txt", "model.txt", "torch-cuda.txt", "torch-cpu.txt"])
def test_locks_have_hashes_and_name_no_index(name: str) -> None:
    text = (LOCKS / name).read_text()
    blocks = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]
    assert blocks
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize(("extra", "locks"), [("front", ["front.txt"]), ("model", ["model.txt", "torch-cuda.txt"])])
def test_locks_satisfy_the_project(extra: str, locks: list[str]) -> None:
    """Fails when a dependency changed and `python deploy/locks/update.py` was not run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [name for name in extras[extra] if not name.startswith("avesformer-service[")]
    wanted += project["dependencies"] if extra == "front" else []
    locked = {name: pin for lock in locks for name, pin in pins(lock).items()}
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name not in TRAINING_ONLY:
            assert name in locked, f"{name}: run deploy/locks/update.py"
            assert requirement.specifier.contains(locked[name]), f"{name}: run deploy/locks/update.py"


def test_cpu_build_takes_the_torch_that_is_locked() -> None:
    build = " ".join(rest for _, rest in stages()["build-worker"].steps)
    assert "--require-hashes" in build.partition("whl/cpu")[0].rpartition("pip")[2]
    assert "-r /src/deploy/locks/torch-cpu.txt" in build
    assert pins("torch-cpu.txt") == {"torch": f"{pins('torch-cuda.txt')['torch']}+cpu"}


def test_a_random_user_of_group_0_can_write_the_volumes() -> None:
    """OpenShift's way to start a container."""
    steps = stages()["runtime"].steps
    made = next(rest for word, rest in steps if word == "RUN" and "install --directory" in rest)
    [volumes] = [json.loads(rest) for word, rest in steps if word == "VOLUME"]
    assert "--group=0 --mode=0770" in made
    assert len(volumes) == 3
    assert all(f" {folder}" in made for folder in (*volumes, "/var/lib/avesformer"))
    assert ("COPY", "--chmod=0644 deploy/healthcheck.py /opt/healthcheck.py") in steps, "readable after umask 077"


@pytest.mark.parametrize("target", ["runtime", "front", "worker"])
def test_modes_of_the_clone_do_not_reach_an_image(target: str) -> None:
    """Under umask 077 files of a clone are closed to others: images take them with a mode, or installed by pip."""
    copies = [rest for word, rest in stages()[target].steps if word == "COPY"]
    assert copies
    for copy in copies:
        assert re.match(r"--chmod=0644 |--from=build-(front|worker) /opt/avesformer ", copy), copy
    assert not [word for word, _ in stages()[target].steps if word == "ADD"]


def test_image_tag_is_the_version() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    base = (DEPLOY / "kubernetes" / "base" / "kustomization.yaml").read_text()
    for name in ("front", "worker"):
        assert f"avesformer-{name}:{version('avesformer-service')}\n" in compose
        assert f"{{name: avesformer-{name}, newTag: {version('avesformer-service')}}}" in base


def test_build_context_holds_what_is_copied_and_nothing_private() -> None:
    files = set(load_script("check_image.py").context_files())
    assert {
        "pyproject.toml",
        "LICENSE",
        "deploy/healthcheck.py",
        "deploy/locks/front.txt",
        "service/cli/main.py",
    } <= files
    assert not [name for name in files if name.startswith((".git", ".env", ".venv", "tests/", "runs/"))]
    assert not [name for name in files if "__pycache__" in name]


@contextmanager
def ops_port(status: int, host: str = "127.0.0.1") -> Iterator[int]:
    """A server whose /readyz has this status."""

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def health_check(*, worker_port: int, port: int, host: str = "0.0.0.0") -> int:
    """The exit code of the image's health check."""
    environment = {"AVES_WORKER_PORT": str(worker_port), "AVES_PORT": str(port), "AVES_HOST": host}
    return subprocess.run([sys.executable, str(DEPLOY / "healthcheck.py")], env=environment, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (500, 1)])
def test_health_check_asks_the_process_that_is_there(status: int, code: int) -> None:
    with ops_port(status) as port:
        assert health_check(worker_port=free_port(), port=port) == code
        assert health_check(worker_port=port, port=free_port()) == code


def test_health_check_fails_where_nothing_listens() -> None:
    assert health_check(worker_port=free_port(), port=free_port()) == 1


@pytest.mark.parametrize(
    ("bound", "setting"),
    [
        ("::1", "::"),
        ("::1", "::1"),
        ("::1", "[::1]"),
        ("127.0.0.2", "127.0.0.2"),
        ("127.0.0.1", "::"),
        ("127.0.0.1", ""),
    ],
)
def test_health_check_asks_the_address_that_is_configured(bound: str, setting: str) -> None:
    with ops_port(200, bound) as port:
        assert health_check(worker_port=free_port(), port=port, host=setting) == 0
        assert health_check(worker_port=free_port(), port=port, host="127.0.0.3") == 1


def test_health_check_names_the_cause_of_a_port_that_kubernetes_set() -> None:
    environment = {"AVES_PORT": "tcp://10.0.0.1:8000"}
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "healthcheck.py")], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "enableServiceLinks" in done.stderr
