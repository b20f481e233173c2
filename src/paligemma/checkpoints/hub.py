"""A name -> a directory on this machine; and the one function of the package that downloads.

`resolve` only looks: at the bundled model, at the path given, at Hugging Face's local cache. Variables respected:
HF_HOME, HF_HUB_CACHE, XDG_CACHE_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
"""

import errno
import os
from pathlib import Path

from paligemma.config import VARIANTS, did_you_mean
from paligemma.errors import ResourceError, UnavailableError, UsageError

BUNDLED = {"nano": Path(__file__).with_name("nano")}
WANTED = ["*.safetensors", "*.safetensors.index.json", "*.npz", "*.json", "tokenizer.model"]
_WEIGHTS = ("*.safetensors", "*.npz")
_HUB = "https://huggingface.co"


def resolve(name: "str | Path", revision: str | None = None) -> Path:
    """The directory or file of a bundled name, an existing path, or a hub name already in the local cache.

    `google/` may be left out. Never uses the network.

    Raises:
        UnavailableError: not on this machine; says how to get it.
    """
    text = str(name)
    if text in BUNDLED:
        if not BUNDLED[text].is_dir():
            raise UnavailableError(
                f"the bundled model {text!r} is missing from this installation; install the package again"
            )
        return BUNDLED[text]
    path = Path(name).expanduser()
    if path.exists():
        return path
    if (
        isinstance(name, Path)
        or text.startswith((".", "~", os.sep))
        or text.count("/") > 1
        or path.suffix in (".npz", ".safetensors")
    ):
        raise UnavailableError(f"there is no file or directory {text!r}; check the path")
    repository = _repository(text)
    return _cached(repository, revision)


def _repository(name: str) -> str:
    """`google/NAME` of a known short name; names with another owner stay as they are.

    Raises:
        UnavailableError: nothing is called that.
    """
    short = name.removeprefix("google/")
    published = short.removesuffix("-jax")
    if published in VARIANTS and VARIANTS[published].hub_id:
        return f"google/{short}"
    if "/" in short or name.startswith("google/"):
        return name
    raise UnavailableError(
        f"unknown model {name!r}{did_you_mean(short, VARIANTS)} (`paligemma list` shows all; a directory works too)"
    )


def cache_directory() -> Path:
    """Where Hugging Face's libraries keep downloads; read anew on each call."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    if "HF_HOME" in os.environ:
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface" / "hub"


def _cached(repository: str, revision: str | None) -> Path:
    folder = cache_directory() / f"models--{repository.replace('/', '--')}"
    short = repository.removeprefix("google/")
    known = short.removesuffix("-jax") in VARIANTS
    command = f"paligemma pull {short if known else repository}" + (f" --revision {revision}" if revision else "")
    licence = f" after accepting the licence at {_HUB}/{repository}" if known else ""
    reference = folder / "refs" / (revision or "main").replace("..", "")
    commit = reference.read_text().strip() if reference.is_file() else revision or ""
    snapshot = folder / "snapshots" / commit
    if not commit or Path(commit).name != commit or not snapshot.is_dir():
        references = folder / "refs"
        others = sorted(str(p.relative_to(references)) for p in references.rglob("*") if p.is_file())
        there = f" in revision {revision or 'main'}; present: {', '.join(others)}" if others else ""
        close = "" if known else _nearest(short)
        raise UnavailableError(
            f"{repository} is not on this machine{there}{close}; run `{command}`{licence}, or give a directory"
        )
    if not any(file for pattern in _WEIGHTS for file in snapshot.glob(pattern)):
        raise UnavailableError(f"{repository} is on this machine without its weights; run `{command}` to complete it")
    return snapshot


def _nearest(name: str) -> str:
    suggestion = did_you_mean(name, VARIANTS)
    return suggestion.rstrip("?") + " (a published name)" if "did you mean" in suggestion else ""


def pull(name: str, revision: str | None = None, *, token: str | None = None) -> Path:
    """Downloads a model's weights, configuration and tokenizer into Hugging Face's cache; returns the directory.

    Complete files are kept, so an interrupted download goes on where it stopped. PaliGemma 1 has the revisions
    `bfloat16` and `float16` beside the float32 of `main`.

    Raises:
        UnavailableError: licence not accepted, no such repository or revision, offline.
        ResourceError: not enough disk.
        UsageError: a bundled model.
    """
    if name in BUNDLED:
        raise UsageError(f"{name!r} comes with the package; nothing to download")
    repository = _repository(name)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UnavailableError(
            f"HF_HUB_OFFLINE is set, so {repository} is not downloaded; unset it to allow the network"
        )
    from huggingface_hub import errors, snapshot_download

    page = f"{_HUB}/{repository}"
    try:
        path = snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_directory(),
            allow_patterns=WANTED,
            endpoint=os.environ.get("HF_ENDPOINT"),
            token=token,
        )
    except errors.GatedRepoError:  # before RepositoryNotFoundError, whose subclass it is
        raise UnavailableError(
            f"{repository} asks for its licence to be accepted first: log in at {page}, accept, "
            "then run `hf auth login` or set HF_TOKEN, and pull again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UnavailableError(
            f"the hub has no {repository}, or hides it from you{_nearest(repository.removeprefix('google/'))}; "
            f"check {page}, and set HF_TOKEN if it is private"
        ) from None
    except errors.RevisionNotFoundError:
        raise UnavailableError(
            f"{repository} has no revision {revision!r}; leave it out for main, or see {page}"
        ) from None
    except errors.HFValidationError:
        raise UnavailableError(
            f"{name!r} is no possible name of a model; names look like google/paligemma2-3b-mix-448"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ResourceError(
                f"{cache_directory()} has no room for {repository}; free some space or set HF_HUB_CACHE to another disk"
            ) from error
        reason = str(error.__cause__ or error).splitlines()[0][:200]
        raise UnavailableError(
            f"{repository} could not be downloaded ({reason}); check the connection and run the same command to go on"
        ) from error
    return Path(path)
