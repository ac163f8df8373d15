"""For an environment of vLLM on CPUs: declares torchvision's operators when torchvision is first imported.

Beside a CPU-only torch, a torchvision built for CUDA cannot be imported otherwise. `tests/run_vllm.sh` puts this file
into the environment's packages, with `export/torchvision_ops.py` beside it, and a `.pth` file that imports it.
"""

from __future__ import annotations

import sys
from typing import Any


class _BeforeTorchvision:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            from torchvision_ops import declare_operators  # type: ignore[import-not-found]

            declare_operators()


sys.meta_path.insert(0, _BeforeTorchvision())  # type: ignore[arg-type]
