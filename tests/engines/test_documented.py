"""The engine that docs/engines.md shows, and the test of it that stands there, as a user would copy them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import numpy as np
import mxnet as mx
import mxnet_trt_property
from tests.symbols import assert_same, conv_bn, pair

stock, ours = pair(conv_bn(), {"data": (2, 3, 8, 8)})
assert_same(ours, stock)
for executor in (stock, ours):
    executor.arg_dict["conv_weight"][:] *= 2
    executor.arg_dict["fc_bias"][:] = 1
assert_same(ours, stock)
assert [r.engine for r in mxnet_trt_property.reports()] == ["reference"], mxnet_trt_property.reports()
assert mxnet_trt_property.reports()[0].builds == 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module, its test, and what pip writes about a package with an entry point."""
    engine, test = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "engines.md").read_text(), re.DOTALL)
    made = tmp_path_factory.mktemp("documented")
    (made / "reference_engine.py").write_text(engine)
    (made / "test_reference_engine.py").write_text(test)
    information = made / "reference_engine-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: reference-engine\nVersion: 1.0\n")
    group = "mxnet_trt_property.engines"
    (information / "entry_points.txt").write_text(f"[{group}]\nreference = reference_engine:ReferenceEngine\n")
    return made


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(folder), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "MXNET_TENSORRT_ENGINE": "reference"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_it_keeps_all_promises(folder: Path) -> None:
    done = call(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_reference_engine.py")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_it_runs_mxnets_networks(folder: Path) -> None:
    done = call(folder, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
