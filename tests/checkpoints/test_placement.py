"""Device and number type: what is asked is given, what is left open is chosen safely and said."""

import pytest
import torch

from paligemma.checkpoints.placement import check_methods, choose_device, choose_dtype
from paligemma.config import Config
from paligemma.errors import UnavailableError, UsageError

GEMMA1, GEMMA2 = Config.of("paligemma-3b-pt-224"), Config.of("paligemma2-3b-pt-224")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_cpu_is_always_there():
    assert choose_device("cpu") == CPU
    assert choose_device(CPU) == CPU
    assert choose_device() == choose_device("auto")


def test_what_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda:0").type == "cuda"
    with pytest.raises(UnavailableError, match="not on this machine, which has 1 of them"):
        choose_device("cuda:1")
    for nonsense in ("gpu", "cuda:x", "meta", ""):
        with pytest.raises(UsageError, match="cuda:1 or mps"):
            choose_device(nonsense)


def test_auto_prefers_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == "cuda"


@pytest.mark.parametrize(
    ("wanted", "stored", "device", "config", "dtype", "codes"),
    [
        (None, torch.bfloat16, CPU, GEMMA2, torch.bfloat16, []),
        ("auto", torch.float32, CPU, GEMMA1, torch.float32, []),
        (None, torch.float16, CPU, GEMMA1, torch.float32, ["dtype"]),
        (None, torch.float16, CUDA, GEMMA1, torch.float16, []),
        (None, torch.float16, CUDA, GEMMA2, torch.bfloat16, ["dtype"]),
        ("float16", torch.bfloat16, CUDA, GEMMA2, torch.float16, ["float16_gemma2"]),
        ("float16", torch.bfloat16, CPU, GEMMA1, torch.float16, []),
        (torch.bfloat16, torch.float32, CPU, GEMMA1, torch.bfloat16, []),
    ],
)
def test_number_types(wanted, stored, device, config, dtype, codes):
    chosen, notices = choose_dtype(wanted, stored, device, config)
    assert chosen == dtype
    assert [notice.code for notice in notices] == codes
    if codes == ["dtype"]:
        assert str(dtype).removeprefix("torch.") in notices[0].message


def test_an_unknown_type_is_refused():
    with pytest.raises(UsageError, match="unknown weight type"):
        choose_dtype("int7", torch.float32, CPU, GEMMA1)


@pytest.mark.parametrize("found", [(8, 0), (8, 9), (9, 0)])
def test_floating_codes_need_a_card_that_multiplies_them(monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found)
    check_methods({"lm": "int4", "head": "int8"}, CPU)
    if found >= (8, 9):
        check_methods({"lm": "fp8"}, CUDA)
    for device in (CPU, *([CUDA] if found < (8, 9) else [])):
        with pytest.raises(UnavailableError, match=r"8\.9 or newer; take int8"):
            check_methods({"lm": "fp8", "head": "int8"}, device)
