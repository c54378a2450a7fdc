"""The steps of a run, from the data to the pushed model, and what they hand to each other."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from hf_imgcls.arguments.augmentation import resolve_augmentation
from hf_imgcls.classifier.preprocess import Preprocessor
from hf_imgcls.classifier.saved_reading import adopt_reading
from hf_imgcls.classifier.source import find_commit, find_manifest
from hf_imgcls.compat.arguments import use_all_cores
from hf_imgcls.data.apart import count_seen, save_manifest
from hf_imgcls.data.calibration import read_calibration
from hf_imgcls.data.contact_sheet import draw_batch
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.pixel_statistics import resolve_pixel_statistics
from hf_imgcls.data.safety import check_augmentation
from hf_imgcls.data.scan import check_images
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.digests import seal_run
from hf_imgcls.errors import Interrupted, UserError, join_errors, printable
from hf_imgcls.fit.adapt import adapt_model
from hf_imgcls.fit.advice import advise, advise_precision, describe_data, describe_plan, estimate_cost, read_sizes
from hf_imgcls.fit.batch_size import resolve_batch_size
from hf_imgcls.fit.build import build_trainer, resolve_unused_parameters, resolve_workers
from hf_imgcls.fit.checkpoints import find_checkpoint
from hf_imgcls.fit.hooks import Hooks
from hf_imgcls.fit.ladder import train_auto
from hf_imgcls.fit.lr_range import describe_curve, draw_curve, find_learning_rate
from hf_imgcls.fit.model import build_model, check_model
from hf_imgcls.fit.optimizers import check_optimizer
from hf_imgcls.fit.own_model import build_own_model
from hf_imgcls.fit.probe import train_probe
from hf_imgcls.fit.pruning import prune_model
from hf_imgcls.fit.quantization import add_quantizers
from hf_imgcls.fit.rehearsal import StepTimes
from hf_imgcls.fit.resolve_policy import describe_policy, resolve_policy
from hf_imgcls.fit.same_run import check_same_run_everywhere, describe_run
from hf_imgcls.fit.sampling import choose_order_seed
from hf_imgcls.fit.saving import save_run
from hf_imgcls.fit.soup import average_checkpoints
from hf_imgcls.fit.training_arguments import build_training_arguments
from hf_imgcls.fit.tune import finish_search, search
from hf_imgcls.layout import BAD_IMAGES_FILE, BATCH_PICTURE, LR_RANGE_PICTURE, RUN_FILE
from hf_imgcls.measure.final_model import finish_saved_model
from hf_imgcls.measure.judge import check_measuring, measure_saved_model, report_score
from hf_imgcls.measure.metrics.own import load_own_metrics
from hf_imgcls.measure.probe_baseline import answer_with_probe, solve_probe
from hf_imgcls.measure.report.goals import choose_exit_code
from hf_imgcls.measure.results import list_results, write_metrics
from hf_imgcls.measure.task import choose_accumulator
from hf_imgcls.process import is_main_process
from hf_imgcls.publish.base_model import describe_model
from hf_imgcls.publish.card import write_card
from hf_imgcls.publish.during_training import start_pushing
from hf_imgcls.publish.export.build import check_labels, export_model, find_folders
from hf_imgcls.publish.export.exporter import check_formats
from hf_imgcls.publish.export.table import show_exports
from hf_imgcls.publish.hub import push_run
from hf_imgcls.publish.verify import RunData
from hf_imgcls.run_folder import begin_run, check_disk_space, mark_interrupted

if TYPE_CHECKING:
    from hf_imgcls.commands.start import Start
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.data.transforms import BatchPlan
    from hf_imgcls.measure.metrics.own import OwnMetric
    from hf_imgcls.measure.score import Score


class Finetuning:
    """A run under way. Its methods are its steps, in their order; each is called on every process.

    Args:
        start: What was settled before.
        hooks: Code of the user's.

    Attributes:
        args: What runs; `load_data` and `build_model` fill in what the user has left open.
        asked: What the user asked for, filled in alike.
        training_args: Built from ``args``; batch sizes are settled in `build_trainer`.
        validation: What the saved model scored on the validation split, once it has.
    """

    dataset: ImageDataset
    own: list[OwnMetric]
    batches: BatchPlan
    validation: Score | None = None

    def __init__(self, start: Start, hooks: Hooks | None = None) -> None:
        self.hooks = hooks or Hooks()
        self.args, self.asked, self.folder, self.pushes = start.args, start.asked, start.folder, start.pushes
        check_formats(self.args.publish.export_formats or [])
        find_folders(self.args, self.folder)
        use_all_cores()
        self.training_args = build_training_arguments(self.args.training, self.args.hub_token)
        set_seed(self.training_args.seed)
        disable_progress_bar()  # loading and saving flash by; training has a bar of its own

    def load_data(self, dataset: ImageDataset | None = None) -> None:
        """Load the data and look at every image, after what a look at the model's config can tell.

        Args:
            dataset: The data, if it is loaded already.
        """
        args, training_args = self.args, self.training_args
        name, revision = args.fit.model_name_or_path, args.fit.model_revision
        if training_args.do_train:
            check_optimizer(training_args)
            if self.hooks.model is None:
                check_model(args.fit, args.data)
        if name is not None:
            args = replace(args, data=adopt_reading(args.data, str(name), revision))
        with training_args.main_process_first(desc="loading the dataset"):
            if dataset is None:
                dataset = check_images(load_image_dataset(args.data), args.data, report=self.folder / BAD_IMAGES_FILE)
            else:  # which other runs may be given too
                dataset = replace(dataset, splits=dict(dataset.splits), record=copy.deepcopy(dataset.record))
            origin = find_manifest(name, args.data, revision)
            dataset = count_seen(dataset, origin, "base" if training_args.do_train else "model")
            dataset = count_seen(dataset, find_manifest(args.fit.teacher_model, args.data, "main"), "teacher")
        check_measuring(args.measure, dataset)
        self.own = load_own_metrics(args, dataset.labels, multi_label=dataset.is_multi_label)
        if args.publish.export_formats:
            check_labels(dataset)
        self.args, self.dataset = args, dataset

    def build_model(self) -> None:
        """Build the model for the dataset's classes, and the transforms that feed it."""
        args, dataset = self.args, self.dataset
        pixels = resolve_pixel_statistics(args.data, dataset)
        build: Any = partial(build_model, args.fit)
        if self.hooks.model is not None:
            build = partial(build_own_model, self.hooks)
        self.build = partial(build, pixels, dataset.labels, multi_label=dataset.is_multi_label)
        model, self.processor = self.build()
        self.image_size = Preprocessor(self.processor).target_size
        if args.fit.prune_ratio:
            model = prune_model(model, args.fit.prune_ratio, self.image_size)
        args, self.asked = resolve_policy(
            args, self.asked, self.training_args, model, self.image_size, dataset, self.folder / RUN_FILE
        )
        augmentation = check_augmentation(dataset, self.processor, args.data, resolve_augmentation(args.data))
        seed, order_seed = self.training_args.seed, choose_order_seed(self.training_args)
        self.batches = attach_transforms(
            dataset, self.processor, args.data, seed, augmentation,
            order_seed=order_seed, train_transform=self.hooks.train_transform,
        )  # fmt: skip
        if args.data.show_batch and is_main_process():
            draw_batch(self.batches, dataset.labels, self._asked_folder / BATCH_PICTURE)
        model = adapt_model(model, args.fit)
        if args.fit.quantization_aware_training:
            samples = args.publish.calibration_samples
            model = add_quantizers(model, read_calibration(dataset, self.processor, args.data, samples))
        self.args, self.model = args, model

    def build_trainer(self) -> None:
        """Find where an earlier start of this run stopped, settle batch size and workers, and put the Trainer together.

        What may be worth another try is told.
        """
        args, training_args, model, dataset = self.args, self.training_args, self.model, self.dataset
        identity = describe_run(model, training_args, dataset.record, args)
        check_same_run_everywhere(identity)
        checkpoint = find_checkpoint(self.folder, training_args.resume_from_checkpoint, identity)
        self.resumed = checkpoint.path if checkpoint else None
        check_disk_space(self.folder, model.num_parameters() * 4, training_args)
        resolve_workers(training_args, self.batches, args.explicit)
        resolve_batch_size(training_args, model, self.image_size, checkpoint, streaming=args.data.streaming)
        resolve_unused_parameters(training_args, model, self.image_size)
        sizes = read_sizes(dataset)
        plan = describe_plan(self.asked, dataset, training_args, model, self.image_size, sizes)
        _show(
            [
                *describe_data(dataset, self.image_size, sizes),
                *describe_policy(self.asked, dataset, training_args),
                *advise(self.asked, plan),
                *advise_precision(training_args, model.num_parameters()),
            ]
        )
        metric = choose_accumulator(dataset, training_args.metric_for_best_model, self.own)
        self.pusher = start_pushing(args) if self.pushes else None
        self.trainer = build_trainer(
            model, self.processor, self.batches, metric, args, training_args, identity, self.hooks
        )
        self.trainer.push_checkpoint = self.pusher

    def find_learning_rate(self) -> int:
        """Do not train, but find a learning rate, and draw and tell it."""
        found = find_learning_rate(self.trainer)
        if is_main_process():
            draw_curve(found, self._asked_folder / LR_RANGE_PICTURE)
            print(describe_curve(found))
        return 0

    def search(self) -> int:
        """Do not train once, but search for training arguments, and tell what was found."""
        found = search(self.trainer, self.asked, self._asked_folder)
        print("", *finish_search(found, self.asked, self._asked_folder), sep="\n")
        return 0

    def train(self) -> None:
        """Train, save the best weights, and measure the validation split once more.

        Raises:
            Interrupted: A signal came; the same command goes on.
        """
        args, folder = self.args, self.folder
        self._begin()
        self.times = StepTimes()
        if args.publish.dry_run:
            self.trainer.add_callback(self.times)
        else:
            solve_probe(self.trainer, self.dataset, self.batches, args)
        try:
            result = self._fit()
        except Interrupted:
            mark_interrupted(folder)
            raise
        if result.metrics and is_main_process():  # before anything else: it cannot be measured again
            write_metrics(folder, "train", result.metrics)
        if args.fit.model_soup:
            average_checkpoints(self.trainer, folder)
        save_run(self.trainer, self.processor, self.dataset.record, args, folder)
        if self.training_args.do_eval:
            self.validation = finish_saved_model(folder, self.dataset, args, self.training_args)
            metrics = list_results(self.validation, self.training_args)
            self.trainer.log(metrics)
            if is_main_process():
                write_metrics(folder, "eval", metrics)

    def _begin(self) -> None:
        """Write down what runs."""
        args, base = self.args, self.args.fit.model_name_or_path
        commit = find_commit(base, args.data, args.fit.model_revision) if base else None
        about = describe_model(self.model, args.fit, args.data, commit)
        begin_run(self.folder, args, self.training_args, self.dataset.record, self.resumed, commit, about)
        save_manifest(self.dataset, self.folder)

    def _fit(self) -> Any:
        """Train as ``--adaptation`` says; returns Trainer's own result."""
        args, parts = self.args, (self.trainer, self.dataset, self.batches, self.args)
        resumed = str(self.resumed) if self.resumed else None
        if args.fit.adaptation == "probe":
            return train_probe(*parts)
        if args.fit.adaptation == "auto":
            return train_auto(*parts, resumed)
        return self.trainer.train(resume_from_checkpoint=resumed)

    def estimate_cost(self) -> int:
        """Measure as a whole run would, and tell from a dry run's steps what that will cost."""
        parts = self.folder, self.dataset, "validation", self.args, self.training_args
        measure_saved_model(*parts, self.validation)
        rate = self.validation.metrics["samples_per_second"] if self.validation is not None else None
        _show(estimate_cost(self.trainer, self.times.seconds, self.asked, self.dataset, rate))
        return 0

    def judge(self) -> int:
        """Measure through the saved folder as a consumer would load it; the test split is touched here, and only here.

        Returns:
            The exit code: 3 if a goal was missed, else 0.
        """
        args, training_args, dataset = self.args, self.training_args, self.dataset
        saved = self.folder if training_args.do_train else str(args.fit.model_name_or_path)
        if training_args.do_eval and not training_args.do_train:
            self.validation = measure_saved_model(saved, dataset, "validation", args, training_args)
        goals, score = [], None
        if training_args.do_predict:
            if training_args.do_train:
                answer_with_probe(self.build, self.trainer, dataset, self.batches, args, self.folder)
            score = measure_saved_model(saved, dataset, "test", args, training_args)
            goals = report_score(saved, score, dataset, args, training_args, self.validation)
        if training_args.do_train:
            self.trainer.finish_tracking(score.numbers() if score is not None else {})
        return choose_exit_code(goals)

    def export(self, exit_code: int) -> None:
        """Write the same model for other runtimes, each held against this one; then the run is finished.

        Args:
            exit_code: What the run ends with, unless an export fails.

        Raises:
            UserError: An export was refused; what else there is to do has been done.
        """
        args, folder, training_args = self.args, self.folder, self.training_args
        failures = []
        if args.publish.export_formats and is_main_process():
            failures = export_model(folder, self.dataset, args, folder, training_args.per_device_eval_batch_size)
            show_exports(folder)
        if training_args.should_save:
            seal_run(folder, UserError.exit_code if failures else exit_code)
            write_card(folder, notes=args.publish.card_notes)
        if self.pusher is not None:
            self.pusher.finish()
        if failures:
            raise join_errors(failures)

    def push(self) -> None:
        """Push to the Hub, when all of it is as it was asked for."""
        if self.pushes:
            push_run(self.folder, self.args, RunData(self.dataset, self.args.data))

    @property
    def _asked_folder(self) -> Path:
        """The folder the user named, where a dry run, a range test or a search leaves what it found."""
        return Path(self.asked.training["output_dir"])


def _show(lines: Sequence[str]) -> None:
    if is_main_process():
        print("", *map(printable, lines), sep="\n", file=sys.stderr)
