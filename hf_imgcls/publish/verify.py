"""Served = scored, before and after a push: a stranger's process must answer what was scored.

Before the commit the stranger is given the staged files, so that a wrong model is never published; after it, the
repository, whose files must be the staged ones byte for byte.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.errors import ParityError, UserError
from hf_imgcls.layout import DATA_FILE, RECIPE_FILE
from hf_imgcls.records import DataRecord
from hf_imgcls.run_folder import compare_data

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import DataArguments
    from hf_imgcls.classifier.image_source import Picture
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.records import ParityRecord

MAX_VERIFIED = 256
# On the Hub the files have been compared byte for byte: this is about whether they load from there.
MAX_SERVED = 32
_BATCH_SIZE = 32
_SPLITS = ("test", "validation")
# What would let a consumer find what only this machine has.
_OF_THIS_MACHINE = (
    "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE", "HF_XET_CACHE",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTORCH_TRANSFORMERS_CACHE", "HF_TOKEN_PATH",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The images that a run was measured on.

    Attributes:
        dataset: None when they cannot be had.
        data: How images are decoded.
        reason: Why they cannot be had, or must not be compared.
    """

    dataset: ImageDataset | None
    data: DataArguments | None = None
    reason: str = ""


def recall_data(folder: Path) -> RunData:
    """Load the data that a run's recipe names, but for its training split."""
    from hf_imgcls.classifier.saved_reading import adopt_reading
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images

    if not (folder / RECIPE_FILE).is_file():
        return RunData(None, reason=f"{folder} has no {RECIPE_FILE}, which names the data")
    try:
        data = parse_arguments(["--config", str(folder / RECIPE_FILE)], groups=("data", "pixels")).data
        data = adopt_reading(data, folder)
        dataset = load_image_dataset(data)
        dataset.splits.pop("train", None)
        dataset = check_images(dataset, data)
    except (UserError, OSError) as error:
        found = error.found if isinstance(error, UserError) else str(error)
        return RunData(None, reason=f"the run's data cannot be loaded: {found.splitlines()[0]}")
    return RunData(dataset, data)


def verify_staged(staged: Path, folder: Path, source: RunData) -> ParityRecord | str:
    """Check the files that are about to be pushed: nothing but transformers must answer from them what was scored.

    Args:
        staged: A copy of what will be in the repository.
        folder: The run's folder, with its prediction tables.
        source: The run's data.

    Returns:
        What was found; or, when the answers could not be compared, why. The files have been loaded in any case.

    Raises:
        ParityError: The model answers differently, or cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="hf_imgcls_consumer_") as place:
        return _verify(StagedFiles(staged, Path(place)), folder, source, MAX_VERIFIED)


def verify_revision(repo_id: str, revision: str, folder: Path, source: RunData) -> ParityRecord | str:
    """The same with a commit on the Hub, downloaded by a process with an empty cache.

    Args:
        repo_id: The repository.
        revision: The commit that was pushed.
        folder: The run's folder, with its prediction tables.
        source: The run's data.

    Returns:
        As for `verify_staged`.

    Raises:
        ParityError: The published model answers differently, or cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="hf_imgcls_consumer_") as place:
        return _verify(Published(repo_id, revision, Path(place)), folder, source, MAX_SERVED)


def _verify(consumer: Stranger, folder: Path, source: RunData, max_samples: int) -> ParityRecord | str:
    from hf_imgcls.classifier.reading import Reading
    from hf_imgcls.measure.parity import check_parity, draw_rows
    from hf_imgcls.measure.scored_answers import build_scored
    from hf_imgcls.measure.tables import PREDICTIONS_FILE, Table

    split = next((name for name in _SPLITS if (folder / PREDICTIONS_FILE.format(split=name)).is_file()), None)
    if (reason := _find_obstacle(folder, source, split)) or split is None or not source.dataset or not source.data:
        list(consumer.answer(iter(()), _BATCH_SIZE))  # it loads, at least
        _check_labels(consumer, DataRecord.load(folder / DATA_FILE).labels)
        return reason
    table = Table.load(folder / PREDICTIONS_FILE.format(split=split))
    record = check_parity(
        consumer,
        draw_rows(source.dataset.splits[split], max_samples),
        build_scored(table.examples_with_scores(), table.labels, table.thresholds),
        reading=Reading.from_arguments(source.data),
        batch_size=_BATCH_SIZE,
        are_files=source.dataset.are_files,
    )
    _check_labels(consumer, table.labels)
    return record


def _check_labels(consumer: Stranger, labels: list[str]) -> None:
    """Compare the names of the classes, whose order scores alone may not betray."""
    wrong = [
        f"{given!r} in place of {name!r}" for given, name in zip(consumer.labels, labels, strict=False) if given != name
    ]
    if wrong or len(consumer.labels) != len(labels):
        raise ParityError(
            f"{consumer.name} has {len(consumer.labels)} classes, {', '.join(wrong[:3]) or 'the last ones missing'}",
            f"the {len(labels)} classes that were trained, in their order",
            "restore id2label in config.json",
        )


def _find_obstacle(folder: Path, source: RunData, split: str | None) -> str:
    """Why answers cannot be compared with scored ones; nothing if they can."""
    if source.dataset is None or source.data is None:
        return source.reason
    if split is None:
        return f"{folder} has no predictions to compare with: neither test nor validation was measured"
    if split not in source.dataset.splits:
        return f"the data has no {split} split any more"
    if differences := compare_data(folder, source.dataset.record, split):
        return "the data is not what the run was measured on. " + " ".join(differences)
    return ""


def _as_file(image: Picture, place: Path) -> str:
    """Return the path of an image, written to ``place`` if it has none. pipeline() ignores the name's ending."""
    if isinstance(image, str):
        return image
    if isinstance(image, bytes):
        place.write_bytes(image)
    else:
        image.save(place)  # lossless
    return str(place)


class Stranger:
    """A process with an empty cache, nothing of ours, and one name of a model.

    Args:
        model: What is given to ``pipeline()``.
        revision: Commit on the Hub.
        place: An empty folder for its cache and the images that it is shown.
        name: What errors call the model.
        origin: Where its files come from, for the description.
    """

    def __init__(self, model: str, revision: str | None, place: Path, *, name: str, origin: str) -> None:
        self.model, self.revision, self.place = model, revision, place
        self.name, self.origin = name, origin
        self.device_type = ""
        self.description = ""
        self.labels: list[str] = []

    def answer(self, images: Iterator[Picture], batch_size: int) -> Iterator[list[dict[str, Any]]]:
        """See `hf_imgcls.measure.parity.Consumer`."""
        paths = [_as_file(image, self.place / f"{number}.png") for number, image in enumerate(images)]
        answers = self.place / "answers.jsonl"
        request = {"model": self.model, "revision": self.revision, "images": paths, "batch_size": batch_size}
        self._run(json.dumps({**request, "answers": str(answers)}))
        with answers.open(encoding="utf-8") as lines:
            about = json.loads(next(lines))
            self.device_type, self.labels = about["device_type"], about["labels"]
            version = about["transformers"]
            self.description = f"pipeline of transformers {version} on {self.device_type}, from {self.origin}"
            for line in lines:
                yield json.loads(line)

    def environment(self) -> dict[str, str]:
        """Environment variables of the process."""
        kept = {name: value for name, value in os.environ.items() if name not in _OF_THIS_MACHINE}
        return kept | {"HF_HOME": str(self.place / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def _run(self, request: str) -> None:
        # As text, so that the script's folder, with modules of ours, does not come first on its path.
        script = (Path(__file__).parent / "consumer.py").read_text(encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-c", script], input=request, env=self.environment(), cwd=self.place,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode:
            from hf_imgcls.tokens import hide_secrets

            last = hide_secrets(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "no output")
            raise ParityError(
                f"{self.name}: a consumer cannot use it: {last}",
                'pipeline("image-classification", model=...) that answers',
                "load it yourself to see the whole error, mend it, and push again",
            )


class StagedFiles(Stranger):
    """A stranger who has the staged files and no network.

    Args:
        folder: Holds the files.
        place: See `Stranger`.
    """

    def __init__(self, folder: Path, place: Path) -> None:
        super().__init__(str(folder.resolve()), None, place, name="the model to be pushed", origin="the staged files")

    def environment(self) -> dict[str, str]:
        """See `Stranger.environment`."""
        environment = super().environment() | {"HF_HUB_OFFLINE": "1"}
        environment.pop("HF_TOKEN", None)
        return environment


class Published(Stranger):
    """A stranger who downloads a commit with the user's token.

    Args:
        repo_id: The repository.
        revision: The commit.
        place: See `Stranger`.
    """

    def __init__(self, repo_id: str, revision: str, place: Path) -> None:
        super().__init__(repo_id, revision, place, name=f"{repo_id} at {revision[:10]}", origin="the Hub")

    def environment(self) -> dict[str, str]:
        """See `Stranger.environment`."""
        from huggingface_hub import get_token

        return super().environment() | ({"HF_TOKEN": token} if (token := get_token()) else {})
