"""Runs the checks of mxnet_trt_property.engines.testing on every engine that can run here.

usage: python ci/gpu/verify_conformance.py DIR [ENGINE ...]

Prints a table and writes DIR/conformance.json. Exit status 1 if an engine breaks a promise of the protocol, or one that
is named cannot be used.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mxnet_trt_property.engines import registry, testing  # noqa: E402

_SECONDS = 80


def main() -> int:
    """Checks the engines and returns the exit status."""
    folder, *wanted = sys.argv[1:]
    rows = []
    for name in wanted or registry.names():
        reason = registry.choose(name, testing.HOST).reasons.get(name)
        if reason is None:
            rows.append(in_process(name))
        elif wanted:
            rows.append({"engine": name, "error": reason, "checks": {}})
        else:
            print(f"{name}: left out: {reason}")
    for row in rows:
        print(f"\n{row['engine']} {row.get('version', '')}: {row['error'] or 'all promises kept'}")
        for check, outcome in row["checks"].items():
            words = outcome["error"].splitlines()[-1] if outcome["error"] else "ok"
            print(f"  {check:<34}{outcome['seconds']:7.2f} s  {words}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "conformance.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if rows and not any(row["error"] for row in rows) else 1


def in_process(name: str) -> dict[str, Any]:
    """Returns the record of an engine; a library that crashes ends its own process only."""
    program = f"import json; from ci.gpu.verify_conformance import check; print(json.dumps(check({name!r})))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"engine": name, "error": f"did not end within {_SECONDS} seconds", "checks": {}}
    if done.returncode:
        return {"engine": name, "error": f"status {done.returncode}: {done.stderr[-2000:]}", "checks": {}}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(name: str) -> dict[str, Any]:
    """Returns what each check says of an engine."""
    engine = registry.get(name)
    outcomes = {}
    for one in testing.CHECKS:
        start, error = time.perf_counter(), ""
        try:
            one(engine)
        except Exception:  # noqa: BLE001 - one broken promise must not hide another
            error = traceback.format_exc().strip()
        outcomes[one.__name__] = {"seconds": round(time.perf_counter() - start, 3), "error": error}
    broken = [key for key, outcome in outcomes.items() if outcome["error"]]
    words = f"broken: {', '.join(broken)}" if broken else ""
    return {"engine": name, "version": engine.version(), "error": words, "checks": outcomes}


if __name__ == "__main__":
    sys.exit(main())
