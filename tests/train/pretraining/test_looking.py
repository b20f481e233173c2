"""What questions name is read at the names and where prompts end, and every kind of truth about it counts."""

from dataclasses import replace

import pytest
import torch
from tests.oracle import TEXT_2, VISION, draw_model
from tests.train.pretraining.test_packing import MODEL_CONFIG, PICTURES, PROCESSOR, QUESTIONS

from paligemma.scenes.mentions import SLOTS
from paligemma.scenes.patches import UNKNOWN
from paligemma.train.config import LossConfig
from paligemma.train.pretraining.looking import MentionBatch, MentionHead, SeeAndSpeakObjective, SeenAndPacked
from paligemma.train.pretraining.packing import pack
from paligemma.train.pretraining.seeing import PatchBatch

ASKED = [QUESTIONS, QUESTIONS[:2]]
COUNT = sum(map(len, ASKED))
PATCHES = PatchBatch(
    label=torch.zeros(2, 4, dtype=torch.int64), color=torch.zeros(2, 4, dtype=torch.int64),
    box=torch.zeros(2, 4, 4), characters=torch.zeros(2, 4, 2, dtype=torch.int64),
)  # fmt: skip
assert VISION.num_image_tokens == 4


def truth(count: int = COUNT) -> MentionBatch:
    generator = torch.Generator().manual_seed(0)
    number = torch.randint(1, 3, (count, SLOTS), generator=generator)
    number[0, 1] = UNKNOWN
    color = torch.randint(12, (count, SLOTS), generator=generator)
    place = torch.tensor([[1, 2]] * count)
    return MentionBatch(number=number, color=color, box=torch.rand(count, SLOTS, 4, generator=generator), place=place)


def batch(alone: bool) -> SeenAndPacked:
    rows = pack(PROCESSOR, PICTURES, ASKED, alone=alone)
    return SeenAndPacked(**vars(rows), patches=PATCHES, mentions=truth())


def objective() -> SeeAndSpeakObjective:
    torch.manual_seed(0)
    return SeeAndSpeakObjective(
        draw_model(MODEL_CONFIG), LossConfig(), first_location=0, patch_weight=0.0, mention_weight=0.5
    )


def test_they_are_read_at_names_and_newlines_of_the_rows_as_they_are_asked(monkeypatch) -> None:
    trained, heard = objective(), {}
    for name in ("name_head", "prompt_head"):

        def noted(read, of, name=name):
            heard[name] = (read, of)
            return read.sum()

        monkeypatch.setattr(getattr(trained, name), "forward", noted)
    asked = batch(alone=True)
    trained(asked)
    outputs: list[torch.Tensor] = []
    assert (TEXT_2.depth, trained.listened) == (3, (1, 1))
    trained.model.language_model.layers[1].register_forward_hook(lambda _layer, _given, found: outputs.append(found))
    flat = [(picture, *question) for picture, questions in enumerate(ASKED) for question in questions]
    order = torch.cat([part.number for part in asked.questions]).tolist()
    assert sorted(order) == list(range(COUNT))
    for at, number in enumerate(order):
        picture, prefix, suffix = flat[number]
        row = PROCESSOR.encode([PICTURES[picture]], prefix, suffix, allow=frozenset({"locations"}))
        rows = PROCESSOR.collate([row], side="right")
        trained.model.hidden(rows.tokens, rows.pixels, rows.mask_ar, rows.mask_input)
        text, end = outputs[-1][0, VISION.num_image_tokens :], int(rows.mask_loss[0].argmax()) - 1
        for name, want in (("name_head", text[1:3]), ("prompt_head", outputs[-1][0, end])):
            torch.testing.assert_close(heard[name][0][at], want, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(heard[name][1].box[at], asked.mentions.box[number])


@pytest.mark.parametrize("alone", [True, False])
def test_they_add_to_the_loss_at_their_weight_and_leave_no_hook(alone: bool) -> None:
    trained = objective()
    found = trained(batch(alone))
    assert found["names"] > 0
    assert found["prompts"] > 0
    torch.testing.assert_close(found["loss"], found["suffix"] + 0.5 * (found["names"] + found["prompts"]))
    found["loss"].backward()
    for head in (trained.name_head, trained.prompt_head):
        assert head.out.weight.grad.abs().max() > 0
    assert not any(layer._forward_hooks for layer in trained.model.language_model.layers)


def test_only_the_layers_below_and_the_picture_learn_from_it() -> None:
    trained = objective()
    found = trained(batch(alone=False))
    (found["names"] + found["prompts"]).backward()
    *_, below, above = (layer.self_attn.q_proj.weight.grad for layer in trained.model.language_model.layers)
    assert below.abs().max() > 0
    assert above is None or not above.any()
    assert trained.model.vision_tower.patch_embedding.weight.grad.abs().max() > 0


@pytest.mark.parametrize("names", [1, SLOTS])
def test_every_kind_of_truth_counts_where_it_is_known(names: int) -> None:
    torch.manual_seed(0)
    head, heard, known = MentionHead(16, names), torch.randn(COUNT, *([] if names == SLOTS else [SLOTS]), 16), truth()
    before = float(head(heard, known).detach())
    for name, other in (("number", 3 - known.number), ("color", 11 - known.color), ("box", 1 - known.box)):
        kept = torch.where(known.number == UNKNOWN, UNKNOWN, other) if name == "number" else other
        assert float(head(heard, replace(known, **{name: kept})).detach()) != pytest.approx(before), name
    several = replace(known, number=torch.full_like(known.number, 2))
    moved = replace(several, box=1 - several.box)
    assert torch.equal(head(heard, moved), head(heard, several))  # two things have no one box


def test_questions_that_name_nothing_teach_nothing() -> None:
    unknown = torch.full((3, SLOTS), UNKNOWN)
    nothing = MentionBatch(number=unknown, color=unknown, box=torch.zeros(3, SLOTS, 4), place=torch.zeros_like(unknown))
    assert MentionHead(16, SLOTS)(torch.randn(3, 16), nothing).item() == 0
