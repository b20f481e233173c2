"""Steps as the loop tells them to its observers."""

from paligemma.train.records import StepRecord, Summary


def record(step, loss=1.0, **more):
    facts = {
        "losses": {"loss": loss}, "lr": 1e-4, "grad_norm": 0.5, "examples": 8, "tokens": 400, "seconds": 0.5,
        "memory_bytes": 2_000_000_000, "eta_s": 65.0,
    }  # fmt: skip
    return StepRecord(step=step, **facts | more)


def summary(steps):
    return Summary(
        steps=steps, stopped="done", best=None, last={}, skipped=0, examples=8 * steps, tokens=400 * steps,
        seconds=0.5 * steps,
    )  # fmt: skip


def run_of(observer, steps, evaluate_every=0):
    """A whole run's observations."""
    for step in range(1, steps + 1):
        observer.on_step(record(step, loss=5.0 / step))
        if evaluate_every and step % evaluate_every == 0:
            observer.on_evaluation(step, {"loss": 4.0 / step, "ap50": step / steps, "caption_exact": 0.5})
    observer.on_end(summary(steps))
    observer.close()
