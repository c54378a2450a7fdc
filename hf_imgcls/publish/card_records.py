"""What a card is made of: a run's records, read from its folder once and checked against each other.

Nothing is computed here, and nothing is loaded that is not small JSON or YAML. A record that is missing is None or
empty, and the card then says "not measured".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from hf_imgcls.arguments.first_word import BUILT_IN_SAMPLE
from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.digests import find_changes
from hf_imgcls.errors import CardError
from hf_imgcls.layout import DATA_FILE, EXPORTS_PICTURE, RECIPE_FILE, RUN_FILE
from hf_imgcls.measure.results import RESULT_PREFIXES, read_baselines
from hf_imgcls.measure.task import SINGLE, TASKS, Task
from hf_imgcls.publish.consistency import SPLITS, check_records, read_json
from hf_imgcls.publish.export.table import read_exports
from hf_imgcls.publish.files import MODEL_SUFFIXES
from hf_imgcls.publish.privacy import cut_paths, list_paths
from hf_imgcls.records import Baselines, DataRecord, Estimate, ExportRecord, ParityRecord, ReportRecord, RunRecord

_SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")
# Files that a card may refer to, besides the report's pictures.
_NAMED_FILES = ("report/report.html", "report/report.json", EXPORTS_PICTURE)


@dataclass(frozen=True)
class CardRecords:
    """A run's records.

    Attributes:
        name: The folder's name.
        data: The dataset.
        run: How it was trained; None for a model that was trained elsewhere.
        recipe: The arguments, as ``recipe.yaml`` has them.
        train: ``train_results.json``: epochs, seconds, images per second.
        state: ``global_step``, ``best_global_step`` and ``best_metric`` of ``trainer_state.json``.
        split: The split that the results are about: ``test``, or ``validation`` where there is no other; None where
            nothing was measured.
        metrics: Name -> estimate over the whole split; without an interval where no report was written.
        unseen: The same without the images that training or selection has seen, as plain numbers with ``num_seen`` and
            ``num_examples``; empty where there are no such images.
        baselines: What the model was held against on the same images; None in records of older releases.
        report: Everything else that was measured on it.
        parity: Whether ``pipeline()`` answers as it was scored.
        config: The model's ``config.json``.
        processor: Its ``preprocessor_config.json``.
        exports: The exported models.
        files: Paths inside the folder that the card may refer to, because they are there.
        adapter: ``adapter_config.json`` of the LoRA adapter, where there is one.
        changes: File -> what has become of it since the run finished, see `hf_imgcls.digests.find_changes`.
    """

    name: str
    data: DataRecord
    run: RunRecord | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    split: str | None = None
    metrics: dict[str, Estimate] = field(default_factory=dict)
    unseen: dict[str, Any] = field(default_factory=dict)
    baselines: Baselines | None = None
    report: ReportRecord | None = None
    parity: ParityRecord | None = None
    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    exports: list[ExportRecord] = field(default_factory=list)
    files: frozenset[str] = frozenset()
    adapter: dict[str, Any] | None = None
    changes: dict[str, str] = field(default_factory=dict)

    @property
    def num_examples(self) -> int | None:
        """Examples that the results are about."""
        return max((estimate.n for estimate in self.metrics.values()), default=None)

    @property
    def is_hub_dataset(self) -> bool:
        """Whether the data came from the Hub, which alone has revisions."""
        return self.data.revision is not None

    @property
    def is_built_in(self) -> bool:
        """Whether the data are the built-in sample."""
        return self.data.source == BUILT_IN_SAMPLE and not self.is_hub_dataset

    @property
    def data_name(self) -> str:
        """The dataset's Hub id, or the name of its folder or file without the path that leads there."""
        if self.is_built_in:
            return "scikit-learn's handwritten digits"
        return self.data.source if self.is_hub_dataset else shorten_path(self.data.source)

    @property
    def base_model(self) -> str | None:
        """The pretrained model's Hub id, or the name of its folder; None from scratch, or where nobody knows."""
        # Records of older releases leave it to the recipe.
        name = (self.run.base_model if self.run else None) or self.recipe.get("model_name_or_path")
        return name if name is None or self.is_hub_model else shorten_path(name)

    @property
    def is_from_scratch(self) -> bool:
        """Whether training began with random weights."""
        return self.run is not None and self.base_model is None and "model" not in self.run.hooks

    @property
    def is_hub_model(self) -> bool:
        """Whether the base model is one of the Hub, which alone has revisions."""
        run = self.run
        return run is not None and run.base_model_revision is not None and is_repo_id(run.base_model)

    @property
    def task(self) -> Task:
        """What a label is, and what follows from it."""
        return TASKS.get(self.config.get("problem_type", ""), SINGLE)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return not self.task.is_exclusive

    @property
    def is_probe(self) -> bool:
        """Whether the head was solved for, so that there were no steps and epochs."""
        return "train_penalty" in self.train

    def is_subset(self, split: str) -> bool:
        """Whether ``--max_*_samples`` has left a part of a split."""
        part = self.data.splits.get(split)
        if part is None or part.num_available is None or part.num_examples is None:
            return False
        name = f"max_{'eval' if split == 'validation' else split}_samples"
        return part.num_examples < part.num_available and self.recipe.get(name) is not None


def shorten_path(path: str) -> str:
    """The last part of a path that tells more than which split it is: ``photos`` of ``/home/me/photos/train``."""
    parts = [part for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..", "~")]
    telling = [part for part in parts if PurePath(part).stem.lower() not in _SPLIT_NAMES]
    if parts and telling and parts[-1] != telling[-1] and PurePath(parts[-1]).suffix:
        return f"{telling[-1]}/{parts[-1]}"
    return telling[-1] if telling else parts[-1] if parts else path


def read_recipe(folder: Path) -> dict[str, Any]:
    """The arguments of a run; nothing where they were not saved."""
    path = folder / RECIPE_FILE
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def read_records(folder: str | Path) -> CardRecords:
    """Read what a card is made of.

    Args:
        folder: The run's folder.

    Raises:
        CardError: The folder is no run, its results are about other data than it was trained on, or its records
            contradict each other.
        UserError: A record is damaged, or of another schema version.
    """
    folder = Path(folder)
    if not (folder / DATA_FILE).is_file():
        raise CardError(
            f"{folder} has no {DATA_FILE}",
            "the folder of a run of hf-imgcls finetune",
            "name that folder (the output_dir), not a checkpoint in it",
        )
    data, recipe = DataRecord.load(folder / DATA_FILE), read_recipe(folder)
    paths = list_paths(folder, recipe)
    data.notes = [cut_paths(note, paths) for note in data.notes]
    results = {split: read_json(folder / f"{RESULT_PREFIXES[split]}_results.json") for split in SPLITS}
    split = next((name for name, content in results.items() if content), None)
    report = _read_report(folder, data)
    check_records(folder, report)
    if report is not None and report.split != split:
        report = None  # of a split that the card is not about
    return CardRecords(
        name=folder.resolve().name,
        data=data,
        run=RunRecord.load(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else None,
        recipe=recipe,
        train=read_json(folder / "train_results.json"),
        state=read_json(folder / "trainer_state.json"),
        split=split,
        metrics=report.metrics if report else _read_metrics(results[split], split, data) if split else {},
        unseen=results[split].get(f"{RESULT_PREFIXES[split]}_unseen") or {} if split else {},
        baselines=read_baselines(results[split].get(f"{RESULT_PREFIXES[split]}_baselines")) if split else None,
        report=report,
        parity=ParityRecord.load(folder / "parity.json") if (folder / "parity.json").is_file() else None,
        config=read_json(folder / "config.json"),
        processor=read_json(folder / "preprocessor_config.json"),
        exports=[record for record in read_exports(folder) if PurePath(record.path).suffix in MODEL_SUFFIXES],
        files=_list_files(folder),
        adapter=read_json(folder / "adapter" / "adapter_config.json") or None,
        changes=find_changes(folder),
    )


def _read_report(folder: Path, data: DataRecord) -> ReportRecord | None:
    path = folder / "report" / "report.json"
    if not path.is_file():
        return None
    report = ReportRecord.load(path)
    measured, trained = report.data, " ".join(filter(None, [data.source, data.config]))
    if measured and measured != trained:
        raise CardError(
            f"{path} is about {measured!r}; the run was trained on {trained!r}",
            "results on the run's own data",
            "measure the run again with: hf-imgcls measure RUN --output_dir RUN",
        )
    return report


def _read_metrics(results: Mapping[str, Any], split: str, data: DataRecord) -> dict[str, Estimate]:
    """The results as estimates without intervals."""
    prefix = f"{RESULT_PREFIXES[split]}_"
    part = data.splits.get(split)
    n = int(results.get(f"{prefix}num_examples") or (part.num_examples if part else 0) or 0)
    skipped = ("num_examples", "loss", "runtime", "samples_per_second", "steps_per_second")
    metrics = {
        name: Estimate(float(value), None, None, n, "none", "no report was written")
        for key, value in results.items()
        if (name := key.removeprefix(prefix)) not in skipped and key != name and isinstance(value, (int, float))
    }
    reasons = results.get(f"{prefix}not_measured") or {}
    return metrics | {name: Estimate(None, None, None, 0, "none", reason) for name, reason in reasons.items()}


def _list_files(folder: Path) -> frozenset[str]:
    patterns = ("report/*.png", "report/images/*.png", "examples/*")
    pictures = [path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)]
    return frozenset([*pictures, *(name for name in _NAMED_FILES if (folder / name).is_file())])
