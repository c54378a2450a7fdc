"""recipes/measure.py: a run is scored on its own data, any model on any data, and mistakes are said in one line."""

from __future__ import annotations

import itertools
import json
import runpy
import shutil
import sys

import pytest
from places import REPOSITORY
from trained_models import digits_arguments, find_trained_model, load_digits

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.arguments.recall import names_dataset, recall_arguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.measure.score import score_folder
from hf_imgcls.run_folder import compare_data

TRAINED_WITH = "--dataset_name digits --max_test_samples 61 --test_split 0.2 --model_type vit --output_dir"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A folder as recipes/finetune.py leaves it."""
    folder = shutil.copytree(find_trained_model("vit"), tmp_path_factory.mktemp("runs") / "digits_run")
    args = parse_arguments([*TRAINED_WITH.split(), str(folder)])
    save_recipe(args, folder / "recipe.yaml")
    load_image_dataset(args.data).record.save(folder / "data.json")
    return folder


@pytest.fixture
def measure(monkeypatch, tmp_path, capsys):
    """Run the recipe in a folder of its own: exit code, what it printed, what it complained about."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["measure.py", *map(str, argv)])
        try:
            runpy.run_path(str(REPOSITORY / "recipes" / "measure.py"), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_a_run_is_scored_on_its_own_test_split(run_folder, measure, tmp_path):
    before = {path.name: path.read_bytes() for path in run_folder.iterdir()}
    code, out, _ = measure("--model_name_or_path", run_folder)
    assert code == 0
    folder = tmp_path / "outputs" / f"digits_{run_folder.name}_measured"
    results = json.loads((folder / "test_results.json").read_text())
    # 0.2 is the run's own cut, 61 its own number of test examples: neither is a default.
    args = parse_arguments([*TRAINED_WITH.split(), str(run_folder)])
    expected = score_folder(run_folder, load_image_dataset(args.data), args.data)
    assert results["test_accuracy"] == expected.metrics["accuracy"]
    assert results["test_num_examples"] == 61
    assert results["test_accuracy"] > 0.4
    assert f"accuracy              {results['test_accuracy']:.4f}" in out
    assert "61 of 61 arrays, given as PNG" in out
    assert "note:" not in out
    assert json.loads((folder / "parity.json").read_text())["top1_agreement"] == 1.0
    assert {path.name: path.read_bytes() for path in run_folder.iterdir()} == before


def test_another_split_another_dataset_and_a_chosen_folder(run_folder, measure, tmp_path):
    options = ("--model_name_or_path", run_folder, "--output_dir", tmp_path / "out", "--max_parity_samples", 5)
    code, _, _ = measure(*options, "--split", "validation")
    assert code == 0
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["eval_num_examples"] == len(load_with(run_folder).splits["validation"]) != 61
    code, out, _ = measure(*options, "--dataset_name", "digits", "--max_test_samples", 20, "--test_split", 0.3)
    assert code == 0
    assert "test split, 20 examples" in out
    assert "5 of 5 arrays, given as PNG" in out
    assert {"test_accuracy", "eval_accuracy"} <= json.loads((tmp_path / "out" / "all_results.json").read_text()).keys()


def load_with(run_folder):
    return load_image_dataset(parse_arguments([*TRAINED_WITH.split(), str(run_folder)]).data)


def test_mistakes_end_with_one_line_and_code_2(run_folder, measure, tmp_path):
    code, _, err = measure("--dataset_name", "digits")
    assert code == 2
    assert "no model is named" in err
    code, _, err = measure("--model_name_or_path", tmp_path)
    assert code == 2
    assert "no dataset is named" in err
    code, _, err = measure("--model_name_or_path", tmp_path / "nothing", "--dataset_name", "digits")
    assert code == 2
    assert "there is no folder" in err
    code, _, err = measure("--model_name_or_path", run_folder, "--learning_rate", "1")
    assert code == 2
    assert "is not an argument of this command" in err
    code, _, err = measure("--model_name_or_path", run_folder, "--num_processes", "2")
    assert code == 2
    assert "1 process runs" in err
    assert "Traceback" not in err


def test_served_otherwise_than_scored_is_code_2(run_folder, measure, tmp_path, monkeypatch):
    from hf_imgcls.measure import final_model

    def answer_otherwise(*args, **options):
        score = score_folder(*args, **options)
        score.examples.prediction[:] = (score.examples.prediction + 1) % 10
        return score

    monkeypatch.setattr(final_model, "score_folder", answer_otherwise)
    code, out, err = measure("--model_name_or_path", run_folder, "--output_dir", tmp_path / "out")
    assert code == 2
    assert "disagrees with the scored one on 61 of 61 images" in err
    assert "served = scored" not in out
    assert (tmp_path / "out" / "test_results.json").exists()
    assert not (tmp_path / "out" / "parity.json").exists()


def test_recall_arguments(run_folder, tmp_path):
    model = f"--model_name_or_path={run_folder}"
    recipe = ["--config", str(run_folder / "recipe.yaml")]
    assert recall_arguments([model]) == [*recipe, "--num_processes", "null", "--output_dir", "null", model]
    assert recall_arguments([model, "--output-dir", "x"]) == [
        *recipe, "--num_processes", "null", model, "--output-dir", "x",
    ]  # fmt: skip
    assert recall_arguments([model, "--config", "x.yaml"]) == [model, "--config", "x.yaml"]
    assert recall_arguments(["--model_name_or_path", str(tmp_path)]) == ["--model_name_or_path", str(tmp_path)]
    assert recall_arguments(["--dataset_name", "digits"]) == ["--dataset_name", "digits"]
    other = recall_arguments([model, "--test_dir", "photos"])
    nulls = {name for name, value in itertools.pairwise(other) if value == "null"}
    assert {"--dataset_name", "--dataset_revision", "--label_column_name", "--output_dir"} < nulls
    assert "--test_dir" not in nulls
    assert not names_dataset([model, "--split", "validation"])
    assert names_dataset([model, "--test-dir", "photos"])


def test_data_that_is_not_the_runs_is_noticed(run_folder):
    args = digits_arguments()
    assert compare_data(run_folder, load_with(run_folder).record, "test") == []
    assert compare_data(run_folder / "nothing", load_digits().record, "test") == []
    args.max_test_samples = 20
    notes = compare_data(run_folder, load_image_dataset(args).record, "test")
    assert notes == ["The test split has 20 examples; the run's had 61."]
    args.max_test_samples, args.split_seed = 61, 7
    assert compare_data(run_folder, load_image_dataset(args).record, "test") == [
        "The test split has other numbers of examples per class than the run's."
    ]
