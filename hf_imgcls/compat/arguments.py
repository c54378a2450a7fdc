"""TrainingArguments of both lines.

Upstream notes on what changed: https://github.com/huggingface/transformers/blob/main/MIGRATION_GUIDE_V5.md.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import torch

from hf_imgcls.compat.models import TRANSFORMERS_MAJOR
from hf_imgcls.provenance import count_cores


def rename_argument(name: str, known: Collection[str]) -> str:
    """Return what the installed line calls a training argument.

    ``warmup_ratio`` became a fractional ``warmup_steps`` in 5.0. Remove when 4.x is dropped.
    """
    return "warmup_steps" if name == "warmup_ratio" and name not in known else name


def translate_arguments(training: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Translate training arguments of either line into those of the installed one.

    * Names, see `rename_argument`.
    * ``logging_dir`` became the environment variable ``TENSORBOARD_LOGGING_DIR`` in 5.0, which is set here. Remove when
      4.x is dropped.
    * 4.57 sends trackio runs to a Hub Space named "trackio" unless told otherwise; 5.0 keeps them local. Remove when
      4.x is dropped.
    * 4.57 checkpoints gradients with ``use_reentrant``, which gives nothing to blocks whose input needs no gradient:
      behind frozen embeddings only the head would learn, silently (seen on 4.57.6 with ViT and Swin; 5.x has the other
      default). Remove when 4.x is dropped.

    Args:
        training: Name -> value.
        known: Names of the fields of the installed ``TrainingArguments``.
    """
    values = {rename_argument(name, known): value for name, value in training.items()}
    if "logging_dir" not in known and (logging_dir := values.pop("logging_dir", None)):
        os.environ["TENSORBOARD_LOGGING_DIR"] = logging_dir
    if TRANSFORMERS_MAJOR < 5:
        values.setdefault("trackio_space_id", None)
        if values.get("gradient_checkpointing"):
            values["gradient_checkpointing_kwargs"] = {
                "use_reentrant": False, **(values.get("gradient_checkpointing_kwargs") or {})
            }  # fmt: skip
    return values


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
