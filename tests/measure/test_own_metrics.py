"""A user's own `evaluate` modules: what they are given, what they return, and how sure it is."""

from __future__ import annotations

from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
from made_label_tables import make_label_case
from made_tables import make_case, make_logits
from own_metrics import ANY_RIGHT, MCC, TOP_TWO, write_module
from sklearn import metrics as sk

from hf_imgcls.arguments.parse import make_arguments
from hf_imgcls.catalogue import EVALUATION, list_metrics
from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.measure.metrics.evaluation import measure_own
from hf_imgcls.measure.metrics.own import estimate_own, load_own_metrics
from hf_imgcls.measure.statistics.intervals import wilson
from hf_imgcls.measure.task import choose_accumulator
from hf_imgcls.records import MULTI_LABEL, SINGLE_LABEL

LABELS = [f"class {number}" for number in range(12)]


@pytest.fixture
def write(tmp_path):
    """Writes a module and returns its path."""
    return lambda name, text: write_module(tmp_path, name, text)


def load(*specs, labels=LABELS, multi_label=False, **names):
    return load_own_metrics(
        make_arguments(dataset_name="digits", metrics=list(specs), **names), labels, multi_label=multi_label
    )


def test_a_table_is_measured_with_what_each_module_wants(write):
    own = load(write("mcc", MCC), write("top_two", TOP_TWO))
    assert [metric.keys for metric in own] == [("mcc",), ("top_two", "mean_confidence")]
    assert [metric.needs_scores for metric in own] == [False, True]
    table = make_case("random")
    values = {name: item.value for name, item in measure_own(own, table).items()}
    assert values["mcc"] == pytest.approx(sk.matthews_corrcoef(table.label, table.prediction), abs=1e-12)
    expected = sk.top_k_accuracy_score(table.label, table.probabilities, k=2, labels=range(12))
    assert values["top_two"] == pytest.approx(expected, abs=1e-12)
    assert values["mean_confidence"] == pytest.approx(table.confidence.mean(), abs=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_evaluation_has_the_catalogues_metrics_and_a_users(write, multi_label):
    own = load(write("any_right", ANY_RIGHT) if multi_label else write("top_two", TOP_TWO), multi_label=multi_label)
    problem_type = MULTI_LABEL if multi_label else SINGLE_LABEL
    dataset = SimpleNamespace(problem_type=problem_type, labels=LABELS)
    evaluation = choose_accumulator(dataset, "loss", own)()
    logits, labels = make_logits("random")
    references = np.eye(12)[labels] if multi_label else labels
    parts = [choose_accumulator(dataset, "loss", own)() for _ in range(2)]
    for start in range(0, 500, 50):
        rows = slice(start, start + 50)
        parts[start // 50 % 2].update(logits[rows], references[rows], np.arange(500)[rows])
    for part in parts:
        evaluation.merge(part)
    values = evaluation.compute()
    assert evaluation.num_examples == 500
    if multi_label:
        assert values["any_right"] == pytest.approx((logits[np.arange(500), labels] >= 0).mean(), abs=1e-12)
    else:
        assert values["top_two"] == pytest.approx(sk.top_k_accuracy_score(labels, logits, k=2), abs=1e-12)
        assert values["roc_auc"] is not None, "the scores were kept for the module"
    assert list(values)[: -len(own[0].keys)] == list(list_metrics(EVALUATION, multi_label=multi_label))


RIGHT = MCC.replace(
    "matthews_corrcoef(references, predictions)",
    "sum(a == b for a, b in zip(references, predictions)) / len(references)",
)


def test_intervals_are_percentiles_of_a_bootstrap(write):
    own = load(write("right", RIGHT))[0]
    answers = make_case("random").read_answers()
    estimate = estimate_own(own, answers, seed=3)["mcc"]
    assert estimate == estimate_own(own, answers, seed=3)["mcc"]
    assert estimate != estimate_own(own, answers, seed=4)["mcc"]
    assert (estimate.method, estimate.n) == ("bootstrap", 500)
    low, high = (float(end) for end in wilson(round(estimate.value * 500), 500))
    assert estimate.low == pytest.approx(low, abs=0.015)
    assert estimate.high == pytest.approx(high, abs=0.015)
    wider = estimate_own(own, answers, seed=3, level=0.99)["mcc"]
    assert wider.low < estimate.low < estimate.high < wider.high


def test_a_module_that_wants_evaluates_own_copies_gets_them(write):
    copied = RIGHT.replace('return {"mcc"', 'assert self.data is not None\n        return {"mcc"')
    answers = make_case("random").read_answers().take(np.arange(60))
    estimate = estimate_own(load(write("copied", copied))[0], answers, seed=3)["mcc"]
    direct = estimate_own(load(write("right", RIGHT))[0], answers, seed=3)["mcc"]
    assert (estimate.value, estimate.method) == (direct.value, "bootstrap")
    assert estimate.low == pytest.approx(direct.low, abs=0.05)


def test_where_a_bootstrap_says_nothing_there_is_no_interval(write):
    own = load(write("mcc", MCC), labels=LABELS[:5])[0]
    estimate = estimate_own(own, make_case("all right").read_answers())["mcc"]
    assert (estimate.value, estimate.low, estimate.high) == (1.0, None, None)
    assert "the same in every bootstrap sample" in estimate.remark
    fragile = MCC.replace('return {"mcc"', 'return {"mcc": float("nan")} if len(set(references)) < 12 else {"mcc"')
    own = load(write("fragile", fragile))[0]
    rare = make_case("random").read_answers().take(np.arange(40))
    estimate = estimate_own(own, rare)["mcc"]
    assert estimate.low is None
    assert ("not defined in" in estimate.remark) == (estimate.value is not None)


def test_scores_that_were_not_kept_are_told(write):
    own = load(write("top_two", TOP_TWO), labels=[str(number) for number in range(1001)])
    measured = measure_own(own, make_case("many classes"))
    assert measured["top_two"].value is None
    assert "were not kept" in measured["top_two"].remark


def test_a_value_that_is_not_finite_is_not_measured(write):
    own = load(write("none", MCC.replace("matthews_corrcoef(references, predictions)", 'float("inf")')))
    measured = measure_own(own, make_case("random"))
    assert measured["mcc"].value is None
    assert "no finite number" in measured["mcc"].remark


def test_a_module_that_fails_later_says_so(write):
    guard = MCC.replace('return {"mcc"', 'assert len(references) < 100, "too many"\n        return {"mcc"')
    own = load(write("guard", guard))
    with pytest.raises(DataError, match=r"guard\.py fails on 500 examples: AssertionError: too many"):
        measure_own(own, make_case("random"))


def test_several_labels_are_vectors(write):
    own = load(write("any_right", ANY_RIGHT), multi_label=True)
    table = make_label_case("random")
    value = measure_own(own, table)["any_right"].value
    assert value == pytest.approx((table.answers & table.targets).any(axis=1).mean(), abs=1e-12)
    with pytest.raises(ArgumentError, match="a class id per image"):
        load(write("any_right", ANY_RIGHT))
    with pytest.raises(ArgumentError, match="a vector of 0 and 1 per image"):
        load(write("mcc", MCC), multi_label=True)


class Objection(evaluate.Metric):
    """A module from Python, with an input that nothing fits."""

    def _info(self):
        import datasets

        features = datasets.Features({"texts": datasets.Value("string"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)


WRONG = {
    "an argument more": (MCC.replace("references):", "references, beta):"), "TypeError: .*'beta'"),
    "no dict": (MCC.replace('return {"mcc": ', "return (").replace("predictions)}", "predictions))"), "not a dict"),
    "no number": (MCC.replace("matthews_corrcoef(references, predictions)", '"high"'), "returns no number"),
    "a name of ours": (MCC.replace('"mcc"', '"macro_f1"'), "returns 'macro_f1', a name of the metrics of the cata"),
    "a taken name": (MCC.replace('"mcc"', '"num_examples"'), "returns 'num_examples'"),
    "no class": ("import evaluate\n", "cannot be loaded: .* 0 classes"),
    "two classes": (MCC + MCC.replace("class Mcc", "class Other"), "cannot be loaded: .* 2 classes"),
    "no Python": ("def (", "SyntaxError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_module_that_cannot_be_used_is_refused_before_training(write, case):
    text, message = WRONG[case]
    with pytest.raises(ArgumentError, match=message):
        load(write("wrong", text))


def test_objects_from_python(write):
    module = load(write("mcc", MCC))[0].module
    own = load(module)
    assert own[0].keys == ("mcc",)
    assert measure_own(own, make_case("random"))["mcc"].value > 0.3
    with pytest.raises(ArgumentError, match=r"takes \{'texts'"):
        load(Objection())
    with pytest.raises(ArgumentError, match="pass an object, not its class"):
        load(Objection)
    with pytest.raises(ArgumentError, match="not an evaluate module"):
        load(len)
    with pytest.raises(ArgumentError, match="a name of another of --metrics"):
        load(module, write("again", MCC))


def test_a_folder_with_a_module_and_imports_on_one_line(tmp_path):
    (tmp_path / "mcc").mkdir()
    text = MCC.replace("import datasets\nimport evaluate", "import datasets, evaluate")
    write_module(tmp_path / "mcc", "mcc", text)
    assert load(str(tmp_path / "mcc"))[0].keys == ("mcc",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match=r"there is no file '.*empty.py'"):
        load(str(tmp_path / "empty"))


def test_names_are_checked_before_anything_is_loaded(write):
    path = write("mcc", MCC)
    for names, message in (
        ({"metrics": ["nowhere.py"]}, "there is no file 'nowhere.py'"),
        ({"metrics": ["org/name"]}, "code from the Hub, and trust_remote_code is false"),
        ({"metrics": ["mcc"]}, "code from the Hub, and trust_remote_code is false"),
        ({"metric_for_best_model": "acuracy"}, "did you mean accuracy"),
        ({"metrics": [path], "metric_for_best_model": "mcc"}, "without greater_is_better"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make_arguments(dataset_name="digits", **names)
    make_arguments(dataset_name="digits", metrics=["org/name"], trust_remote_code=True)
    with pytest.raises(ArgumentError, match="did you mean mcc"):
        load(path, metric_for_best_model="mc", greater_is_better=True)
    assert load(path, metric_for_best_model="eval_mcc", greater_is_better=True)
