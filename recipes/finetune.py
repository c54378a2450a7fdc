#!/usr/bin/env python
"""Fine-tune an image classifier and leave a folder that pipeline("image-classification") loads.

    accelerate launch recipes/finetune.py --config recipes/configs/digits_vit_tiny.yaml
    accelerate launch recipes/finetune.py --config recipes/configs/cifar10_vit_base.yaml --learning_rate 1e-4
    accelerate launch recipes/finetune.py --train_dir my_photos --model_name_or_path facebook/convnext-tiny-224

Every command line of transformers' run_image_classification.py works here unchanged.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.commands.command import run_recipe
from hf_imgcls.digests import seal_run
from hf_imgcls.errors import Interrupted, UserError, join_errors, printable
from hf_imgcls.layout import BAD_IMAGES_FILE, BATCH_PICTURE, LR_RANGE_PICTURE, RUN_FILE
from hf_imgcls.measure.report.goals import choose_exit_code, parse_goals
from hf_imgcls.offline import go_offline_without_network
from hf_imgcls.peers import get_peers
from hf_imgcls.process import check_launch, is_main_process, set_up_logging
from hf_imgcls.run_folder import (
    begin_run,
    borrow_folder,
    check_disk_space,
    check_run,
    mark_interrupted,
    open_output_folder,
)


def main() -> None:
    # Whatever is wrong with the arguments, the processes or the output folder is said before torch is imported.
    args = asked = parse_arguments(description=__doc__, also=("dry_run",))
    parse_goals(args.measure.goals or [])
    check_launch(args.fit.num_processes)
    output_dir = open_output_folder(args)
    set_up_logging(args)
    for name in (args.fit.model_name_or_path, args.fit.teacher_model):
        check_run(name)
    go_offline_without_network(args.fit.model_name_or_path, args.fit.teacher_model, args.data.dataset_name)
    get_peers().watch()  # from here on processes wait for each other
    if args.publish.dry_run:
        from hf_imgcls.fit.rehearsal import rehearse

        # The same run, of a few steps and into a folder that will be gone
        output_dir = borrow_folder(output_dir)
        args = rehearse(args, output_dir)
    elif args.fit.find_lr:
        from hf_imgcls.fit.lr_range import prepare_range_test

        output_dir = borrow_folder(output_dir)
        args = prepare_range_test(args, output_dir)
    elif args.fit.tune:
        from hf_imgcls.fit.tune import prepare_search

        output_dir = borrow_folder(output_dir)
        args = prepare_search(args, output_dir)
    pushes = bool(args.training.get("push_to_hub")) and args.training["do_train"] and is_main_process()
    if pushes:  # whether it can be pushed is known before hours are spent on it
        from hf_imgcls.publish.hub import check_access

        check_access(args)

    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    from hf_imgcls.arguments.augmentation import resolve_augmentation
    from hf_imgcls.classifier.preprocess import Preprocessor
    from hf_imgcls.classifier.saved_reading import adopt_reading
    from hf_imgcls.classifier.source import find_commit, find_manifest
    from hf_imgcls.compat.arguments import build_training_arguments, use_all_cores
    from hf_imgcls.data.apart import count_seen, save_manifest
    from hf_imgcls.data.calibration import read_calibration
    from hf_imgcls.data.contact_sheet import draw_batch
    from hf_imgcls.data.load import load_image_dataset
    from hf_imgcls.data.pixel_statistics import resolve_pixel_statistics
    from hf_imgcls.data.safety import check_augmentation
    from hf_imgcls.data.scan import check_images
    from hf_imgcls.data.transforms import attach_transforms
    from hf_imgcls.fit.adapt import adapt_model
    from hf_imgcls.fit.advice import advise, advise_precision, describe_data, describe_plan, estimate_cost, read_sizes
    from hf_imgcls.fit.batch_size import settle_batch_size
    from hf_imgcls.fit.build import build_trainer, settle_unused_parameters, settle_workers
    from hf_imgcls.fit.checkpoints import find_checkpoint
    from hf_imgcls.fit.ladder import climb
    from hf_imgcls.fit.lr_range import describe_curve, draw_curve, find_learning_rate
    from hf_imgcls.fit.model import build_model, check_model
    from hf_imgcls.fit.optimizers import check_optimizer
    from hf_imgcls.fit.probe import train_probe
    from hf_imgcls.fit.pruning import prune_model
    from hf_imgcls.fit.quantization import add_quantizers
    from hf_imgcls.fit.rehearsal import StepTimes
    from hf_imgcls.fit.same_run import check_same_run_everywhere, describe_run
    from hf_imgcls.fit.sampling import choose_order_seed
    from hf_imgcls.fit.saving import save_run
    from hf_imgcls.fit.settle_policy import describe_policy, settle_policy
    from hf_imgcls.fit.soup import cook_soup
    from hf_imgcls.fit.tune import finish_search, search
    from hf_imgcls.measure.final_model import finish_saved_model
    from hf_imgcls.measure.probe_baseline import answer_with_probe, solve_probe
    from hf_imgcls.measure.results import write_metrics
    from hf_imgcls.measure.run_report import check_measuring, report_score
    from hf_imgcls.measure.saved_model import measure_saved_model
    from hf_imgcls.measure.task import choose_accumulator
    from hf_imgcls.publish.base_model import describe_model
    from hf_imgcls.publish.card import write_card
    from hf_imgcls.publish.during_training import start_pushing
    from hf_imgcls.publish.export.build import check_labels, export_model, find_folders
    from hf_imgcls.publish.export.exporter import check_formats
    from hf_imgcls.publish.export.table import show_exports
    from hf_imgcls.publish.hub import push_run
    from hf_imgcls.publish.verify import RunData

    check_formats(args.publish.export_formats or [])
    find_folders(args, output_dir)
    use_all_cores()
    training_args = build_training_arguments(args.training, args.hub_token)
    set_seed(training_args.seed)
    disable_progress_bar()  # loading and saving flash by; training has a bar of its own

    # Data, every image of it looked at, and before that what a look at the model's config can tell
    if training_args.do_train:
        check_optimizer(training_args)
        check_model(args.fit, args.data)
    if args.fit.model_type is None:
        args = replace(args, data=adopt_reading(args.data, str(args.fit.model_name_or_path), args.fit.model_revision))
    with training_args.main_process_first(desc="loading the dataset"):
        dataset = check_images(load_image_dataset(args.data), args.data, report=output_dir / BAD_IMAGES_FILE)
        origin = find_manifest(args.fit.model_name_or_path, args.data, args.fit.model_revision)
        dataset = count_seen(dataset, origin, "base" if training_args.do_train else "model")
        dataset = count_seen(dataset, find_manifest(args.fit.teacher_model, args.data, "main"), "teacher")
    check_measuring(args.measure, dataset)
    if args.publish.export_formats:
        check_labels(dataset)

    if training_args.do_train:
        # Model and transforms
        pixels = resolve_pixel_statistics(args.data, dataset)
        build = partial(build_model, args.fit, pixels, dataset.labels, multi_label=dataset.is_multi_label)
        model, processor = build()
        image_size = Preprocessor(processor).target_size
        if args.fit.prune_ratio:
            model = prune_model(model, args.fit.prune_ratio, image_size)
        args, asked = settle_policy(args, asked, training_args, model, image_size, dataset, output_dir / RUN_FILE)
        augmentation = check_augmentation(dataset, processor, args.data, resolve_augmentation(args.data))
        seed, order_seed = training_args.seed, choose_order_seed(training_args)
        batches = attach_transforms(dataset, processor, args.data, seed, augmentation, order_seed=order_seed)
        if args.data.show_batch and is_main_process():
            draw_batch(batches, dataset.labels, Path(asked.training["output_dir"]) / BATCH_PICTURE)
        model = adapt_model(model, args.fit)
        if args.fit.quantization_aware_training:
            model = add_quantizers(
                model, read_calibration(dataset, processor, args.data, args.publish.calibration_samples)
            )

        # Where an earlier start of this run stopped, if there was one
        identity = describe_run(model, training_args, dataset.record, args)
        check_same_run_everywhere(identity)
        checkpoint = find_checkpoint(output_dir, training_args.resume_from_checkpoint, identity)
        check_disk_space(output_dir, model.num_parameters() * 4, training_args)
        settle_workers(training_args, batches, args.explicit)
        settle_batch_size(training_args, model, image_size, checkpoint, streaming=args.data.streaming)
        settle_unused_parameters(training_args, model, image_size)
        sizes = read_sizes(dataset)
        show_advice(
            [
                *describe_data(dataset, image_size, sizes),
                *describe_policy(asked, dataset, training_args),
                *advise(asked, describe_plan(asked, dataset, training_args, model, image_size, sizes)),
                *advise_precision(training_args, model.num_parameters()),
            ]
        )
        metric = choose_accumulator(dataset, training_args.metric_for_best_model)
        pusher = start_pushing(args) if pushes else None
        trainer = build_trainer(model, processor, batches, metric, args, training_args, identity)
        trainer.push_checkpoint = pusher
        if args.fit.find_lr:
            found = find_learning_rate(trainer)
            if is_main_process():
                draw_curve(found, Path(asked.training["output_dir"]) / LR_RANGE_PICTURE)
                print(describe_curve(found))
            return
        if args.fit.tune:
            folder = Path(asked.training["output_dir"])
            print("", *finish_search(search(trainer, asked, folder), asked, folder), sep="\n")
            return
        base = args.fit.model_name_or_path
        commit = find_commit(base, args.data, args.fit.model_revision) if base else None
        about = describe_model(model, args.fit, args.data, commit)
        begin_run(output_dir, args, training_args, dataset.record, checkpoint and checkpoint.path, commit, about)
        save_manifest(dataset, output_dir)

        if args.publish.dry_run:
            trainer.add_callback(times := StepTimes())
        else:
            solve_probe(trainer, dataset, batches, args)

        # Training, the best weights saved, the validation split measured once more
        try:
            resumed = checkpoint and str(checkpoint.path)
            if args.fit.adaptation == "probe":
                result = train_probe(trainer, dataset, batches, args)
            elif args.fit.adaptation == "auto":
                result = climb(trainer, dataset, batches, args, resumed)
            else:
                result = trainer.train(resume_from_checkpoint=resumed)
        except Interrupted:
            mark_interrupted(output_dir)
            raise
        if result.metrics and is_main_process():  # before anything else: it cannot be measured again
            write_metrics(output_dir, "train", result.metrics)
        if args.fit.model_soup:
            cook_soup(trainer, output_dir)
        save_run(trainer, processor, dataset.record, args, output_dir)
        if training_args.do_eval:
            metrics = finish_saved_model(output_dir, dataset, args, training_args, trainer.evaluate())
            if is_main_process():
                write_metrics(output_dir, "eval", metrics)

        if args.publish.dry_run:
            measure_saved_model(output_dir, dataset, "validation", args, training_args)
            rate = metrics["eval_samples_per_second"] if training_args.do_eval else None
            show_advice(estimate_cost(trainer, times.seconds, asked, dataset, rate))
            return

    # Measuring, through the saved folder as a consumer would load it; the test split is touched here, and only here
    saved = output_dir if training_args.do_train else args.fit.model_name_or_path
    if training_args.do_eval and not training_args.do_train:
        measure_saved_model(saved, dataset, "validation", args, training_args)
    goals, score = [], None
    if training_args.do_predict:
        if training_args.do_train:
            answer_with_probe(build, trainer, dataset, batches, args, output_dir)
        score = measure_saved_model(saved, dataset, "test", args, training_args)
        goals = report_score(saved, score, dataset, args, training_args)
    if training_args.do_train:
        trainer.finish_tracking(score.numbers() if score is not None else {})

    # The same model for other runtimes, each held against this one
    failures = []
    if args.publish.export_formats and training_args.do_train and is_main_process():
        failures = export_model(output_dir, dataset, args, output_dir, training_args.per_device_eval_batch_size)
        show_exports(output_dir)
    if training_args.do_train and training_args.should_save:
        seal_run(output_dir, UserError.exit_code if failures else choose_exit_code(goals))
        write_card(output_dir, notes=args.publish.card_notes)
    if pushes and pusher is not None:
        pusher.finish()
    if failures:
        raise join_errors(failures)

    # To the Hub, when all of it is as it was asked for
    if pushes:
        push_run(output_dir, args, RunData(dataset, args.data))
    sys.exit(choose_exit_code(goals))


def show_advice(lines: list[str]) -> None:
    if is_main_process():
        print("", *map(printable, lines), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    run_recipe(main)
