"""Which run this is: whether a checkpoint belongs to it, and whether all processes do the same one.

Each process has parsed its own command line and read its own machine's data.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import transformers
from accelerate import PartialState
from accelerate.utils import gather_object

from hf_imgcls.arguments.recipe import to_recipe
from hf_imgcls.errors import LaunchError
from hf_imgcls.records import DataRecord, RunIdentity

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from hf_imgcls.arguments.fields import Arguments

# Where things lie, and what a machine can do, may differ: data are compared by their contents.
_OF_THE_MACHINE = (
    "dataset_name", "model_name_or_path", "dataloader_num_workers", "dataloader_prefetch_factor", "local_rank",
    "ddp_timeout", "token", "hub_token", "config_name", "image_processor_name", "teacher_model",
)  # fmt: skip
# Parts of a model's configuration that say nothing about its weights, or are compared apart.
_NOT_THE_MODEL = (
    "transformers_version",
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "id2label",
    "label2id",
    "architectures",
)
# Arguments that do not change what a run computes.
_NOT_THE_RECIPE = (
    "output_dir", "resume_from_checkpoint", "overwrite_output_dir", "num_processes", "disable_tqdm", "training_policy",
)  # fmt: skip


def describe_run(
    model: nn.Module, training_args: TrainingArguments, record: DataRecord | None = None, args: Arguments | None = None
) -> RunIdentity:
    """Say what run this is, for its checkpoints.

    Args:
        model: As it is trained, adapters included.
        training_args: Batch sizes and processes.
        record: The dataset.
        args: What the user asked for.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = {key: value for key, value in base.config.to_diff_dict().items() if key not in _NOT_THE_MODEL}
    recipe = to_recipe(args) if args is not None else {}
    if args is not None and args.hooks:
        recipe["hooks"] = args.hooks
    splits = record.splits if record is not None else {}
    return RunIdentity(
        transformers=transformers.__version__,
        labels=record.labels if record is not None else [],
        data={name: splits[name].fingerprint for name in ("train", "validation") if name in splits},
        model={
            "class": type(base).__name__,
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "adaptation": args.fit.adaptation if args is not None else None,
            # The optimizer's groups are others then.
            **({"layer_lr_decay": True} if args is not None and args.fit.layer_lr_decay < 1 else {}),
            **json.loads(json.dumps(config, default=str)),
        },
        recipe=json.loads(json.dumps({k: v for k, v in recipe.items() if k not in _NOT_THE_RECIPE}, default=str)),
        world_size=training_args.world_size,
        per_device_train_batch_size=training_args.per_device_train_batch_size,
        gradient_accumulation_steps=training_args.gradient_accumulation_steps,
    )


def check_same_run_everywhere(run: RunIdentity) -> None:
    """Refuse processes with other arguments, labels, data or another model; called by all.

    Args:
        run: What this process does.

    Raises:
        LaunchError: Two processes differ; on the main process. The others leave with the same exit code.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    first, *others = gather_object([_comparable(run)])
    for rank, other in enumerate(others, 1):
        if differences := list_differences("", first, other, "in process 0", f"in process {rank}"):
            if not state.is_main_process:
                raise SystemExit(LaunchError.exit_code)
            raise LaunchError(
                f"process {rank} does another run than process 0:\n  - " + "\n  - ".join(differences),
                "the same arguments and the same data on each machine",
                "start all processes with one command line, and copy the data to each machine",
            )


def _comparable(run: RunIdentity) -> dict[str, Any]:
    recipe = {
        name: value
        for name, value in run.recipe.items()
        if name not in _OF_THE_MACHINE and not name.endswith(("_dir", "_file", "_folder"))
    }
    return dataclasses.asdict(dataclasses.replace(run, recipe=recipe))


def list_differences(name: str, before: Any, now: Any, then: str = "then", today: str = "now") -> list[str]:
    """Return the differences between two values of JSON, as ``where: this then, that now``.

    Args:
        name: Where the values are, for the message.
        before: One value.
        now: The other one.
        then: What is said of the first.
        today: What is said of the second.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            text
            for key in keys
            for text in list_differences(
                f"{name}.{key}" if name else str(key), before.get(key), now.get(key), then, today
            )
        ]
    if before == now:
        return []
    return [f"{name}: {_shorten(before)} {then}, {_shorten(now)} {today}"]


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]} ..."
