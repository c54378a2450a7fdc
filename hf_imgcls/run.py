"""What a run and a report leave, as objects of a notebook."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.near_paths import offer_folders
from hf_imgcls.arguments.types import load_yaml
from hf_imgcls.errors import DataError
from hf_imgcls.layout import RECIPE_FILE, REPORT_FOLDER, RUN_FILE
from hf_imgcls.records import RunRecord
from hf_imgcls.run_folder import check_run

if TYPE_CHECKING:
    from hf_imgcls.classifier.loading import Classifier
    from hf_imgcls.measure.tables import Table
    from hf_imgcls.records import ReportRecord


@dataclass(frozen=True)
class Run:
    """A run's folder; everything is read from its files when it is asked for.

    Attributes:
        folder: Loads with ``pipeline("image-classification")`` once the run is finished.
    """

    folder: Path

    @property
    def state(self) -> str:
        """``running`` (or killed), ``interrupted`` or ``finished``."""
        return RunRecord.load(self.folder / RUN_FILE).state

    @property
    def recipe(self) -> dict[str, Any]:
        """The arguments that repeat the run, by name."""
        path = self.folder / RECIPE_FILE
        if not path.is_file():  # the run has not come to its end
            return RunRecord.load(self.folder / RUN_FILE).recipe
        return dict(load_yaml(path.read_text(encoding="utf-8")))

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured: ``train_loss``, ``eval_accuracy``, ``test_accuracy`` and so on; empty before."""
        path = self.folder / "all_results.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def table(self, split: str = "test") -> Table:
        """Return what the model answered to each image of a split.

        Raises:
            DataError: The split was not scored.
        """
        from hf_imgcls.measure.tables import PREDICTIONS_FILE, Table

        return Table.load(self.folder / PREDICTIONS_FILE.format(split=split))

    def classifier(self) -> Classifier:
        """Load the model."""
        from hf_imgcls.classifier.loading import load_classifier

        return load_classifier(self.folder)


def open_run(folder: str | Path) -> Run:
    """Open the folder of a run; whatever has changed in it since the run finished is told.

    Raises:
        DataError: It is no run's.
    """
    folder = Path(folder).expanduser()
    if not (folder / RUN_FILE).is_file():
        raise DataError(
            f"{folder} is no folder of a run: it has no {RUN_FILE}{offer_folders(str(folder))}",
            "what train(...) or hf-imgcls finetune has left",
            "correct the path",
        )
    check_run(folder)
    return Run(folder)


@dataclass(frozen=True)
class Report:
    """A report, which shows itself in a notebook.

    Attributes:
        record: Everything that is in it.
        page: The HTML file, which stands alone.
    """

    record: ReportRecord
    page: Path
    _folder: Any = field(default=None, repr=False)  # of one that nobody named: it goes when the report does

    @property
    def metrics(self) -> dict[str, Any]:
        """Metric -> estimate with ``value``, ``low`` and ``high``."""
        return dict(self.record.metrics)

    @property
    def goals(self) -> list[dict[str, Any]]:
        """What became of each goal."""
        return self.record.goals

    def _repr_html_(self) -> str:
        page = html.escape(self.page.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="800" style="border: 0"></iframe>'


def open_report(folder: Path, owner: Any = None) -> Report:
    """Open the report that was written into a folder.

    Args:
        folder: It is in ``report/`` there.
        owner: Kept with the report, for example a temporary folder.
    """
    from hf_imgcls.measure.report.write import PAGE_FILE, read_report

    return Report(read_report(folder), folder / REPORT_FOLDER / PAGE_FILE, owner)
