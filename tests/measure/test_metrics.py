"""The metrics against scikit-learn, on random data and where definitions get delicate."""

import itertools
import json

import evaluate
import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from hf_imgcls.catalogue import EVALUATION, METRICS, list_metrics
from hf_imgcls.errors import ArgumentError, DataError, ModelError, NumericsError
from hf_imgcls.measure.metrics.accumulate import ClassificationAccumulator
from hf_imgcls.measure.metrics.modules import CatalogueMetrics

TOLERANCE = {"rel": 0, "abs": 1e-12}


def make_split(case: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) float64 logits and (N,) labels of a named case."""
    generator = np.random.default_rng(sorted(CASES).index(case))
    num_examples, num_labels = CASES[case]
    logits = generator.normal(scale=3.0, size=(num_examples, num_labels))
    labels = generator.integers(0, num_labels, num_examples)
    logits[np.arange(num_examples), labels] += 2.0
    if case == "absent classes":  # 2 and 3 have no references; 3 is never predicted either
        labels[(labels == 2) | (labels == 3)] = 0
        logits[:, 3] = -50.0
    if case == "never predicted":
        logits[:, 1] = -50.0
    if case == "one class":
        labels[:] = 4
    if case == "ties":
        logits = np.round(logits / 3.0)
    if case == "saturated":
        logits *= 200.0
    return logits, labels


CASES = {
    "random": (500, 12),
    "absent classes": (60, 7),
    "never predicted": (80, 6),
    "one class": (30, 8),
    "ties": (400, 9),
    "saturated": (100, 10),
    "two classes": (101, 2),
    "one example": (1, 6),
    "hundred classes": (350, 100),
}


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def expected_values(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What scikit-learn says; names it cannot define are left out."""
    num_labels, predictions, scores = logits.shape[1], logits.argmax(axis=1), softmax(logits)
    every = np.arange(num_labels)
    values = {"accuracy": sk.accuracy_score(labels, predictions)}
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        values |= {f"{average}_precision": precision, f"{average}_recall": recall, f"{average}_f1": f1}
    occurring = np.unique(labels)
    values["balanced_accuracy"] = sk.recall_score(labels, predictions, labels=occurring, average="macro")
    # log_loss clips probabilities; logits do not need it.
    values["log_loss"] = float(np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]))
    if num_labels > 5:
        values["top5_accuracy"] = sk.top_k_accuracy_score(labels, logits, k=5, labels=every)
    if len(occurring) > 1:
        one_hot = labels[:, None] == occurring[None, :]
        values["roc_auc"] = sk.roc_auc_score(one_hot, scores[:, occurring], average="macro")
    return values


def accumulate(logits: np.ndarray, labels: np.ndarray, batch_size: int = 32) -> ClassificationAccumulator:
    accumulator = ClassificationAccumulator(logits.shape[1], keep_scores=True)
    for start in range(0, len(labels), batch_size):
        rows = slice(start, start + batch_size)
        accumulator.update(torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows]))
    return accumulator


@pytest.mark.parametrize("case", CASES)
def test_every_metric_equals_scikit_learn(case):
    logits, labels = make_split(case)
    accumulator = accumulate(logits, labels)
    values = accumulator.compute()
    expected = expected_values(logits, labels)

    assert set(values) == {*list_metrics(EVALUATION, multi_label=False), "num_examples"}
    assert values.pop("num_examples") == len(labels)
    ece = values.pop("ece")
    assert ece == pytest.approx(reference_ece(logits, labels), **TOLERANCE)
    defined = {name: value for name, value in values.items() if value is not None}
    assert defined == pytest.approx(expected, **TOLERANCE)
    assert set(accumulator.reasons) == set(values) - set(defined)
    assert all(accumulator.reasons.values())
    predictions = logits.argmax(axis=1)
    counted = sk.confusion_matrix(labels, predictions, labels=np.arange(logits.shape[1]))
    np.testing.assert_array_equal(accumulator.confusion_matrix, counted)


def reference_ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """The definition, bin by bin."""
    scores = softmax(logits)
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == labels
    edges = np.linspace(0, 1, 16)
    total = 0.0
    for lower, upper in itertools.pairwise(edges):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def test_the_cases_reach_what_they_are_named_for():
    logits, labels = make_split("absent classes")
    predictions = logits.argmax(axis=1)
    assert 2 not in labels
    assert 2 in predictions
    assert 3 not in labels
    assert 3 not in predictions
    logits, _ = make_split("ties")
    assert ((logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum() > 20


def test_names_of_the_sklearn_functions_that_ours_equal():
    logits, labels = make_split("random")
    values = accumulate(logits, labels).compute()
    scores = softmax(logits)
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, scores, multi_class="ovr"), **TOLERANCE)
    assert values["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels, logits.argmax(axis=1)), **TOLERANCE
    )
    assert values["log_loss"] == pytest.approx(sk.log_loss(labels, scores), **TOLERANCE)
    logits, labels = make_split("two classes")
    values = accumulate(logits, labels).compute()
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, softmax(logits)[:, 1]), **TOLERANCE)
    assert values["top5_accuracy"] is None


def test_undefined_values_have_reasons_and_partial_ones_have_remarks():
    one_class = accumulate(*make_split("one class"))
    assert one_class.compute()["roc_auc"] is None
    assert "one class" in one_class.reasons["roc_auc"]
    absent = accumulate(*make_split("absent classes"))
    assert absent.compute()["roc_auc"] is not None
    assert "2 of 7 classes" in absent.remarks["roc_auc"]
    assert "2 of 7 classes" in absent.remarks["balanced_accuracy"]
    assert "neither references nor predictions: 1 of 7" in absent.remarks["macro_f1"]
    never = accumulate(*make_split("never predicted"))
    never.compute()
    assert "never predicted, counted with precision 0: 1 of 6" in never.remarks["macro_precision"]
    without_scores = ClassificationAccumulator(3)
    without_scores.update(np.eye(3), [0, 1, 2])
    assert without_scores.compute("test_")["test_roc_auc"] is None
    assert set(without_scores.reasons) == {"roc_auc", "top5_accuracy"}


def test_values_are_json():
    for case in CASES:
        json.dumps(accumulate(*make_split(case)).compute(), allow_nan=False)


def test_batching_merging_and_order_change_nothing():
    logits, labels = make_split("random")
    index = np.random.default_rng(0).permutation(len(labels))
    whole = ClassificationAccumulator(12, keep_scores=True)
    whole.update(logits, labels, np.arange(len(labels)))
    first, second = (ClassificationAccumulator(12, keep_scores=True) for _ in range(2))
    for accumulator, rows in ((first, index[:123]), (second, index[123:])):
        for start in range(0, len(rows), 7):
            batch = rows[start : start + 7]
            accumulator.update(torch.from_numpy(logits[batch]), torch.from_numpy(labels[batch]), batch)
    second.merge(first)
    assert second.compute() == whole.compute()
    np.testing.assert_array_equal(second.collect_examples().sample_index, np.arange(len(labels)))
    np.testing.assert_array_equal(second.collect_examples().prediction, logits.argmax(axis=1))


def test_float32_and_bfloat16_logits_are_measured_in_float64():
    logits, labels = make_split("random")
    for dtype in (torch.float32, torch.bfloat16):
        narrow = torch.from_numpy(logits).to(dtype)
        accumulator = ClassificationAccumulator(12, keep_scores=True)
        accumulator.update(narrow, torch.from_numpy(labels))
        expected = expected_values(narrow.double().numpy(), labels)
        values = accumulator.compute()
        assert {name: values[name] for name in expected} == pytest.approx(expected, **TOLERANCE)


def test_bad_batches_are_errors():
    accumulator = ClassificationAccumulator(3)
    with pytest.raises(DataError, match="no examples"):
        accumulator.compute()
    with pytest.raises(DataError, match=r"label -1 \(sample_index 41\)"):
        accumulator.update(np.eye(3), [0, 1, -1], [7, 8, 41])
    with pytest.raises(DataError, match="label 3"):
        accumulator.update(np.eye(3), [0, 1, 3])
    with pytest.raises(NumericsError, match=r"1 examples with NaN or infinite logits \(sample_index \[8\]\)"):
        accumulator.update(np.array([[0, 1, 2], [0, np.nan, 1]]), [0, 1], [7, 8])
    with pytest.raises(ModelError, match="one per class"):
        accumulator.update(np.eye(4), [0, 1, 2, 2])
    assert accumulator.num_examples == 0
    accumulator.update(np.eye(3), [0, 1, 2], [7, 8, 9])
    accumulator.update(np.eye(3), [0, 1, 2], [10, 8, 11])
    with pytest.raises(RuntimeError, match="counted twice"):
        accumulator.compute()
    with pytest.raises(ValueError, match="merged"):
        accumulator.merge(ClassificationAccumulator(4))


class EchoLogits(torch.nn.Module):
    """A model that answers with its input."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, logits, labels):
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def make_evaluate_metrics() -> list[evaluate.Metric]:
    names = list_metrics(EVALUATION, multi_label=False)
    answers = [name for name in names if not METRICS[name].needs_scores]
    assert len(answers) > 6
    return [CatalogueMetrics(*answers), *(CatalogueMetrics(name) for name in names if name not in answers)]


@pytest.mark.parametrize("container", [list, np.asarray, torch.tensor])
def test_evaluate_metrics_give_the_same_numbers(container):
    logits, labels = make_split("random")
    values = accumulate(logits, labels).compute()
    values.pop("num_examples")
    scores = softmax(logits)

    combined, alone = evaluate.combine(make_evaluate_metrics()), CatalogueMetrics()
    for start in range(0, 500, 125):
        rows = slice(start, start + 125)
        batch = {"references": container(labels[rows])}
        batch["prediction_scores"] = container(scores[rows]) if container is not list else scores[rows].tolist()
        alone.add_batch(**batch)
        combined.add_batch(predictions=container(logits.argmax(axis=1)[rows]), **batch)
    assert len(alone) == 500
    result = combined.compute()
    assert result == pytest.approx(values, **TOLERANCE)
    assert alone.compute() == result
    assert len(alone) == 0
    at_once = evaluate.combine(make_evaluate_metrics()).compute(
        predictions=logits.argmax(axis=1), references=labels, prediction_scores=scores
    )
    assert at_once == result


def test_a_module_around_an_accumulator_computes_what_it_holds():
    logits, labels = make_split("random")
    module = CatalogueMetrics(accumulator=accumulate(logits, labels))
    values = accumulate(logits, labels).compute()
    assert module.compute() == {name: values[name] for name in list_metrics(EVALUATION, multi_label=False)}


def test_evaluate_metrics_one_by_one_and_their_errors():
    accuracy = CatalogueMetrics("accuracy")
    assert accuracy.compute(predictions=[0, 1, 1], references=[0, 1, 0]) == {"accuracy": pytest.approx(2 / 3)}
    accuracy.add(prediction=1, reference=1)
    accuracy.add(prediction=4, reference=1)
    assert accuracy.compute() == {"accuracy": 0.5}
    scores = np.full((3, 3), 1 / 3)
    top5 = CatalogueMetrics("top5_accuracy").compute(prediction_scores=scores, references=[0, 1, 2])
    assert top5["top5_accuracy"] is None
    assert "3 classes" in top5["top5_accuracy_reason"]
    roc_auc, log_loss = CatalogueMetrics("roc_auc"), CatalogueMetrics("log_loss")
    assert roc_auc.compute(prediction_scores=scores, references=[1, 1, 1])["roc_auc"] is None
    assert roc_auc.compute(prediction_scores=scores, references=[0, 1, 2])["roc_auc"] == 0.5
    impossible = log_loss.compute(prediction_scores=[[1.0, 0.0]], references=[1])["log_loss"]
    assert impossible == pytest.approx(sk.log_loss([1], [[1.0, 0.0]], labels=[0, 1]))
    with pytest.raises(ArgumentError, match="'acuracy'; did you mean accuracy"):
        CatalogueMetrics("acuracy")
    with pytest.raises(ArgumentError, match="mean_average_precision"):
        CatalogueMetrics("mean_average_precision")
    with pytest.raises(DataError, match="nothing was added"):
        accuracy.compute()
    with pytest.raises(DataError, match="no examples"):
        accuracy.compute(predictions=[], references=[])
    with pytest.raises(DataError, match="class id -1"):
        accuracy.compute(predictions=[0], references=[-1])
    with pytest.raises(DataError, match=r"shape \(2,\) for references of shape \(1,\)"):
        accuracy.compute(predictions=[0, 1], references=[0])
    with pytest.raises(DataError, match="without predictions and references"):
        accuracy.compute(prediction_scores=[[1.0]], references=[0])
    with pytest.raises(DataError, match="not probabilities"):
        log_loss.compute(prediction_scores=[[3.0, -1.0]], references=[0])
    with pytest.raises(DataError, match="reference 2"):
        log_loss.compute(prediction_scores=[[0.5, 0.5]], references=[2])


def test_evaluate_metrics_write_no_file(tmp_path):
    cache = tmp_path / "cache"
    module = CatalogueMetrics("accuracy", cache_dir=str(cache))
    assert module.compute(predictions=[1, 0], references=[1, 1]) == {"accuracy": 0.5}
    assert not cache.exists()
    evaluate.Metric._build_data_dir(module)  # what evaluate itself would have done
    assert cache.exists()
