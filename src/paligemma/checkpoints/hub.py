"""A name -> a directory on this machine; and the one function of the package that downloads.

`resolve` only looks: at the bundled model, at the path given, at Hugging Face's local cache. Variables respected:
HF_HOME, HF_HUB_CACHE, HF_ASSETS_CACHE, XDG_CACHE_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.

Not a model but pulled the same way is `vae-oid`, Google's mask codec, one for all published checkpoints. It lies in the
Hugging Face Space of the demo and, should that be out of reach, in big_vision's public bucket.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from paligemma.config import ALIASES, VARIANTS, did_you_mean
from paligemma.errors import ResourceError, UnavailableError, UsageError

BUNDLE = Path(__file__).with_name("nano")  # of the bundled models; what they share lies beside their folders
BUNDLED = {v.name: BUNDLE / v.name for v in VARIANTS.values() if v.kind == "nano"}
BUNDLED |= {alias: BUNDLED[name] for alias, name in ALIASES.items()}
WANTED = ["*.safetensors", "*.safetensors.index.json", "*.npz", "*.json", "tokenizer.model"]
_WEIGHTS = ("*.safetensors", "*.npz")
_HUB = "https://huggingface.co"

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
CODEC = "vae-oid"
CODEC_FILES = ("mask_codec.npz", "vae-oid.npz")  # beside a model's weights, the first one found counts
CALIBRATION = "calibration.json"  # beside a model's weights: what its scores mean
_CODEC_SPACE = "big-vision/paligemma-hf"
_CODEC_URL = "https://storage.googleapis.com/big_vision/paligemma/vae-oid.npz"
_CODEC_LIMIT_BYTES = 100 * 2**20  # of the download; the file has about 8 MB


def resolve(name: "str | Path", revision: str | None = None) -> Path:
    """The directory or file of a bundled name, an existing path, or a hub name already in the local cache.

    `google/` may be left out. Never uses the network.

    Raises:
        UnavailableError: not on this machine; says how to get it.
    """
    text = str(name)
    if text == CODEC and not Path(text).exists():
        raise UnavailableError(f"{CODEC!r} is the mask codec and no model; `paligemma list` shows the models")
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
        f"unknown model {name!r}{did_you_mean(short, [*ALIASES, *VARIANTS])} "
        "(`paligemma list` shows all; a directory works too)"
    )


def cache_directory() -> Path:
    """Where Hugging Face's libraries keep downloads; read anew on each call."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    return _hugging_face_home() / "hub"


def _hugging_face_home() -> Path:
    if "HF_HOME" in os.environ:
        return Path(os.environ["HF_HOME"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"


def beside(model_path: Path, names: Sequence[str]) -> Path | None:
    """The first file of these names with a model's weights, or with what bundled models share.

    Args:
        model_path: directory or weight file of the model.
    """
    directory = model_path if model_path.is_dir() else model_path.parent
    folders = [directory, directory.parent] if directory.parent == BUNDLE else [directory]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def tokenizer_beside(model_path: Path) -> Path | None:
    """The directory of a model's tokenizer, if it lies with its weights."""
    found = beside(model_path, TOKENIZER_FILES[:2])
    return found and found.parent


def find_tokenizer(name: "str | Path") -> Path:
    """Where the tokenizer of a model is; a file or directory of another kind stays as it is.

    Raises:
        UnavailableError: as `resolve`.
    """
    path = resolve(name)
    return (tokenizer_beside(path) if path.is_dir() else None) or path


def codec_beside(model_path: Path) -> Path | None:
    """The mask codec of a model, if it lies with its weights."""
    return beside(model_path, CODEC_FILES)


def pulled_codec() -> Path | None:
    """Google's mask codec, if `pull` has fetched it."""
    folder = cache_directory() / f"spaces--{_CODEC_SPACE.replace('/', '--')}"
    reference = folder / "refs" / "main"
    commits = [reference.read_text().strip()] if reference.is_file() else []
    commits += sorted(path.name for path in folder.glob("snapshots/*"))
    found = [folder / "snapshots" / commit / CODEC_FILES[1] for commit in commits if commit]
    return next((path for path in [*found, _codec_of_bucket()] if path.is_file()), None)


def _codec_of_bucket() -> Path:
    """Where Hugging Face's libraries keep what is no repository: `assets`."""
    assets = Path(os.environ.get("HF_ASSETS_CACHE", _hugging_face_home() / "assets")).expanduser()
    return assets / "paligemma" / CODEC_FILES[1]


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
    `bfloat16` and `float16` beside the float32 of `main`. `vae-oid` is the mask codec, of which the file is returned.

    Raises:
        UnavailableError: licence not accepted, no such repository or revision, offline.
        ResourceError: not enough disk.
        UsageError: a bundled model.
    """
    if name in BUNDLED:
        raise UsageError(f"{name!r} comes with the package; nothing to download")
    repository = CODEC if name == CODEC else _repository(name)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UnavailableError(
            f"HF_HUB_OFFLINE is set, so {repository} is not downloaded; unset it to allow the network"
        )
    if name == CODEC:
        return _pull_codec(revision, token)
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


def _pull_codec(revision: str | None, token: str | None) -> Path:
    """The codec's file, out of the Space or else out of the bucket; checked before it counts as there.

    Raises:
        UnavailableError: neither can be reached, or has the file.
        CheckpointError: what came is no mask codec.
        ResourceError: not enough disk.
    """
    from huggingface_hub import errors, hf_hub_download

    from paligemma.checkpoints.mask_codec import load_codec

    try:
        path = Path(
            hf_hub_download(
                _CODEC_SPACE, CODEC_FILES[1], repo_type="space", revision=revision, cache_dir=cache_directory(),
                endpoint=os.environ.get("HF_ENDPOINT"), token=token,
            )
        )  # fmt: skip
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ResourceError(
                f"{cache_directory()} has no room for {CODEC}; free some space or set HF_HUB_CACHE to another disk"
            ) from error
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        if revision is not None:
            raise UnavailableError(
                f"revision {revision!r} of the Space {_CODEC_SPACE} could not be downloaded ({reason}); leave it out "
                "for main, or check the connection"
            ) from error
        return _download_codec(reason)
    load_codec(path)
    return path


def _download_codec(reason: str) -> Path:
    """The codec's file out of the bucket; `reason` says why the Space did not give it."""
    import http.client
    import urllib.request

    from paligemma.checkpoints.mask_codec import load_codec
    from paligemma.checkpoints.safetensors_io import writing

    path = _codec_of_bucket()
    try:
        with urllib.request.urlopen(_CODEC_URL, timeout=60) as answer:
            data = answer.read(_CODEC_LIMIT_BYTES)
            announced = int(answer.headers.get("Content-Length", len(data)))
            if announced != len(data):
                raise OSError(f"{len(data):,} of {announced:,} bytes came")
    except (OSError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise UnavailableError(
            f"{CODEC} could not be downloaded, neither from {_HUB}/spaces/{_CODEC_SPACE} ({reason}) nor from "
            f"{_CODEC_URL} ({error}); check the connection and run the same command again"
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{path.parent} cannot be made ({error.strerror}); check space and rights") from error
    with writing([path]) as [partial]:
        partial.write_bytes(data)
        load_codec(partial)
    return path
