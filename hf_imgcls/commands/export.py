"""Export a run's model for other runtimes, smaller and faster, each measured against the PyTorch model.

    hf-imgcls export outputs/digits_vit --formats onnx openvino
    hf-imgcls export outputs/digits_vit --formats onnx_int8 openvino_int8 --max_accuracy_drop 0.01
    hf-imgcls export outputs/digits_vit --formats onnx --fold_preprocessing     # uint8 image in, scores out
    hf-imgcls export microsoft/resnet-50 --dataset_name imagenet-1k --formats onnx --output_dir outputs/resnet

Each format gets a folder of its own in the run's folder, and export.json in it says what was measured: agreement,
accuracy, size, latency. An export that answers otherwise than it may is an error, and leaves nothing behind.
`python recipes/export.py` takes the same command line.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.arguments.first_word import name_first_word
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recall import names_dataset, recall_arguments
from hf_imgcls.digests import recording
from hf_imgcls.errors import ArgumentError, join_errors, printable
from hf_imgcls.layout import RUN_FILE
from hf_imgcls.process import check_launch, set_up_logging
from hf_imgcls.run_folder import check_run, compare_data, hold_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset

FLAGS = ("model_name_or_path", "model_revision", "output_dir", "num_processes", "per_device_eval_batch_size")


def main() -> None:
    """Run the command line."""
    # Whatever is wrong with the arguments is said before torch is imported.
    argv = name_first_word(sys.argv[1:], "model_name_or_path")
    args = read_arguments(argv)
    check_launch(args.fit.num_processes or 1)
    hold_folder(Path(args.training["output_dir"]))
    set_up_logging(args)
    export_run(args, is_own_data=not names_dataset(argv))


def export_run(args: Arguments, dataset: ImageDataset | None = None, *, is_own_data: bool) -> None:
    """Write ``--formats``, measure them, compare, and only then give each its name.

    Args:
        args: Of the command line; nobody else may write into ``output_dir``.
        dataset: What they are measured on; by default what ``args`` name, with every image looked at.
        is_own_data: Whether the data are those of the run: then differences are told.

    Raises:
        UserError: A format was refused; the others are whole.
    """
    model, output_dir = str(args.fit.model_name_or_path), Path(args.training["output_dir"])
    changes = check_run(model)

    from hf_imgcls.classifier.saved_reading import adopt_reading
    from hf_imgcls.publish.card import write_card
    from hf_imgcls.publish.export.build import export_model
    from hf_imgcls.publish.export.exporter import check_formats
    from hf_imgcls.publish.export.table import show_exports

    check_formats(args.publish.export_formats or [])
    args = replace(args, data=adopt_reading(args.data, model, args.fit.model_revision))
    dataset = _load(args) if dataset is None else dataset
    split = "test" if "test" in dataset.splits else "validation"
    notes = compare_data(model, dataset.record, split) if is_own_data else []
    batch_size = args.training.get("per_device_eval_batch_size") or 32
    with recording(output_dir, amends=("report/*",)):
        failures = export_model(model, dataset, args, output_dir, batch_size)
        show_exports(output_dir)
    for note in filter(None, (*notes, changes)):
        print(printable(f"  note: {note}"))
    if (output_dir / RUN_FILE).is_file():
        write_card(output_dir)
    if failures:
        raise join_errors(failures)


def _load(args: Arguments) -> ImageDataset:
    """Load what exports are measured on.

    Of the training split a few images are needed, and only where its bad ones are left out must all of them be looked
    at, to draw the same ones.
    """
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images

    dataset = load_image_dataset(args.data)
    train = None if args.data.on_bad_image == "skip" else dataset.splits.pop("train", None)
    dataset = check_images(dataset, args.data)
    if train is not None:
        dataset.splits["train"] = train
    return dataset


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Parse the command line, completed by the run's recipe.

    Raises:
        ArgumentError: Something about it is wrong.
    """
    no_model = ArgumentError("no model is named", "a run's folder or a model on the Hub", "hf-imgcls export RUN ...")
    if not argv:
        raise no_model
    argv = [word.replace("--formats", "--export_formats") if word.startswith("--formats") else word for word in argv]
    groups = ("data", "pixels", "export")
    argv = recall_arguments(argv)
    args = parse_arguments(argv, description=__doc__, groups=groups, also=FLAGS, positional="model_name_or_path")
    if "model_name_or_path" not in args.explicit:
        raise no_model
    if not args.publish.export_formats:
        raise ArgumentError("no format is named", "--formats with at least one", "for example --formats onnx openvino")
    if "output_dir" not in args.explicit:
        model = str(args.fit.model_name_or_path)
        if not Path(model).is_dir():
            raise ArgumentError(f"{model} is no folder to export into", "--output_dir", "name a folder")
        args.training["output_dir"] = model
    return args
