"""hf_imgcls: fine-tune, judge and ship image classifiers on the Hugging Face stack.

    import hf_imgcls as ic
    run = ic.train(ic.load_data("photos"), "facebook/dinov2-small")

Importing the package imports neither torch nor transformers; the public names load what they need when they are first
used.
"""

from __future__ import annotations

import difflib
import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from hf_imgcls import telemetry

if TYPE_CHECKING:
    from hf_imgcls.api import check_parity, compare, export, load_data, push, report, score, train
    from hf_imgcls.classifier.loading import Classifier, load_classifier
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.measure.tables import Table
    from hf_imgcls.run import Report, Run, open_run

telemetry.turn_off()

__version__ = metadata.version("hf_imgcls")

__all__ = [
    "Classifier",
    "ImageDataset",
    "Report",
    "Run",
    "Table",
    "check_parity",
    "compare",
    "export",
    "load_classifier",
    "load_data",
    "open_run",
    "push",
    "report",
    "score",
    "train",
]

_ELSEWHERE = {
    "Classifier": "hf_imgcls.classifier.loading",
    "ImageDataset": "hf_imgcls.data.dataset",
    "Report": "hf_imgcls.run",
    "Run": "hf_imgcls.run",
    "Table": "hf_imgcls.measure.tables",
    "load_classifier": "hf_imgcls.classifier.loading",
    "open_run": "hf_imgcls.run",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_ELSEWHERE.get(name, "hf_imgcls.api")), name)
    close = difflib.get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
