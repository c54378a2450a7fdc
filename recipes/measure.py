#!/usr/bin/env python
"""Score a saved model, or one from the Hub, and check that pipeline("image-classification") answers the same.

    python recipes/measure.py --model_name_or_path outputs/digits_vit                        # the run's own test split
    python recipes/measure.py --model_name_or_path outputs/digits_vit --split validation
    python recipes/measure.py --model_name_or_path microsoft/resnet-50 --dataset_name imagenet-1k --split validation
    torchrun --nproc_per_node 2 recipes/measure.py --model_name_or_path outputs/digits_vit --test_dir my_photos

Classes are matched by name. The numbers go to <output_dir>/<split>_results.json, by default beside the runs, in
outputs/<dataset>_<model>_measured.
"""

import sys

from hf_imgcls.arguments import Arguments, parse_arguments
from hf_imgcls.errors import ArgumentError
from hf_imgcls.measure.earlier_run import compare_data, names_dataset, recall_arguments
from hf_imgcls.run import check_launch, run_recipe, set_up_logging

FLAGS = (
    "model_name_or_path", "model_revision", "output_dir", "num_processes", "use_cpu",
    "per_device_eval_batch_size", "dataloader_num_workers",
    "alpha_background", "cache_decoded_images", "decoder", "max_image_pixels",
)  # fmt: skip


def main() -> None:
    # Whatever is wrong with the arguments is said before torch is imported.
    argv = sys.argv[1:]
    args = read_arguments(argv)
    check_launch(args.fit.num_processes)
    set_up_logging(args.notes)

    from hf_imgcls.compat import build_training_arguments
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.scan import check_images
    from hf_imgcls.measure.saved_model import measure_saved_model

    runtime = build_training_arguments(args.training, args.hub_token)

    # Data: the run's own, unless another was named
    with runtime.main_process_first(desc="loading the dataset"):
        dataset = load_image_dataset(args.data)
        dataset.splits = {name: split for name, split in dataset.splits.items() if name == args.measure.split}
        dataset = check_images(dataset, args.data)
    notes = [] if names_dataset(argv) else compare_data(args.fit.model_name_or_path, dataset.record, args.measure.split)

    # Score, write, compare with pipeline()
    measure_saved_model(args.fit.model_name_or_path, dataset, args.measure.split, args, runtime)
    for note in notes:
        print(f"  note: {note}")


def read_arguments(argv: list[str]) -> Arguments:
    """Parse the command line, completed by the run's recipe."""
    args = parse_arguments(recall_arguments(argv), description=__doc__, groups=("data", "measure", "score"), also=FLAGS)
    if "model_name_or_path" not in args.explicit:
        raise ArgumentError("no model is named", "--model_name_or_path", "name a run's folder or a model on the Hub")
    if "output_dir" not in args.explicit:
        args.training["output_dir"] += "_measured"
    return args


if __name__ == "__main__":
    run_recipe(main)
