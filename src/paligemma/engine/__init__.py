"""Token ids in, token ids out: batches, cache, sampling, beam search, streaming."""

from paligemma.engine.constraints import Constraint
from paligemma.engine.engine import Engine, Token
from paligemma.engine.oracle import generate_slowly
from paligemma.engine.runner import Prompt, Runner
from paligemma.engine.sampling import Generation, Sampling

__all__ = ["Constraint", "Engine", "Generation", "Prompt", "Runner", "Sampling", "Token", "generate_slowly"]
