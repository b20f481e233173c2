"""One picture, many questions: the vision tower runs once. Then which of some answers is the likeliest."""

from pathlib import Path
from time import perf_counter

import paligemma
from paligemma import Query

model = paligemma.load()
picture = model.encode(Path(__file__).with_name("scene.png"))

began = perf_counter()
answers = model.run(
    [
        Query(picture, "caption"),
        Query(picture, "ask", {"question": "how many cats are there?"}),
        Query(picture, "detect", {"objects": "cat; sun"}, {"conf": 0.2}),
    ]
)
for answer in answers:
    print(f"{answer.task:8} {answer.text}")
print(f"{perf_counter() - began:.2f} s for {len(answers)} questions")

for candidate in model.score(picture, model.prompt("ask", "how many cats are there?"), ["1", "2", "3"]):
    print(f"{candidate.text}: {candidate.probability:.3f}")
