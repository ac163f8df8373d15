#!/usr/bin/env bash
# Make the reference environment: the official code that parity is measured against. Usage: install.sh FOLDER
# The official BEATs is no package: clone microsoft/unilm, and name its folder beats in ALREF_BEATS.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:?usage: install.sh FOLDER}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip=("$venv/bin/pip" install -q -c "$here/constraints.txt")
"${pip[@]}" torch setuptools wheel numpy
"${pip[@]}" transformers hydra-core iopath addict yapf scipy opencv-python-headless einops pycocotools av tqdm pillow psutil matplotlib
# The rest would pull other versions of torch, OpenCV or supervision than those that work together.
"${pip[@]}" --no-deps torchvision timm supervision peft accelerate pyDeprecate defusedxml languagebind
# Of torchaudio only compliance/kaldi.py is wanted: it lies beside the packages, which would look for the whole.
"${pip[@]}" --no-deps --upgrade --target "$venv/src" torchaudio
SAM2_BUILD_CUDA=0 "${pip[@]}" --no-deps --no-build-isolation sam2 groundingdino-py
"$venv/bin/python" -c "
import sys; sys.path.insert(0, '$here/../..')
from export.torchvision_ops import declare_operators; declare_operators()
import sam2.build_sam, groundingdino.models, transformers; print('reference environment ready: transformers', transformers.__version__)"
