import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from paligemma import doctor
from paligemma.checkpoints import load_codec, save_codec
from paligemma.doctor.vae import check
from paligemma.errors import CheckpointError, InputError
from paligemma.model.mask_codec import MaskCodec, MaskCodecConfig
from paligemma.results import Mask
from paligemma.tasks.masks import decoder

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "vae"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "vae"))


def change_array(file, name, change):
    arrays = dict(np.load(file))
    arrays[name] = change(arrays[name].copy()) if name in arrays else change(None)
    np.savez(file, **arrays)


def change_text(directory, change):
    file = directory / "text_cases.json"
    cases = json.loads(file.read_text())
    change(cases)
    file.write_text(json.dumps(cases))


def broken(directory):
    return {row.name: row for row in check(directory) if not row.ok}


def test_every_golden_array_text_and_mask_is_met():
    rows = check(GOLDEN)
    assert [row for row in rows if not row.ok] == []
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    arrays, masks = np.load(GOLDEN / "expected.npz").files, np.load(GOLDEN / "text_masks.npz").files
    assert set(arrays) - set(names) == {"mask2str.masks"}
    assert {name for name in masks if name.startswith("demo")} == {n.split()[-1] for n in names if "demo_mask" in n}
    cases = json.loads((GOLDEN / "text_cases.json").read_text())
    for kind in ("mask2str", "evaluator_objects", "demo_parser"):
        numbered = {name.split()[0] for name in names if name.startswith(f"{kind}/")}
        assert numbered == {f"{kind}/{i:02d}" for i in range(len(cases[kind]))}


@pytest.mark.parametrize("name", ["enc.codes", "enc.features_first", "dec.masks64", "enc.min_distance_margin"])
def test_a_wrong_number_breaks_its_row(copy, name):
    def change(array):
        array.flat[-1] += 1 if array.dtype.kind == "i" else array.dtype.type(0.01)
        return array

    change_array(copy / "expected.npz", name, change)
    assert list(broken(copy)) == [name]


def test_a_wrong_mask_pixel_breaks_its_row(copy):
    change_array(copy / "text_masks.npz", "evaluator_masks", lambda a: a ^ (np.arange(a.size).reshape(a.shape) == 500))
    assert list(broken(copy)) == ["evaluator_objects/00 mask"]
    name = next(name for name in np.load(copy / "text_masks.npz").files if name.startswith("demo_mask"))
    change_array(copy / "text_masks.npz", name, lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, a + 2, a))
    assert any(row.endswith(name) for row in broken(copy))


def test_wrong_texts_break_their_rows(copy):
    def change(cases):
        cases["mask2str"][1]["suffix"] = cases["mask2str"][1]["suffix"].replace("<seg", "<sog", 1)
        cases["evaluator_objects"][0]["pixel_box_yxyx"][0] += 1
        cases["evaluator_objects"][1]["seg"][3] += 1
        cases["evaluator_objects"][2]["counted_invalid"] ^= True
        cases["box"]["bins"][4] += 1
        cases["demo_parser"][0]["objs"][0]["name"] = "dog"

    change_text(copy, change)
    assert set(broken(copy)) == {
        "mask2str/01 suffix", "evaluator_objects/00 pixel_box_yxyx", "evaluator_objects/01 seg",
        "evaluator_objects/02 counted_invalid", "box/bins", "demo_parser/00 objs",
    }  # fmt: skip


def test_what_is_not_known_fails(copy):
    change_array(copy / "expected.npz", "enc.more", lambda _: np.zeros(1))
    change_array(copy / "text_masks.npz", "demo_mask.9.9", lambda _: np.zeros(1))

    def change(cases):
        cases["more"] = []
        cases["demo_parser"][0]["more"] = 1

    change_text(copy, change)
    assert set(broken(copy)) == {"enc.more", "demo_mask.9.9", "text_cases.json: more", "demo_parser/00 keys"}


def test_a_box_the_parser_misses_fails(copy, monkeypatch):
    from paligemma.doctor import vae

    parse = vae.parse_segments
    monkeypatch.setattr(vae, "parse_segments", lambda text, *a, **k: parse(text.replace("cat", "dog"), *a, **k))
    found = broken(copy)
    assert "demo_parser/00 read by tasks.segment" in found
    assert "missed" in found["demo_parser/00 read by tasks.segment"].note


def test_tokens_that_do_not_exist_are_the_demos_alone(copy):
    """The demo reads `<loc1500>` and `<seg200>`; our alphabet ends before, so nothing is asked of our reading."""
    text = "<loc0000><loc0000><loc1023><loc1023>" + "<seg200>" * 16 + " x"
    thing = {"content": text, "xyxy": [0, 0, 30, 20], "name": "x", "has_mask": True, "mask_key": "demo_mask.far"}
    case = {"text": text, "width": 30, "height": 20, "unique_labels": False, "objs": [thing]}
    last = decoder(load_codec(copy / "vae-tiny-random.npz"))([(127,) * 16])[0]
    mask = Mask(values=last, box_yxyx_norm=(0, 0, 1023 / 1024, 1023 / 1024), image_size_px=(30, 20), convention="demo")
    change_array(copy / "text_masks.npz", "demo_mask.far", lambda _: np.rint(mask.soft() * 255).astype(np.uint8))
    change_text(copy, lambda cases: cases["demo_parser"].append(case))
    assert broken(copy) == {}


def test_weights_that_do_not_come_back_fail(copy, monkeypatch):
    from paligemma.doctor import vae

    def bent(codec, *arguments):
        codec.embedding.add_(1e-3)
        return save_codec(codec, *arguments)

    monkeypatch.setattr(vae, "save_codec", bent)
    assert list(broken(copy)) == ["vae-tiny-random.npz: arrays"]


def test_other_widths_and_a_half_precision_file(copy):
    """Everything is derived from the files: a smaller codec with its own expected arrays passes."""
    torch.manual_seed(1)
    codec = MaskCodec(MaskCodecConfig(embedding_dim=7, encoder_widths=(2, 3, 4, 5), decoder_widths=(6, 5, 4, 3, 2)))
    torch.nn.init.normal_(codec.embedding)
    codec = codec.half().float().eval().requires_grad_(False)
    (copy / "vae-tiny-random.npz").unlink()
    (copy / "shapes.json").unlink()
    save_codec(codec, copy / "vae-other.npz", "float16")
    with np.load(copy / "expected.npz") as stored:
        masks, codes = torch.from_numpy(stored["enc.masks"]), stored["dec.codes"]
    features = codec.features(masks[..., 0])
    nearest = codec.distances(features).double().topk(2, largest=False).values
    np.savez(
        copy / "expected.npz",
        **{
            "enc.masks": masks.numpy(),
            "enc.codes": codec.encode(masks[..., 0]).int().numpy(),
            "enc.features_first": features[0].reshape(4, 4, 7).numpy(),
            "enc.min_distance_margin": (nearest[..., 1] - nearest[..., 0]).min().numpy(),
            "dec.codes": codes,
            "dec.masks64": decoder(codec)(codes.tolist()),
        },
    )
    change_text(copy, lambda cases: [cases.pop(key) for key in ("mask2str", "evaluator_objects")])
    assert all("mask" in name for name in broken(copy))  # those of the other codec


def test_damage_is_told(copy):
    layout = doctor.layout_of(copy)
    assert layout.name == "vae"
    change_text(copy, lambda cases: cases["evaluator_objects"][0].pop("loc"))
    with pytest.raises(InputError, match="damaged or incomplete"):
        doctor.check(layout, copy)
    (copy / "vae-tiny-random.npz").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no sound npz archive"):
        doctor.check(layout, copy)
