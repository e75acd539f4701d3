"""Build backend: setuptools, and a wheel whose import names no other distribution uses.

In the repository the code is in `service` and `model`, names that are too common for site-packages. The wheel has them
as `avesformer.service` and `avesformer.model`, and `avesformer_client` as the name for users. An editable install is
setuptools' own, with the repository's names, and has `avesformer_client` too.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rename_imports import NAMESPACE, ROOTS, rename_imports
from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

CLIENT = "avesformer_client"
# Modules of the package for users, and where their names are defined.
_CLIENT_MODULES = {"__init__": "service.client.public", "convert": "service.client.convert.public"}
_CLIENT_SOURCE = '''"""Names of `{module}`."""

from {module} import *
from {module} import __all__ as __all__
'''
_INIT = '"""Audio-visual segmentation: `avesformer.service` is the service, `avesformer.model` the network."""\n'
_ENTRY_POINT = re.compile(rf"^(\S+\s*=\s*)(?=(?:{'|'.join(ROOTS)})\.)", re.MULTILINE)
Config = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of a wheel. `info` has its path, date and permissions."""

    info: zipfile.ZipInfo
    data: bytes

    @property
    def record(self) -> str:
        """Return its line in RECORD: path, SHA-256 and size in bytes."""
        digest = base64.urlsafe_b64encode(hashlib.sha256(self.data).digest()).rstrip(b"=").decode("ascii")
        return f"{self.info.filename},sha256={digest},{len(self.data)}"


def build_wheel(wheel_directory: str, config_settings: Config = None, metadata_directory: str | None = None) -> str:
    """Build the wheel with setuptools and move its packages below `avesformer` (PEP 517)."""
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    path = Path(wheel_directory, name)
    entries = _read(path)
    modules = frozenset(module for entry in entries for module in _module_names(entry.info.filename))
    moved = [_moved(entry, modules) for entry in entries]
    like = moved[0].info
    added = {f"{NAMESPACE}/__init__.py": _INIT, f"{NAMESPACE}/py.typed": ""} | _client_files(f"{NAMESPACE}.")
    _write(path, [*moved, *(_entry(new, text.encode(), like) for new, text in added.items())])
    return name


def build_editable(wheel_directory: str, config_settings: Config = None, metadata_directory: str | None = None) -> str:
    """Build setuptools' editable wheel and add the package `avesformer_client` (PEP 660)."""
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    path = Path(wheel_directory, name)
    entries = _read(path)
    like = entries[0].info
    _write(path, [*entries, *(_entry(new, text.encode(), like) for new, text in _client_files("").items())])
    return name


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Config = None) -> str:
    """Write the metadata that `build_wheel` puts into the wheel."""
    name: str = build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)
    for path in filter(Path.is_file, Path(metadata_directory, name).iterdir()):
        path.write_bytes(_metadata(path.name, path.read_bytes()))
    return name


def _client_files(prefix: str) -> dict[str, str]:
    """Return paths and texts of the package `avesformer_client`, which takes names from modules under `prefix`."""
    files = {
        f"{CLIENT}/{name}.py": _CLIENT_SOURCE.format(module=prefix + module) for name, module in _CLIENT_MODULES.items()
    }
    return files | {f"{CLIENT}/py.typed": ""}


def _read(path: Path) -> list[_Entry]:
    """Return the files of a wheel; RECORD is left out, since `_write` makes it."""
    with zipfile.ZipFile(path) as wheel:
        return [_Entry(info, wheel.read(info)) for info in wheel.infolist() if not info.filename.endswith("/RECORD")]


def _write(path: Path, entries: list[_Entry]) -> None:
    """Replace a wheel. RECORD is its last file."""
    folder = next(entry.info.filename.partition("/")[0] for entry in entries if _is_metadata(entry.info.filename))
    record = f"{folder}/RECORD"
    lines = "".join(f"{entry.record}\n" for entry in entries) + f"{record},,\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for entry in [*entries, _entry(record, lines.encode(), entries[0].info)]:
            wheel.writestr(entry.info, entry.data, compress_type=zipfile.ZIP_DEFLATED)


def _entry(name: str, data: bytes, like: zipfile.ZipInfo) -> _Entry:
    """Return a new file with the date and permissions of another one."""
    info = zipfile.ZipInfo(name, like.date_time)
    info.external_attr = like.external_attr
    return _Entry(info, data)


def _moved(entry: _Entry, modules: frozenset[str]) -> _Entry:
    """Return a file of the wheel under its new path and with its imports renamed."""
    path = PurePosixPath(entry.info.filename)
    if _is_metadata(str(path)):
        return _entry(str(path), _metadata(path.name, entry.data), entry.info)
    if path.parts[0] not in ROOTS:
        raise ValueError(f"the wheel has {path}, which is in none of the packages {', '.join(ROOTS)}")
    data = entry.data
    if path.suffix in (".py", ".pyi"):
        data = rename_imports(data.decode("utf-8"), modules, name=str(path)).encode("utf-8")
    return _entry(f"{NAMESPACE}/{path}", data, entry.info)


def _metadata(name: str, data: bytes) -> bytes:
    """Return a file of the folder `.dist-info` with the new names. Idempotent."""
    if name == "entry_points.txt":
        return _ENTRY_POINT.sub(rf"\g<1>{NAMESPACE}.", data.decode("utf-8")).encode("utf-8")
    if name == "top_level.txt":
        return f"{NAMESPACE}\n{CLIENT}\n".encode()
    return data


def _module_names(filename: str) -> Iterator[str]:
    """Yield the dotted name of a Python module: of an `__init__.py`, the package's."""
    path = PurePosixPath(filename)
    if path.suffix == ".py":
        yield ".".join(path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts)


def _is_metadata(filename: str) -> bool:
    return filename.partition("/")[0].endswith(".dist-info")
