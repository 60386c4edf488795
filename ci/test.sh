#!/usr/bin/env bash
# Runs all tests, the slow ones too; arguments go to pytest. Needs `make venv`.
set -euo pipefail
cd "$(dirname "$0")/.."

exec "${VENV:-.venv}/bin/python" -m pytest "$@"
