#!/usr/bin/env python
"""Score a saved model, or one from the Hub, and check that pipeline("image-classification") answers the same.

    python recipes/measure.py --model_name_or_path outputs/digits_vit                        # the run's own test split
    python recipes/measure.py --model_name_or_path outputs/digits_vit --split validation --goals "accuracy>=0.93"
    python recipes/measure.py --model_name_or_path microsoft/resnet-50 --dataset_name imagenet-1k --split validation
    python recipes/measure.py --model_name_or_path outputs/digits_vit/onnx_int8                 # an exported model
    python recipes/measure.py --predictions outputs/digits_vit              # the report again, without a model
    python recipes/measure.py --compare outputs/digits_vit outputs/digits_convnext      # on the same examples
    torchrun --nproc_per_node 2 recipes/measure.py --model_name_or_path outputs/digits_vit --test_dir my_photos

Classes are matched by name. The numbers go to <output_dir>/<split>_results.json, by default beside the runs, in
outputs/<dataset>_<model>_measured.
"""

import sys
from dataclasses import replace
from pathlib import Path

from hf_imgcls.arguments.fields import Arguments
from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recall import find_run, names_dataset, recall_arguments
from hf_imgcls.commands.command import run_recipe
from hf_imgcls.digests import recording
from hf_imgcls.errors import ArgumentError, printable
from hf_imgcls.measure.report.goals import choose_exit_code, parse_goals
from hf_imgcls.offline import go_offline_without_network
from hf_imgcls.peers import get_peers
from hf_imgcls.process import check_launch, set_up_logging
from hf_imgcls.run_folder import check_run, compare_data

FLAGS = (
    "model_name_or_path", "model_revision", "output_dir", "num_processes", "use_cpu",
    "per_device_eval_batch_size", "dataloader_num_workers",
    "alpha_background", "cache_decoded_images", "decoder", "intensity_range", "max_image_pixels",
)  # fmt: skip


def main() -> None:
    # Whatever is wrong with the arguments is said before torch is imported.
    argv = sys.argv[1:]
    args = read_arguments(argv)
    parse_goals(args.measure.goals or [])
    check_launch(args.fit.num_processes)
    set_up_logging(args)
    go_offline_without_network(args.fit.model_name_or_path, args.data.dataset_name)
    get_peers().watch()  # from here on processes wait for each other
    if args.measure.compare or args.measure.predictions:
        sys.exit(measure_tables(args))
    changes = check_run(args.fit.model_name_or_path)

    from hf_imgcls.classifier.saved_reading import adopt_reading
    from hf_imgcls.classifier.source import find_manifest
    from hf_imgcls.compat.arguments import build_training_arguments
    from hf_imgcls.data.apart import count_seen
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images
    from hf_imgcls.measure.run_report import check_measuring, report_score
    from hf_imgcls.measure.saved_model import measure_saved_model

    runtime = build_training_arguments(args.training, args.hub_token)
    args = replace(args, data=adopt_reading(args.data, args.fit.model_name_or_path, args.fit.model_revision))

    # Data: the run's own, unless another was named
    with runtime.main_process_first(desc="loading the dataset"):
        dataset = load_image_dataset(args.data)
        # The training split is looked at in examples only.
        train = dataset.splits.pop("train", None) if args.measure.split != "train" else None
        origin = find_manifest(args.fit.model_name_or_path, args.data, args.fit.model_revision)
        dataset = count_seen(check_images(dataset, args.data), origin, "model")
    check_measuring(args.measure, dataset)
    notes = [] if names_dataset(argv) else compare_data(args.fit.model_name_or_path, dataset.record, args.measure.split)

    # Score, write, compare with pipeline(), report
    score = measure_saved_model(args.fit.model_name_or_path, dataset, args.measure.split, args, runtime)
    for note in filter(None, (*notes, changes)):
        print(printable(f"  note: {note}"))
    if train is not None:
        dataset.splits["train"] = train
    sys.exit(choose_exit_code(report_score(args.fit.model_name_or_path, score, dataset, args, runtime)))


def measure_tables(args: Arguments) -> int:
    """Work on prediction tables alone: compare two, or report on one again."""
    from hf_imgcls.measure.run_report import compare_runs, find_tables, report_table

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


def read_arguments(argv: list[str]) -> Arguments:
    """Parse the command line, completed by the run's recipe."""
    args = parse_arguments(recall_arguments(argv), description=__doc__, groups=("data", "measure", "score"), also=FLAGS)
    measure = args.measure
    if measure.predictions or measure.compare:
        if "output_dir" not in args.explicit:
            path = Path(measure.predictions or "outputs")
            names = [Path(run).stem if Path(run).is_file() else Path(run).name for run in measure.compare or ()]
            folder = path / "_vs_".join(names) if names else path if path.is_dir() else path.parent
            args.training["output_dir"] = str(folder)
        return args
    if "model_name_or_path" not in args.explicit:
        raise ArgumentError("no model is named", "--model_name_or_path", "name a run's folder or a model on the Hub")
    if "output_dir" not in args.explicit:
        model = Path(args.fit.model_name_or_path)
        if (run := find_run(model)) != model:  # an exported model is called after its format, like those of other runs
            args.training["output_dir"] += f"_of_{run.name}"
        args.training["output_dir"] += "_measured"
    return args


if __name__ == "__main__":
    run_recipe(main)
