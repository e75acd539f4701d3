"""Write the bills of materials of the images as CycloneDX 1.6, from the locks: python deploy/sbom.py [FOLDER]

One file each for `front`, `worker` (CUDA) and `worker-cpu`. Versions and hashes come from deploy/locks, licences from
the metadata of the packages that are installed here; a package that is not installed here has no licence in the file
and is counted in the output.
`BUNDLED` has what wheels contain and do not declare. The operating system's packages belong to the base image, whose
maker publishes its own bill.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "deploy" / "locks"
IMAGES = {
    "front": ("front.txt",),
    "worker": ("front.txt", "model.txt", "torch-cuda.txt"),
    "worker-cpu": ("front.txt", "model.txt", "torch-cpu.txt"),
}
# Libraries inside a wheel whose own licence is stricter than the wheel's: (name, licence expression, remark).
BUNDLED = {
    "av": (
        ("ffmpeg", "LGPL-3.0-or-later", "as it reports itself; linked with x264 and x265, so the GPL covers the whole"),
        ("x264", "GPL-2.0-or-later", "encodes overlays"),
        ("x265", "GPL-2.0-or-later", "never called"),
        ("lame", "LGPL-2.0-or-later", "never called"),
        ("gnutls", "LGPL-2.1-or-later", "never called"),
        ("gmp", "LGPL-3.0-or-later OR GPL-2.0-or-later", "used by gnutls"),
        ("nettle", "LGPL-3.0-or-later OR GPL-2.0-or-later", "used by gnutls"),
    ),
    "opencv-python-headless": (("ffmpeg", "LGPL-2.1-or-later", "never called"),),
}
_BLOCK = re.compile(r"(?m)^(?=[a-z0-9])")
_PIN = re.compile(r"([a-z0-9-]+)==([^ ;\\]+)")


def components(locks: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the CycloneDX components of some locks, sorted by name."""
    blocks = [block for lock in locks for block in _BLOCK.split((LOCKS / lock).read_text())]
    found = [component(block, *pin.groups()) for block in blocks if (pin := _PIN.match(block))]
    return sorted(found, key=lambda entry: str(entry["name"]))


def component(block: str, name: str, version: str) -> dict[str, Any]:
    """Return one package of a lock as a component."""
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    entry: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    hashes = re.findall(r"sha256:([0-9a-f]{64})", block)
    if len(hashes) == 1:  # several wheels share a pin; only a single one is surely the installed one
        entry["hashes"] = [{"alg": "SHA-256", "content": hashes[0]}]
    licence = licence_of(name)
    if licence is not None:
        entry["licenses"] = [{"license": {"name": licence}}]
    if name in BUNDLED:
        entry["components"] = [
            {"type": "library", "name": inner, "licenses": [{"expression": expression}], "description": remark}
            for inner, expression, remark in BUNDLED[name]
        ]
    return entry


def licence_of(name: str) -> str | None:
    """Return what an installed package declares: its expression, its classifiers, or the first line of its field."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return None
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in found.get_all("Classifier") or () if line.startswith("License :: ")]
    if classifiers:
        return " AND ".join(line.rpartition(" :: ")[2] for line in classifiers)
    field = str(found.get("License") or "").strip()
    return field.splitlines()[0][:80] if field else None


def bill(image: str, version: str) -> dict[str, Any]:
    """Return the bill of materials of one image."""
    product = {"type": "container", "bom-ref": f"avesformer-{image}", "name": f"avesformer-{image}", "version": version}
    found = components(IMAGES[image])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": found,
        "dependencies": [{"ref": product["bom-ref"], "dependsOn": [entry["bom-ref"] for entry in found]}],
    }


def main() -> int:
    """Write every bill and say how many licences are unknown here."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for image in IMAGES:
        made = bill(image, version)
        path = folder / f"avesformer-{image}.cdx.json"
        path.write_text(json.dumps(made, indent=1) + "\n")
        unknown = [entry["name"] for entry in made["components"] if "licenses" not in entry]
        sys.stdout.write(f"{path}: {len(made['components'])} packages, {len(unknown)} without a known licence\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
