"""What the tests against a real vLLM server share."""

from __future__ import annotations

import os

import pytest

from alref_edge.errors import AlrefError
from alref_edge.mllm.serving.installation import PYTHON_VARIABLE, Installation


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python that has vLLM."""
    if not os.environ.get(PYTHON_VARIABLE):
        pytest.skip(f"{PYTHON_VARIABLE} names no Python that has vLLM")
    try:
        return Installation.find().python
    except AlrefError as error:
        pytest.skip(str(error))
