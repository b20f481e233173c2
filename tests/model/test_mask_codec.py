from pathlib import Path

import numpy as np
import pytest
import torch

from paligemma.model.mask_codec import MaskCodec, MaskCodecConfig

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "vae"


@pytest.fixture(scope="module")
def codec():
    arrays = np.load(next(GOLDEN.glob("*random.npz")))
    state = {name.removeprefix("_vq_vae._"): torch.from_numpy(arrays[name]) for name in arrays.files}
    codec = MaskCodec(MaskCodecConfig.of({name: tensor.shape for name, tensor in state.items()}))
    codec.load_state_dict(state)
    return codec.eval()


@pytest.fixture(scope="module")
def expected():
    return np.load(GOLDEN / "expected.npz")


def test_the_published_sizes_have_the_published_parameter_counts():
    codec = MaskCodec()
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("encoder", codec.encoder), ("decoder", codec.decoder))
    }
    assert counts == {"encoder": 861_936, "decoder": 1_123_457}
    assert codec.embedding.numel() == 65_536


def test_codes_of_the_reference(codec, expected):
    masks = torch.from_numpy(expected["enc.masks"]).float()[..., 0]
    with torch.inference_mode():
        assert torch.equal(codec.encode(masks), torch.from_numpy(expected["enc.codes"]).long())
        grid = codec.features(masks[:1]).unflatten(1, (4, 4))[0]
    assert np.abs(grid.numpy() - expected["enc.features_first"]).max() < 1e-4


def test_masks_of_the_reference(codec, expected):
    with torch.inference_mode():
        masks = codec.decode(torch.from_numpy(expected["dec.codes"]).long())
    assert np.abs(masks.numpy() - expected["dec.masks64"]).max() < 1e-4


def test_sizes_are_read_from_shapes():
    config = MaskCodecConfig(num_codes=7, embedding_dim=5, encoder_widths=(2, 3, 4, 6), decoder_widths=(9, 8, 7, 6, 5))
    shapes = {name: tensor.shape for name, tensor in MaskCodec(config).state_dict().items()}
    assert MaskCodecConfig.of(shapes) == config


def test_every_example_is_coded_alone(codec, expected):
    masks = torch.from_numpy(expected["enc.masks"]).float()[..., 0]
    with torch.inference_mode():
        together = codec.encode(masks)
        alone = torch.cat([codec.encode(mask[None]) for mask in masks])
    assert torch.equal(together, alone)
