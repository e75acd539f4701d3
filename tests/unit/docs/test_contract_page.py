"""docs/contract.md names every option, error code, setting and metric that the code has, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from service.domain.errors import CODES, ServiceError
from service.domain.option_table import to_markdown
from service.domain.options import SegmentOptions
from service.rest.errors import status_of
from service.rpc.errors import status_code
from service.settings import Settings
from service.telemetry.metrics import PREFIX, Metrics

PAGE = (Path(__file__).parents[3] / "docs" / "contract.md").read_text(encoding="utf-8")


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def _rows(section: str) -> list[list[str]]:
    """The cells of each row of each table, without heads and rules."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]


def _code_words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_options():
    table = to_markdown(SegmentOptions)
    assert table in _section("Options"), f"put this table into docs/contract.md:\n{table}"


def test_settings():
    named = [name for row in _rows(_section("Settings"))[1:] for name in _code_words(row[1])]
    assert len(named) == len(set(named))
    assert {name for name in named if name.startswith("AVES_")} == {
        f"AVES_{name.upper()}" for name in Settings.model_fields
    }


def test_metrics_with_their_kinds_and_labels():
    documented = {}
    for name, kind, labels, _ in _rows(_section("Metrics"))[1:]:
        documented[PREFIX + name.strip("`")] = (kind, tuple(_code_words(labels)))
    declared = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            [family] = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            declared[name] = (family.type, metric._labelnames)
    assert len(declared) > 10
    assert documented == declared


def test_errors_with_their_statuses():
    documented = {}
    for kind, codes, http, grpc_status, _ in _rows(_section("Errors"))[1:]:
        for code, note in _named_codes(codes):
            own_http = re.search(r"\((\d{3})\)", note)
            own_grpc = re.search(r"\b[A-Z_]{6,}\b", note)
            documented[code] = (kind, own_http[1] if own_http else http[:3], own_grpc[0] if own_grpc else grpc_status)
    assert documented == {
        code: (spec.kind.value, str(status_of(code)), status_code(ServiceError(code, "")).name)
        for code, spec in CODES.items()
    }


def test_retry_column():
    for _, codes, _, _, retry in _rows(_section("Errors"))[1:]:
        for code, rest in _named_codes(codes):
            is_retryable = retry == "yes" and not rest.startswith(" (no retry")
            assert CODES[code].is_retryable is is_retryable, code


def _named_codes(cell: str) -> list[tuple[str, str]]:
    """Each code of a cell with the text between it and the next one."""
    parts = re.split(r"`([a-z0-9_]+)`", cell)
    return list(zip(parts[1::2], parts[2::2], strict=True))
