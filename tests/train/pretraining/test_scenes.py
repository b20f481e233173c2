import pytest
import torch

from paligemma.checkpoints import find_codec, find_tokenizer, load_codec, resolve
from paligemma.processor import Processor
from paligemma.scenes import draw_scene
from paligemma.scenes.patches import NOTHING
from paligemma.tokenizer import Tokenizer
from paligemma.train.pretraining.looking import SeenAndPacked
from paligemma.train.pretraining.scenes import HELD_OUT, ScenePlan, SceneStream
from paligemma.train.pretraining.seeing import SeenBatch

NANO = resolve("nano")
PROCESSOR = Processor(Tokenizer.load(find_tokenizer("nano")), image_size_px=56, num_image_tokens=16)
SEE = ScenePlan(pictures=6, micro=4, questions=0, zoomed=0.5)
SPEAK = ScenePlan(pictures=4, micro=2, questions=3)


def stream(plan: ScenePlan, **more: object) -> SceneStream:
    return SceneStream(PROCESSOR, plan, **more)


def equal(first: object, second: object) -> bool:
    mine, yours = ([value for part in parts(each) for value in vars(part).values()] for each in (first, second))
    tensors = [(a, b) for a, b in zip(mine, yours, strict=True) if isinstance(a, torch.Tensor)]
    return bool(tensors) and all(torch.equal(a, b) for a, b in tensors)


def parts(batch: object) -> list[object]:
    return [batch, *getattr(batch, "questions", ())]


@pytest.mark.parametrize("plan", [SEE, SPEAK])
def test_a_step_is_a_function_of_its_number(plan: ScenePlan) -> None:
    first, again = stream(plan).micro_batches(5, 0, 1), stream(plan).micro_batches(5, 0, 1)
    other = stream(plan).micro_batches(6, 0, 1)
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].pixels, other[0].pixels)


def test_processes_share_the_pictures_of_a_step() -> None:
    whole = torch.cat([batch.pixels for batch in stream(SEE).micro_batches(3, 0, 1)])
    parts = [torch.cat([batch.pixels for batch in stream(SEE).micro_batches(3, rank, 2)]) for rank in (0, 1)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)


def test_seeing_gives_pictures_and_the_truth_about_their_patches() -> None:
    batches = stream(SEE).micro_batches(0, 0, 1)
    assert [len(batch.pixels) for batch in batches] == [4, 2]
    assert all(isinstance(batch, SeenBatch) for batch in batches)
    assert batches[0].patches.label.shape == (4, 16)
    assert batches[0].patches.characters.shape == (4, 16, 2)


def test_a_window_shows_what_its_patches_say() -> None:
    """A window's pixels are those of the larger picture; where they are all of one object, so is the patch."""
    plan = ScenePlan(pictures=8, micro=8, questions=0, zoomed=1.0, kinds={"objects": 1.0})
    found = 0
    for step in range(4):
        batch = stream(plan).micro_batches(step, 0, 1)[0]
        for row, seed in enumerate(range(step * 8, step * 8 + 8)):
            whole = PROCESSOR_112.pixels(draw_scene(seed, 112, "objects").image)
            windows = whole.unfold(1, 56, 14).unfold(2, 56, 14).permute(1, 2, 0, 3, 4)
            at = (windows == batch.pixels[row]).all(-1).all(-1).all(-1).nonzero()
            assert len(at) >= 1
            found += int((batch.patches.label[row] != NOTHING).any())
    assert found > 10


PROCESSOR_112 = Processor(PROCESSOR.tokenizer, image_size_px=112, num_image_tokens=64)


def test_speaking_gives_questions_beside_the_patches() -> None:
    batch = stream(SPEAK).micro_batches(0, 0, 1)[0]
    assert isinstance(batch, SeenAndPacked)
    assert sorted(torch.cat([part.picture for part in batch.questions]).tolist()) == [0] * 3 + [1] * 3
    assert batch.patches.label.shape == (2, 16)


def test_in_some_steps_questions_have_rows_of_their_own() -> None:
    plan = ScenePlan(pictures=2, micro=2, questions=3, alone=0.5, alone_questions=2)
    batches = [stream(plan).micro_batches(step, 0, 1)[0] for step in range(40)]
    shapes = [(batch.alone, sum(len(part.tokens) for part in batch.questions)) for batch in batches]
    assert set(shapes) == {(True, 4), (False, 6)}
    assert 8 < shapes.count((True, 4)) < 32


def test_clips_come_beside_the_pictures() -> None:
    plan = ScenePlan(pictures=2, micro=2, questions=3, alone_questions=2, clips=3)
    pictures, clips = stream(plan).micro_batches(0, 0, 1)
    assert isinstance(pictures, SeenAndPacked)
    assert not isinstance(clips, SeenAndPacked)
    assert clips.pixels.shape[0] == 3 * 8
    assert sum(len(part.tokens) for part in clips.questions) == 3 * 2
    shared = [stream(plan).micro_batches(0, rank, 2)[1].pixels for rank in (0, 1)]
    assert [len(pixels) for pixels in shared] == [16, 8]
    assert torch.equal(shared[1], clips.pixels[8:16])


def test_masks_are_asked_for_with_a_codec_only() -> None:
    plan = ScenePlan(pictures=4, micro=4, questions=2, kinds={"objects": 1.0}, asked={"segment": 1.0, "caption": 0.1})
    codec_file = find_codec(NANO)
    assert codec_file is not None
    first_mask = PROCESSOR.tokenizer.loc_start + 1024
    for codec, asked in ((None, False), (load_codec(codec_file), True)):
        batch = stream(plan, codec=codec).micro_batches(0, 0, 1)[0]
        assert any(bool((part.tokens >= first_mask).any()) for part in batch.questions) == asked


def test_what_is_held_out_is_never_drawn() -> None:
    with pytest.raises(OverflowError, match="used up"):
        stream(SEE, first_seed=HELD_OUT - 3).micro_batches(0, 0, 1)


def test_another_plan_is_other_data() -> None:
    assert stream(SEE).fingerprint == stream(SEE).fingerprint
    assert stream(SEE).fingerprint != stream(SPEAK).fingerprint
    assert stream(SEE).fingerprint != stream(SEE, first_seed=1).fingerprint


def test_some_questions_come_oftener() -> None:
    def presence(oftener: dict[str, float] | None) -> int:
        data = stream(ScenePlan(kinds={"objects": 1.0}, languages={"en": 1.0}, oftener=oftener))
        asked = [ask.prefix for seed in range(30) for ask in data._asks(data._scene(seed, 64), seed, 4)]
        return sum("is there" in prefix for prefix in asked)

    assert presence({"presence": 5.0}) > 2 * presence(None) > 0
