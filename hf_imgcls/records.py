"""Typed, versioned JSON records: how one stage tells the next what it did.

A record is plain data, small enough to read in an editor, and is written in one step: a reader sees the old file or
the new one, never half of one. This module imports only the standard library.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hf_imgcls.errors import UserError

RecordT = TypeVar("RecordT", bound="Record")
BuiltT = TypeVar("BuiltT")

# Values of ``config.problem_type``, as transformers spells them.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"

# Names of baselines.
LARGEST_CLASS, PROBE = "largest class", "linear probe"

# Keys of config.json: what was found out about a trained model.
TEMPERATURE_KEY = "calibration_temperature"  # what its head was divided by
READING_KEY = "image_reading"  # how its images were read: alpha_background, intensity_range, where they were chosen
THRESHOLDS_KEY = "label_thresholds"  # by class id: from which sigmoid score on an image has the label


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON to ``path`` atomically: to a temporary file beside it, flushed, then renamed.

    Args:
        path: The file to create or replace; its folder must exist.
        content: Anything ``json`` can write. NaN and infinity are refused, since they are not JSON.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; a run's folder is shared like any other file of the user's.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass
class Record:
    """Base of all records; a subclass sets ``schema_version`` and raises it when a field changes its meaning."""

    schema_version: ClassVar[int] = 1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to ``path`` as JSON, atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The record as it is written."""
        return {"schema_version": self.schema_version, **dataclasses.asdict(self)}

    @classmethod
    def load(cls: type[RecordT], path: str | os.PathLike[str]) -> RecordT:
        """Read a record.

        Raises:
            UserError: The file is missing, is not JSON, or was written with another schema version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read: {error}", f"a {cls.__name__} as JSON", "run the stage that writes it again"
            ) from error
        version = content.pop("schema_version", None) if isinstance(content, dict) else None
        if version != cls.schema_version:
            raise UserError(
                f"{path} has schema_version {version}",
                f"schema_version {cls.schema_version} of {cls.__name__}",
                "read it with the release of hf_imgcls that wrote it, or run the stage again",
            )
        return build_record(cls, content, str(path))


def build_record(cls: type[BuiltT], content: Any, name: str) -> BuiltT:
    """Build a dataclass of this module from JSON, with the dataclasses in it.

    Args:
        cls: The dataclass.
        content: Field -> value.
        name: What an error calls it.

    Raises:
        UserError: The content does not fit.
    """
    try:
        return typing.cast(BuiltT, _build(cls, content))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{name} is damaged: {error}", f"the fields of {cls.__name__}", "run the stage that writes it again"
        ) from error


def _build(cls: Any, content: dict[str, Any]) -> Any:
    """Build a dataclass from JSON, including dataclasses nested in it, in lists and in dict values."""
    hints = typing.get_type_hints(cls)
    values = {}
    for item in dataclasses.fields(cls):
        if item.name not in content:
            continue
        value, hint = content[item.name], hints[item.name]
        nested = next((kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)), None)
        if isinstance(value, list) and nested is not None:
            value = [_build(nested, inner) for inner in value]
        elif isinstance(value, dict) and nested is not None:
            is_dict = typing.get_origin(hint) is dict
            value = {key: _build(nested, inner) for key, inner in value.items()} if is_dict else _build(nested, value)
        elif not _fits(value, hint):
            raise TypeError(f"{item.name} is {value!r}")
        values[item.name] = value
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a field's type, as far as its outermost part tells."""
    kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) or (hint,))]
    if typing.get_origin(hint) in (dict, list):
        kinds = [typing.get_origin(hint)]
    if any(not isinstance(kind, type) for kind in kinds):  # Any and the like
        return True
    return isinstance(value, tuple(kinds)) or (isinstance(value, int) and float in kinds)


@dataclass
class SplitRecord:
    """Where one split came from and what is in it.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        source: In words: the source's own split, or how it was cut.
        num_examples: Number of examples; ``None`` when streaming from a source that does not say.
        class_counts: Class name -> number of examples that have it; ``None`` when streaming.
        fingerprint: 16 hexadecimal digits that identify the contents: labels by name, sample indices and, unless
            ``--scan_images false``, the bytes of the image files; then another value, which does not notice a changed
            file. It depends neither on the machine nor on the place of the files. ``None`` when streaming, or before
            `check_images` of ``data.scan``.
        source_split: The source's own name of the split that it is, or was cut from.
        is_cut: Whether it is a part that was cut from that split.
        num_available: Examples before ``--max_*_samples`` took some of them.
        label_cardinality: Mean number of labels per example, where there may be several; else ``None``.
        num_without_label: Examples that show none of the classes, where there may be such; else ``None``.
    """

    name: str
    source: str
    num_examples: int | None = None
    class_counts: dict[str, int] | None = None
    fingerprint: str | None = None
    source_split: str | None = None
    is_cut: bool = False
    num_available: int | None = None
    label_cardinality: float | None = None
    num_without_label: int | None = None


@dataclass
class SharedImages:
    """Images that a held-out split has in common with what trained or selected the model.

    Attributes:
        split: ``test`` or ``validation``.
        other: ``train`` or ``validation``; with the prefix ``base_`` that of the run whose model this run started
            from, and of the runs before it; with ``teacher_`` that of its teacher's; with ``model_`` that of the run
            whose model is measured.
        num_images: Images of ``split`` that are also in ``other``.
        num_examples: Images of ``split``.
    """

    split: str
    other: str
    num_images: int
    num_examples: int

    def describe(self) -> str:
        """The finding as a sentence without its full stop."""
        origin, _, role = self.other.rpartition("_")
        whose = {"base": "the base model", "teacher": "the teacher", "model": "this model"}.get(origin)
        verb = "is" if self.num_images == 1 else "are"
        what = f"{verb} also in {role}" if not whose else f"trained {whose}"
        if whose and role == "validation":
            what = f"{verb} among the validation images of {whose}"
        return f"{self.num_images:,} of {self.num_examples:,} {self.split} images {what}"


@dataclass
class IdenticalImages:
    """What comparing the decoded pixels of all images found.

    Attributes:
        shared: Images that are in two splits; what a base model has seen comes first.
        num_conflicting: Images with the pixels of an image that has other labels.
    """

    shared: list[SharedImages] = field(default_factory=list)
    num_conflicting: int = 0


@dataclass
class SharedGroups:
    """Groups of ``--group_column`` that the source's own splits have in common.

    Attributes:
        split: ``test`` or ``validation``.
        other: ``train`` or ``validation``.
        num_groups: Groups in both.
        num_images: Images of ``split`` in such groups.
        num_examples: Images of ``split``.
    """

    split: str
    other: str
    num_groups: int
    num_images: int
    num_examples: int

    def describe(self, column: str) -> str:
        """The finding as a sentence without its full stop."""
        groups = f"{self.num_groups:,} group{'s' if self.num_groups > 1 else ''}"
        return (
            f"{self.num_images:,} of {self.num_examples:,} {self.split} images are of {groups} of {column!r} that "
            f"{'are' if self.num_groups > 1 else 'is'} also in {self.other}"
        )


@dataclass
class GroupRecord:
    """What became of the groups of ``--group_column``.

    Attributes:
        column: Its name.
        num_groups: Split -> groups in it; an image without a group is one of its own.
        shared: Groups that are in two splits.
    """

    column: str
    num_groups: dict[str, int]
    shared: list[SharedGroups] = field(default_factory=list)


@dataclass
class DataRecord(Record):
    """``data.json``: the dataset a run was trained and measured on.

    Attributes:
        source: Hub id, or the folder or file as the user named it.
        config: The dataset's configuration name.
        revision: The commit that was read, where the source has commits.
        labels: Class names; the position is the class id.
        image_column: The source's image column.
        label_column: The source's label column: a name, a path such as ``objects.category``, or names with commas
            between them.
        problem_type: ``single_label_classification`` or ``multi_label_classification``, as transformers names them.
        splits: ``train``/``validation``/``test`` -> record.
        image_modes: Source image mode (for example ``"RGB"``, ``"I;16"``) -> readable images of all splits together,
            the most frequent first; ``None`` where not every image was looked at.
        identical_images: Images in two splits, or with contradicting labels; ``None`` where not all were looked at.
        manifest_hash: Root hash of ``data_manifest.parquet``; ``None`` where there is none.
        groups: What became of the groups of ``--group_column``; ``None`` without one.
        pixel_mean: Mean of the training split's red, green and blue in [0, 1], where ``--image_mean dataset`` or
            ``--image_std dataset`` asked for it.
        pixel_std: The same for the standard deviation.
        notes: What was noticed and what was done about it, one sentence each.
    """

    source: str
    labels: list[str]
    image_column: str
    label_column: str
    problem_type: str = SINGLE_LABEL
    config: str | None = None
    revision: str | None = None
    splits: dict[str, SplitRecord] = field(default_factory=dict)
    image_modes: dict[str, int] | None = None
    identical_images: IdenticalImages | None = None
    manifest_hash: str | None = None
    groups: GroupRecord | None = None
    pixel_mean: list[float] | None = None
    pixel_std: list[float] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class ParityRecord(Record):
    """``parity.json``: whether the served model predicts what the scored model predicted.

    Attributes:
        num_examples: Images compared.
        num_agreeing: Images with the same top-1 class, ties included; where an image may have several labels, images
            with the same labels.
        num_ties: Images whose top-1 differs but whose two best scores are equal within ``tie_tolerance``; or whose
            labels differ by scores that lie within ``tie_tolerance`` of each other, on both sides of a threshold.
        top1_agreement: ``num_agreeing / num_examples``.
        max_probability_difference: Largest absolute difference of the scored top-1 class's probability; with several
            labels, of any class's.
        tie_tolerance: Probability difference under which two classes count as tied.
        consumer: What served the images, with version.
        split: The split that was compared.
        num_files: Images that the consumer was given as the files that they are; the others were made from arrays.
        read_otherwise: Why a plain ``pipeline()`` reads other pixels than were scored (``"16-bit"``, ``"transparent"``)
            -> number of such images. They were given to the consumer converted as well, which is what the numbers above
            count.
        metric: The metric of ``scored_value`` and ``plain_value``: ``accuracy``, or ``subset_accuracy`` with several
            labels.
        scored_value: It, on the images compared, as scored.
        plain_value: It, where a plain ``pipeline()`` is given the files themselves.
    """

    num_examples: int
    num_agreeing: int
    num_ties: int
    top1_agreement: float
    max_probability_difference: float
    tie_tolerance: float
    consumer: str
    split: str = ""
    num_files: int | None = None
    read_otherwise: dict[str, int] = field(default_factory=dict)
    metric: str | None = None
    scored_value: float | None = None
    plain_value: float | None = None


@dataclass
class RunIdentity:
    """What makes a run this run: a checkpoint of another one must not be continued.

    Attributes:
        transformers: Its version; optimizer states are laid out differently on another major version.
        labels: Class names by id.
        data: ``train``/``validation`` -> content fingerprint of the split.
        model: Class, configuration and number of trainable parameters.
        recipe: The arguments, as ``recipe.yaml`` has them; they may change, and that is told.
        world_size: Number of processes.
        per_device_train_batch_size: Images per process and micro-batch.
        gradient_accumulation_steps: Micro-batches per optimiser step.
    """

    transformers: str
    labels: list[str]
    data: dict[str, Any]
    model: dict[str, Any]
    recipe: dict[str, Any]
    world_size: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int

    @property
    def images_per_step(self) -> int:
        """Images behind one optimiser step, over all processes."""
        return self.world_size * self.per_device_train_batch_size * self.gradient_accumulation_steps


@dataclass
class FileRecord:
    """Size in bytes and SHA-256 (hexadecimal) of a file."""

    size: int
    sha256: str


@dataclass
class CheckpointRecord(Record):
    """``manifest.json`` of a checkpoint.

    Attributes:
        step: Optimiser steps done.
        run: The run it belongs to.
        is_evaluation_due: The run was stopped before the evaluation that belongs to this step was done.
        is_save_due: With ``is_evaluation_due``: a checkpoint belongs to this step besides.
        files: Path inside the checkpoint -> size and checksum, for every file but this.
        loss_sum: Sum of the mean training loss of all steps so far; None in records of older releases.
        train_seconds: Time that they took.
        num_starts: Starts of the run so far; those whose steps were lost do not count.
        checksum: SHA-256 of this record without this field, as JSON with sorted keys.
    """

    step: int
    run: RunIdentity
    is_evaluation_due: bool = False
    is_save_due: bool = False
    files: dict[str, FileRecord] = field(default_factory=dict)
    loss_sum: float | None = None
    train_seconds: float = 0.0
    num_starts: int = 1
    checksum: str = ""


@dataclass
class ModelRecord:
    """What is trained.

    Attributes:
        architecture: The model's class, for example ``"ViTForImageClassification"``.
        num_parameters: Of the model that is saved; an adapter is merged into it.
        num_trainable_parameters: Those that training changes, an adapter's included.
        base_license: What the base model's own card states; None where it states nothing or could not be read.
        base_license_name: Its name, where the licence is ``other``.
        base_license_link: Where its text is, where the licence is ``other``.
    """

    architecture: str
    num_parameters: int
    num_trainable_parameters: int
    base_license: str | None = None
    base_license_name: str | None = None
    base_license_link: str | None = None


@dataclass
class RunRecord(Record):
    """``run.json``: the state of a run, and what repeating it needs besides ``recipe.yaml``.

    Attributes:
        state: ``"running"`` (or killed), ``"interrupted"`` (the same command goes on) or ``"finished"``.
        recipe: The arguments, without secrets.
        seed: ``--seed``.
        data: Split -> content fingerprint.
        versions: Package -> version, and ``python``.
        code: Commit of the recipes' repository, ``"-dirty"`` behind it when files were changed; None outside git.
        hardware: Platform, processor, GPUs.
        world_size: Number of processes.
        per_device_train_batch_size: Images per process and micro-batch, as found by ``auto_find_batch_size``.
        gradient_accumulation_steps: Micro-batches per optimiser step.
        started_at: UTC, ISO 8601; of the last start.
        resumed_from: The checkpoints that the run went on from, in order.
        process: Host and process id of the last start, while it runs.
        exit_code: Of a finished run: 0, or 3 when a goal was not met.
        base_model: The pretrained model: Hub id, or folder as the user named it; None for one from scratch.
        base_model_revision: The commit of it that was loaded, where it came from the Hub.
        model: What is trained; None in records of older releases.
        files: Path in the folder of a finished run -> size and checksum; empty in records of older releases.
        checksum: SHA-256 of this record without this field, as JSON with sorted keys; empty while it runs.
        data_manifest: Root hash of ``data_manifest.parquet``; None where not every image was looked at.
        policy: The arguments in ``recipe`` that the user had left open and the training policy filled in.
        hooks: Code that was handed over from Python, name -> where it is from; the recipe alone does not repeat it.
    """

    state: str
    recipe: dict[str, Any]
    seed: int
    data: dict[str, Any]
    versions: dict[str, str]
    code: str | None
    hardware: dict[str, Any]
    world_size: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    started_at: str
    resumed_from: list[str] = field(default_factory=list)
    process: str = ""
    exit_code: int = 0
    base_model: str | None = None
    base_model_revision: str | None = None
    model: ModelRecord | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)
    checksum: str = ""
    data_manifest: str | None = None
    policy: list[str] = field(default_factory=list)
    hooks: dict[str, str] = field(default_factory=dict)


@dataclass
class PushRecord(Record):
    """``push.json``: what of a run is on the Hub. It stays on this machine.

    Attributes:
        repo_id: The repository.
        revision: The commit.
        url: Where it can be seen.
        files: What was published.
        branch: The branch that was pushed to.
        tag: The tag at that commit.
        card_sha256: Digest of ``README.md`` as it was pushed.
        parity: What a consumer of these files answered, compared with what was scored; that the Hub holds the same
            files, and that they load from there, has been checked then.
        not_verified: Why there is no ``parity``.
    """

    repo_id: str
    revision: str
    url: str
    files: list[str]
    branch: str = "main"
    tag: str | None = None
    card_sha256: str = ""
    parity: ParityRecord | None = None
    not_verified: str = ""


@dataclass
class Estimate:
    """A number measured on examples, and how far chance may have moved it.

    Attributes:
        value: The number; None where it is not defined, with the reason in ``remark``.
        low: Lower end of the two-sided confidence interval; None where there is none.
        high: Upper end.
        n: Examples behind the number.
        method: How the interval was made: ``"wilson"`` (shares), ``"clopper-pearson"`` (the smallest of many shares),
            ``"saddlepoint"`` (averages over classes or over decisions), ``"gamma"`` (mean losses), ``"logit"`` (average
            precision), ``"bootstrap"`` (calibration errors, differences of two models), ``"normal"`` (a class's
            calibration error), ``"newcombe"`` (two models that are right on the same examples), ``"order statistics"``
            (latency) or ``"none"``.
        remark: Why there is no number, or what it leaves out.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    remark: str = ""


@dataclass
class MetricComparison:
    """One metric of two models on the same examples.

    Attributes:
        a: The first model's value.
        b: The second model's value.
        difference: b - a, with its paired bootstrap interval.
        p: Of the test, two-sided.
        test: The test's name.
        verdict: On b: ``"better"``, ``"worse"`` or ``"not distinguishable"``.
    """

    a: float
    b: float
    difference: Estimate
    p: float
    test: str
    verdict: str


@dataclass
class Baseline:
    """A simple answer that a model is held against, on the same images.

    Attributes:
        name: ``"largest class"`` (the training split's largest class, always; with several labels per image each
            class's share of the training images as its score) or ``"linear probe"`` (a linear head on the features of
            the model that training began with).
        comparison: The baseline (a) and the model (b); None where it was not measured.
        metric: What ``comparison`` is about.
        answer: The class that is always answered, where there is one.
        num_train: Training images behind the baseline.
        remark: Why it was not measured.
    """

    name: str
    comparison: MetricComparison | None = None
    metric: str = ""
    answer: str = ""
    num_train: int | None = None
    remark: str = ""


@dataclass
class Baselines:
    """What a model was held against.

    Attributes:
        compared: The baselines.
        shortfall: Which of them the model is not certainly better than, and what to do, in words; empty where it is
            better than all that were measured.
    """

    compared: list[Baseline] = field(default_factory=list)
    shortfall: str = ""


@dataclass
class ReportRecord(Record):
    """``report/report.json``: what a classifier is worth on one split; every number comes from its prediction table.

    Attributes:
        split: The split that was measured.
        model: Folder or Hub id.
        data: The dataset, in words.
        labels: Class names by id.
        num_examples: Examples measured.
        confidence_level: Of all intervals, for example 0.95.
        metrics: Name -> estimate, over the whole split.
        per_class: Class name -> ``precision``, ``recall``, ``f1``, ``average_precision`` -> estimate; with several
            labels per image ``brier`` and ``ece`` too.
        calibration: Reliability bins and temperature, see `hf_imgcls.measure.statistics.calibration`.
        risk_coverage: Accuracy against the share of answers given, see `hf_imgcls.measure.report.summary`.
        confused_pairs: Pairs of classes by how often one is taken for the other.
        slices: Groups of examples, largest certain gap first, see `hf_imgcls.measure.report.slices`.
        imbalance: Training examples of each class against its recall, see `relate_support_to_recall` of
            `hf_imgcls.measure.report.slices`.
        goals: What was asked for, and whether it was met, see `hf_imgcls.measure.report.goals`.
        latency: See `hf_imgcls.measure.latency`.
        gallery: Kind -> examples worth looking at, see `hf_imgcls.measure.report.gallery`.
        explanations: See `hf_imgcls.measure.explain.explain`.
        notes: What a reader should know, one sentence each.
        problem_type: ``single_label_classification`` or ``multi_label_classification``. With the latter there is no
            ``risk_coverage`` and there are no ``confused_pairs``.
        multi_label: Where an image may have several labels: thresholds, labels per image, missed and invented labels,
            and pairs of classes that go together, see `hf_imgcls.measure.report.sections`.
        exports: A row for each exported model of the run, see `hf_imgcls.publish.export.table`.
        num_classes: How many of ``labels`` the dataset has, the first ones; a model may know others. None: all of them.
        baselines: What the model is held against, see `hf_imgcls.measure.baselines`; None for a model of no run.
        learning: The losses of the training that the model comes from, see `read_learning` of
            `hf_imgcls.measure.learning`.
    """

    split: str
    model: str
    data: str
    labels: list[str]
    num_examples: int
    confidence_level: float
    metrics: dict[str, Estimate]
    per_class: dict[str, Any]
    calibration: dict[str, Any]
    risk_coverage: dict[str, Any]
    confused_pairs: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    imbalance: dict[str, Any] | None = None
    goals: list[dict[str, Any]] = field(default_factory=list)
    latency: dict[str, Any] | None = None
    gallery: dict[str, Any] | None = None
    explanations: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    problem_type: str = SINGLE_LABEL
    multi_label: dict[str, Any] | None = None
    exports: list[dict[str, Any]] = field(default_factory=list)
    num_classes: int | None = None
    baselines: Baselines | None = None
    learning: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ComparisonRecord(Record):
    """``comparison.json``: a second model (b) against a first (a), on the same examples.

    Attributes:
        split: The split that both were measured on.
        a: The first model: folder or Hub id.
        b: The second model, which all verdicts are about.
        labels: Class names by id: a's, then those that only b knows.
        num_examples: Examples that both have predicted.
        confidence_level: Of all intervals; 1 minus it is the level of all tests.
        decided_by: The metric that decides.
        verdict: The verdict of that metric.
        metrics: Metric -> comparison.
        both_right: Examples that both have right.
        only_a_right: Examples that only a has right.
        only_b_right: Examples that only b has right.
        none_right: Examples that neither has right.
        per_class: Change of recall for each class, certain losses first, see `hf_imgcls.measure.compare`.
        notes: What a reader should know, one sentence each.
    """

    split: str
    a: str
    b: str
    labels: list[str]
    num_examples: int
    confidence_level: float
    decided_by: str
    verdict: str
    metrics: dict[str, MetricComparison]
    both_right: int
    only_a_right: int
    only_b_right: int
    none_right: int
    per_class: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class ExportRecord(Record):
    """``export.json`` beside an exported model: what it is, and what became of the model by the export.

    Attributes:
        format: As ``--export_formats`` names it.
        path: The model's file in this folder.
        runtime: What ran it here, with version.
        precision: Of weights and activations, in words.
        hints: Settings of the runtime that change numbers or speed.
        input: What the model takes, in words: name, type and shape.
        opset: Of an ONNX file.
        float_layers: Layers that a quantised model keeps in float, the most sensitive first.
        size_mb: Of all its files, in megabytes of 1,000,000 bytes.
        split: The split that both models were measured on.
        num_examples: Images of it.
        top1_agreement: Share of images on which both give the same class, ties included.
        num_ties: Images with another class whose two probabilities differ by at most ``tie_tolerance``.
        tie_tolerance: Difference of probabilities.
        max_probability_difference: Largest absolute difference of any class's probability on any image; of the
            PyTorch model's first class only, where there are more than 1,000.
        accuracy: Of the exported model.
        accuracy_difference: Its accuracy minus the PyTorch model's, with a paired interval.
        max_accuracy_drop: What a quantised model may lose; None for a float one, which must agree on every image.
        budget: ``"met"``, ``"not met"``, ``"not distinguishable"`` or ``"not measured"``: what the interval says about
            ``max_accuracy_drop``; empty for a float model.
        latency: One image after the other: ``n``, ``p50_ms``, ``p95_ms`` and their intervals, and the same of eager
            PyTorch, timed in turn with it, as ``pytorch_p50_ms`` and ``pytorch_p95_ms``.
        throughput: ``images_per_s`` at ``batch_size``, and ``pytorch_images_per_s``.
        device: Name of the processor.
        threads: Threads that one call may use.
        versions: Package -> version.
        preprocessing: The image processor's steps as the model's file holds them; None where they are not the usual
            ones, and in records of older releases.
        notes: What a user should know, one sentence each.
    """

    format: str
    path: str
    runtime: str
    precision: str
    hints: dict[str, Any]
    input: str
    opset: int | None
    float_layers: list[str]
    size_mb: float
    split: str
    num_examples: int
    top1_agreement: float
    num_ties: int
    tie_tolerance: float
    max_probability_difference: float
    accuracy: Estimate
    accuracy_difference: Estimate
    max_accuracy_drop: float | None
    budget: str
    latency: dict[str, Any]
    throughput: dict[str, Any]
    device: str
    threads: int
    versions: dict[str, str]
    preprocessing: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def read_finetuning(recipe: Mapping[str, Any]) -> str:
    """Return what the optimizer steps of a run trained: ``adaptation``, or for ``auto`` what followed its probe.

    Args:
        recipe: The run's arguments. In releases without a training policy ``auto`` added LoRA unless told otherwise.
    """
    adaptation = str(recipe.get("adaptation", "full"))
    if adaptation != "auto":
        return adaptation
    return str(recipe.get("auto_finetune", "full" if "training_policy" in recipe else "lora"))
