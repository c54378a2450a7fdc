"""The functions of ``import hf_imgcls``: what the commands do, for scripts and notebooks.

Names and values are checked as on the command line. What a command prints and logs, these print and log too; instead of
ending the process they raise errors, see `hf_imgcls.errors`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hf_imgcls.arguments.first_word import find_source
from hf_imgcls.arguments.known import known_arguments
from hf_imgcls.arguments.parse import make_arguments
from hf_imgcls.commands.command import give_back
from hf_imgcls.earlier_start import RunFinished
from hf_imgcls.errors import ArgumentError, printable
from hf_imgcls.layout import EXPORT_FILE, RECIPE_FILE
from hf_imgcls.process import set_up_logging
from hf_imgcls.run import Report, Run, open_report, open_run

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.classifier.loading import Classifier
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.measure.tables import Table
    from hf_imgcls.records import ComparisonRecord, ExportRecord, ParityRecord, PushRecord

# How files become pixels: looked at when data is loaded.
_READING = ("alpha_background", "decoder", "intensity_range", "max_image_pixels")
_SOURCES = ("dataset_name", "train_dir", "train_file")
# Of the group "data", what training needs as well.
_ALSO_TRAINING = ("cache_dir", "token", "trust_remote_code", "download_attempts")


def load_data(source: Any = None, **names: Any) -> ImageDataset:
    """Load images with labels, look at every image, and tell splits, counts and what was noticed.

    Args:
        source: ``"digits"``, a dataset's id on the Hub, a folder of class folders, a file of names and labels (CSV and
            so on), or a ``datasets.DatasetDict``, which is written into the cache of `datasets` for it. It may be left
            out where ``train_dir`` or its like is given.
        **names: Any argument of the group ``data`` of ``hf-imgcls finetune --help``, for example ``max_train_samples``.

    Returns:
        Its splits; what is missing of validation and test is cut from train.

    Raises:
        ArgumentError: Something about the names or values is wrong.
        DataError: Something about the data is wrong.
    """
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images

    if source is not None:
        name, value = _name_source(source)
        if said := [other for other in _SOURCES if names.get(other) is not None]:
            raise ArgumentError(f"the data is {value}, and {said[0]} is given too", "one of them", "leave one out")
        names = {name: value, **names}
    args = make_arguments(groups=("data",), also=_READING, **names)
    set_up_logging(args)
    with give_back():
        dataset = check_images(load_image_dataset(args.data), args.data)
    dataset.arguments = names
    return dataset


def _name_source(source: Any) -> tuple[str, str]:
    """The argument that names a source of data, and its value."""
    if isinstance(source, (str, Path)):
        return find_source(str(source)), str(source)
    from hf_imgcls.data.in_memory import keep_on_disk

    return "dataset_name", str(keep_on_disk(source))


def train(
    data: ImageDataset,
    model: Any = None,
    output_dir: str | Path | None = None,
    *,
    callbacks: Sequence[Any] = (),
    metrics: Sequence[Any] = (),
    train_transform: Any = None,
    loss: Any = None,
    processor: Any = None,
    **names: Any,
) -> Run:
    """Fine-tune a classifier, judge it, and leave its folder, as ``hf-imgcls finetune`` does.

    The same call goes on with a run that was stopped, and returns one that is finished.

    Args:
        data: From `load_data`.
        model: A model's id on the Hub or its folder, a `Classifier`, a `Run`, or a ``torch.nn.Module`` whose forward
            takes ``pixel_values`` and returns ``logits``. Leave it out for ``model_type``, which trains from scratch.
        output_dir: The run's folder; by default ``outputs/<data>_<model>``.
        callbacks: ``transformers.TrainerCallback`` objects or classes.
        metrics: ``evaluate`` modules, or paths of their files, that are computed beside the run's own metrics.
        train_transform: Called with each batch of training images, see `hf_imgcls.fit.hooks.Hooks`.
        loss: ``loss(logits, labels, num_examples)``, see `hf_imgcls.fit.hooks.Hooks`.
        processor: The image processor of a ``model`` that is a module.
        **names: Any argument of ``hf-imgcls finetune --help`` that is not about loading data.

    Returns:
        The run. Goals that were missed are in its report.

    Raises:
        ArgumentError: Something about the names or values is wrong.
        UserError: Something else stands in the way.
        Interrupted: A signal came; the same call goes on.
    """
    from hf_imgcls.commands.finetune import finetune
    from hf_imgcls.fit.hooks import Hooks

    _check_loading_names(data, names)
    given: dict[str, Any] = {"output_dir": output_dir, "metrics": list(metrics) or None}
    module = None
    if isinstance(model, (str, Path)):
        given["model_name_or_path"] = model
    elif _is_module(model):
        module = model
    elif model is not None:
        given["model_name_or_path"] = _name_model(model)
    if said := [name for name, value in given.items() if value is not None and names.get(name) is not None]:
        raise ArgumentError(f"{said[0]} is given twice", "one value", f"leave out {said[0]}")
    given = {name: value for name, value in given.items() if value is not None}
    args = make_arguments(**{**data.arguments, **given, **names})
    asked = {"find_lr": args.fit.find_lr, "tune": args.fit.tune, "do_train=False": not args.training["do_train"]}
    if said := [name for name, is_asked in asked.items() if is_asked]:
        raise ArgumentError(f"{said[0]} leaves no run", "a run that trains", "use the command hf-imgcls finetune")
    objects = [metric for metric in metrics if not isinstance(metric, str)]  # the others are in the recipe
    hooks = Hooks(train_transform, loss, callbacks, objects, module, processor)
    args = hooks.record(args)
    with give_back(), suppress(RunFinished):  # which is told
        finetune(args, hooks, data)
    return open_run(args.training["output_dir"])


def _check_loading_names(data: ImageDataset, names: dict[str, Any]) -> None:
    if not data.arguments:
        raise ArgumentError("the data does not say where it is from", "what load_data returns", "use load_data")
    known = known_arguments()
    for name in names:
        about_loading = name in known and (known[name].group == "data" or name in _READING)
        if about_loading and name not in _ALSO_TRAINING:
            raise ArgumentError(
                f"{name} is given to train", "arguments about training", f"load_data(..., {name}=...) takes it"
            )


def _is_module(model: Any) -> bool:
    from torch import nn

    return isinstance(model, nn.Module)


def _name_model(model: Any) -> str:
    """The folder or id of what a user calls a model.

    Raises:
        ArgumentError: It is nothing of the kind.
    """
    if isinstance(model, (str, Path)):
        return str(model)
    if isinstance(model, Run):
        return str(model.folder)
    name = getattr(model, "name", None)
    if not isinstance(name, str):
        kinds = "an id on the Hub, a folder, a Run or a Classifier"
        raise ArgumentError(f"the model is of type {type(model).__name__}", kinds, "pass one of these")
    return name


def score(model: Run | Classifier | str | Path, data: ImageDataset, split: str = "test") -> Table:
    """Return what a model answers to each image of a split; its classes go by name. Nothing is written.

    Of several processes each scores a part, and the main one gets the table, the others ``None``.

    Args:
        model: A run, a classifier, a folder or a model's id on the Hub.
        data: From `load_data`.
        split: ``test``, ``validation`` or ``train``.

    Raises:
        DataError: There is no such split.
        ModelError: The model cannot be loaded, or lacks a class of the data.
    """
    from hf_imgcls.measure.score import score_folder

    args = _measure_arguments(data, model_name_or_path=_name_model(model))
    return cast("Table", score_folder(_load(model, args), data, args.data, split=split).table)


def check_parity(model: Run | Classifier | str | Path, data: ImageDataset, split: str = "test") -> ParityRecord:
    """Check that ``pipeline("image-classification")`` answers what is scored, on up to 1,000 images of a split.

    Args:
        model: As of `score`.
        data: From `load_data`.
        split: ``test``, ``validation`` or ``train``.

    Raises:
        ParityError: It answers differently.
        DataError: There is no such split.
        ModelError: The model cannot be loaded, or lacks a class of the data.
    """
    from hf_imgcls.measure.judge import check_served, print_parity
    from hf_imgcls.measure.score import score_folder

    args = _measure_arguments(data, model_name_or_path=_name_model(model))
    classifier = _load(model, args)
    scored = score_folder(classifier, data, args.data, split=split)
    record = check_served(scored, classifier, data, args, classifier.batch_size)
    print_parity(record)
    return record


def _load(model: Any, args: Arguments) -> Classifier:
    """The classifier that a user names, or hands over."""
    from hf_imgcls.classifier.loading import Classifier, load_classifier

    return model if isinstance(model, Classifier) else load_classifier(_name_model(model), data=args.data)


def _measure_arguments(data: ImageDataset, **names: Any) -> Arguments:
    also = ("model_name_or_path", *_READING)
    return make_arguments(groups=("data", "measure"), also=also, **data.arguments, **names)


def report(
    table: Table,
    goals: Sequence[str] = (),
    slice_columns: Sequence[str] = (),
    folder: str | Path | None = None,
    data: ImageDataset | None = None,
    metrics: Sequence[Any] = (),
) -> Report:
    """Report on a prediction table: intervals, slices, calibration, examples, and what became of goals.

    Args:
        table: From `score`, `Run.table` or `Table.load`.
        goals: For example ``"accuracy>=0.93"``.
        slice_columns: Columns of the dataset whose groups are compared.
        folder: Gets ``report/``; by default a temporary one, which goes when the report does.
        data: From `load_data`: for pictures, and slices by what is measured on them.
        metrics: ``evaluate`` modules, as of `train`.

    Raises:
        ArgumentError: A goal or a column is unknown.
        MissingExtraError: What draws is not installed (extra ``report``).
    """
    from hf_imgcls.arguments.recall import find_run
    from hf_imgcls.digests import recording
    from hf_imgcls.measure.report.assemble import report_table
    from hf_imgcls.measure.tables import PREDICTIONS_FILE, Table

    given = {"goals": goals, "slice_columns": slice_columns, "metrics": metrics}
    asked: dict[str, Any] = {name: list(values) for name, values in given.items() if values}
    args = _measure_arguments(data, **asked) if data else make_arguments(groups=("measure",), **asked)
    beside = find_run(str(table.source.get("model", ""))) / PREDICTIONS_FILE.format(split="validation")
    validation = Table.load(beside) if table.split != "validation" and beside.is_file() else None
    owner = tempfile.TemporaryDirectory(prefix="report_") if folder is None else None
    place = Path(owner.name if owner is not None else str(folder))
    with recording(place):
        report_table(table, validation, data, args, place)
    return open_report(place, owner)


def compare(a: Table | Run, b: Table | Run) -> ComparisonRecord:
    """Compare two models on the same images, print the verdict on the second, and return all of it.

    Args:
        a: The answers of the model there was; of a run, those on its test split.
        b: The answers of the model that may take its place.

    Raises:
        DataError: They are about other images.
    """
    from hf_imgcls.measure.compare import compare_tables, describe_comparison

    first, second = (item.table() if isinstance(item, Run) else item for item in (a, b))
    record = compare_tables(first, second)
    print(printable(describe_comparison(record)))
    return record


def export(run: Run | str | Path, formats: Sequence[str] = ("onnx",), **names: Any) -> list[ExportRecord]:
    """Write a run's model for other runtimes, each held against the original on the run's own test split.

    Args:
        run: The run, or its folder.
        formats: For example ``"onnx"``, ``"openvino_int8"``.
        **names: Any argument of the group ``export`` of ``hf-imgcls export --help``.

    Returns:
        What was measured of each format.

    Raises:
        UserError: A format was refused or cannot be written; the others are whole.
    """
    from hf_imgcls.commands.export import FLAGS, export_run
    from hf_imgcls.records import ExportRecord
    from hf_imgcls.run_folder import hold_folder

    folder = open_run(_name_model(run)).folder
    names = {"num_processes": None, **names, "export_formats": list(formats)}
    args = make_arguments(
        groups=("data", "pixels", "export"), also=FLAGS, config=folder / RECIPE_FILE,
        **{**names, "model_name_or_path": folder, "output_dir": folder},
    )  # fmt: skip
    set_up_logging(args)
    with give_back():
        hold_folder(folder)
        export_run(args, is_own_data=True)
    return [ExportRecord.load(folder / name / EXPORT_FILE) for name in formats]


def push(
    run: Run | str | Path, repo_id: str | None = None, *, dry_run: bool = False, **names: Any
) -> PushRecord | None:
    """Push a finished run to the Hub, in one commit that is verified before and after.

    Args:
        run: The run, or its folder.
        repo_id: For example ``"me/digits"``; by default what the run's recipe says.
        dry_run: Check everything and show what would be sent; send nothing.
        **names: Any argument of ``hf-imgcls push --help``.

    Returns:
        What was pushed; None after a dry run.

    Raises:
        PushError: Something must not be published, or the Hub did not take it.
        ParityError: A consumer of the files gets other answers than were scored.
    """
    from hf_imgcls.commands.push import FLAGS
    from hf_imgcls.publish.hub import push_run

    folder = open_run(_name_model(run)).folder
    names = {**names, "run": folder, "dry_run": dry_run}
    if repo_id is not None:
        names["hub_model_id"] = repo_id
    args = make_arguments(groups=("push",), also=FLAGS, config=folder / RECIPE_FILE, **names)
    set_up_logging(args)
    with give_back():
        return push_run(folder, args)
