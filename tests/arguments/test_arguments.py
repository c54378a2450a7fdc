"""Arguments: the official script's command lines, files, types, defaults and what is said about mistakes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_imgcls.arguments import installed as training_fields
from hf_imgcls.arguments.defaults import TRAINING_DEFAULTS
from hf_imgcls.arguments.documents import dump_yaml, load_yaml
from hf_imgcls.arguments.fields import (
    DEFAULT_MODEL,
    EXPORT_FORMATS,
    Arguments,
    DataArguments,
    FitArguments,
    MeasureArguments,
    PublishArguments,
)
from hf_imgcls.arguments.known import known_arguments
from hf_imgcls.arguments.other_names import OTHER_NAMES
from hf_imgcls.arguments.parse import FINETUNE_GROUPS, parse_arguments
from hf_imgcls.arguments.recipe import save_recipe, to_recipe
from hf_imgcls.arguments.small_configs import LARGEST_SMALL
from hf_imgcls.arguments.types import ValueType, coerce, is_within, read_annotation, read_range
from hf_imgcls.errors import ArgumentError

ON_5 = int(version("transformers").partition(".")[0]) >= 5
LORA_ONLY = {
    "lora_rank": "4",
    "lora_alpha": "8",
    "lora_dropout": "0.1",
    "lora_target_modules": "a b",
}


def parse(line: str, **options: Any) -> Arguments:
    return parse_arguments(shlex.split(line), **options)


def digits(line: str = "") -> Arguments:
    return parse(f"--dataset_name digits {line}")


def message(line: str, **options: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        parse(line, **options)
    return str(caught.value)


# --- the official script's command lines ---


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "val", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.csv").write_text("file_name,label\n")
    return tmp_path


# From the README beside run_image_classification.py, from 2021 to today, and what people make of it.
OFFICIAL = {
    "beans, 2021": (
        "--dataset_name beans --output_dir ./beans_outputs/ --remove_unused_columns False --do_train --do_eval "
        "--push_to_hub --push_to_hub_model_id vit-base-beans --learning_rate 2e-5 --num_train_epochs 5 "
        "--per_device_train_batch_size 8 --per_device_eval_batch_size 8 --logging_strategy steps --logging_steps 10 "
        "--evaluation_strategy epoch --save_strategy epoch --load_best_model_at_end True --save_total_limit 3 "
        "--seed 1337",
        {"hub_model_id": "vit-base-beans", "learning_rate": 2e-5, "eval_strategy": "epoch", "save_total_limit": 3},
    ),
    "beans, today": (
        "--dataset_name beans --output_dir ./beans_outputs/ --remove_unused_columns False --label_column_name labels "
        "--do_train --do_eval --push_to_hub --hub_model_id vit-base-beans --learning_rate 2e-5 --num_train_epochs 5 "
        "--per_device_train_batch_size 8 --per_device_eval_batch_size 8 --logging_strategy steps --logging_steps 10 "
        "--eval_strategy epoch --save_strategy epoch --load_best_model_at_end True --save_total_limit 3 "
        "--seed 1337",
        {"label_column_name": "labels", "push_to_hub": True, "num_train_epochs": 5.0, "seed": 1337},
    ),
    "own folders": (
        "--train_dir train --output_dir ./outputs/ --remove_unused_columns False --do_train --do_eval",
        {"train_dir": "train", "do_train": True, "do_eval": True, "remove_unused_columns": False},
    ),
    "two folders": (
        "--train_dir train --validation_dir val --output_dir out --do_train --do_eval --train_val_split 0.2",
        {"validation_dir": "val", "train_val_split": 0.2},
    ),
    "every model and data flag": (
        "--dataset_name cifar10 --dataset_config_name plain_text --image_column_name img --label_column_name label "
        "--model_name_or_path microsoft/resnet-50 --config_name microsoft/resnet-50 --cache_dir cache "
        "--model_revision v1 "
        "--image_processor_name microsoft/resnet-50 --token hf_secret --trust_remote_code --ignore_mismatched_sizes "
        "--max_train_samples 100 --max_eval_samples 50 --overwrite_output_dir --output_dir out --do_train",
        {"image_column_name": "img", "ignore_mismatched_sizes": True, "max_train_samples": 100, "do_eval": False},
    ),
    "names of 2021": (
        "--dataset_name beans --feature_extractor_name google/vit-base-patch16-224 --use_auth_token --no_cuda "
        "--per_gpu_train_batch_size 4 --per_gpu_eval_batch_size 5 --warmup_ratio 0.1 --logging_dir logs "
        "--save_safetensors True --push_to_hub_token hf_x --push_to_hub_organization us --output_dir out",
        {
            "image_processor_name": "google/vit-base-patch16-224", "use_cpu": True, "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 5, "warmup_ratio": 0.1, "logging_dir": "logs", "hub_model_id": "us/out",
        },
    ),
    "evaluation only": (
        "--dataset_name beans --model_name_or_path ./train --do_eval --output_dir out --report_to tensorboard",
        {"do_train": False, "do_eval": True, "eval_strategy": "no", "report_to": "tensorboard"},
    ),
    "dashes, equals signs, trackers": (
        "--dataset-name beans --output-dir=out --learning-rate=3e-4 --report-to tensorboard wandb --fp16 "
        "--no-do-predict "
        "--lr-scheduler-type cosine --weight-decay 0.05 --gradient-accumulation-steps 2 --max-steps -1 "
        "--dataloader-num-workers 4",
        {"learning_rate": 3e-4, "report_to": ["tensorboard", "wandb"], "fp16": True, "do_predict": False},
    ),
    "steps": (
        "--dataset_name beans --output_dir out --do_train --do_eval --evaluation_strategy steps --eval_steps 100 "
        "--save_steps 100 --metric_for_best_model eval_loss --greater_is_better False --load_best_model_at_end",
        {"eval_steps": 100, "save_strategy": "steps", "save_steps": 100, "greater_is_better": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_command_lines_of_the_official_script_are_understood(name: str, folders: Path) -> None:
    line, expected = OFFICIAL[name]
    arguments = parse(line)
    values = vars(arguments.data) | vars(arguments.fit) | arguments.training
    assert {key: values[key] for key in expected} == expected
    # Values are of the types that TrainingArguments declares.
    assert type(arguments.training["per_device_train_batch_size"]) is int


def test_tokens_are_taken_and_never_shown(folders: Path) -> None:
    arguments = digits("--token hf_secret --push_to_hub_token hf_hidden")
    assert (arguments.data.token, arguments.hub_token) == ("hf_secret", "hf_hidden")
    save_recipe(arguments, "recipe.yaml")
    for text in (repr(arguments), str(to_recipe(arguments)), Path("recipe.yaml").read_text()):
        assert "hf_secret" not in text
        assert "hf_hidden" not in text
    assert digits("--use_auth_token").data.token is True
    assert "hf_secret" not in message("--dataset_name digits --token hf_secret hf_secret --hub_token 1.5 hf_secret")
    Path("config.yaml").write_text("hub_token: [hf_secret]\n")
    assert "hf_secret" not in message("--config config.yaml --dataset_name digits")


# --- TrainingArguments without importing transformers ---


def test_training_fields_are_those_of_the_imported_class() -> None:
    from transformers import TrainingArguments

    read = training_fields.read_training_fields()
    fields = {item.name: item for item in dataclasses.fields(TrainingArguments) if item.init}
    assert list(read) == list(fields)
    unreadable = {name for name, argument in read.items() if not argument.type.kinds}
    assert unreadable == {"parallelism_config"}  # an object of accelerate's
    computed = {name for name, argument in read.items() if isinstance(argument.default, training_fields.NotLiteral)}
    assert computed == {"optim"}
    for name, item in fields.items():
        if name not in computed:
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            assert read[name].default == default, name
    assert sum(bool(argument.help) for argument in read.values()) > 0.9 * len(read)


def test_choices_are_the_enumerations_of_transformers() -> None:
    from transformers.trainer_utils import SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    read = training_fields.read_training_fields()
    for name, enumeration in (("save_strategy", SaveStrategy), ("optim", OptimizerNames)):
        assert read[name].type.choices == tuple(item.value for item in enumeration)
    assert read["lr_scheduler_type"].type.choices == (*(item.value for item in SchedulerType), "step")


def test_every_training_argument_can_be_built_by_the_installed_class() -> None:
    from hf_imgcls.fit.training_arguments import build_training_arguments

    arguments = digits(
        "--warmup_steps 0.1 --logging_dir logs --gradient_checkpointing --lr_scheduler_type cosine --use_cpu"
    )
    built = build_training_arguments(arguments.training)
    assert built.gradient_checkpointing is True
    assert built.eval_strategy == "epoch"


def test_names_of_one_line_are_refused_with_what_replaces_them() -> None:
    installed = training_fields.read_training_fields()
    here, gone = (training_fields.ONLY_IN_5, training_fields.ONLY_IN_4)[:: 1 if ON_5 else -1]
    assert set(here) <= set(installed)
    assert not set(gone) & set(installed)
    for name, hint in gone.items():
        text = message(f"--dataset_name digits --{name} 1")
        assert f"exists only on transformers {4 if ON_5 else 5}" in text
        assert hint in text


def test_an_absent_or_changed_transformers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = training_fields.read_training_fields.__wrapped__
    monkeypatch.setattr(training_fields, "find_transformers", lambda: tmp_path)
    with pytest.raises(Exception, match="no fields of TrainingArguments were found"):
        read()
    (tmp_path / "training_args.py").write_text("class TrainingArguments:\n    pass\n")
    training_fields.parse_source.cache_clear()
    with pytest.raises(Exception, match="no fields of TrainingArguments were found"):
        read()
    monkeypatch.undo()
    monkeypatch.setattr(training_fields.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match="transformers is not installed"):
        training_fields.find_transformers()


HEAVY = ("transformers", "torch", "datasets", "accelerate", "numpy", "PIL", "huggingface_hub")
PROBE = f"""
import sys
from hf_imgcls.arguments.parse import parse_arguments
try:
    parse_arguments(sys.argv[1:], description="About 100 % of it.")
except SystemExit as end:
    assert end.code == 0
print("heavy", [name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize("line", ["--help", "--dataset_name digits"])
def test_nothing_heavy_is_imported(line: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *line.split()], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy []"


def test_help_shows_every_flag_with_its_default_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help", description="Fine-tune.")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    words = set(text.split())
    for name, argument in known_arguments().items():
        assert (f"--{name}" in words) is (argument.group in FINETUNE_GROUPS and not argument.hidden)
    stages = [
        text.index(f"\n{group} (") for group in ("run", "data", "pixels", "fit", "measure", "publish", "training")
    ]
    assert stages == sorted(stages)
    assert "--learning_rate FLOAT" in text
    assert "(default: full or partial: 1e-3 with BatchNorm" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100


# --- types ---


@pytest.mark.parametrize(
    ("annotation", "kinds", "optional", "item"),
    [
        ("int", {"int"}, False, "str"),
        ("Optional[list[float]]", {"list"}, True, "float"),
        ("typing.Union[None, str, list[str]]", {"str", "list"}, True, "str"),
        ("dict[str, Any] | str | None", {"dict", "str"}, True, "str"),
        ("'str | bool'", {"str", "bool"}, False, "str"),
        ("str | None | Literal[False]", {"str", "bool"}, True, "str"),
        ("SomeObject | None", set(), True, "str"),
        ("Annotated[int | None, '[0, 1]']", {"int"}, True, "str"),
    ],
)
def test_annotations(annotation: str, kinds: set[str], optional: bool, item: str) -> None:
    assert read_annotation(annotation) == ValueType(frozenset(kinds), item, optional)


@pytest.mark.parametrize(
    ("kinds", "value", "expected"),
    [
        ("float", "1e-4", 1e-4), ("float", 3, 3.0), ("float", "yes", None), ("float", True, None),
        ("float", "nan", None), ("float", float("inf"), None), ("float", None, None),
        ("int", "3", 3), ("int", 3.0, 3), ("int", "1e3", 1000), ("int", "3.5", None), ("int", True, None),
        ("int float", "0.15", 0.15), ("int float", "100", 100), ("int float", "1.0", 1.0),
        ("bool", "True", True), ("bool", "0", False), ("bool", 1, True), ("bool", "maybe", None), ("bool", 1.0, None),
        ("str", "x", "x"), ("str", 7, "7"), ("str", 1.1, None), ("str", True, None), ("str", ["x"], None),
        ("list", "[a, 'b']", ["a", "b"]), ("list", "a", ["a"]), ("list", [1.5], None), ("list str", "a", "a"),
        ("dict", '{"a": 1e-5}', {"a": 1e-5}), ("dict", "{a: [1, no]}", {"a": [1, "no"]}), ("dict", "a", None),
        ("dict str", "file.json", "file.json"), ("dict str", "{a: ", None),
    ],
)  # fmt: skip
def test_coercion(kinds: str, value: Any, expected: Any) -> None:
    accepted = ValueType(frozenset(kinds.split()))
    if expected is None:
        with pytest.raises(ValueError, match=r"\w"):
            coerce(value, accepted)
    else:
        result = coerce(value, accepted)
        assert result == expected
        assert type(result) is type(expected)


def test_choices_and_intervals_are_read_from_annotations() -> None:
    assert read_range("typing.Annotated[list[float] | None, '(0, 1]']") == "(0, 1]"
    assert read_range("float | None") is None
    assert read_annotation("Literal['a', 'b'] | None").choices == ("a", "b")
    known = known_arguments()
    assert known["on_bad_image"].type == ValueType(frozenset({"str"}), choices=("error", "skip"))
    assert known["image_mean"].type == ValueType(frozenset({"str", "list"}), "float", True, ("dataset",))
    assert (known["image_mean"].within, known["train_layers"].within) == ("[0, 1]", "[1, inf)")
    groups = {"unlabelled_dir": "pretrain", "image_size": "pixels", "tune": "run", "run": "push", "loss": "fit"}
    assert {name: known[name].group for name in groups} == groups


def test_help_names_what_is_defined_elsewhere() -> None:
    known = known_arguments()
    assert f"(default: {DEFAULT_MODEL})" in known["model_name_or_path"].help
    assert f"up to {LARGEST_SMALL} pixels" in known["model_config"].help
    assert known["export_formats"].help.endswith(f": {', '.join(EXPORT_FORMATS)}.")


def test_intervals() -> None:
    assert [is_within(value, "[0, 1)") for value in (-1e-9, 0, 0.999, 1)] == [False, True, True, False]
    assert [is_within(value, "(0, inf)") for value in (0, 1e300)] == [False, True]


def test_yaml_traps(folders: Path) -> None:
    Path("run.yaml").write_text(
        "dataset_name: digits\nlearning_rate: 1e-4\neval_strategy: no\nrun_name: 2026-11-21\nseed: '7'\nbf16: yes\n"
        "model_revision: 0123\nreport_to: none\ncache_decoded_images: true\nlr_scheduler_kwargs: {min_lr: 1e-6}\n"
        "max_train_samples: null\nimage_mean: [0.5, 0.5, 1]\n"
    )
    arguments = parse("--config run.yaml")
    training = arguments.training
    assert training["learning_rate"] == 1e-4
    assert (training["eval_strategy"], training["run_name"], training["seed"]) == ("no", "2026-11-21", 7)
    assert (training["bf16"], training["report_to"]) == (True, "none")
    assert training["lr_scheduler_kwargs"] == {"min_lr": 1e-6}
    assert arguments.fit.model_revision == "0123"
    assert arguments.data.cache_decoded_images == "true"
    assert arguments.data.max_train_samples is None
    assert arguments.data.image_mean == [0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    "value",
    ["no", "1e-4", "null", "2026-11-21", "0123", "- x", "a: b", "", "#", "1_000", "0x1F", "true", "é\n", "1:30"],
)
def test_text_survives_yaml(value: str) -> None:
    text = dump_yaml({"name": value})
    assert load_yaml(text) == {"name": value}
    assert yaml.safe_load(text) == {"name": value}


@pytest.mark.parametrize("value", [1e-5, 1e22, 0.1, -3, 0, True, None, [1.0, 2], {"a": {"b": [1e-8]}}, [], {}])
def test_values_survive_yaml(value: Any) -> None:
    assert load_yaml(dump_yaml({"name": value})) == {"name": value}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("run.yaml", "seed: 1\ndataset_name: digits\nseed: 2\n", "'seed' appears twice"),
        ("run.json", '{"seed": 1, "seed": 2}', "'seed' appears twice"),
        ("run.yaml", "model_config: {a: 1, a: 2}\n", "'a' appears twice"),
        ("run.yaml", "", "is empty"),
        ("run.yaml", "- seed\n", "holds a list"),
        ("run.yaml", "seed: [1\n", "cannot be read"),
        ("run.json", "{", "cannot be read"),
        ("run.yaml", None, "No such file"),
        ("run.yaml", "learning_rate: yes\n", "run.yaml: learning_rate is 'yes' (str)"),
        ("run.yaml", "seed: 3.5\n", "run.yaml: seed is 3.5 (float)\n  expected: an integer"),
        ("run.yaml", "dataset_revision: 1.10\n", "put it in quotes"),
        ("run.yaml", "learning_rat: 1\n", "run.yaml: learning_rat is not a known argument"),
        ("run.yaml", "eval_strategy: epoch\nevaluation_strategy: steps\n", "both given"),
    ],
)
def test_bad_files(name: str, text: str | None, expected: str, folders: Path) -> None:
    if text is not None:
        Path(name).write_text(text)
    assert expected in message(f"--config {name}")


NINE_TO_THE_EIGHTH = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("run.yaml", NINE_TO_THE_EIGHTH, "more than 200,000 values"),
        ("run.yaml", "model_config:\n  " + NINE_TO_THE_EIGHTH.replace("\n", "\n  "), "more than 200,000 values"),
        ("run.yaml", "model_config: " + "[" * 5000 + "]" * 5000, "nested more than 32 levels deep"),
        ("run.json", '{"model_config": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("run.yaml", "model_config: &a {x: *a}\n", "an alias of itself"),
        ("run.yaml", "model_config: &a [1, [*a]]\n", "an alias of itself"),
        ("run.yaml", "seed: 1\n#" + "x" * 5_000_000, "larger than 4 MiB"),
        ("run.yaml", "max_train_samples: 100000000000000000000000000\n", "an integer below 2**63"),
        ("run.yaml", f"seed: {'9' * 400}\n", "..."),
        ("run.yaml", "calibrate: on\n", "true or false"),
        ("run.yaml", "dataset_name: \xff\n", "cannot be read"),
    ],
)
def test_files_that_would_fill_the_memory_are_one_short_error(
    name: str, text: str, expected: str, folders: Path
) -> None:
    Path(name).write_text(text, encoding="latin-1")
    told = message(f"--config {name}")
    assert expected in told
    assert len(told) < 1500


def test_aliases_of_ordinary_size_are_read(folders: Path) -> None:
    Path("run.yaml").write_text("dataset_name: digits\nmodel_config: {a: &a [1, 2], b: *a, c: *a}\nmodel_type: vit\n")
    assert parse("--config run.yaml").fit.model_config == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_only_a_regular_file_is_read(folders: Path) -> None:
    os.mkfifo("pipe.yaml")
    for name in ("pipe.yaml", "/dev/zero"):
        assert "not a regular file" in message(f"--config {name}")


# --- files and flags ---


def test_flags_win_over_the_file_under_any_name(folders: Path) -> None:
    Path("run.yaml").write_text(
        "dataset_name: digits\nevaluation_strategy: steps\nwarmup_steps: 100\nseed: 1\nbf16: true\n"
    )
    arguments = parse(
        "--config run.yaml --eval_strategy epoch --warmup_ratio 0.1 --no_bf16 --dataset_name null --train_dir train"
    )
    training = arguments.training
    assert (training["eval_strategy"], training["seed"], training["bf16"]) == ("epoch", 1, False)
    assert (training["warmup_ratio"], training.get("warmup_steps")) == (0.1, None)
    assert (arguments.data.dataset_name, arguments.data.train_dir) == (None, "train")
    assert arguments.explicit >= {"eval_strategy", "warmup_ratio", "seed", "train_dir"}


def test_null_means_not_given(folders: Path) -> None:
    Path("run.yaml").write_text("dataset_name: digits\nsave_total_limit: 5\neval_steps: null\nmodel_type: vit\n")
    arguments = parse(
        "--config run.yaml --save_total_limit null --report_to null --model_type null --eval_strategy steps"
    )
    expected = {"save_total_limit": 2, "report_to": "none", "eval_steps": 500}
    assert {name: arguments.training[name] for name in expected} == expected
    assert arguments.fit == FitArguments(model_name_or_path="google/vit-base-patch16-224-in21k")
    assert arguments.explicit == {"dataset_name", "eval_strategy"}


WORDS = [
    "",
    "{",
    "[1",
    "{a: b}",
    "null",
    "-1",
    "1e400",
    "1.5",
    "true",
    "{{}}",
    "[[1]]",
    "*a",
    "!!python/object:os.system",
    "\0",
]
VALUES = [None, -1, 1.5, True, "x", [], {}, {"a": 1}, [[1]], float("nan"), 10**400]


def test_any_value_is_accepted_or_refused_but_nothing_breaks(folders: Path) -> None:
    # One at a time where our code looks at the value, all at once for what it only passes on to TrainingArguments.
    rows = {row.name for row in TRAINING_DEFAULTS}
    known = {name: argument for name, argument in known_arguments().items() if name != "dataset_name"}
    looked_at = [name for name, argument in known.items() if argument.group != "training" or name in rows]
    passed_on = [name for name in known if name not in looked_at]
    outcomes = {"accepted": 0, "refused": 0}
    for names in [[name] for name in looked_at] + [passed_on]:
        lines = [["--dataset_name=digits", *(f"--{name}={word}" for name in names)] for word in WORDS]
        for number, value in enumerate(VALUES):
            file = Path(f"{number}.json")
            file.write_text(json.dumps({"dataset_name": "digits"} | dict.fromkeys(names, value)))
            lines.append(["--config", str(file)])
        for line in lines if len(names) > 1 else random.Random(names[0]).sample(lines, 4):
            try:
                to_recipe(parse_arguments(line))
                outcomes["accepted"] += 1
            except ArgumentError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) >= len(looked_at) / 2


def test_a_lone_json_file_is_the_configuration(folders: Path) -> None:
    Path("run.json").write_text(json.dumps({"dataset_name": "digits", "learning_rate": 1e-3, "model_type": "vit"}))
    arguments = parse("run.json")
    assert arguments.training["learning_rate"] == 1e-3
    assert (arguments.fit.model_type, arguments.fit.model_name_or_path) == ("vit", None)


def test_mappings_and_lists(folders: Path) -> None:
    arguments = digits(
        "--model_type vit --model_config '{hidden_size: 192, \"qkv_bias\": false}' --image_mean 0.5 0.5 0.5 "
        "--image_std '[0.2, 0.2, 0.2]' --lr_scheduler_kwargs '{\"num_cycles\": 2}' --include_for_metrics loss inputs"
    )
    assert arguments.fit.model_config == {"hidden_size": 192, "qkv_bias": False}
    assert (arguments.data.image_mean, arguments.data.image_std) == ([0.5] * 3, [0.2] * 3)
    assert arguments.training["lr_scheduler_kwargs"] == {"num_cycles": 2}
    assert arguments.training["include_for_metrics"] == ["loss", "inputs"]


def test_a_command_with_fewer_groups(folders: Path) -> None:
    groups = ("data", "pixels", "measure")
    save_recipe(digits("--learning_rate 1e-3"), "recipe.yaml")
    arguments = parse("--config recipe.yaml --max_parity_samples 5", groups=groups)
    assert (arguments.data.dataset_name, arguments.measure.max_parity_samples, arguments.training) == ("digits", 5, {})
    assert "is not an argument of this command" in message("--dataset_name digits --learning_rate 1", groups=groups)


def test_a_command_with_single_names_of_other_groups() -> None:
    options = {"groups": ("data",), "also": ("model_name_or_path", "split")}
    arguments = parse("--dataset_name digits --model_name_or_path somewhere --split validation", **options)
    assert (arguments.fit.model_name_or_path, arguments.measure.split) == ("somewhere", "validation")
    assert "is not an argument of this command" in message("--dataset_name digits --lora_rank 4", **options)
    assert "is not an argument of this command" in message("--dataset_name digits --split validation")


@pytest.mark.parametrize("left_out", ["run", "data", "pixels", "fit", "measure", "publish", "training"])
def test_any_group_may_be_left_out(left_out: str) -> None:
    groups = [
        group for group in ("run", "data", "pixels", "fit", "measure", "publish", "training") if group != left_out
    ]
    line = "" if left_out == "data" else "--dataset_name digits"
    arguments = parse(line, groups=groups)
    assert all(known_arguments()[name].group != left_out for name in arguments.training)


# --- mistakes ---


def test_names_of_other_tools_are_answered_with_names_that_exist() -> None:
    known = known_arguments()
    assert len(OTHER_NAMES) > 100
    for other, ours in OTHER_NAMES.items():
        assert other not in known, f"--{other} is a name of ours"
        assert ours, other
        assert set(ours) <= {name for name, argument in known.items() if not argument.hidden}, other


def test_a_command_answers_with_its_own_arguments_only() -> None:
    assert "here it is --model_name_or_path?" not in (told := message("--model x", groups=("measure",)))
    assert "run with --help" in message("--lr 1 --dataset_name digits", groups=("data", "score", "measure"))
    assert "learning_rate" not in told


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--datset_name x", "did you mean --dataset_name"),
        ("--learning-rat 1", "did you mean --learning_rate"),
        ("--qqqq 1", "run with --help"),
        ("--lr 1", "here it is --learning_rate"),
        ("--epochs 3", "here it is --num_train_epochs"),
        ("--batch-size 8", "here it is --per_device_train_batch_size"),
        ("--model resnet50", "here it is --model_name_or_path or --model_type"),
        ("--data photos", "here it is --dataset_name or --train_dir or --train_file"),
        ("--imgsz 224", "here it is --image_size"),
        ("--patience 3", "here it is --early_stopping_patience"),
        ("--learn 1", "--learn is not a known argument"),  # no abbreviations
        ("stray --dataset_name digits", "'stray' follows no flag"),
        ("--seed", "--seed has no value"),
        ("--seed 1 2", "--seed has 2 values: 1 2"),
        ("--config", "--config has no value"),
        ("--dataset_name digits --train_dir train", "comes from dataset_name and from train_dir"),
        ("--train_dir train --validation_file val.csv", "comes from train_dir and from validation_file"),
        ("", "no dataset is named"),
        ("--train_dir nowhere", "no such folder"),
        ("--train_file train", "no such file"),
        ("--train_dir train --dataset_revision main", "dataset_revision without dataset_name"),
        ("--train_dir train --train_val_split 1.5", "a fraction below 1"),
        ("--train_dir train --test_split -0.1", "in [0, inf)"),
        ("--validation_dir val --do_train", "do_train without training data"),
        ("--image_mean 0.5 0.5", "image_mean has 2 values"),
        ("--image_size 100000", "image_size 100000 makes images of 10,000,000,000 pixels"),
        ("--image_std 0.5 0.5 0", "in (0, inf)"),
        ("--image_size 0", "in [1, inf)"),
        ("--random_crop_scale 0.9 0.1", "smallest, largest"),
        ("--alpha_background '#12'", "drop, a colour's name"),
        ("--intensity_range 5", "2 numbers: the value that becomes black"),
        ("--intensity_range 5 5", "2 numbers: the value that becomes black"),
        ("--intensity_range 0 inf", "inf"),
        ("--augmentation strong", "one of none, light, medium, heavy"),
        ("--color_jitter 0.2 0.2", "4 numbers"),
        ("--color_jitter 0.2 0.2 0.2 0.6", "hue of at most 0.5"),
        ("--randaugment_magnitude 5", "randaugment_magnitude with auto_augment none"),
        ("--augmentation_repeats 2 --streaming", "augmentation_repeats with streaming true"),
        ("--show_batch --streaming", "show_batch with streaming true"),
        ("--imbalance balanced_sampler --augmentation_repeats 2", "balanced_sampler with augmentation_repeats"),
        ("--imbalance weights --streaming", "imbalance weights with streaming true"),
        ("--imbalance focal --loss bce", "imbalance focal with loss bce"),
        ("--imbalance logit_adjust --loss bce", "imbalance logit_adjust with loss bce"),
        ("--focal_gamma 1", "focal_gamma with loss auto"),
        ("--effective_number_beta 0.9", "effective_number_beta with imbalance none"),
        ("--ema_decay 1", "in (0, 1)"),
        ("--ema_decay 0.9 --fsdp full_shard", "ema_decay with fsdp"),
        ("--model_soup --adaptation lora", "model_soup with adaptation lora"),
        ("--model_soup --do_train", "model_soup without evaluation or checkpoints"),
        ("--adaptation probe --ema_decay 0.9 --imbalance weights", "imbalance, ema_decay with adaptation probe"),
        ("--streaming --cache_decoded_images true", "with streaming true"),
        ("--on_bad_image ignore", "one of error, skip"),
        ("--on_bad_image skip --scan_images false", "on_bad_image skip with scan_images false"),
        ("--on_bad_image skip --streaming", "on_bad_image skip with streaming true"),
        ("--decoder opencv", "one of auto, pillow, simplejpeg"),
        ("--model_type vit --model_name_or_path x", "model_type with model_name_or_path x"),
        ("--model_type vit --config_name x", "model_type with config_name x"),
        ("--model_config '{a: 1}'", "model_config without model_type"),
        ("--model_config vit.json", "a mapping"),
        ("--adaptation head --freeze_layers 2", "freeze_layers with adaptation head"),
        ("--adaptation probe --streaming", "adaptation probe with streaming true"),
        ("--adaptation probe --no_do_eval", "adaptation probe with do_eval false"),
        ("--adaptation probe --loss bce --teacher_model x", "loss, teacher_model with adaptation probe"),
        ("--adaptation probe --early_stopping_patience 2", "early_stopping_patience with adaptation probe"),
        ("--dataset_name digits --shots_per_class 5 --streaming", "shots_per_class with streaming"),
        ("--shots_per_class 5 --max_train_samples 9", "shots_per_class with max_train_samples"),
        ("--shots_seed 1", "shots_seed without shots_per_class"),
        ("--adaptation auto --streaming", "adaptation auto with streaming true"),
        ("--adaptation probe --auto_finetune full", "auto_finetune with adaptation probe"),
        ("--adaptation auto --auto_finetune full --lora_rank 4", "lora_rank with adaptation auto"),
        ("--adaptation probe --head_dropout 0.1", "head_dropout with adaptation probe"),
        ("--dataset_name digits --adaptation head --train_layers 2", "train_layers with adaptation head"),
        ("--adaptation head --layer_lr_decay 0.7", "layer_lr_decay with adaptation head"),
        ("--layer_lr_decay 0", "in (0, 1]"),
        ("--layer_lr_decay 0.7 --fsdp full_shard", "layer_lr_decay with fsdp"),
        ("--adaptation lora --unfreeze_epochs 1", "unfreeze_epochs with adaptation lora"),
        ("--head_dropout 1", "in [0, 1)"),
        ("--horizontal_flip_probability 1.5", "in [0, 1]"),
        ("--early_stopping_threshold 0.1", "without early_stopping_patience"),
        ("--early_stopping_patience 2 --do_train", "early_stopping_patience without evaluation"),
        ("--do_train false --do_eval false --do_predict false", "all false"),
        ("--do_eval false --eval_strategy epoch", "with do_eval false"),
        ("--load_best_model_at_end --eval_strategy epoch --save_strategy steps", "the same strategy for both"),
        ("--load_best_model_at_end --eval_steps 100 --save_steps 150", "a multiple of eval_steps"),
        ("--load_best_model_at_end --do_train", "load_best_model_at_end without evaluation"),
        ("--metric_for_best_model acc", "metric_for_best_model is 'acc'"),
        ("--bf16 --fp16", "bf16 with fp16 true"),
        ("--save_safetensors false", "only safetensors files"),
        ("--lr_scheduler_type step --lr_scheduler_kwargs '{milestones: [1], gamma: 2}'", "milestones: [1], gamma: 2"),
        ("--lr_scheduler_type sine", "one of linear, cosine"),
        ("--deepspeed nowhere.json", "not a file"),
        ("--per_device_train_batch_size 0", "in [1, inf)"),
        *((f"--{name} {value}", "with adaptation full") for name, value in LORA_ONLY.items()),
    ],
)  # fmt: skip
def test_mistakes(line: str, expected: str, folders: Path) -> None:
    known = ("--dataset", "--train_", "--validation_", "--test_split")
    prefix = "" if not line or any(word in line for word in known) else "--dataset_name digits "
    text = message(prefix + line)
    assert expected in text
    assert "problems were found" not in text, "one mistake, one message"


def test_all_mistakes_are_told_at_once(folders: Path) -> None:
    Path("run.yaml").write_text("learning_rate: fast\nimage_sise: 3\ndecoder: x\n")
    text = message("--config run.yaml --seed x --epochs 3 --image_mean 1 1 --streaming --cache_decoded_images true")
    assert text.startswith("7 problems were found:")
    for part in (
        "learning_rate is 'fast'",
        "image_sise",
        "decoder is 'x'",
        "--seed",
        "--epochs",
        "image_mean",
        "streaming",
    ):
        assert part in text


def test_lora_flags_belong_to_lora() -> None:
    fit = digits("--adaptation lora " + " ".join(f"--{name} {value}" for name, value in LORA_ONLY.items())).fit
    assert (fit.lora_rank, fit.lora_alpha, fit.lora_dropout) == (4, 8.0, 0.1)
    assert fit.lora_target_modules == ["a", "b"]


# --- defaults ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {
            "output_dir": "outputs/digits_vit-base-patch16-224-in21k", "do_train": True, "do_eval": True,
            "do_predict": True, "eval_strategy": "epoch", "save_strategy": "epoch", "eval_steps": None,
            "load_best_model_at_end": True, "metric_for_best_model": "auto", "greater_is_better": True,
            "save_total_limit": 2, "logging_steps": 50, "report_to": "none", "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 64, "label_names": ["labels"], "remove_unused_columns": False,
        }),
        ("--model_type convnext", {"output_dir": "outputs/digits_convnext"}),
        ("--do_train", {"do_train": True, "do_eval": False, "eval_strategy": "no", "load_best_model_at_end": False}),
        ("--do_train --eval_strategy epoch", {"do_eval": True, "load_best_model_at_end": True}),
        ("--do_eval", {"do_train": False, "do_eval": True, "eval_strategy": "no"}),
        ("--no_do_eval", {"do_train": True, "do_eval": False, "eval_strategy": "no", "save_strategy": "epoch"}),
        ("--do_train false", {"do_train": False, "do_eval": True, "do_predict": True}),
        ("--no_do_predict", {"do_train": True, "do_eval": True, "do_predict": False}),
        ("--save_strategy steps", {"eval_strategy": "steps", "eval_steps": 500, "save_steps": 500}),
        ("--eval_strategy steps", {"save_strategy": "steps", "eval_steps": 500, "load_best_model_at_end": True}),
        ("--eval_steps 20", {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 20}),
        ("--save_steps 0.25", {"eval_strategy": "steps", "eval_steps": 0.25, "load_best_model_at_end": True}),
        ("--eval_strategy epoch --save_steps 20", {"save_strategy": "steps", "load_best_model_at_end": False}),
        ("--save_strategy no", {"eval_strategy": "epoch", "load_best_model_at_end": False}),
        ("--save_strategy best", {"eval_strategy": "epoch", "load_best_model_at_end": True}),
        ("--eval_strategy no", {"save_strategy": "epoch", "load_best_model_at_end": False, "do_eval": True}),
        ("--streaming", {"eval_strategy": "steps", "save_strategy": "steps"}),
        ("--streaming --no_do_eval", {"eval_strategy": "no", "save_strategy": "steps"}),
        ("--metric_for_best_model ece", {"greater_is_better": False}),
        ("--metric_for_best_model eval_log_loss", {"greater_is_better": False}),
        ("--warmup_steps 0.1", {"warmup_ratio": 0.1, "warmup_steps": None}),
        ("--warmup_steps 100", {"warmup_ratio": None, "warmup_steps": 100}),
        ("--hub_model_id me/x --push_to_hub_organization us", {"hub_model_id": "us/x"}),
    ],
)  # fmt: skip
def test_defaults(line: str, expected: dict[str, Any]) -> None:
    training = digits(line).training
    assert {name: training.get(name) for name in expected} == expected


def test_defaults_depend_on_the_data_there_is(folders: Path) -> None:
    only_validation = parse("--validation_dir val").training
    assert (only_validation["do_train"], only_validation["do_eval"]) == (False, True)
    only_test = parse("--test_dir test").training
    assert (only_test["do_train"], only_test["do_eval"], only_test["do_predict"]) == (False, False, True)
    assert parse("--train_file train.csv").training["output_dir"].startswith("outputs/train_vit")


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 0), (4, 2), (64, 4)])
def test_workers_follow_the_cores(cores: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert digits().training["dataloader_num_workers"] == workers


def test_every_default_has_a_reason_and_can_be_overruled() -> None:
    assert all(row.reason for row in TRAINING_DEFAULTS)
    values = {
        "output_dir": "x", "do_train": False, "do_eval": False, "do_predict": False, "eval_strategy": "no",
        "save_strategy": "no", "eval_steps": 7, "save_steps": 7, "load_best_model_at_end": False,
        "metric_for_best_model": "loss", "greater_is_better": False, "save_total_limit": 9, "logging_steps": 3,
        "report_to": "tensorboard", "per_device_train_batch_size": 3, "per_device_eval_batch_size": 5,
        "dataloader_num_workers": 1, "label_names": ["label"], "resume_from_checkpoint": "false",
        "optim_args": "momentum=0.5",
    }  # fmt: skip
    rows = {row.name for row in TRAINING_DEFAULTS}
    assert set(values) == rows - {"remove_unused_columns", "logging_nan_inf_filter"}
    for name, value in values.items():
        text = json.dumps(value) if isinstance(value, list) else value
        assert digits(f"--{name} {shlex.quote(str(text))}").training[name] == value


def test_what_is_changed_about_the_users_words_is_noted() -> None:
    arguments = digits("--remove_unused_columns --logging_nan_inf_filter --warmup_ratio 0.1 --warmup_steps 10")
    assert arguments.training["remove_unused_columns"] is False
    assert arguments.training["logging_nan_inf_filter"] is False
    assert "warmup_ratio" not in arguments.training
    assert len(arguments.notes) == 3
    assert digits().notes == []


def test_what_a_probe_does_not_use_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    (note,) = digits("--adaptation probe --learning_rate 1e-3 --random_crop_scale 0.5 1").notes
    assert "learning_rate, random_crop_scale are not used" in note
    assert digits("--adaptation probe --loss auto").notes == []


def test_what_one_process_alone_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "adaptation probe in 2 processes" in message("--dataset_name digits --adaptation probe")
    assert "unfreeze_epochs in 2 processes" in message("--dataset_name digits --unfreeze_epochs 1")


def test_the_checkpoint_to_resume_is_there_and_no_part_of_the_recipe(tmp_path: Path) -> None:
    arguments = digits(f"--resume_from_checkpoint {tmp_path}")
    assert arguments.training["resume_from_checkpoint"] == str(tmp_path)
    assert "resume_from_checkpoint" not in to_recipe(arguments)
    with pytest.raises(ArgumentError, match="nowhere': there is no such folder"):
        digits(f"--resume_from_checkpoint {tmp_path}/nowhere")


def test_dataclass_defaults_are_the_parsers() -> None:
    arguments = digits()
    assert arguments.data == DataArguments(dataset_name="digits")
    assert arguments.fit == FitArguments(model_name_or_path="google/vit-base-patch16-224-in21k")
    assert arguments.measure == MeasureArguments()


def test_every_argument_of_ours_is_documented_and_typed() -> None:
    for cls in (DataArguments, FitArguments, MeasureArguments, PublishArguments):
        for item in dataclasses.fields(cls):
            argument = known_arguments()[item.name]
            assert argument.type.kinds, item.name
            assert argument.help.endswith("."), item.name
            numeric = argument.type.kinds & {"int", "float"}
            assert bool(argument.within) or not numeric, f"{item.name} has a range"


# --- recipes ---

FRAGMENTS = [
    "--learning_rate 1e-4", "--num_train_epochs 2.5", "--seed 0", "--bf16", "--no_do_predict", "--eval_steps 50",
    "--model_type vit --model_config '{hidden_size: 192, layer_norm_eps: 1e-12, id: \"no\"}'", "--run_name 1e-4",
    "--adaptation lora --lora_target_modules query value", "--train_val_split 100", "--test_split 0", "--image_size 64",
    "--image_mean 0.5 0.5 0.5 --image_std 0.5 0.5 0.5", "--warmup_ratio 0.05", "--warmup_steps 10",
    "--lr_scheduler_type step --lr_scheduler_kwargs '{step_epochs: 30, gamma: 0.1}'", "--report_to tensorboard mlflow",
    "--streaming", "--max_train_samples 10", "--alpha_background '#808080'",
    "--alpha_background drop", "--intensity_range -1024 3071.5",
    "--run_name 'a: #b'",
    "--optim_args a=1,b=2",
    "--early_stopping_patience 3", "--push_to_hub --hub_model_id me/x", "--gradient_checkpointing", "--use_cpu",
    "--save_strategy best", "--cache_decoded_images false", "--output_dir ~/runs/x", "--resume_from_checkpoint auto",
    "--max_parity_samples 10", "--logging_dir logs", "--accelerator_config '{\"split_batches\": true}'",
    "--fp16_full_eval", "--scan_images false", "--on_bad_image error",
]  # fmt: skip


def test_a_saved_recipe_gives_equal_arguments(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(80):
        line = " ".join(draw.sample(FRAGMENTS, draw.randint(0, 8)))
        arguments = digits(line)
        path = tmp_path / f"{number}.yaml"
        save_recipe(arguments, path)
        again = parse_arguments(["--config", str(path)])
        assert again == arguments, line
        save_recipe(again, tmp_path / "again.yaml")
        assert (tmp_path / "again.yaml").read_text() == path.read_text()


def test_a_recipe_is_grouped_and_short(tmp_path: Path) -> None:
    arguments = digits("--learning_rate 1e-4 --image_size 64 --local_rank 0 --max_parity_samples 1000")
    recipe = to_recipe(arguments)
    assert recipe["max_parity_samples"] == 1000  # given, though it is the default
    assert "lora_rank" not in recipe
    assert "local_rank" not in recipe
    assert list(recipe).index("output_dir") < list(recipe).index("dataset_name") < list(recipe).index("image_size")
    save_recipe(arguments, tmp_path / "recipe.yaml")
    lines = (tmp_path / "recipe.yaml").read_text().splitlines()
    headings = [line.split()[2].rstrip(":") for line in lines if line.startswith("# ---")]
    assert headings == ["run", "data", "pixels", "fit", "measure", "training"]
    assert "learning_rate: 0.0001" in lines
