"""A list of pictures is answered in batches; an answer says when it was cut and carries its log-probabilities."""

from pathlib import Path

import paligemma

pictures = sorted(Path(__file__).parent.glob("*.png"))
model = paligemma.load()

for picture, answer in zip(pictures, model.caption(pictures, batch_size=4), strict=True):
    print(f"{picture.name}: {answer.text} (finish: {answer.finish_reason}, log p {sum(answer.logprobs):.2f})")
