"""Keywords: defaults, and what is refused."""

import pytest
from tests.api.helpers import picture

from paligemma.errors import UsageError


def test_defaults_by_task_and_seeds(model, says):
    speaker = says("x")
    model.caption(picture(), style="describe")
    model.ask(picture(), "?")
    model.ask(picture(), "?", max_tokens=7, seed=3)
    limits = [sampling.max_tokens for sampling in speaker.samplings]
    room = model.config.text.max_positions - len(speaker.prompts[0].tokens)
    assert limits == [min(256, room), 64, 7]
    assert speaker.samplings[-1].seed == 3
    assert speaker.samplings[0].seed != speaker.samplings[1].seed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_token": 3}, "did you mean 'max_tokens'"),
        ({"temperature": -1}, "temperature"),
        ({"batch_size": 0}, "batch_size"),
        ({"loc_divisor": 1000}, "1023"),
        ({"num_beams": 2, "temperature": 1.0}, "beams"),
    ],
)
def test_wrong_options_are_refused(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.caption(picture(), **options)
