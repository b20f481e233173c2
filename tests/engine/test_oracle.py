import pytest
import torch
from tests.oracle import EOS, IMAGE_ID, TINY, collate, draw_pair, draw_prompt, hf_inputs

from paligemma.engine import generate_slowly


@pytest.mark.parametrize("generation", [1, 2])
def test_the_oracle_says_what_transformers_says(generation: int) -> None:
    hf, ours = draw_pair(generation, 5)
    text = TINY[generation].text
    padding = [*range(text.vocab_size, text.embedding_rows)]
    for images, length in ((1, 6), (2, 1)):
        prompt = draw_prompt(TINY[generation], images, length, seed=images)
        row = collate([prompt], "left")
        theirs = hf.generate(
            **hf_inputs(row.tokens, row.pixels, row.mask_ar, row.mask_input), do_sample=False, max_new_tokens=10,
            suppress_tokens=padding, eos_token_id=EOS,
        )[0, len(prompt.tokens) :].tolist()  # fmt: skip
        want = theirs[: theirs.index(EOS)] if EOS in theirs else theirs
        assert generate_slowly(ours, prompt, 10, eos_ids=[EOS], forbidden_ids=[IMAGE_ID]) == want
        stopped = generate_slowly(ours, prompt, 10, eos_ids=[want[4]], forbidden_ids=[IMAGE_ID])
        assert stopped == want[: want.index(want[4])]


def test_the_oracle_avoids_what_is_forbidden() -> None:
    _, ours = draw_pair(1, 5)
    prompt = draw_prompt(TINY[1], 1, 6)
    first = generate_slowly(ours, prompt, 1, eos_ids=[EOS])[0]
    with torch.inference_mode():
        ours.language_model.embed_tokens.weight[TINY[1].text.vocab_size :] = 50  # padding rows: huge or tiny logits
    again = generate_slowly(ours, prompt, 4, eos_ids=[EOS], forbidden_ids=[first])
    assert first not in again
    assert max(again) < TINY[1].text.vocab_size
