"""`make lint` asks here whether a pinned package has a known weakness, with pip-audit.

Status 1 when one has. Without a way to the index it says so and goes on: a machine without a network may build too.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

SECONDS_MAX: Final = 180
_LOCK: Final = "requirements.lock"


def verdict(stdout: str, stderr: str) -> tuple[int, list[str]]:
    """Exit status, and what to say about what pip-audit printed."""
    try:
        report: Any = msgspec.json.decode(stdout)
    except msgspec.DecodeError:
        why = stderr.strip().splitlines()[-1:] or ["no answer"]
        return 0, [f"pip-audit: the index could not be asked, so known weaknesses were not looked for: {why[0][:200]}"]
    weak = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for one in report["dependencies"]
        for found in one.get("vulns", ())
    ]
    skipped = [one["name"] for one in report["dependencies"] if "skip_reason" in one]
    looked = len(report["dependencies"]) - len(skipped)
    lines = [f"pip-audit: {looked} packages looked at, {len(skipped)} that the index does not know, {len(weak)} weak"]
    return (1 if weak else 0), lines + weak


def main() -> None:
    command = [str(Path(sys.executable).with_name("pip-audit")), "-r", _LOCK, "--disable-pip", "--require-hashes"]
    command += ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        status, lines = verdict(done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        status, lines = verdict("", "no end within the time")
    print("\n".join(lines))
    sys.exit(status)


if __name__ == "__main__":
    main()
