"""Large pages are asked for, and only where there is something to gain."""

import re
from pathlib import Path

import pytest
import torch

from paligemma.linear.packed import PackedLinear
from paligemma.native import on_large_pages
from paligemma.native.memory import LARGE_PAGE

SMAPS, PAGES = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")


def advised(tensor):
    """Whether the system knows what was asked for the middle of a tensor."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", SMAPS.read_text())[1:]:
        first, last = (int(side, 16) for side in part.split()[0].split("-"))
        if first <= middle < last:
            return " hg" in part[part.index("VmFlags:") :]
    raise AssertionError("the tensor is nowhere")


def test_what_has_no_large_pages_stays_as_it_is():
    small, nowhere = torch.empty(10), torch.empty(LARGE_PAGE, device="meta")
    assert on_large_pages(small) is small
    assert on_large_pages(nowhere) is nowhere


@pytest.mark.skipif(not PAGES.exists(), reason="no large pages on this system")
def test_large_weights_ask_for_them():
    assert advised(on_large_pages(torch.empty(3 * LARGE_PAGE, dtype=torch.uint8)))
    assert advised(PackedLinear("int8", 2048, 3 * LARGE_PAGE // 2048).codes)
    assert not advised(torch.empty(20 * LARGE_PAGE, dtype=torch.uint8))
