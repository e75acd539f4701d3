"""Reading what is deployed: the Dockerfile, the compose files as `docker compose` merges them, the Kubernetes files."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
KUBECTL = shutil.which("kubectl")
PROMTOOL = shutil.which("promtool")
PROMETHEUS = shutil.which("prometheus")
HOW_TO_GET_KUBECTL = "kubectl is needed: a package of Kubernetes, 1.22 or newer"
HOW_TO_GET_PROMETHEUS = "promtool and prometheus are needed: apt-get install prometheus"


class _Loader(yaml.SafeLoader):
    """YAML with compose's `!reset`, which takes a key away from the files before."""


class Reset:
    """Stands for `!reset`."""


_Loader.add_constructor("!reset", lambda loader, node: Reset())


def load_script(name: str) -> ModuleType:
    """A script of deploy/ as a module."""
    path = DEPLOY / name
    title = f"deploy_{path.stem}"
    if title not in sys.modules:
        found = importlib.util.spec_from_file_location(title, path)
        assert found is not None
        assert found.loader is not None
        sys.modules[title] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[title])
    return sys.modules[title]


def compose(*names: str) -> dict[str, Any]:
    """The compose files merged in order, by the rules of the compose specification that ours need."""
    merged: dict[str, Any] = {}
    for name in names or ("docker-compose.yml",):
        merged = _merge(merged, yaml.load((ROOT / name).read_text(), Loader=_Loader))
    return merged


def _merge(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    merged = dict(under)
    for key, value in over.items():
        if isinstance(value, Reset):
            merged.pop(key, None)
        else:
            merged[key] = _merge(under.get(key), value)
    return merged


def filled(text: str, **variables: str) -> str:
    """A compose value with `${NAME:-default}` filled in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), text)


def rendered(overlay: str | Path) -> list[dict[str, Any]]:
    """The objects of a Kubernetes overlay of ours or in a folder, as `kubectl apply -k` would send them."""
    assert KUBECTL is not None, HOW_TO_GET_KUBECTL
    folder = DEPLOY / "kubernetes" / "overlays" / overlay
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=True, timeout=120)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def alert_rules() -> list[dict[str, Any]]:
    """Every alert rule."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The Grafana dashboard."""
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "avesformer.json").read_text())
    return loaded


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """Each panel's title with each of its PromQL expressions."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def metric_names(expression: str) -> set[str]:
    """The names of the metrics in a PromQL expression; words of the language and labels are told by their place."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    words = re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)
    return {word for word in words if word not in {"or", "and", "unless", "by", "on"}}
