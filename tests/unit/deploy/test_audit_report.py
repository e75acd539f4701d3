"""The report on an audit never calls unchecked packages safe."""

from __future__ import annotations

import json
from typing import Any

from deploy.audit_report import NOTHING_LOOKED_UP, report

SAFE = {"name": "anyio", "version": "4.0", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "not found"}
VULNERABLE = {"name": "jinja2", "version": "2.4.1", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}


def of(*packages: dict[str, Any]) -> tuple[list[str], int]:
    return report("front.txt", json.dumps({"dependencies": packages, "fixes": []}))


def test_what_was_looked_up_is_counted() -> None:
    assert of(SAFE) == (["audit: front.txt: 1 of 1 packages looked up, 0 vulnerable"], 0)


def test_what_was_not_looked_up_is_named() -> None:
    lines, status = of(SAFE, SKIPPED)
    assert lines == [
        "audit: front.txt: 1 of 2 packages looked up, 0 vulnerable",
        "audit: front.txt: not looked up: torch",
    ]
    assert status == 0


def test_a_vulnerable_version_fails() -> None:
    lines, status = of(SAFE, VULNERABLE)
    assert lines[0] == "audit: front.txt: jinja2 2.4.1: CVE-1, CVE-2"
    assert status == 1


def test_no_answer_is_not_safe() -> None:
    assert of(SKIPPED) == ([], NOTHING_LOOKED_UP)
    assert report("front.txt", "") == ([], NOTHING_LOOKED_UP)
