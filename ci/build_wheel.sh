#!/usr/bin/env bash
# Builds sdist and wheel into the folder given (dist/ by default). On x86-64 the wheel is for every Linux with glibc 2.17
# or newer (manylinux2014) and every Python 3: the native library is plain C at its boundary, so it is compiled by a Clang
# that brings the C++ library to link in, and the symbols of that old glibc. Needs `make venv`, for MXNet's header.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
output=${1:-dist}
policy=manylinux_2_17_x86_64

# The tools weigh 100 MB and nothing else needs them: they have an environment of their own.
tools=build/release-tools
if ! "$tools/bin/auditwheel" --version >/dev/null 2>&1 || [ pyproject.toml -nt "$tools/.installed" ]; then
    rm -rf "$tools"
    "$bin/python" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet --upgrade "pip>=25.1"
    "$tools/bin/python" -m pip install --quiet --group release
    touch "$tools/.installed"
fi

MXNET_INCLUDE_DIR=${MXNET_INCLUDE_DIR:-$("$bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/mxnet/include}
export MXNET_INCLUDE_DIR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$tools/bin/python" -m build --quiet --no-isolation --sdist --outdir "$work" .
# From the unpacked sdist, so that nothing else of this folder can get into the wheel.
tar -xf "$work"/*.tar.gz -C "$work"
source=$(echo "$work"/mxnet_trt_property-*/)
mkdir -p "$output"
if [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; then
    export CXX="$PWD/$tools/bin/python -m ziglang c++ -target x86_64-linux-gnu.2.17"
    export LDFLAGS="-s ${LDFLAGS:-}"
    "$tools/bin/python" -m build --quiet --no-isolation --wheel --outdir "$work/plain" "$source"
    # Refuses a library that needs a newer glibc, or one that is not on every Linux; writes the tag.
    PATH=$PWD/$tools/bin:$PATH "$tools/bin/auditwheel" repair --plat "$policy" --wheel-dir "$work/wheel" "$work"/plain/*.whl
    "$tools/bin/auditwheel" show "$work"/wheel/*.whl
    case $(echo "$work"/wheel/*.whl) in
        *-py3-none-manylinux*_x86_64.whl) ;;
        *) echo "error: the wheel is not one for every Python and Linux: $(ls "$work/wheel")" >&2; exit 1 ;;
    esac
else
    "$tools/bin/python" -m build --quiet --no-isolation --wheel --outdir "$work/wheel" "$source"
fi
"$tools/bin/python" -m twine check --strict "$work"/*.tar.gz "$work"/wheel/*.whl
mv "$work"/*.tar.gz "$work"/wheel/*.whl "$output"
ls -l "$output"
