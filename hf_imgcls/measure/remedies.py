"""What may help a model that was measured and is not better than a baseline, from what its run has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from hf_imgcls.arguments.training_policy import Situation
from hf_imgcls.fit.hints import REMEDIES, Outcome, RunPlan, give_hints
from hf_imgcls.layout import DATA_FILE
from hf_imgcls.measure.learning import read_state
from hf_imgcls.records import PROBE, Baseline, DataRecord, RunRecord, read_finetuning

_TRANSFORMERS_RATE = 5e-5  # of TrainingArguments, in both release lines
_MOST_TOLD = 2


def suggest_remedies(baselines: Sequence[Baseline], run: Path, record: RunRecord) -> list[str]:
    """Say what may help, the most telling first.

    Args:
        baselines: What the model was held against.
        run: Its run's folder.
        record: ``run.json`` of it.
    """
    verdicts = {item.name: item.comparison.verdict for item in baselines if item.comparison}
    below = verdicts.get(PROBE, "better")
    outcome = Outcome(read_plan(run, record), below_probe="" if below == "better" else below)
    return give_hints(REMEDIES, outcome)[:_MOST_TOLD]


def read_plan(run: Path, record: RunRecord) -> RunPlan:
    """Read from a run's folder what remedies depend on.

    Args:
        run: The folder, with ``data.json``.
        record: ``run.json`` of it.
    """
    recipe, train = record.recipe, DataRecord.load(run / DATA_FILE).splits.get("train")
    adaptation = str(recipe.get("adaptation", "full"))
    images_per_step = (
        record.world_size * record.per_device_train_batch_size * max(record.gradient_accumulation_steps, 1)
    )
    situation = Situation(
        trained=read_finetuning(recipe),
        is_scratch=record.base_model is None,
        has_batch_norm=_has_batch_norm(run / "model.safetensors"),
        num_images=train.num_examples if train else None,
        images_per_step=images_per_step,
        starts_from_probe=adaptation == "auto",
        schedule=recipe.get("lr_scheduler_type"),
        **({"image_size": int(recipe["image_size"])} if recipe.get("image_size") else {}),
    )
    is_adam = str(recipe.get("optim", "adamw")).startswith("adam")
    return RunPlan(
        situation,
        adaptation=adaptation,
        steps=read_state(run).get("global_step"),
        has_max_steps="max_steps" in recipe,
        learning_rate=float(recipe.get("learning_rate", _TRANSFORMERS_RATE))
        if is_adam and "learning_rate" not in record.policy
        else None,
    )


def _has_batch_norm(weights: Path) -> bool:
    """Whether a network keeps running statistics, as its names of tensors tell; False where it is in several files."""
    if not weights.is_file():
        return False
    with safe_open(weights, framework="numpy") as file:
        return any(name.endswith("running_mean") for name in file.keys())  # noqa: SIM118
