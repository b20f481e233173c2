import numpy as np
import pytest

from paligemma.errors import UsageError
from paligemma.scenes import clips, draw_clip
from paligemma.scenes.catalog import COLORS, LABELS, MOTIONS
from paligemma.scenes.clips import FRAMES, PATHS
from paligemma.scenes.world import Planned


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[Planned]:
    """The moving thing of every frame that was painted since."""
    moving: list[Planned] = []
    real = clips.paint_things

    def paint(image, planned):
        moving.append(planned[-1])
        return real(image, planned)

    monkeypatch.setattr(clips, "paint_things", paint)
    return moving


def test_every_motion_has_a_path():
    assert tuple(PATHS) == MOTIONS


def test_a_clip_is_the_same_again_and_another_for_another_seed():
    for seed in (0, -4, 10**30):
        first, again, other = draw_clip(seed, 48), draw_clip(seed, 48), draw_clip(seed + 1, 48)
        assert (first.label, first.color, first.motion) == (again.label, again.color, again.motion)
        assert all(np.array_equal(a, b) for a, b in zip(first.frames, again.frames, strict=True))
        assert not np.array_equal(first.frames[0], other.frames[0])


def test_frames_and_words():
    for seed in range(20):
        clip = draw_clip(seed, 40)
        assert len(clip.frames) == FRAMES
        assert {frame.size for frame in clip.frames} == {(40, 40)}
        assert clip.label in LABELS
        assert clip.color in COLORS
        assert clip.motion in MOTIONS
        assert not np.array_equal(clip.frames[0], clip.frames[-1])


def test_what_moves_moves_as_the_motion_says_and_stays_in_the_picture(painted: list[Planned]):
    seen = set()
    for seed in range(60):
        painted.clear()
        motion = draw_clip(seed, 32).motion
        seen.add(motion)
        boxes = np.array([thing.box for thing in painted])
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        y, x = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        shift = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(motion, (0, 0))
        for steps, sign in zip((np.diff(x), np.diff(y)), shift, strict=True):
            assert (np.sign(np.round(steps, 2)) == sign).all() or motion == "turning"
        growth = {"growing": 1, "shrinking": -1}.get(motion, 0)
        assert (np.sign(np.round(np.diff(area), 4)) == growth).all() or motion == "turning"
        if motion == "turning":
            assert abs(y[-1] - y[0]) < 0.1
    assert seen == set(MOTIONS)


def test_the_same_clip_at_another_size(painted: list[Planned]):
    for seed in range(8):
        painted.clear()
        small = draw_clip(seed, 56)
        large = draw_clip(seed, 112)
        assert (small.label, small.color, small.motion) == (large.label, large.color, large.motion)
        assert [thing.box for thing in painted[:FRAMES]] == [thing.box for thing in painted[FRAMES:]]


def test_too_small_is_refused():
    with pytest.raises(UsageError, match="32 px"):
        draw_clip(0, 16)
