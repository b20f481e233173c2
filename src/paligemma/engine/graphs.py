"""Recorded passes: a pass over static buffers is run once, and then replayed as one launch.

In: a function without arguments that reads and writes tensors which stay where they are. Out: a function that does the
same and returns the same tensor, overwritten each time. On CUDA that is a CUDA graph: a step of decoding is over a
thousand small kernels, which the processor cannot launch as fast as the accelerator runs them.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Run = Callable[[], Tensor]
SHAPES = 64  # of one pass that may be compiled
WARM_UP = 2  # runs before recording: libraries make their workspaces, kernels are compiled


class Recorder(Protocol):
    def record(self, run: Run) -> Run:
        """May run the function a few times; what it leaves in its buffers then does not count."""
        ...


class CudaGraphs:
    """Records CUDA graphs that share one pool of memory.

    Args:
        compiled: lets TorchInductor fuse the pass before it is recorded, which takes a minute for each shape.
    """

    def __init__(self, device: torch.device, *, compiled: bool = False):
        self.device, self.compiled = device, compiled
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, run: Run) -> Run:
        """The function as one launch; itself, with a warning, where it cannot be recorded."""
        try:
            return self.captured(run)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a library that waits for the device, say
            reason = str(error).splitlines()[0]
            warnings.warn(f"decoding goes on without recorded passes, slower: {reason}", RuntimeWarning, stacklevel=2)
            return run

    def captured(self, run: Run) -> Run:
        """The function as a graph.

        Raises:
            RuntimeError: it does what cannot be recorded.
        """
        if self.compiled:
            torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
            run = torch.compile(run, dynamic=False, fullgraph=True)
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                out = run()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
