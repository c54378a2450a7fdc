"""The fields of the installed ``transformers.TrainingArguments``, learned without importing transformers.

Importing ``transformers.TrainingArguments`` imports torch and takes seconds, too long for ``--help`` and for telling
somebody about a typing error. ``training_args.py`` is therefore parsed with ``ast``: name, annotation, default and help
text are literals there, and the enumerations behind choices are found by following its relative imports. Nothing of
that file is executed. A test compares the result with ``dataclasses.fields`` of the imported class.

Source: transformers' ``training_args.py``
(https://github.com/huggingface/transformers/blob/main/src/transformers/training_args.py).
"""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hf_imgcls.arguments.types import Argument, ValueType, read_annotation
from hf_imgcls.errors import MissingExtraError, UserError


class NotLiteral:
    """A default that transformers computes when it is imported; it has no text that could be shown."""

    def __repr__(self) -> str:
        return "chosen by transformers"


# Old name -> the name that holds the meaning now; accepted on both lines, stored under the new name.
OLD_NAMES = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "use_auth_token": "token",
    "feature_extractor_name": "image_processor_name",
}

# Two spellings of one thing, the older of which still exists on the newer line: whichever is installed is used.
NEW_NAMES = {
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}

# Fields of one line only and not translated, with what to use there instead.
ONLY_IN_4 = {
    "use_mps_device": "leave it out: mps is used where there is one",
    "jit_mode_eval": "leave it out",
    "fp16_opt_level": "use --fp16 or --bf16",
    "fp16_backend": "use --fp16 or --bf16",
    "half_precision_backend": "use --fp16 or --bf16",
    "tpu_num_cores": "start the run with `accelerate launch`",
    "tpu_metrics_debug": "use --debug tpu_metrics_debug",
    "past_index": "leave it out: image models have no past state",
    "fsdp_min_num_params": "use --fsdp_config '{min_num_params: N}'",
    "fsdp_transformer_layer_cls_to_wrap": "use --fsdp_config '{transformer_layer_cls_to_wrap: NAME}'",
    "adafactor": "use --optim adafactor",
    "group_by_length": "leave it out: images have no length",
    "use_legacy_prediction_loop": "leave it out",
    "include_inputs_for_metrics": "use --include_for_metrics inputs",
    "include_tokens_per_second": "leave it out: images have no tokens",
    "mp_parameters": "start the run with `accelerate launch`",
    "torchdynamo": "use --torch_compile_backend",
    "ray_scope": "leave it out",
}
ONLY_IN_5 = {
    "train_sampling_strategy": "leave it out: images are sampled at random",
    "enable_jit_checkpoint": "use --save_strategy steps",
    "dataloader_in_order": "leave it out: batches come in order",
    "dataloader_multiprocessing_context": "leave it out",
    "ddp_static_graph": "leave it out",
    "use_cache": "leave it out: image models have no cache",
    "trackio_bucket_id": "use --trackio_space_id",
    "trackio_static_space_id": "use --trackio_space_id",
}

_RUN = {"output_dir", "do_train", "do_eval", "do_predict", "seed", "resume_from_checkpoint"}
_RUN |= {"run_name", "log_level", "disable_tqdm", "use_cpu"}

_BATCH_SIZES = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_RANGES = dict.fromkeys(_BATCH_SIZES, "[1, inf)") | {
    "learning_rate": "[0, inf)",
    "weight_decay": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "[0, inf)",
    "max_grad_norm": "[0, inf)",
    "num_train_epochs": "(0, inf)",
    "label_smoothing_factor": "[0, 1)",
    "warmup_steps": "[0, inf)",
    "warmup_ratio": "[0, 1]",
    "dataloader_num_workers": "[0, inf)",
    "dataloader_prefetch_factor": "[1, inf)",
    "save_total_limit": "[0, inf)",
    "logging_steps": "(0, inf)",
    "eval_steps": "(0, inf)",
    "save_steps": "(0, inf)",
    "eval_delay": "[0, inf)",
    "seed": "[0, 4294967295]",
    "data_seed": "[0, 4294967295]",
}


@cache
def read_training_fields() -> dict[str, Argument]:
    """Read every constructor argument of the installed ``TrainingArguments``.

    Returns:
        Name -> argument, in the order of the class. An argument that cannot be written as text has no ``kinds``.

    Raises:
        MissingExtraError: transformers is not installed.
        UserError: Its source has no class ``TrainingArguments`` with fields.
    """
    package = find_transformers()
    source = package / "training_args.py"
    tree = parse_source(source) if source.is_file() else ast.Module([], [])
    bodies = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]

    def enum_values(name: str) -> tuple[str, ...] | None:
        return _read_enumeration(package, tree, name)

    fields: dict[str, Argument] = {}
    for node in bodies[0] if bodies else []:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        options = {key.arg: key.value for key in getattr(node.value, "keywords", []) if key.arg}
        if _literal(options.get("init")) is False:
            continue
        name, default = node.target.id, _read_default(node.value, options)
        value_type = _settle_type(name, read_annotation(node.annotation, enum_values))
        metadata = options.get("metadata")
        entries = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else []
        texts = {_literal(key): _literal(value) for key, value in entries if key is not None}
        if isinstance(texts.get("choices"), list) and value_type.choices is None:
            value_type = replace(value_type, choices=tuple(texts["choices"]))
        text = re.sub(r"\s+", " ", texts["help"]) if isinstance(texts.get("help"), str) else ""
        fields[name] = Argument(name, value_type, default, text.replace("%%", "%"), _stage(name), _RANGES.get(name))
    if not fields:
        raise UserError(
            f"no fields of TrainingArguments were found in {source}",
            "transformers 4.56 or newer, whose training_args.py defines the dataclass TrainingArguments",
            'install a supported release: pip install "transformers>=4.56,<4.58"',
        )
    return fields


def find_transformers() -> Path:
    """The folder of the installed transformers, without importing it.

    Raises:
        MissingExtraError: It is not installed.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "the package transformers is not installed", "transformers 4.56 or newer", "pip install transformers"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _settle_type(name: str, value_type: ValueType) -> ValueType:
    """Correct the three places where an annotation says less than transformers means."""
    kinds = set(value_type.kinds)
    if name.endswith("_steps") and kinds & {"int", "float"}:
        # Steps are counted, or a fraction of all steps; 4.57 takes fractions of warm-up under another name only.
        kinds |= {"int"} | ({"float"} if name == "warmup_steps" else set())
    if name.endswith("_kwargs"):
        kinds.discard("str")  # a mapping; the annotation's string is the mapping as JSON
    choices = value_type.choices
    if name == "lr_scheduler_type" and choices:
        choices = (*choices, "step")  # ours: fit/schedule.py
    return replace(value_type, kinds=frozenset(kinds), choices=choices)


def _stage(name: str) -> str:
    if name in _RUN:
        return "run"
    return "publish" if name.startswith(("push_to_hub", "hub_")) else "training"


@cache
def parse_source(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _literal(node: ast.expr | None) -> Any:
    """A literal's value; ``NotLiteral`` for an expression, ``None`` for a missing node."""
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except ValueError:
        return NotLiteral()


def _read_default(value: ast.expr | None, options: dict[str, ast.expr]) -> Any:
    if not isinstance(value, ast.Call):
        return _literal(value)
    if "default_factory" in options:
        return {"list": [], "dict": {}}.get(ast.unparse(options["default_factory"]), NotLiteral())
    return _literal(options.get("default"))


def _read_enumeration(package: Path, tree: ast.Module, name: str) -> tuple[str, ...] | None:
    """The string values of an enumeration defined in ``tree`` or in a module it imports the name from."""
    modules = [tree]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and any(alias.name == name for alias in node.names):
            path = package / ((node.module or "__init__").replace(".", "/") + ".py")
            modules += [parse_source(path)] if path.is_file() else []
    for module in modules:
        for node in module.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                values = [_literal(item.value) for item in node.body if isinstance(item, ast.Assign)]
                return tuple(value for value in values if isinstance(value, str)) or None
    return None


def kept_fields() -> dict[str, Argument]:
    """Names that only transformers 4 has and whose meaning is kept on both lines."""
    optional_text = ValueType(frozenset({"str"}), optional=True)
    rows = (
        ("warmup_ratio", ValueType(frozenset({"float"})), 0.0, "Share of all steps in which the learning rate rises."),
        ("logging_dir", optional_text, None, "Folder of the TensorBoard logs."),
        ("save_safetensors", ValueType(frozenset({"bool"})), True, "Only true: no other format is written."),
        ("push_to_hub_organization", optional_text, None, "Owner of --hub_model_id."),
    )
    return {
        name: Argument(name, value_type, default, text, _stage(name), _RANGES.get(name))
        for name, value_type, default, text in rows
    }
