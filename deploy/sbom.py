"""Write the bills of materials of the images as CycloneDX 1.6, from the locks: python deploy/sbom.py [FOLDER]

One file each for `front`, `worker` (CUDA) and `worker-cpu`. Versions and hashes come from deploy/locks, licences from
the metadata of the packages that are installed here; a package that is not installed here has no licence in the file
and is counted in the output.
`BUNDLED` has what wheels contain and do not declare. The packages of the operating system are read from dpkg's status
in the image where a Docker engine has it (`avesformer-IMAGE`; SBOM_PREFIX replaces `avesformer`); without one the bill
is marked incomplete, and the output says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
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


def system_packages(status: str, *, distro: str) -> list[dict[str, Any]]:
    """Return the installed packages of dpkg's status file (deb822) as components, sorted by name."""
    found = []
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if re.match(r"[A-Za-z-]+: ", line))
        if fields.get("Status") != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        escaped = version.replace("+", "%2B").replace(":", "%3A").replace("~", "%7E")
        purl = f"pkg:deb/debian/{name}@{escaped}?arch={fields['Architecture']}&distro={distro}"
        found.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return sorted(found, key=lambda entry: str(entry["name"]))


def read_from_image(tag: str, path: str) -> str | None:
    """Return a file of an image; None without an engine or without the image."""
    engine = shutil.which("docker")
    if engine is None:
        return None
    command = [engine, "run", "--rm", "--pull", "never", "--network", "none", "--entrypoint", "cat", tag, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


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


def bill(image: str, version: str, *, system: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the bill of materials of one image; `system` are its operating system's packages, None if unknown."""
    product = {"type": "container", "bom-ref": f"avesformer-{image}", "name": f"avesformer-{image}", "version": version}
    found = [*components(IMAGES[image]), *(system or [])]
    completeness = "incomplete" if system is None else "complete"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": found,
        "dependencies": [{"ref": product["bom-ref"], "dependsOn": [entry["bom-ref"] for entry in found]}],
        "compositions": [{"aggregate": completeness, "dependencies": [product["bom-ref"]]}],
    }


def system_of(image: str) -> list[dict[str, Any]] | None:
    """Return the operating system's packages of an image that was built here, or None."""
    tag = f"{os.environ.get('SBOM_PREFIX', 'avesformer')}-{image}"
    status = read_from_image(tag, "/var/lib/dpkg/status")
    release = read_from_image(tag, "/etc/os-release")
    if status is None or release is None:
        return None
    fields = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return system_packages(status, distro=f"{fields['ID']}-{fields['VERSION_ID']}".replace('"', ""))


def main() -> int:
    """Write every bill and say how many licences are unknown here."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for image in IMAGES:
        system = system_of(image)
        made = bill(image, version, system=system)
        path = folder / f"avesformer-{image}.cdx.json"
        path.write_text(json.dumps(made, indent=1) + "\n")
        python = [entry for entry in made["components"] if entry["purl"].startswith("pkg:pypi/")]
        unknown = [entry["name"] for entry in python if "licenses" not in entry]
        of_system = "NOT LISTED, no such image here" if system is None else f"{len(system)} packages"
        sys.stdout.write(f"{path}: {len(python)} packages, {len(unknown)} without known licence; system: {of_system}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
