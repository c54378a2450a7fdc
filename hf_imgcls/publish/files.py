"""What is published of a run's folder: an allow-list, and nothing that is not on it.

One rule serves both sides. Applied to the names in a run's folder it says what goes up; applied to the names in a
repository it says what an earlier push of ours has put there. Everything else stays where it is: checkpoints, optimizer
states, logs, pickles, hidden files, and on the Hub what somebody else has added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hf_imgcls.digests import restate_digests
from hf_imgcls.errors import PushError
from hf_imgcls.layout import CARD_FILE, EXPORT_FILE, EXPORTS_PICTURE, HASHES_FILE, QUANTIZERS_FILE, RUN_FILE
from hf_imgcls.measure.report.page import drop_pictures
from hf_imgcls.model_files import ADAPTER_CONFIG, CONFIG_FILE, refuse_adapter
from hf_imgcls.publish.privacy import check_texts, clean_texts

EXAMPLES_FOLDER = "examples"
PAGE = "report/report.html"
_WEIGHTS_FILE = "model.safetensors"
_WEIGHTS_INDEX = f"{_WEIGHTS_FILE}.index.json"
_SHARDS = "model-*-of-*.safetensors"
_MODEL = (CONFIG_FILE, "generation_config.json", "preprocessor_config.json", _WEIGHTS_FILE, _WEIGHTS_INDEX, _SHARDS)
_RECORDS = (
    CARD_FILE, "recipe.yaml", "data.json", "run.json", "parity.json", "confusion_matrix.json", "*_results.json",
    "report/report.json", PAGE, "report/*.png", EXPORTS_PICTURE, f"adapter/{CARD_FILE}", QUANTIZERS_FILE,
)  # fmt: skip
# Images of the dataset. The page of the report shows some, too.
_IMAGES = ("report/images/*.png", f"{EXAMPLES_FOLDER}/*.png", f"{EXAMPLES_FOLDER}/*.jpg")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# File names and other columns of the dataset, which may be nobody else's business.
_PREDICTIONS = ("predictions_*.parquet",)
# Of a sub-folder with an export.json.
_EXPORT_SUFFIXES = (
    ".json", ".safetensors", ".onnx", ".onnx_data", ".data", ".xml", ".tflite", ".pte", ".txt", ".md",
)  # fmt: skip
# Models that run code when they are loaded, torch's programs, are not among them, and of their folders nothing is then.
MODEL_SUFFIXES = (".onnx", ".xml", ".tflite", ".pte")
_TEXT_SUFFIXES = (".json", ".yaml", ".yml", ".md", ".html", ".txt", ".csv")


@dataclass(frozen=True)
class PublishedFile:
    """A file on its way to the Hub.

    Attributes:
        name: Path in the repository, with slashes.
        source: The bytes themselves, or the file that holds them.
        remark: What the plan of a push says about it.
    """

    name: str
    source: Path | bytes
    remark: str = ""

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def select_published(
    names: Iterable[str], *, images: bool = True, predictions: bool = True, hashes: bool = True
) -> set[str]:
    """The names that a push publishes.

    Args:
        names: Paths inside a run's folder or a repository, with slashes.
        images: Whether images of the dataset are among them.
        predictions: Whether the prediction tables are.
        hashes: Whether the hashes of the training images are.
    """
    names = set(names)
    patterns = [*_MODEL, *_RECORDS, *(f"adapter/{name}" for name in _ADAPTER)]
    patterns += [*(_IMAGES if images else ()), *(_PREDICTIONS if predictions else ())]
    patterns += [HASHES_FILE] if hashes else []
    models = {PurePosixPath(name).parts[0] for name in names if fnmatchcase(name, "*/*.*") and _is_model(name)}
    exports = models & {PurePosixPath(name).parts[0] for name in names if fnmatchcase(name, f"*/{EXPORT_FILE}")}
    return {name for name in names if _matches(name, patterns) or _is_exported(name, names, exports)}


def select_images(names: Iterable[str]) -> set[str]:
    """The names of images of the dataset."""
    return {name for name in names if _matches(name, _IMAGES)}


def select_checkpoint(names: Iterable[str]) -> set[str]:
    """The names that a push during training publishes of a checkpoint: its model, and what the training has logged."""
    return {name for name in names if _matches(name, (*_MODEL, *_ADAPTER, "trainer_state.json"))}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path has one of these forms; a star stands for no slash and no hidden name."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return False
    return any(
        len(parts) == pattern.count("/") + 1 and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns
    )


def _is_model(name: str) -> bool:
    return PurePosixPath(name).suffix in MODEL_SUFFIXES


def _is_exported(name: str, names: Collection[str], exports: Collection[str]) -> bool:
    path = PurePosixPath(name)
    if path.parts[0] not in exports or any(part.startswith(".") for part in path.parts):
        return False
    # OpenVINO keeps weights in a .bin beside its .xml; any other .bin may be a pickle.
    is_openvino = path.suffix == ".bin" and str(path.with_suffix(".xml")) in names
    return path.suffix in _EXPORT_SUFFIXES or is_openvino


def list_names(folder: Path) -> set[str]:
    """Paths of the files under a folder, with slashes; neither hidden ones nor anything that a link leads to."""
    names = set()
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [name for name in folders if not name.startswith(".") and not (here / name).is_symlink()]
        paths = (here / name for name in files if not name.startswith("."))
        names |= {path.relative_to(folder).as_posix() for path in paths if path.is_file() and not path.is_symlink()}
    return names


def read_files(folder: Path, names: Iterable[str], *, prefix: str = "", images: bool = True) -> list[PublishedFile]:
    """Make files ready to be published: texts without local paths, and without secrets.

    Args:
        folder: Holds them.
        names: Which ones.
        prefix: Put before each name, for a place inside the repository.
        images: Whether the report's page keeps the images of the dataset that it shows.

    Returns:
        The files by name; of texts that had to be changed, the changed bytes.

    Raises:
        PushError: A text holds what must not leave the machine.
    """
    names = sorted(names)
    texts = {name: _read_text(folder / name) for name in names if name.endswith(_TEXT_SUFFIXES)}
    cleaned = clean_texts(folder, texts)
    check_texts(cleaned)
    remarks = {name: "without local paths" for name, text in cleaned.items() if text != texts[name]}
    remarks |= dict.fromkeys(select_images(names), "an image of the dataset")
    if PAGE in cleaned:
        cleaned |= {} if images else {PAGE: drop_pictures(cleaned[PAGE])}
        remarks[PAGE] = f"with{'' if images else 'out'} images of the dataset"
    changed = {name: text.encode() for name, text in cleaned.items() if text != texts[name]}
    if RUN_FILE in cleaned:
        restated = restate_digests(cleaned[RUN_FILE], {name: changed.get(name, folder / name) for name in names})
        changed[RUN_FILE] = restated.encode()
    return [PublishedFile(prefix + name, changed.get(name, folder / name), remarks.get(name, "")) for name in names]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PushError(f"{path} is no text in UTF-8: {error}", "UTF-8", "write it again, or remove it") from error


def check_model(folder: Path, names: Collection[str]) -> None:
    """Make sure that what is published can be loaded: configuration, and whole weights in safetensors.

    Args:
        folder: The run's folder.
        names: What will be published of it.

    Raises:
        PushError: Something is missing, is a link, or is damaged.
    """
    if ADAPTER_CONFIG in names:
        error = refuse_adapter(folder, folder / ADAPTER_CONFIG)
        raise PushError(error.found, error.expected, error.fix)
    weights = _find_weights(folder, names)
    processor = [] if _is_timm(folder) else ["preprocessor_config.json"]
    for name in (CONFIG_FILE, *processor, *weights):
        if name in names:
            continue
        found = "is a symbolic link, which is never published" if (folder / name).is_symlink() else "is missing"
        raise PushError(
            f"{folder / name} {found}",
            "a folder that finetune.py has finished, with config.json, preprocessor_config.json and model.safetensors",
            "name a finished run",
        )
    for name in weights:
        _check_safetensors(folder / name)


def _find_weights(folder: Path, names: Collection[str]) -> list[str]:
    if _WEIGHTS_INDEX not in names:
        return [_WEIGHTS_FILE]
    try:
        index = json.loads((folder / _WEIGHTS_INDEX).read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise PushError(
            f"{folder / _WEIGHTS_INDEX} is damaged: {error}", "an index of shards", "save it again"
        ) from error


def _is_timm(folder: Path) -> bool:
    """Timm keeps its preprocessing in the model's config."""
    try:
        config: Mapping[str, object] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return config.get("model_type") == "timm_wrapper"


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            is_empty = not list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise PushError(f"{path} is damaged: {error}", "a whole safetensors file", "save the model again") from error
    if is_empty:
        raise PushError(f"{path} holds no tensor", "the model's weights", "save the model again")
