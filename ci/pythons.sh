#!/usr/bin/env bash
# Runs the everyday tests on each supported Python that this machine has, in environments of tox; arguments go to pytest.
# Needs `make venv`.
set -euo pipefail
cd "$(dirname "$0")/.."

# A pyenv that has no version switched on offers shims which run nothing: its versions are looked for by their folders.
for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin; do
    if [ -d "$folder" ]; then PATH=$PATH:$folder; fi
done

exec "${VENV:-.venv}/bin/tox" run --skip-env '^lint$' ${1+-- "$@"}
