"""Served = scored, on the Hub: the pushed revision, loaded as a stranger would, must answer what was scored."""

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

from hf_imgcls.arguments import parse_arguments
from hf_imgcls.errors import ParityError, UserError
from hf_imgcls.measure.earlier_run import compare_data
from hf_imgcls.run import RECIPE_FILE

if TYPE_CHECKING:
    from hf_imgcls.arguments import DataArguments
    from hf_imgcls.data.load import ImageDataset
    from hf_imgcls.measure.offered import Picture
    from hf_imgcls.records import ParityRecord

MAX_VERIFIED = 256  # the files' checksums are compared on the way: this is about what comes after them
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
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images
    from hf_imgcls.fit.saved_reading import adopt_reading

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


def verify_revision(repo_id: str, revision: str, folder: Path, source: RunData) -> ParityRecord | str:
    """Repeat the parity check with what is on the Hub.

    Args:
        repo_id: The repository.
        revision: The commit that was pushed.
        folder: The run's folder, with its prediction tables.
        source: The run's data.

    Returns:
        What was found; or, when it could not be done, why.

    Raises:
        ParityError: The published model answers differently, or cannot be loaded.
    """
    from hf_imgcls.measure.multilabel_table import MultiLabelTable, load_table
    from hf_imgcls.measure.parity import check_parity
    from hf_imgcls.measure.predictions import PREDICTIONS_FILE

    if source.dataset is None or source.data is None:
        return source.reason
    split = next((name for name in _SPLITS if (folder / PREDICTIONS_FILE.format(split=name)).is_file()), None)
    if split is None:
        return f"{folder} has no predictions to compare with: neither test nor validation was measured"
    if split not in source.dataset.splits:
        return f"the data has no {split} split any more"
    if differences := compare_data(folder, source.dataset.record, split):
        return "the data is not what the run was measured on. " + " ".join(differences)
    table = load_table(folder / PREDICTIONS_FILE.format(split=split))
    thresholds = table.thresholds if isinstance(table, MultiLabelTable) else None
    with tempfile.TemporaryDirectory(prefix="hf_imgcls_consumer_") as place:
        return check_parity(
            f"{repo_id} at {revision[:10]}",
            source.dataset.splits[split],
            table.examples,
            table.labels,
            source.data,
            thresholds=thresholds,
            max_samples=MAX_VERIFIED,
            batch_size=_BATCH_SIZE,
            consumer=Stranger(repo_id, revision, Path(place)),
            are_files=source.dataset.are_files,
        )


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
    """A process with an empty cache and nothing of ours, which knows a repository's name and the user's token.

    Args:
        repo_id: The repository.
        revision: The commit.
        place: An empty folder for its cache and the images that it is shown.
    """

    def __init__(self, repo_id: str, revision: str, place: Path) -> None:
        self.repo_id, self.revision, self.place = repo_id, revision, place
        self.device_type = ""
        self.description = ""

    def answer(self, images: Iterator[Picture], batch_size: int) -> Iterator[list[dict[str, Any]]]:
        """See `hf_imgcls.measure.parity.Consumer`."""
        paths = [_as_file(image, self.place / f"{number}.png") for number, image in enumerate(images)]
        answers = self.place / "answers.jsonl"
        request = {"model": self.repo_id, "revision": self.revision, "images": paths, "batch_size": batch_size}
        self._run(json.dumps({**request, "answers": str(answers)}))
        with answers.open(encoding="utf-8") as lines:
            about = json.loads(next(lines))
            self.device_type = about["device_type"]
            version = about["transformers"]
            self.description = f"pipeline of transformers {version} on {self.device_type}, from the Hub"
            for line in lines:
                yield json.loads(line)

    def _run(self, request: str) -> None:
        from huggingface_hub import get_token

        environment = {name: value for name, value in os.environ.items() if name not in _OF_THIS_MACHINE}
        environment |= {"HF_HOME": str(self.place / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"HF_TOKEN": token} if (token := get_token()) else {}
        # As text, so that the script's folder, with modules of ours, does not come first on its path.
        script = (Path(__file__).parent / "consumer.py").read_text(encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-c", script], input=request, env=environment, cwd=self.place,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode:
            from hf_imgcls.tokens import hide_secrets

            last = hide_secrets(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "no output")
            raise ParityError(
                f"{self.repo_id} at {self.revision[:10]} is pushed, but a consumer cannot use it: {last}",
                'pipeline("image-classification", model=...) that answers',
                "push again; if it stays so, load it yourself to see the whole error",
            )
