"""What the verification scripts share: checks that print a line each and are written to a file."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Checks:
    """The record of a script's checks.

    Args:
        path: The JSON file that gets them; written after each check, so that an abort loses nothing.
        environment: What the figures depend on.
    """

    def __init__(self, path: Path, environment: dict[str, Any]) -> None:
        self._path = path
        self._record: dict[str, Any] = {"passed": False, **environment, "checks": []}
        path.parent.mkdir(parents=True, exist_ok=True)
        print(", ".join(f"{key} {value}" for key, value in environment.items()), flush=True)

    def run(self, name: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Runs one check, which fails by raising, and returns its details."""
        start = time.perf_counter()
        try:
            details, ok = check(), True
        except Exception as error:  # noqa: BLE001 - one check must not keep the others from being made
            details, ok = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}, False
        seconds = time.perf_counter() - start
        self._record["checks"].append({"check": name, "ok": ok, "seconds": round(seconds, 2), **details})
        shown = ", ".join(f"{key} {value}" for key, value in details.items() if key != "trace")
        print(f"{'ok  ' if ok else 'FAIL'} {name:44} {seconds:6.1f} s  {shown}", flush=True)
        self._write()
        return details

    def finish(self) -> int:
        """Writes the verdict and returns the exit status."""
        self._record["passed"] = all(check["ok"] for check in self._record["checks"])
        self._write()
        print("passed" if self._record["passed"] else "FAILED")
        return 0 if self._record["passed"] else 1

    def _write(self) -> None:
        self._path.write_text(json.dumps(self._record, indent=1) + "\n")
