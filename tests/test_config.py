import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.config import (
    ALL_TASKS,
    HF_PADDING_ROWS,
    VARIANTS,
    VOCAB_SIZE,
    Config,
    TextConfig,
    VisionConfig,
    did_you_mean,
    nano,
    so400m,
    variant,
)
from paligemma.errors import UsageError

# Exact numbers, with the 257,152 rows of big_vision and the 257,216 of Hugging Face; and tensors in a file.
PARAMETERS = {
    "paligemma-3b-pt-224": (2_923_335_408, 2_923_466_480),
    "paligemma-3b-pt-448": (2_924_220_144, 2_924_351_216),
    "paligemma-3b-pt-896": (2_927_759_088, 2_927_890_160),
    "paligemma2-3b-pt-224": (3_032_094_960, 3_032_242_416),
    "paligemma2-3b-pt-448": (3_032_979_696, 3_033_127_152),
    "paligemma2-3b-pt-896": (3_036_518_640, 3_036_666_096),
    "paligemma2-10b-pt-224": (9_662_409_456, 9_662_638_832),
    "paligemma2-10b-pt-448": (9_663_294_192, 9_663_523_568),
    "paligemma2-10b-pt-896": (9_666_833_136, 9_667_062_512),
    "paligemma2-28b-pt-224": (27_650_192_112, 27_650_487_024),
    "paligemma2-28b-pt-448": (27_651_076_848, 27_651_371_760),
    "paligemma2-28b-pt-896": (27_654_615_792, 27_654_910_704),
}
TENSORS = {"paligemma-3b": 603, "paligemma2-3b": 727, "paligemma2-10b": 903, "paligemma2-28b": 947}
CACHE_BYTES = {"paligemma-3b": 18_432, "paligemma2-3b": 106_496, "paligemma2-10b": 344_064, "paligemma2-28b": 376_832}
ARCHITECTURES = {v.config: v.name for v in VARIANTS.values()}  # one name for each different one


NANO = nano(112)


def family(name):
    return "-".join(name.split("-")[:2])


def test_every_variant_has_the_published_number_of_parameters():
    assert len(VARIANTS) > 70
    for name, found in VARIANTS.items():
        if found.kind == "nano":
            continue
        pretrained = f"{family(name)}-pt-{found.config.vision.image_size_px}"
        assert (found.parameters, found.parameters_padded) == PARAMETERS[pretrained], name


@pytest.mark.parametrize("name", ARCHITECTURES.values())
@pytest.mark.parametrize("padding", [0, HF_PADDING_ROWS])
def test_the_model_has_the_parameters_the_arithmetic_says(name, padding):
    from paligemma.checkpoints.hf import hf_key
    from paligemma.checkpoints.tensors import empty_model

    config = Config.of(name).with_padding_rows(padding)
    state = empty_model(config).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == config.num_parameters
    keys = {hf_key(key, config.text.post_norms) for key in state}
    assert len(keys) == len(state) == TENSORS.get(family(name), len(state))


@pytest.mark.parametrize("name", PARAMETERS)
def test_cache_bytes(name):
    assert Config.of(name).text.cache_bytes_per_token == CACHE_BYTES[family(name)]


def test_numbers_that_ports_got_wrong():
    big = Config.of("paligemma2-28b-pt-224").text
    assert (big.head_dim, big.num_heads * big.head_dim, big.width) == (128, 4096, 4608)
    assert big.query_scale == pytest.approx(1 / 12)
    assert Config.of("paligemma2-10b-pt-224").text.query_scale == 1 / 16
    assert Config.of("paligemma-3b-pt-224").text.query_scale == 1 / 16
    assert so400m(224).mlp_dim == 4304
    assert so400m(224).head_dim == 72
    assert [so400m(px).num_image_tokens for px in (224, 448, 896)] == [256, 1024, 4096]
    assert VOCAB_SIZE == 257_152


def test_windows_are_on_even_layers_of_gemma_2_only():
    second, first = Config.of("paligemma2-3b-pt-224").text, Config.of("paligemma-3b-pt-224").text
    assert [second.window(layer) for layer in range(4)] == [4096, None, 4096, None]
    assert {first.window(layer) for layer in range(first.depth)} == {None}


def test_published_names():
    expected = {"paligemma-3b-mix-448", "paligemma2-28b-mix-224", "paligemma2-10b-ft-docci-448"}
    assert expected < set(VARIANTS)
    assert "paligemma-3b-mix-896" not in VARIANTS
    assert "paligemma2-3b-mix-896" not in VARIANTS
    for name, found in VARIANTS.items():
        assert name == found.name
        assert found.hub_id == (None if found.kind == "nano" else f"google/{name}")
        assert set(found.tasks) <= set(ALL_TASKS)
        assert name.endswith(f"-{found.config.vision.image_size_px}")


def test_names_are_looked_up_with_and_without_owner():
    assert variant("google/paligemma2-3b-mix-448") is variant("paligemma2-3b-mix-448")
    assert variant("nano") is variant("nano-mix-224")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("paligemma2-3b-mix-449", "paligemma2-3b-mix-448"), ("google/paligema-3b-pt-224", "paligemma-3b-pt-224")],
)
def test_an_unknown_name_suggests_the_nearest(wrong, right):
    with pytest.raises(UsageError, match=f"did you mean '{right}'"):
        variant(wrong)


def test_a_name_like_no_other_lists_some():
    with pytest.raises(UsageError, match="known are"):
        variant("llava")
    assert did_you_mean("zzz", ["a", "b"]) == "; known are a, b"


@pytest.mark.parametrize("name", ARCHITECTURES.values())
def test_dictionaries_round_trip(name):
    config = Config.of(name)
    assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(("part", "key", "near"), [("text", "widht", "width"), ("vision", "dept", "depth")])
def test_unknown_keys_are_refused_with_a_suggestion(part, key, near):
    data = NANO.to_dict()
    data[part][key] = 1
    with pytest.raises(UsageError, match=f"config.{part}; did you mean '{near}'"):
        Config.from_dict(data)
    with pytest.raises(UsageError, match="'audio' in config"):
        Config.from_dict(NANO.to_dict() | {"audio": {}})


VISION = {"width": 32, "depth": 1, "mlp_dim": 8, "num_heads": 2, "image_size_px": 28}
TEXT = {"width": 32, "depth": 1, "mlp_dim": 8, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "base", "change"),
    [
        (VisionConfig, VISION, {"image_size_px": 30}),
        (VisionConfig, VISION, {"num_heads": 3}),
        (TextConfig, TEXT, {"num_kv_heads": 3}),
        (TextConfig, TEXT, {"head_dim": 7}),
    ],
)
def test_impossible_numbers_are_refused(kind, base, change):
    kind(**base)
    with pytest.raises(UsageError):
        kind(**base | change)


@given(st.integers(1, 100))
def test_another_resolution_changes_the_positions_only(grid):
    config = NANO.at_resolution(14 * grid)
    assert config.num_parameters - NANO.num_parameters == (grid**2 - 64) * NANO.vision.width
    assert dataclasses.replace(config.vision, image_size_px=NANO.vision.image_size_px) == NANO.vision
    assert config.text == NANO.text
