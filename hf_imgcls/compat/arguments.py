"""TrainingArguments of both lines."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import torch

from hf_imgcls.compat.models import TRANSFORMERS_MAJOR
from hf_imgcls.errors import ArgumentError, LaunchError
from hf_imgcls.provenance import count_cores

if TYPE_CHECKING:
    from transformers import TrainingArguments


def build_training_arguments(training: dict[str, Any], hub_token: str | None = None) -> TrainingArguments:
    """Build ``TrainingArguments`` from names of either line.

    Bridges, upstream notes in https://github.com/huggingface/transformers/blob/main/MIGRATION_GUIDE_V5.md:

    * ``warmup_ratio`` became a fractional ``warmup_steps`` in 5.0. Remove when 4.x is dropped.
    * ``logging_dir`` became the environment variable ``TENSORBOARD_LOGGING_DIR`` in 5.0. Remove when 4.x is dropped.
    * 4.57 sends trackio runs to a Hub Space named "trackio" unless told otherwise; 5.0 keeps them local. Remove when
      4.x is dropped.
    * 4.57 checkpoints gradients with ``use_reentrant``, which gives nothing to blocks whose input needs no gradient:
      behind frozen embeddings only the head would learn, silently (seen on 4.57.6 with ViT and Swin; 5.x has the other
      default). Remove when 4.x is dropped.

    And five decisions that hold on both lines: bfloat16 where the GPU has it and the user chose no precision; batches
    are copied to the GPU while it computes, for a copy that is waited for would leave it idle at each step's beginning;
    no pinned memory where there is nothing to pin it for; a token goes to the environment, where the Hub client looks
    for it, and not into ``training_args.bin``; ``Trainer`` is not told of ``push_to_hub``, for it would push whatever
    lies in the run's folder, to a public repository: `hf_imgcls.publish` pushes instead.

    Args:
        training: Keyword arguments as ``hf_imgcls.arguments.fields`` resolved them.
        hub_token: A token given as a flag.

    Returns:
        The installed line's ``TrainingArguments``.

    Raises:
        LaunchError: The processes that were launched do not form one run, or are to shard a model between CPUs.
        ArgumentError: transformers does not take a value.
    """
    from transformers import TrainingArguments

    values = {name: value for name, value in training.items() if name != "push_to_hub"}
    known = {field.name for field in dataclasses.fields(TrainingArguments)}

    if "warmup_ratio" in values and "warmup_ratio" not in known:
        values["warmup_steps"] = values.pop("warmup_ratio")

    logging_dir = values.pop("logging_dir", None)
    if logging_dir and "logging_dir" in known:
        values["logging_dir"] = logging_dir
    elif logging_dir:
        os.environ["TENSORBOARD_LOGGING_DIR"] = logging_dir

    if TRANSFORMERS_MAJOR < 5:
        values.setdefault("trackio_space_id", None)
        if values.get("gradient_checkpointing"):
            values["gradient_checkpointing_kwargs"] = {
                "use_reentrant": False, **(values.get("gradient_checkpointing_kwargs") or {})
            }  # fmt: skip
    if hub_token:
        os.environ["HF_TOKEN"] = hub_token
    if values.get("lr_scheduler_type") == "step":
        # Built by ImageClassificationTrainer.create_scheduler; TrainingArguments only knows transformers' own names.
        values.update(lr_scheduler_type="constant", lr_scheduler_kwargs=None)
    if not torch.accelerator.is_available():
        # Said outright, because without it several processes on CPUs do not find each other: each trains alone.
        values["use_cpu"] = True
    if values.get("use_cpu"):
        _refuse_sharding(values)
    cuda = torch.cuda.is_available() and not values.get("use_cpu")
    if cuda and "bf16" not in values and not values.get("fp16") and torch.cuda.is_bf16_supported(False):
        values["bf16"] = True
    if cuda and values.get("dataloader_pin_memory", True):
        values.setdefault("accelerator_config", {"non_blocking": True})
    if not cuda:
        values.setdefault("dataloader_pin_memory", False)

    try:
        arguments = TrainingArguments(**{name: value for name, value in values.items() if name in known})
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise refuse_arguments(error) from error
    if arguments.torch_compile:
        _check_compile(arguments)
    # Several GPUs in one process would be nn.DataParallel, which computes our loss once on the gathered logits while
    # Trainer multiplies it by the number of GPUs. Several GPUs are used through several processes.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.world_size != launched:
        raise LaunchError(
            f"{launched} processes were launched, but only {arguments.world_size} of them train together",
            "one run over all processes",
            "launch with: accelerate launch --config_file accelerate_config.yaml, or torchrun",
        )
    return arguments


def update_training_arguments(arguments: TrainingArguments, values: dict[str, Any]) -> None:
    """Set training arguments that were decided after the object was built, in place, by names of either line.

    Args:
        arguments: From `build_training_arguments`.
        values: Name -> value; other names than those of ``TrainingArguments`` are passed over.
    """
    from transformers.trainer_utils import SchedulerType

    known = {field.name for field in dataclasses.fields(arguments)}
    for name, value in values.items():
        if name == "warmup_ratio" and name not in known:  # see `build_training_arguments`
            arguments.warmup_steps = value
        elif name in known:
            setattr(arguments, name, SchedulerType(value) if name == "lr_scheduler_type" else value)


def _refuse_sharding(values: dict[str, Any]) -> None:
    """Refuse FSDP and DeepSpeed on CPUs, where accelerate trains plain replicas without a word.

    Source: ``accelerate/state.py``, ``AcceleratorState.__init__``, which turns to them on accelerators only.
    """
    for name, title in (("fsdp", "FSDP"), ("deepspeed", "DeepSpeed")):
        launched = os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true"
        if launched or values.get(name):
            where = "the launcher's configuration" if launched else f"--{name}"
            raise LaunchError(
                f"{title} is asked for by {where}, and this run is on the CPU, where nothing would be sharded",
                "GPUs for a sharded model, or plain data parallelism on CPUs",
                "launch with accelerate_config.yaml" if launched else f"leave out --{name}",
            )


def refuse_arguments(error: Exception, what: str = "the training arguments") -> ArgumentError:
    """What transformers says of training arguments that it does not take, as a user's error."""
    return ArgumentError(
        f"transformers refuses {what}: {error}",
        "values that fit each other, this machine and the packages that are installed",
        "correct or leave out what it names",
    )


def _check_compile(arguments: TrainingArguments) -> None:
    """Refuse what torch.compile would refuse in the first step."""
    import torch._dynamo
    import torch._inductor

    backend, mode = arguments.torch_compile_backend, arguments.torch_compile_mode
    modes = list(torch._inductor.list_mode_options())
    for flag, value, accepted, known in (
        ("torch_compile_backend", backend, torch._dynamo.list_backends(None), torch._dynamo.list_backends()),
        ("torch_compile_mode", mode, modes, modes),
    ):
        if value is not None and value not in accepted:
            raise ArgumentError(f"{flag} is {value!r}", "one of " + ", ".join(known), f"correct --{flag}")


def use_all_cores() -> None:
    """Give a process on the CPU its share of the cores.

    ``accelerate launch`` sets ``OMP_NUM_THREADS=1`` unless it is told a number, so that one process on a machine
    without a GPU computes on one core
    (https://huggingface.co/docs/accelerate/package_reference/cli, ``--num_cpu_threads_per_process``). Remove when the
    launcher counts cores itself.
    """
    if torch.cuda.is_available() or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        cores = count_cores()
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
