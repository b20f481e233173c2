"""A loaded model as a job sees it: mixed tasks, a seed for each input, a fingerprint, a batch size that fits."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.adapters import write_adapter

from paligemma.config import VARIANTS
from paligemma.errors import InputError
from paligemma.jobs.model import automatic_batch_size, fingerprint, free_bytes, load_model
from paligemma.jobs.pictures import Opened
from paligemma.jobs.requests import Item
from paligemma.results import Detections

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    target = tmp_path_factory.mktemp("tiny")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "hf-pg2-tiny" / name, target)
    shutil.copy(GOLDEN / "processor" / "tok-added" / "tokenizer.json", target)
    return target


@pytest.fixture(scope="module")
def loaded(directory):
    return load_model({"model": str(directory), "device": "cpu"})


def opened(index, task, **words):
    picture = Image.effect_noise((20, 30), 60).convert("RGB")
    return Opened(Item(index=index, id=index, task=task, words=words), (picture,))


def test_mixed_tasks_with_the_options_each_knows(loaded):
    answerer = loaded.answerer({"max_tokens": 3, "max_objects": 1, "seed": 5})
    asked = [opened(0, "caption"), opened(1, "detect", objects="cat"), opened(2, "ask", question="why?")]
    found = answerer.answer(asked, 2, "raise")
    assert [answer.task for answer in found] == ["caption", "detect", "ask"]
    assert isinstance(found[1], Detections)
    assert all(len(answer.tokens) <= 3 for answer in found)


def test_each_input_draws_for_itself_and_the_same_again(loaded):
    inputs = [opened(0, "caption"), opened(1, "caption")]
    inputs[1].pictures = inputs[0].pictures
    answerer = loaded.answerer({"max_tokens": 8, "temperature": 1.0, "seed": 3})
    both = [answer.text for answer in answerer.answer(inputs, 2, "raise")]
    assert both[0] != both[1]
    assert answerer.answer(inputs[1:], 2, "raise")[0].text == both[1]


def test_errors_stand_in_their_places(loaded):
    asked = [opened(0, "ask", question="why? " * 5000), opened(1, "ocr")]
    found = loaded.answerer({"max_tokens": 2}).answer(asked, 2, "return")
    assert isinstance(found[0], InputError)
    assert found[1].task == "ocr"


def test_features_are_not_remembered_from_picture_to_picture(loaded):
    inputs = [opened(0, "caption")] * 3
    for _ in range(2):
        loaded.answerer({"max_tokens": 1}).answer(inputs, 4, "raise")
    assert loaded.model.encoder.cache._kept == {}


def test_the_description_is_plain_and_repeatable(loaded, directory):
    told = loaded.describe()
    assert told == load_model({"model": str(directory), "device": "cpu"}).describe()
    assert set(told["environment"]) == {"torch", "device", "processor", "dtype", "threads"}
    assert told["environment"]["threads"] == torch.get_num_threads()


def test_the_threads_of_the_beginning_are_taken_and_the_rest_is_told(loaded):
    environment = loaded.describe()["environment"]
    before = torch.get_num_threads()
    try:
        assert loaded.match({**environment, "threads": 2}) == []
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    (sentence,) = loaded.match({**environment, "processor": "older"})
    assert f"processor was older and is {environment['processor']}" in sentence


def test_the_fingerprint_sees_other_weights_and_settings(directory, tmp_path):
    whole = fingerprint(directory)
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert fingerprint(copy) == whole
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert fingerprint(copy) != whole
    shutil.copy(directory / "model.safetensors", copy)
    (copy / "calibration.json").write_text("{}")
    assert fingerprint(copy) != whole
    assert fingerprint(directory / "config.json") != fingerprint(directory / "model.safetensors")


def test_the_fingerprint_sees_another_adapter(directory, tmp_path):
    adapter = write_adapter(directory, tmp_path / "adapter")
    other = write_adapter(directory, tmp_path / "other", size=0.2)
    found = [
        load_model(arguments).describe()["model"]["sha256"]
        for arguments in (
            {"model": directory},
            {"model": directory, "adapter": adapter},
            {"model": directory, "adapter": other},
            {"model": adapter},
        )
    ]
    assert len(set(found)) == 3
    assert found[1] == found[3]


def test_the_batch_size_follows_memory_and_model():
    small, large = VARIANTS["nano-mix-224"].config, VARIANTS["paligemma2-28b-mix-448"].config
    sizes = [automatic_batch_size(large, 2, gib << 30, 64) for gib in (0, 1, 8, 64, 512)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 64
    assert automatic_batch_size(small, 2, 8 << 30, 16) == 16
    assert automatic_batch_size(large, 4, 8 << 30, 64) <= automatic_batch_size(large, 2, 8 << 30, 64)
    assert automatic_batch_size(large, 2, None, 64) == 4
    assert {size & (size - 1) for size in sizes} == {0}
    deeper = replace(large, text=replace(large.text, mlp_dim=10 * large.text.mlp_dim))
    assert automatic_batch_size(deeper, 2, 8 << 30, 64) < automatic_batch_size(large, 2, 8 << 30, 64)


def test_free_memory_is_known_on_linux():
    free = free_bytes("cpu")
    assert free is None or 0 < free < 1 << 50
