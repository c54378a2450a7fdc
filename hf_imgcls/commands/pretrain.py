"""Pretrain a backbone on images without labels, and leave a folder that finetune takes.

    hf-imgcls pretrain --method simclr --unlabelled_dir my_images --model_type convnext
    hf-imgcls pretrain --method dino --dataset_name cifar10 --model_type vit --num_train_epochs 100
    hf-imgcls finetune --model_name_or_path outputs/my_images_convnext_pretrained --train_dir photos

Of a dataset with labels its training split is used, the labels only to say what the features are worth; with the same
--split_seed, fine-tuning has the same validation and test images, which pretraining has not seen.
`accelerate launch recipes/pretrain.py` takes the same command line.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.arguments.training_policy import SCHEDULES_WITHOUT_WARMUP
from hf_imgcls.digests import seal_run
from hf_imgcls.errors import Interrupted
from hf_imgcls.layout import BAD_IMAGES_FILE, BATCH_PICTURE, DATA_FILE, RECIPE_FILE
from hf_imgcls.peers import get_peers
from hf_imgcls.process import check_launch, is_main_process, set_up_logging
from hf_imgcls.run_folder import begin_run, check_disk_space, mark_interrupted, open_output_folder

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan

FLAGS = (
    "output_dir", "overwrite_output_dir", "num_processes", "use_cpu", "seed", "run_name", "disable_tqdm", "log_level",
    "resume_from_checkpoint", "model_name_or_path", "model_type", "model_config", "config_name",
    "model_revision", "image_processor_name", "ignore_mismatched_sizes",
)  # fmt: skip


def main() -> None:
    """Run the command line."""
    args = read_arguments()
    check_launch(args.fit.num_processes)
    folder = open_output_folder(args)
    set_up_logging(args)
    get_peers().watch()  # from here on processes wait for each other
    pretrain(args, folder)


def pretrain(args: Arguments, folder: Path) -> None:
    """Train a backbone, save it, and tell what its features are worth.

    Args:
        args: Of the command line.
        folder: The run's, from `open_output_folder`.

    Raises:
        Interrupted: A signal came; the same command goes on.
    """
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    from hf_imgcls.arguments.augmentation import resolve_augmentation
    from hf_imgcls.classifier.source import find_commit
    from hf_imgcls.compat.arguments import use_all_cores
    from hf_imgcls.data.apart import save_manifest
    from hf_imgcls.data.contact_sheet import draw_batch
    from hf_imgcls.data.pixel_statistics import resolve_pixel_statistics
    from hf_imgcls.data.transforms import attach_transforms
    from hf_imgcls.fit.batch_size import resolve_batch_size
    from hf_imgcls.fit.checkpoints import find_checkpoint
    from hf_imgcls.fit.model import build_model
    from hf_imgcls.fit.optimizers import check_optimizer
    from hf_imgcls.fit.pretrain import build_pretrainer
    from hf_imgcls.fit.training_arguments import build_training_arguments
    from hf_imgcls.publish.base_model import describe_model

    use_all_cores()
    training_args = build_training_arguments(args.training, args.hub_token)
    check_optimizer(training_args)
    set_seed(training_args.seed)
    disable_progress_bar()
    args, dataset = _load(args, training_args, folder)

    # Model and views
    pixels = resolve_pixel_statistics(args.data, dataset)
    model, processor = build_model(args.fit, pixels, dataset.labels, multi_label=dataset.is_multi_label)
    batches = attach_transforms(dataset, processor, args.data, training_args.seed, resolve_augmentation(args.data))
    if args.data.show_batch and is_main_process():
        draw_batch(batches, dataset.labels, folder / BATCH_PICTURE)
    base = args.fit.model_name_or_path
    commit = find_commit(base, args.data, args.fit.model_revision) if base else None
    about = describe_model(model, args.fit, args.data, commit)
    untrained = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = build_pretrainer(model, processor, batches, dataset, args, training_args)
    checkpoint = find_checkpoint(folder, training_args.resume_from_checkpoint, trainer.identity)
    check_disk_space(folder, sum(p.numel() for p in trainer.model.parameters()) * 4, training_args)
    image_size = batches.train_transform.preprocessor.target_size
    resolve_batch_size(training_args, trainer.model, image_size, checkpoint, streaming=False)
    resumed = checkpoint.path if checkpoint else None
    begin_run(folder, args, training_args, dataset.record, resumed, commit, about)
    save_manifest(dataset, folder)
    _train(trainer, folder, resumed)
    if training_args.should_save:
        _save(trainer, untrained, processor, dataset, batches, args, folder)
        seal_run(folder)


def _load(args: Arguments, training_args: TrainingArguments, folder: Path) -> tuple[Arguments, ImageDataset]:
    """Load the data and look at every image; the arguments may follow how a base model's images are read."""
    from hf_imgcls.classifier.saved_reading import adopt_reading
    from hf_imgcls.classifier.source import find_manifest
    from hf_imgcls.data.apart import count_seen
    from hf_imgcls.data.load import load_image_dataset, load_unlabelled
    from hf_imgcls.data.scan import check_images

    name, revision = args.fit.model_name_or_path, args.fit.model_revision
    if args.fit.model_type is None:
        args = replace(args, data=adopt_reading(args.data, str(name), revision))
    with training_args.main_process_first(desc="loading the dataset"):
        load = load_unlabelled if args.data.unlabelled_dir else load_image_dataset
        dataset = check_images(load(args.data), args.data, report=folder / BAD_IMAGES_FILE)
        return args, count_seen(dataset, find_manifest(name, args.data, revision), "base")


def _train(trainer: Any, folder: Path, checkpoint: Path | None) -> None:
    from hf_imgcls.measure.results import write_metrics

    try:
        result = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    except Interrupted:
        mark_interrupted(folder)
        raise
    if result.metrics and is_main_process():
        write_metrics(folder, "train", result.metrics)


def _save(
    trainer: Any,
    untrained: dict[str, Any],
    processor: Any,
    dataset: ImageDataset,
    batches: BatchPlan,
    args: Arguments,
    folder: Path,
) -> None:
    """Save the backbone, and tell what it is worth."""
    from hf_imgcls.fit.pretrain import describe_neighbours, judge_backbone, save_backbone

    backbone = trainer.accelerator.unwrap_model(trainer.model).release()
    save_backbone(backbone, processor, folder)
    save_recipe(args, folder / RECIPE_FILE)
    dataset.record.save(folder / DATA_FILE)
    if trainer.args.world_size == 1:
        trainer.model = backbone
        after = judge_backbone(trainer, dataset, batches, args)
        backbone.load_state_dict(untrained)
        print(describe_neighbours(judge_backbone(trainer, dataset, batches, args), after))
    else:
        print("What the features are worth is not measured by several processes: probe the backbone to know.")
    print(f"The backbone is in {folder}: hf-imgcls finetune --model_name_or_path {folder}")


def read_arguments() -> Arguments:
    """Parse the command line; nothing is evaluated while training, and the images are varied more than for classes.

    Raises:
        ArgumentError: Something about it is wrong.
    """
    groups = ("data", "pixels", "augmentation", "pretrain", "training")
    args = parse_arguments(description=__doc__, groups=groups, also=FLAGS)
    if "output_dir" not in args.explicit:
        args.training["output_dir"] += "_pretrained"
    if "augmentation" not in args.explicit:
        args.data.augmentation = "views"
    settled = {"do_train": True, "do_eval": False, "eval_strategy": "no", "load_best_model_at_end": False}
    idle = sorted({"eval_strategy", "eval_steps", "metric_for_best_model", *settled} & args.explicit)
    if idle:
        args.notes.append(f"Nothing is evaluated while pretraining: {', '.join(idle)} are not used.")
    args.training |= settled
    if args.fit.model_type is not None:  # new weights would hardly move at transformers' 5e-5
        args.training.setdefault("learning_rate", 1e-3)
        rises = args.training.get("lr_scheduler_type") not in SCHEDULES_WITHOUT_WARMUP
        if rises and "warmup_steps" not in args.training:
            args.training.setdefault("warmup_ratio", 0.1)
    return args
