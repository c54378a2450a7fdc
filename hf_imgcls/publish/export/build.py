"""From a finished run to exported models beside it: written, held against the original, and only then given a name.

Everything is made in one hidden folder beside the result and moved at the end, so that neither a kill nor a full disk
leaves half a model under a name that somebody loads.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hf_imgcls.classifier.exported import ExportedClassifier
from hf_imgcls.classifier.loading import load_classifier
from hf_imgcls.classifier.pipeline import PipelineConsumer
from hf_imgcls.classifier.preprocess import Normalizer
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.classifier.source import pin_source
from hf_imgcls.compat.exporters import explain_export
from hf_imgcls.compat.models import keep_fast_processor
from hf_imgcls.data.calibration import read_batches, read_calibration, take_rows
from hf_imgcls.errors import DataError, ModelError, OutputError, ParityError, UserError, find_full_disk
from hf_imgcls.layout import EXPORT_FILE, QUANTIZERS_FILE
from hf_imgcls.measure.parity import check_parity, draw_rows
from hf_imgcls.measure.score import score_folder
from hf_imgcls.measure.scored_answers import build_scored
from hf_imgcls.measure.tables import PredictionTable
from hf_imgcls.publish.export.acceptance import THROUGHPUT_BATCH_SIZE, compare_accuracy, measure_export
from hf_imgcls.publish.export.exporter import ExportSource, find_exporter
from hf_imgcls.records import Estimate

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset

logger = logging.getLogger(__name__)

WORK_FOLDER = ".export.partial"
_LITTLE_SPACE_BYTES = 2**20
_NUM_SERVED = 32  # all predictions are compared with the PyTorch model's; this is about reading files
# This process alone, whatever others run: exported models run on a CPU.
_ALONE = SimpleNamespace(process_index=0, num_processes=1, is_main_process=True, device=torch.device("cpu"))


def export_model(
    model_name_or_path: str | Path, dataset: ImageDataset, args: Arguments, output_dir: Path, batch_size: int = 32
) -> list[UserError]:
    """Export a saved classifier to the formats of ``--export_formats``, one folder each. Called on one process.

    Args:
        model_name_or_path: A run's folder, any saved classifier, or a Hub id.
        dataset: Its test split (or validation split, if there is no other) is what the exports are judged on. INT8
            formats take activation ranges from the training split, and choose layers by the validation split.
        args: The group ``export``, and how images are decoded.
        output_dir: Where the folders go, each named after its format.
        batch_size: Images per forward pass when scoring.

    Returns:
        What was wrong with formats that were not written: they answer otherwise than they may, cannot take this model,
        or need a package or split that is not there. Of such a one nothing is left; the others are whole. For these see
        `hf_imgcls.publish.export.table.show_exports`.

    Raises:
        OutputError: Something could not be written.
        DataError: There are no images to measure on.
        ModelError: The model cannot be loaded.
    """
    check_labels(dataset)
    finals = find_folders(args, output_dir)
    split = _choose_split(dataset)
    classifier = load_classifier(model_name_or_path, args.fit.model_revision, data=args.data)
    model, processor = classifier.model, classifier.processor
    if isinstance(model, ExportedClassifier):
        raise DataError(f"{model_name_or_path} is an exported model", "a PyTorch model", "name the run it comes from")
    score = _Scorer(dataset, args, batch_size)
    original = functools.cache(functools.partial(score, model_name_or_path, revision=args.fit.model_revision))
    rows = take_rows(dataset, split, THROUGHPUT_BATCH_SIZE, seed=0)
    pixels = torch.from_numpy(np.concatenate(list(read_batches(rows, dataset, processor, args.data, 1))))
    failures: list[UserError] = []
    with _open_work_folder(output_dir) as work:
        source = ExportSource(
            model=model.to("cpu").eval(),
            processor=processor,
            image_size=(pixels.shape[-2], pixels.shape[-1]),
            normalizer=Normalizer.from_processor(processor),
            options=args.publish,
            work=work / "intermediate",
            read_calibration=functools.partial(
                read_calibration, dataset, processor, args.data, args.publish.calibration_samples
            ),
            quantizers=find_quantizers(model_name_or_path, args),
        )
        if "validation" in dataset.splits:
            source.measure_drop = functools.partial(_measure_drop, source, original, score)
        for name, final in finals.items():
            exporter = find_exporter(name)
            folder = work / "results" / final.name
            folder.mkdir()
            try:
                with _explain_full_disk(final):
                    with explain_export(source.model, final.name):
                        written = exporter.write(source, folder)
                    _complete(folder, source)
                    answers = score(folder, split)
                    record = measure_export(
                        final.name, folder, written, exporter, source, original(split), answers, pixels
                    )
                    record.save(folder / EXPORT_FILE)
                    _check_served(folder, dataset, answers, args, batch_size)
                    _move(folder, final)
            except UserError as error:
                logger.error("%s: not written", final.name)
                failures.append(error)
                if isinstance(error, ParityError):  # nor does an older one speak for this model
                    shutil.rmtree(final, ignore_errors=True)
            else:
                logger.info("%s: %s", final.name, final)
    return failures


def find_folders(args: Arguments, output_dir: Path) -> dict[str, Path]:
    """Format -> the folder that its export is to have; each format once.

    Raises:
        OutputError: There is another folder of that name.
    """
    ending = "_folded" if args.publish.fold_preprocessing else ""
    finals = {name: output_dir / f"{name}{ending}" for name in args.publish.export_formats or ()}
    for final in finals.values():
        if final.exists() and not (final / EXPORT_FILE).is_file():
            raise OutputError(
                f"{final} is there already and is no export of ours",
                "no such folder",
                "rename it, or choose --output_dir",
            )
    return finals


def check_labels(dataset: ImageDataset) -> None:
    """Refuse what exports cannot be judged on.

    Raises:
        DataError: Images have several labels: what is compared is the first answer.
    """
    if dataset.is_multi_label:
        raise DataError(
            "export_formats with several labels per image",
            "one label per image: an export is judged by its first answer",
            "leave out --export_formats; optimum-cli export onnx --model RUN writes one that nobody has compared",
        )


def _check_served(
    folder: Path, dataset: ImageDataset, answers: PredictionTable, args: Arguments, batch_size: int
) -> None:
    """Let ``pipeline()`` answer some of the split's files with an exported model.

    Raises:
        ParityError: It does not answer what was scored.
    """
    data = copy.copy(args.data)
    data.trust_remote_code = True  # the program in this folder is our own
    check_parity(
        PipelineConsumer(folder, None, data, prefers_own=True),
        draw_rows(dataset.splits[answers.split], _NUM_SERVED),
        build_scored(answers.examples, answers.labels),
        reading=Reading.from_arguments(data),
        batch_size=batch_size,
    )


class _Scorer:
    """Scores models on a dataset's splits, on this process alone; programs among them are our own."""

    def __init__(self, dataset: ImageDataset, args: Arguments, batch_size: int) -> None:
        self._dataset, self._data, self._batch_size = dataset, args.data, batch_size

    def __call__(self, model: str | Path, split: str, revision: str = "main") -> PredictionTable:
        classifier = load_classifier(model, revision, data=self._data, trusts_programs=True)
        table = score_folder(
            classifier, self._dataset, self._data, split=split, batch_size=self._batch_size, state=cast(Any, _ALONE)
        ).table
        assert isinstance(table, PredictionTable)  # one process has every example, with one label
        return table


def _measure_drop(
    source: ExportSource, original: Callable[[str], PredictionTable], score: _Scorer, folder: Path
) -> Estimate:
    _complete(folder, source)
    return compare_accuracy(original("validation"), score(folder, "validation"))


def _complete(folder: Path, source: ExportSource) -> None:
    """What a consumer's ``from_pretrained`` looks for beside the model's file."""
    source.model.config.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    keep_fast_processor(source.processor, folder)


def find_quantizers(model_name_or_path: str | Path, args: Arguments) -> Path | None:
    """What quantisation-aware training has left beside a model, in a folder or in its commit on the Hub."""
    if Path(model_name_or_path).is_dir():
        path = Path(model_name_or_path, QUANTIZERS_FILE)
        return path if path.is_file() else None
    source = pin_source(model_name_or_path, args.data, args.fit.model_revision)
    source.pop("trust_remote_code")
    try:
        return Path(hf_hub_download(str(model_name_or_path), QUANTIZERS_FILE, **source))
    except EntryNotFoundError:  # also where only the cache is asked and does not have it
        return None


def _choose_split(dataset: ImageDataset) -> str:
    for split in ("test", "validation"):
        if split in dataset.splits:
            return split
    raise DataError(
        "the dataset has neither a test nor a validation split",
        "images that exported models are measured on",
        "name some with --test_dir, --test_file or --test_split",
    )


@contextmanager
def _open_work_folder(output_dir: Path) -> Iterator[Path]:
    """A folder on the same disk as the result; what a killed export left there goes away first."""
    work = output_dir / WORK_FOLDER
    output_dir.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    try:
        for name in ("intermediate", "results"):
            (work / name).mkdir(parents=True)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(folder: Path, final: Path) -> None:
    """Give a finished folder its name. An older export of that name goes away; between two, there may be none."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if final.exists():
        final.rename(folder.with_name(f"old_{final.name}"))
    folder.rename(final)


@contextmanager
def _explain_full_disk(final: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The runtimes' own writers have no errno to tell, and their errors may have been explained already.
        is_full = find_full_disk(error) is not None
        is_other = isinstance(error, UserError) and not isinstance(error, ModelError)
        if is_other or not (is_full or shutil.disk_usage(final.parent).free <= _LITTLE_SPACE_BYTES):
            raise
        raise OutputError(
            f"{final} could not be written, the disk is full: {error}",
            "room for the exported model, twice while it is made",
            "free some space, or choose another --output_dir",
        ) from error
