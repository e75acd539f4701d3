"""Say what pip-audit looked up: `pip-audit -f json … | python deploy/audit_report.py NAME`.

pip-audit skips a package that the database does not answer for and still prints "No known vulnerabilities found".

Exit status: 0 nothing found, 1 a vulnerable version, 3 nothing was looked up.
"""

import json
import sys

NOTHING_LOOKED_UP = 3


def report(name: str, text: str) -> tuple[list[str], int]:
    """Return the lines to print and the exit status for pip-audit's JSON on one lock file."""
    try:
        packages = json.loads(text)["dependencies"]
    except ValueError:
        return [], NOTHING_LOOKED_UP
    checked = [package for package in packages if "skip_reason" not in package]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if not checked:
        return [], NOTHING_LOOKED_UP
    lines = [
        f"audit: {name}: {package['name']} {package['version']}: {', '.join(found['id'] for found in package['vulns'])}"
        for package in checked
        if package["vulns"]
    ]
    num_vulnerable = len(lines)
    lines.append(f"audit: {name}: {len(checked)} of {len(packages)} packages looked up, {num_vulnerable} vulnerable")
    if skipped:
        lines.append(f"audit: {name}: not looked up: {', '.join(skipped)}")
    return lines, 1 if num_vulnerable else 0


if __name__ == "__main__":
    printed, status = report(sys.argv[1], sys.stdin.read())
    sys.stdout.writelines(f"{line}\n" for line in printed)
    sys.exit(status)
