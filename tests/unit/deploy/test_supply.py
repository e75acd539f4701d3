"""Bills of materials, the audit, and the licences that the images name."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import av
import pytest
from support.fleets.deploy_files import DEPLOY, ROOT, load_script

SBOM = load_script("sbom.py")


@pytest.mark.parametrize("image", sorted(SBOM.IMAGES))
def test_a_bill_lists_every_lock_of_its_image(image: str) -> None:
    made = SBOM.bill(image, "1.2.3")
    listed = {(entry["name"], entry["version"]) for entry in made["components"]}
    pinned = {
        pin
        for lock in SBOM.IMAGES[image]
        for pin in re.findall(r"(?m)^([a-z0-9-]+)==([^ ;\\\n]+)", (DEPLOY / "locks" / lock).read_text())
    }
    assert listed == pinned
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    refs = {entry["bom-ref"] for entry in made["components"]}
    assert set(made["dependencies"][0]["dependsOn"]) == refs
    assert len(refs) == len(made["components"])


STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u13
Description: GNU C Library
 Package: is no field here

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.134
"""


def fake_engine(folder: Path) -> None:
    """A `docker` that has one image, whose files are answered as `docker run --entrypoint cat` does."""
    (folder / "status").write_text(STATUS)
    (folder / "release").write_text('ID=debian\nVERSION_ID="12"\n')
    script = folder / "docker"
    script.write_text(
        f"""#!/bin/sh
case "$*" in
  *"avesformer-front /var/lib/dpkg/status") cat {folder}/status ;;
  *"avesformer-front /etc/os-release") cat {folder}/release ;;
  *) exit 125 ;;
esac
"""
    )
    script.chmod(0o755)


def test_packages_of_the_system_are_read_from_an_image_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    system = SBOM.system_of("front")
    assert [entry["name"] for entry in system] == ["adduser", "libc6"]
    assert system[1]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64&distro=debian-12"
    made = SBOM.bill("front", "1", system=system)
    assert made["compositions"][0]["aggregate"] == "complete"
    assert {entry["bom-ref"] for entry in system} < set(made["dependencies"][0]["dependsOn"])
    assert SBOM.system_of("worker") is None
    assert SBOM.bill("worker", "1")["compositions"][0]["aggregate"] == "incomplete"


def test_this_machines_packages_can_be_read() -> None:
    status = Path("/var/lib/dpkg/status")
    if not status.exists():
        pytest.skip("no dpkg here")
    found = SBOM.system_packages(status.read_text(), distro="debian-12")
    command = ["dpkg-query", "-f", "${db:Status-Abbrev}\n", "-W"]
    counted = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(found) == sum(line.startswith("ii") for line in counted.stdout.splitlines())
    assert len({entry["purl"] for entry in found}) == len(found)


def test_every_package_of_the_front_has_a_licence() -> None:
    assert [entry["name"] for entry in SBOM.bill("front", "1")["components"] if "licenses" not in entry] == []


def test_gpl_parts_of_the_av_wheel_are_listed_and_in_the_labels() -> None:
    """Fails when another wheel of av bundles a library that is not listed."""
    bundled = {path.name.partition("-")[0] for path in (Path(av.__file__).parents[1] / "av.libs").iterdir()}
    assert {"libx264", "libx265"} <= bundled
    listed = {name for name, _, _ in SBOM.BUNDLED["av"]}
    assert {"ffmpeg", "x264", "x265", "lame", "gnutls", "gmp", "nettle"} <= listed
    stages = load_script("check_image.py").parse((ROOT / "Dockerfile").read_text())
    labels = next(rest for word, rest in stages["runtime"].steps if word == "LABEL")
    assert "GPL-2.0-or-later" in labels
    assert "x264 and x265" in labels


@pytest.mark.parametrize(("required", "code"), [("0", 0), ("1", 1)])
def test_an_audit_that_cannot_be_made_says_so(required: str, code: int, tmp_path: Path) -> None:
    """A Python without pip-audit and without a way to install it."""
    nothing = tmp_path / "python"
    nothing.write_text("#!/bin/sh\nexit 1\n")
    nothing.chmod(0o755)
    copy = tmp_path / "tree" / "deploy"
    copy.mkdir(parents=True)
    (copy / "audit").write_bytes((DEPLOY / "audit").read_bytes())
    done = subprocess.run(
        ["bash", str(copy / "audit"), str(nothing)],
        env={**os.environ, "REQUIRE_AUDIT": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "audit: NOT RUN: pip-audit cannot be installed\n")


def test_compose_check_says_when_nothing_was_run(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    for name in ("dirname", "id"):  # what the script needs before it looks for an engine
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/bash", str(DEPLOY / "check_compose")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("check-compose: NOT RUN: no Docker engine answers")
