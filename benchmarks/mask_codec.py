"""Masks per second through a mask codec, one thread, CPU seconds: python benchmarks/mask_codec.py [codec.npz ...]

Without arguments: a codec of Google's size with random weights, and nano's. Repetitions are in turn, the best counts.
"""

import argparse
import time

import numpy as np
import torch

from paligemma.checkpoints import find_codec, load_codec, resolve
from paligemma.model.mask_codec import MaskCodec
from paligemma.tasks.masks import decoder, encode_masks, round_trip


def per_second(work, count, repetitions=5):
    work()
    seconds = []
    for _ in range(repetitions):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return count / min(seconds)


def discs(count, width=640, height=480):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    places = zip(rng.uniform(100, 380, count), rng.uniform(100, 540, count), rng.uniform(20, 100, count), strict=True)
    return [(y - a) ** 2 + (x - b) ** 2 < radius**2 for a, b, radius in places]


def measure(name, codec):
    decode, masks = decoder(codec), discs(128)
    print(f"{name}: {sum(p.numel() for p in codec.parameters()):,} parameters")
    for count in (1, 8, 64, 256):
        codes = np.random.default_rng(1).integers(0, 128, (count, 16)).tolist()
        crops = torch.rand(count, 64, 64)
        with torch.inference_mode():
            print(
                f"  {count:3} at once: decode {per_second(lambda: decode(codes), count):6.0f}/s, "  # noqa: B023
                f"encode {per_second(lambda: codec.encode(crops), count):6.0f}/s"  # noqa: B023
            )
    print(f"  encode_masks of 640 x 480: {per_second(lambda: encode_masks(codec, masks), 128, 3):6.0f}/s")
    print(f"  round_trip of the same:    {per_second(lambda: round_trip(codec, masks), 128, 3):6.0f}/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*")
    names = parser.parse_args().codecs
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if names:
        codecs = {name: load_codec(name) for name in names}
    else:
        codecs = {"Google's size": MaskCodec().eval(), "nano": load_codec(find_codec(resolve("nano")))}
    for name, codec in codecs.items():
        measure(name, codec)


if __name__ == "__main__":
    main()
