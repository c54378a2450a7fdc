"""`evaluate` modules as a user writes them."""

from pathlib import Path

MCC = '''
import datasets
import evaluate
from sklearn.metrics import matthews_corrcoef


class Mcc(evaluate.Metric):
    """Matthews correlation coefficient."""

    def _info(self):
        ids = datasets.Value("int64")
        features = datasets.Features({"predictions": ids, "references": ids})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"mcc": matthews_corrcoef(references, predictions)}
'''
TOP_TWO = '''
import datasets
import evaluate
import numpy as np


class TopTwo(evaluate.Metric):
    """Share of images whose class is among the two best scores, and the mean of the best score."""

    def _info(self):
        scores, ids = datasets.Sequence(datasets.Value("float32")), datasets.Value("int64")
        features = datasets.Features({"prediction_scores": scores, "references": ids})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, prediction_scores, references):
        scores = np.asarray(prediction_scores)
        best = np.argsort(-scores, axis=1)[:, :2]
        right = (best == np.asarray(references)[:, None]).any(axis=1)
        return {"top_two": right.mean(), "mean_confidence": scores.max(axis=1).mean(), "per_class": [1, 2]}
'''
ANY_RIGHT = '''
import datasets
import evaluate
import numpy as np


class AnyRight(evaluate.Metric):
    """Share of images of which one label at least is found."""

    def _info(self):
        labels = datasets.Sequence(datasets.Value("int64"))
        features = datasets.Features({"predictions": labels, "references": labels})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"any_right": float((np.asarray(predictions) & np.asarray(references)).any(axis=1).mean())}
'''


def write_module(folder: Path, name: str, text: str) -> str:
    """Write a module where `evaluate` finds it, and return its path."""
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return str(path)
