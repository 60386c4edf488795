#!/usr/bin/env bash
# Checks style and types, and the Dockerfile; changes nothing (`make format` does). Needs `make venv`.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/python" -m mypy
mapfile -t sources < <(find cpp -name '*.cc' -o -name '*.h' | sort)
"$bin/clang-format" --dry-run -Werror "${sources[@]}"
"$bin/hadolint" ci/docker/Dockerfile
