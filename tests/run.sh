#!/usr/bin/env bash
# The test command: makes an environment with export and its torch, then lints, type-checks and tests.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${ALREF_TEST_VENV:-.venv-test}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
# torch first, then without build isolation: sam2 would build against, and fetch, another torch of its own.
"$venv/bin/pip" install -q -c export/constraints.txt torch setuptools wheel numpy
SAM2_BUILD_CUDA=0 "$venv/bin/pip" install -q --no-build-isolation -c export/constraints.txt -e ".[cpu,export,train,test]"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/lint-imports" --no-logo --no-cache
"$venv/bin/python" -m pytest "$@"
