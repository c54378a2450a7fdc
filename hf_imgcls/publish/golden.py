"""The cards that lie in ``model_cards/``: what a card needs of a run, small and without anything of its machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hf_imgcls.errors import OutputError
from hf_imgcls.layout import DATA_FILE, EXPORT_FILE, RECIPE_FILE, RUN_FILE
from hf_imgcls.publish.privacy import clean_texts

_RECORDS = (
    RECIPE_FILE, DATA_FILE, "train_results.json", "eval_results.json", "test_results.json", "parity.json",
    "config.json", "preprocessor_config.json",
)  # fmt: skip
_PICTURES = ("report/confusion.png", "report/reliability.png")
# Parts of a record that a card does not read, and that are large.
_LEFT_OUT = {
    "report/report.json": ("gallery", "explanations", "risk_coverage", "imbalance"),
    RUN_FILE: ("files", "checksum"),  # of files that are not copied, or not as they are
    "trainer_state.json": ("log_history", "stateful_callbacks", "best_model_checkpoint"),
}
_EMPTY: dict[str, Any] = {"risk_coverage": {}, "files": {}, "checksum": ""}


def copy_records(run: str | Path, target: str | Path) -> Path:
    """Copy the records that a card is made of, without pixels and without paths of this machine.

    Args:
        run: The run's folder.
        target: For example ``model_cards/digits_vit_tiny``; what it holds of an earlier card is replaced.

    Raises:
        OutputError: The target holds something that is no card.
    """
    run, target = Path(run), Path(target)
    if target.is_dir() and any(target.iterdir()) and not (target / DATA_FILE).is_file():
        raise OutputError(f"{target} is there and is no card", "a new folder, or one of model_cards/", "name another")
    (target / "report").mkdir(parents=True, exist_ok=True)
    names = [*_RECORDS, *_LEFT_OUT, *(path.relative_to(run).as_posix() for path in run.glob(f"*/{EXPORT_FILE}"))]
    for name in (*names, *_PICTURES):
        (target / name).unlink(missing_ok=True)
    texts = {name: (run / name).read_text(encoding="utf-8") for name in names if (run / name).is_file()}
    texts |= {name: _leave_out(texts[name], parts) for name, parts in _LEFT_OUT.items() if name in texts}
    for name, text in clean_texts(run, texts).items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(text, encoding="utf-8")
    for name in _PICTURES:
        if (run / name).is_file():
            shutil.copyfile(run / name, target / name)
    return target


def _leave_out(text: str, names: tuple[str, ...]) -> str:
    content = json.loads(text)
    empty: dict[str, Any] = {name: _EMPTY.get(name) for name in names if name in content}
    return json.dumps(content | empty, indent=1, ensure_ascii=False) + "\n"
