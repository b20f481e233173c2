"""Text as it is made; the whole answer afterwards."""

from pathlib import Path

import paligemma

model = paligemma.load()
stream = model.stream(Path(__file__).with_name("scene.png"), model.prompt("caption", "en"))
for piece in stream:
    print(piece, end="", flush=True)
print(f"\n{len(stream.answer.tokens)} tokens in {stream.answer.timing['generate']:.2f} s")
