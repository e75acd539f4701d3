"""The command line: settings table, faults by name, forwarding, and a start without heavy imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import app, example_environment
from service.settings import Settings

ROOT = Path(__file__).parents[4]
CONTRACT_SETTINGS = [
    "HOST",
    "PORT",
    "GRPC_PORT",
    "WORKER_PORT",
    "CHECKPOINT",
    "DEVICE",
    "DTYPE",
    "TORCH_THREADS",
    "MAX_BATCH",
    "BATCH_WINDOW_S",
    "MAX_CONCURRENT_REQUESTS",
    "MAX_LIVE_STREAMS",
    "MAX_QUEUED_BYTES",
    "MAX_UPLOAD_BYTES",
    "MAX_CLIP_S",
    "MAX_PIXELS",
    "MAX_SAMPLES",
    "MAX_ANSWER_BYTES",
    "REQUEST_TIMEOUT_S",
    "UPLOAD_MIN_BYTES_PER_S",
    "DECODE_PROCESSES",
    "SPOOL_DIR",
    "SPOOL_BYTES",
    "STATE_DIR",
    "REDIS_URL",
    "REDIS_DATA_URL",
    "REDIS_MAX_BYTES",
    "LEASE_S",
    "BLOB_URL",
    "CACHE_BYTES",
    "CACHE_TTL_S",
    "JOB_TTL_S",
    "IDEMPOTENCY_TTL_S",
    "API_KEYS_FILE",
    "TLS_CERT",
    "TLS_KEY",
    "WEBHOOK_HOSTS",
    "DRAIN_S",
    "LOG_LEVEL",
    "OTLP_ENDPOINT",
    "BENCH_ROUTES",
]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("AVES_"):
            monkeypatch.delenv(name)


def test_the_example_file_is_what_the_settings_say():
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == example_environment()


def test_the_example_file_names_every_setting_of_the_contract_and_loads_as_defaults(monkeypatch):
    entries = dict(re.findall(r"^AVES_([A-Z_]+)=(.*)$", example_environment(), flags=re.MULTILINE))
    assert set(CONTRACT_SETTINGS) <= set(entries)
    assert set(entries) == {name.upper() for name in Settings.model_fields}
    for name, value in entries.items():
        monkeypatch.setenv(f"AVES_{name}", value)
    from_example = Settings()
    for name in entries:
        monkeypatch.delenv(f"AVES_{name}")
    assert from_example == Settings()


def test_check_config_shows_the_table_and_masks_secrets(monkeypatch):
    monkeypatch.setenv("AVES_REDIS_URL", "redis://user:hunter2@somewhere")
    monkeypatch.setenv("AVES_MAX_CLIP_S", "42")
    result = CliRunner().invoke(app, ["check-config"])
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    assert re.search(r"AVES_MAX_CLIP_S +42\.0", result.output)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("AVES_PORT", "abc", "AVES_PORT"),
        ("AVES_MAX_UPLOAD_BYTES", "-5", "AVES_MAX_UPLOAD_BYTES"),
        ("AVES_LOG_LEVEL", "loud", "AVES_LOG_LEVEL"),
        ("AVES_TLS_CERT", "/x.pem", "tls_key"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_its_name(monkeypatch, name, value, complaint):
    monkeypatch.setenv(name, value)
    for arguments in (["check-config"], ["serve"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert complaint in result.stderr
        assert "Traceback" not in result.output


def test_an_unknown_command_or_option_ends_with_2():
    assert CliRunner().invoke(app, ["fly"]).exit_code == 2
    assert CliRunner().invoke(app, ["serve", "--wings"]).exit_code == 2


def test_help_imports_neither_torch_nor_av_nor_fastapi():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom service.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "names = 'torch av fastapi grpc transformers redis cv2 numpy pydantic rich'\n"
        "heavy = set(names.split()) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


COMMANDS = [str(command.name or command.callback.__name__) for command in app.registered_commands]


@pytest.mark.parametrize("arguments", [[name] for name in COMMANDS] + [["data", "verify"], ["data", "convert"]])
def test_every_command_answers_help(arguments):
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.stdout
    assert " ".join(arguments) in result.stdout
    assert "Traceback" not in result.output


def test_the_script_lists_every_command():
    result = subprocess.run(
        [sys.executable, "-c", "from service.cli.main import main; main()", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    listed = re.findall(r"^  ([a-z-]+)  ", result.stdout, flags=re.MULTILINE)
    assert set(COMMANDS) <= set(listed)
    assert {"serve", "worker", "segment", "synthesize", "train", "evaluate"} <= set(listed)
    assert {"data", "export", "bench", "check-config"} <= set(listed)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("avesformer se", "segment"), ("avesformer segment --out", "--output"), ("avesformer train --dry", "--dry-run")],
)
def test_the_shell_completes_commands_and_their_flags(typed, wanted):
    asked = {"_AVESFORMER_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    command = [sys.executable, "-c", "from service.cli.main import app; app(prog_name='avesformer')"]
    done = subprocess.run(
        command, env={**os.environ, **asked}, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert wanted in done.stdout.split(), done.stderr
