"""From a run's training arguments to ``TrainingArguments``, with what is decided for every run."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import torch

from hf_imgcls.compat.arguments import rename_argument, translate_arguments
from hf_imgcls.errors import ArgumentError, LaunchError
from hf_imgcls.provenance import count_processes

if TYPE_CHECKING:
    from transformers import TrainingArguments


def build_training_arguments(training: dict[str, Any], hub_token: str | None = None) -> TrainingArguments:
    """Build ``TrainingArguments`` from names of either line.

    Decided for every run: bfloat16 where the GPU has it and the user chose no precision; batches are copied to the GPU
    while it computes, for a copy that is waited for would leave it idle at each step's beginning; no pinned memory
    where there is nothing to pin it for; a token goes to the environment, where the Hub client looks for it, and not
    into ``training_args.bin``; ``Trainer`` is not told of ``push_to_hub``, for it would push whatever lies in the run's
    folder, to a public repository: `hf_imgcls.publish` pushes instead.

    Args:
        training: Keyword arguments as ``hf_imgcls.arguments`` resolved them.
        hub_token: A token given as a flag.

    Returns:
        The installed line's ``TrainingArguments``.

    Raises:
        LaunchError: The processes that were launched do not form one run, or are to shard a model between CPUs.
        ArgumentError: transformers does not take a value.
    """
    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    values = translate_arguments(training, known)
    values.pop("push_to_hub", None)
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
    launched = count_processes()
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
        renamed = rename_argument(name, known)
        if renamed in known:
            setattr(arguments, renamed, SchedulerType(value) if name == "lr_scheduler_type" else value)


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
