"""llama.cpp through llama-cpp-python: the decoder alone, as many tokens as the others have with their picture."""

import time
from typing import Any

from harness.sides import Run, repetition, rows_of


class LlamaCpp:
    libraries = ("llama_cpp", "numpy")

    def __init__(self, run: Run):
        import os

        import llama_cpp

        self.library, self.run = llama_cpp, run
        quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(quiet, None)
        self._quiet = quiet  # must outlive the library's use of it
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_default_params()
        model.n_gpu_layers, model.use_mmap = 0, False  # weights are repacked for this processor while they are read
        self.model = llama_cpp.llama_model_load_from_file(run.path.encode(), model)
        assert self.model, f"llama.cpp cannot read {run.path}"
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = 1024, 512, 512
        context.n_threads = context.n_threads_batch = int(os.environ["OMP_NUM_THREADS"])
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        assert self.context, "llama.cpp has no room for its context"
        self.words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def warm(self) -> None:
        self._start()
        self._next(self._feed(rows_of(self.run)[0]))

    def once(self) -> dict[str, Any]:
        (row,), (most,) = rows_of(self.run), self.run.answers
        prompt = [3000 + i for i in range((self.run.image_size_px // 14) ** 2)] + row
        times, answer = [], []
        self._start()
        began = time.perf_counter()
        given = prompt
        for _ in range(most):
            token = self._next(self._feed(given))
            times.append(time.perf_counter())
            answer.append(token)
            given = [token]
        return repetition(began, times, time.perf_counter(), [answer])

    def _start(self) -> None:
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def _feed(self, tokens: list[int]) -> Any:
        array = (self.library.llama_token * len(tokens))(*tokens)
        failed = self.library.llama_decode(self.context, self.library.llama_batch_get_one(array, len(tokens)))
        assert not failed, f"llama_decode: {failed}"
        return self.library.llama_get_logits_ith(self.context, -1)

    def _next(self, logits: Any) -> int:
        import numpy as np

        return int(np.ctypeslib.as_array(logits, shape=(self.words,)).argmax())
