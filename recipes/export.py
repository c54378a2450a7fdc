#!/usr/bin/env python
"""Export a run's model for other runtimes, smaller and faster, each measured against the PyTorch model.

    python recipes/export.py outputs/digits_vit --formats onnx openvino
    python recipes/export.py outputs/digits_vit --formats onnx_int8 openvino_int8 --max_accuracy_drop 0.01
    python recipes/export.py outputs/digits_vit --formats onnx --fold_preprocessing     # uint8 image in, scores out
    python recipes/export.py microsoft/resnet-50 --dataset_name imagenet-1k --formats onnx --output_dir outputs/resnet

Each format gets a folder of its own in the run's folder, and export.json in it says what was measured: agreement,
accuracy, size, latency. An export that answers otherwise than it may is an error, and leaves nothing behind.
"""

import sys
from dataclasses import replace
from pathlib import Path

from hf_imgcls.arguments.fields import Arguments
from hf_imgcls.arguments.first_word import name_first_word
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recall import names_dataset, recall_arguments
from hf_imgcls.commands.command import run_recipe
from hf_imgcls.digests import recording
from hf_imgcls.errors import ArgumentError, join_errors, printable
from hf_imgcls.layout import RUN_FILE
from hf_imgcls.process import check_launch, set_up_logging
from hf_imgcls.run_folder import check_run, compare_data, hold_folder

FLAGS = ("model_name_or_path", "model_revision", "output_dir", "num_processes", "per_device_eval_batch_size")


def main() -> None:
    # Whatever is wrong with the arguments is said before torch is imported.
    argv = name_first_word(sys.argv[1:], "model_name_or_path")
    args = read_arguments(argv)
    output_dir = Path(args.training["output_dir"])
    check_launch(args.fit.num_processes or 1)
    hold_folder(output_dir)
    set_up_logging(args)
    changes = check_run(args.fit.model_name_or_path)

    from hf_imgcls.classifier.saved_reading import adopt_reading
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images
    from hf_imgcls.publish.card import write_card
    from hf_imgcls.publish.export.build import export_model
    from hf_imgcls.publish.export.exporter import check_formats
    from hf_imgcls.publish.export.table import show_exports

    check_formats(args.publish.export_formats or [])
    args = replace(args, data=adopt_reading(args.data, args.fit.model_name_or_path, args.fit.model_revision))

    # Data: the run's own, unless other was named; of the training split a few images are needed, and only where its bad
    # ones are left out must all of them be looked at, to draw the same ones
    dataset = load_image_dataset(args.data)
    train = None if args.data.on_bad_image == "skip" else dataset.splits.pop("train", None)
    dataset = check_images(dataset, args.data)
    split = "test" if "test" in dataset.splits else "validation"
    notes = [] if names_dataset(argv) else compare_data(args.fit.model_name_or_path, dataset.record, split)
    if train is not None:
        dataset.splits["train"] = train

    # Write, measure, compare, and only then give each its name
    batch_size = args.training.get("per_device_eval_batch_size") or 32
    with recording(output_dir, amends=("report/*",)):
        failures = export_model(args.fit.model_name_or_path, dataset, args, output_dir, batch_size)
        show_exports(output_dir)
    for note in filter(None, (*notes, changes)):
        print(printable(f"  note: {note}"))
    if (output_dir / RUN_FILE).is_file():
        write_card(output_dir)
    if failures:
        raise join_errors(failures)


def read_arguments(argv: list[str]) -> Arguments:
    """Parse the command line, completed by the run's recipe."""
    argv = [word.replace("--formats", "--export_formats") if word.startswith("--formats") else word for word in argv]
    groups = ("data", "pixels", "export")
    argv = recall_arguments(argv)
    args = parse_arguments(argv, description=__doc__, groups=groups, also=FLAGS, positional="model_name_or_path")
    if "model_name_or_path" not in args.explicit:
        raise ArgumentError("no model is named", "a run's folder or a model on the Hub", "recipes/export.py RUN ...")
    if not args.publish.export_formats:
        raise ArgumentError("no format is named", "--formats with at least one", "for example --formats onnx openvino")
    if "output_dir" not in args.explicit:
        if not Path(args.fit.model_name_or_path).is_dir():
            raise ArgumentError(
                f"{args.fit.model_name_or_path} is no folder to export into", "--output_dir", "name a folder"
            )
        args.training["output_dir"] = args.fit.model_name_or_path
    return args


if __name__ == "__main__":
    run_recipe(main)
