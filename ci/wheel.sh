#!/usr/bin/env bash
# Builds sdist and wheel, and takes each through install, import and uninstall in an environment of its own.
# Needs `make venv`.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=$root/${VENV:-.venv}/bin
case ${VENV:-} in /*) bin=$VENV/bin ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$bin/python" -m build --no-isolation --outdir "$work/dist" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$bin/python" -m twine check --strict "$work"/dist/*

# The sdist is built here, in pip's isolation, against the header of the wheel that `make venv` installed.
purelib=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
export MXNET_INCLUDE_DIR=$purelib/mxnet/include

# List of what lies in site-packages of an environment, without caches.
contents() {
    (cd "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" &&
        find . -name __pycache__ -prune -o -print | sort)
}

for file in "$work"/dist/*.whl "$work"/dist/*.tar.gz; do
    echo "== $(basename "$file")"
    rm -rf "$work/venv"
    "$bin/python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet "blake3>=1.0" "numpy>=1.23" "onnx>=1.14" "platformdirs>=3"
    contents "$work/venv" >"$work/before"
    "$work/venv/bin/python" -m pip install --quiet --no-deps "$file"
    cd "$work"
    "$work/venv/bin/python" - <<'PYTHON'
import sys

# The .pth has run by now, and it must not have loaded anything heavy.
heavy = {"numpy", "onnx", "mxnet", "onnxruntime"} & set(sys.modules)
assert not heavy, f"loaded at interpreter start: {heavy}"
assert any(type(finder).__module__ == "mxnet_trt_property._autoload" for finder in sys.meta_path), "no import hook"

import mxnet_trt_property

print("mxnet_trt_property", mxnet_trt_property.__version__, "imports without mxnet")
PYTHON
    "$work/venv/bin/python" -m pip uninstall --quiet --yes mxnet-trt-property
    contents "$work/venv" >"$work/after"
    cd "$root"
    diff "$work/before" "$work/after" || { echo "error: pip uninstall left (>) or took (<) the files above" >&2; exit 1; }
    echo "nothing left after uninstall"
done
