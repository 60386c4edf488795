#!/usr/bin/env bash
# Builds sdist and wheel into dist/, takes each through install, import and uninstall in an environment of its own, and
# runs tests that came with the sdist against what was built of it. Needs `make venv`.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=$root/${VENV:-.venv}/bin
case ${VENV:-} in /*) bin=$VENV/bin ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf dist
ci/build_wheel.sh dist >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
grep -A1 "is consistent with" "$work/build.log" || echo "no manylinux wheel on this platform"
# Nothing of this shell may help the build of the sdist: the header comes from the MXNet of the new environment.
unset MXNET_INCLUDE_DIR CXX CXXFLAGS LDFLAGS VIRTUAL_ENV PYTHONPATH

# List of what lies in site-packages of an environment, without caches.
contents() {
    (cd "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" &&
        find . -name __pycache__ -prune -o -print | sort)
}

for file in "$root"/dist/*.whl "$root"/dist/*.tar.gz; do
    echo "== $(basename "$file")"
    rm -rf "$work/venv"
    "$bin/python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet "blake3>=1.0" "numpy>=1.23" "onnx>=1.16" "platformdirs>=3" "tqdm>=4.60"
    case $file in
        # pip builds it, in isolation, with what PyPI has and the compiler of the machine; no clone is in sight.
        *.tar.gz)
            "$work/venv/bin/python" -m pip install --quiet --no-deps mxnet==1.9.1
            "$work/venv/bin/python" -m pip install --quiet onnxruntime "requests<3" "graphviz<0.9" "pytest>=8.4"
            ;;
    esac
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

print("mxnet_trt_property", mxnet_trt_property.__version__, "is imported without mxnet")
PYTHON
    case $file in
        *.tar.gz)
            # The tests alone, without the sources beside them, which would be imported instead.
            mkdir "$work/sdist"
            tar -xf "$file" -C "$work/sdist" --strip-components 1 --wildcards "*/tests" "*/pyproject.toml"
            (cd "$work/sdist" && "$work/venv/bin/python" -m pytest -q tests/test_activation.py tests/test_logs.py)
            ;;
    esac
    "$work/venv/bin/python" -m pip uninstall --quiet --yes mxnet-trt-property
    contents "$work/venv" >"$work/after"
    cd "$root"
    diff "$work/before" "$work/after" || { echo "error: pip uninstall left (>) or took (<) the files above" >&2; exit 1; }
    echo "nothing left after uninstall"
done
