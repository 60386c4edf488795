#!/usr/bin/env bash
# Runs the everyday tests on each supported Python that this machine has, in environments of tox; arguments go to pytest.
# Leaves out the Python of `make venv`, which this needs: `make test` runs all tests there.
set -euo pipefail
cd "$(dirname "$0")/.."

# A pyenv that has no version switched on offers shims which run nothing: its versions are looked for by their folders.
for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin; do
    if [ -d "$folder" ]; then PATH=$PATH:$folder; fi
done

bin=${VENV:-.venv}/bin
own=$("$bin/python" -c 'import sys; print("%d[.]%d" % sys.version_info[:2])')
exec "$bin/tox" run --skip-env "^(lint|$own)\$" ${1+-- "$@"}
