"""Contents of `/version`: the installed versions and the model."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from service.ports import Segmenter


def service_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("avesformer-service")
    except PackageNotFoundError:
        return "0+unknown"


async def describe_version(segmenter: Segmenter) -> Mapping[str, object]:
    """Return the versions, and the model once it is loaded."""
    model = None
    if segmenter.is_ready():
        info = await segmenter.describe()
        model = {
            "variant": info.variant,
            "checkpoint": info.checkpoint,
            "labels": list(info.labels),
            "compute_type": segmenter.compute_type,
            "device": dict(segmenter.device_facts),
        }
    return {"service": service_version(), "python": platform.python_version(), "model": model}
