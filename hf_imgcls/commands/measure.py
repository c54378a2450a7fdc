"""Score a saved model, or one from the Hub, and check that pipeline("image-classification") answers the same.

    hf-imgcls measure outputs/digits_vit                        # the run's own test split
    hf-imgcls measure outputs/digits_vit --split validation --goals "accuracy>=0.93"
    hf-imgcls measure microsoft/resnet-50 --dataset_name imagenet-1k --split validation
    hf-imgcls measure outputs/digits_vit/onnx_int8              # an exported model
    hf-imgcls measure --predictions outputs/digits_vit          # the report again, without a model
    hf-imgcls measure --compare outputs/digits_vit outputs/digits_convnext      # on the same examples
    hf-imgcls measure outputs/digits_vit --test_dir my_photos --num_processes 2

Classes are matched by name. The numbers go to <output_dir>/<split>_results.json, by default beside the runs, in
outputs/<dataset>_<model>_measured. `python recipes/measure.py` takes the same command line.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.arguments.first_word import name_first_word
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recall import find_run, names_dataset, recall_arguments
from hf_imgcls.digests import recording
from hf_imgcls.errors import ArgumentError, printable
from hf_imgcls.measure.report.goals import choose_exit_code, parse_goals
from hf_imgcls.offline import go_offline_without_network
from hf_imgcls.peers import get_peers
from hf_imgcls.process import check_launch, set_up_logging
from hf_imgcls.run_folder import check_run, compare_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hf_imgcls.arguments.fields import Arguments

FLAGS = (
    "model_name_or_path", "model_revision", "output_dir", "num_processes", "use_cpu",
    "per_device_eval_batch_size", "dataloader_num_workers",
    "alpha_background", "cache_decoded_images", "decoder", "intensity_range", "max_image_pixels",
)  # fmt: skip


def main() -> None:
    """Run the command line."""
    # Whatever is wrong with the arguments is said before torch is imported.
    argv = name_first_word(sys.argv[1:], "model_name_or_path")
    args = read_arguments(argv)
    parse_goals(args.measure.goals or [])
    check_launch(args.fit.num_processes)
    set_up_logging(args)
    go_offline_without_network(args.fit.model_name_or_path, args.data.dataset_name)
    get_peers().watch()  # from here on processes wait for each other
    if args.measure.compare or args.measure.predictions:
        sys.exit(measure_tables(args))
    sys.exit(measure_model(args, is_own_data=not names_dataset(argv)))


def measure_model(args: Arguments, *, is_own_data: bool) -> int:
    """Score a model, hold it against ``pipeline()``, and report.

    Args:
        args: Of the command line.
        is_own_data: Whether the data are those of the run that the model is of: then differences are told.

    Returns:
        The exit code: 3 if a goal was missed, else 0.
    """
    model = str(args.fit.model_name_or_path)
    changes = check_run(model)

    from hf_imgcls.classifier.saved_reading import adopt_reading
    from hf_imgcls.classifier.source import find_manifest
    from hf_imgcls.data.apart import count_seen
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images
    from hf_imgcls.fit.training_arguments import build_training_arguments
    from hf_imgcls.measure.judge import check_measuring, measure_saved_model, report_score

    runtime = build_training_arguments(args.training, args.hub_token)
    args = replace(args, data=adopt_reading(args.data, model, args.fit.model_revision))
    with runtime.main_process_first(desc="loading the dataset"):
        dataset = load_image_dataset(args.data)
        # The training split is looked at in examples only.
        train = dataset.splits.pop("train", None) if args.measure.split != "train" else None
        origin = find_manifest(model, args.data, args.fit.model_revision)
        dataset = count_seen(check_images(dataset, args.data), origin, "model")
    check_measuring(args.measure, dataset)
    notes = compare_data(model, dataset.record, args.measure.split) if is_own_data else []
    score = measure_saved_model(model, dataset, args.measure.split, args, runtime)
    for note in filter(None, (*notes, changes)):
        print(printable(f"  note: {note}"))
    if train is not None:
        dataset.splits["train"] = train
    return choose_exit_code(report_score(model, score, dataset, args, runtime))


def measure_tables(args: Arguments) -> int:
    """Work on prediction tables alone: compare two, or report on one again.

    Returns:
        The exit code: 3 if a goal was missed, else 0.
    """
    from hf_imgcls.measure.judge import compare_runs, find_tables
    from hf_imgcls.measure.report.assemble import report_table

    folder = Path(args.training["output_dir"])
    paths = [Path(path) for path in args.measure.compare or (str(args.measure.predictions),)]
    changes = [check_run(path if path.is_dir() else path.parent) for path in paths]
    goals = []
    if args.measure.compare:
        compare_runs(args.measure.compare, args.measure.split, folder, args.data.split_seed)
    else:
        table, validation = find_tables(str(args.measure.predictions), args.measure.split)
        with recording(folder):
            goals = report_table(table, validation, None, args, folder)
    for note in filter(None, changes):
        print(printable(f"  note: {note}"))
    return choose_exit_code(goals)


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Parse the command line, completed by the run's recipe.

    Raises:
        ArgumentError: Something about it is wrong.
    """
    no_model = ArgumentError("no model is named", "a run's folder or a model on the Hub", "hf-imgcls measure RUN")
    if not argv:
        raise no_model
    args = parse_arguments(
        recall_arguments(argv), description=__doc__, groups=("data", "measure", "score"), also=FLAGS,
        positional="model_name_or_path",
    )  # fmt: skip
    measure = args.measure
    if measure.predictions or measure.compare:
        if "output_dir" not in args.explicit:
            path = Path(measure.predictions or "outputs")
            names = [Path(run).stem if Path(run).is_file() else Path(run).name for run in measure.compare or ()]
            folder = path / "_vs_".join(names) if names else path if path.is_dir() else path.parent
            args.training["output_dir"] = str(folder)
        return args
    if "model_name_or_path" not in args.explicit:
        raise no_model
    if "output_dir" not in args.explicit:
        model = Path(str(args.fit.model_name_or_path))
        if (run := find_run(model)) != model:  # an exported model is called after its format, like those of other runs
            args.training["output_dir"] += f"_of_{run.name}"
        args.training["output_dir"] += "_measured"
    return args
