"""Codes in rows and in panels: the same codes, each in its place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paligemma.linear.rows import to_panels, to_rows


@pytest.mark.parametrize("bits", [8, 4])
@given(rows=st.integers(1, 150), blocks=st.integers(1, 5), seed=st.integers(0, 99))
def test_there_and_back(bits, rows, blocks, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (rows, 8 * blocks), generator=generator).to(torch.uint8)
    codes = codes.view(torch.int8) if bits == 8 else codes
    panels = to_panels(codes, bits, 8 * blocks, 0)
    assert panels.shape == (-(-rows // 64), 64 * 8 * blocks)
    back = to_rows(panels, bits, rows, 8 * blocks)
    assert back.dtype == codes.dtype
    assert torch.equal(back, codes)


def test_places_of_bytes():
    codes = torch.arange(-128, 128, dtype=torch.int8).view(2, 128)
    panel = to_panels(codes, 8, 128, 0).view(32, 64, 4)  # [in / 4, output, 4]
    assert panel[3, 1].tolist() == [128 + n for n in codes[1, 12:16].tolist()]
    assert panel[3, 2].tolist() == [128] * 4  # no such row


def test_places_of_halves():
    places = torch.randint(16, (3, 24), generator=torch.Generator().manual_seed(0))
    codes = (places[:, ::2] | places[:, 1::2] << 4).to(torch.uint8)
    panel = to_panels(codes, 4, 16, 7 | 7 << 4).view(4, 64, 4)  # [in / 8, output, 4]
    eight = places[2, 8:16]
    assert panel[1, 2].tolist() == (eight[:4] | eight[4:] << 4).tolist()
    assert panel[3, 0].tolist() == panel[0, 5].tolist() == [7 | 7 << 4] * 4
