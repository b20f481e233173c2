"""Where Triton's kernels are tested: on CUDA under `-m gpu`, else in Triton's interpreter if Triton is installed.

pip install triton && pytest tests/linear tests/model -k triton
"""

import importlib.util
import os

import pytest
import torch

_CUDA = torch.cuda.is_available()
_INTERPRETED = not _CUDA and importlib.util.find_spec("triton") is not None
if _INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(not _INTERPRETED, reason="Triton is missing, or compiles for CUDA")),
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not _CUDA, reason="no accelerator here")]),
]
# the interpreter multiplies the bits of bfloat16 matrices, not their numbers
TYPES = {"cpu": [torch.float16], "cuda": [torch.bfloat16, torch.float16]}
