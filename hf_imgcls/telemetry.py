"""No library that comes along reports home unless the user has turned that on.

Everything that has a switch is switched here, when `hf_imgcls` is imported and so before any of these libraries is.
What the user has set stays. The standard library alone is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

# Each library's documented switch and the value that turns its telemetry off.
_SWITCHES = {
    # https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # https://www.gradio.app/guides/environment-variables; trackio's dashboard is made with Gradio
    "GRADIO_ANALYTICS_ENABLED": "False",
    # https://docs.wandb.ai/models/track/environment-variables
    "WANDB_ERROR_REPORTING": "false",
    # https://mlflow.org/docs/latest/community/usage-tracking
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_OPENVINO = "openvino_telemetry"


def turn_off() -> None:
    """Turn telemetry off for this process and its children, but for what the user has turned on."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    if _OPENVINO not in sys.modules and not _wants_openvino():
        # OpenVINO and NNCF send events to an analytics host, from a forked child, unless a file in the home folder says
        # no or a CI is noticed; no variable of their own prevents it. Both do without the package where it is missing.
        sys.modules[_OPENVINO] = None  # type: ignore[assignment]


def quiet(module: ModuleType) -> None:
    """Turn off what a library allows to be turned off only after its import."""
    if module.__name__ == "onnxruntime":
        # Its Windows builds send events. https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
        module.disable_telemetry_events()


def _wants_openvino() -> bool:
    """Whether the user has agreed, with ``opt_in_out --opt_in``: the file that this writes holds 1."""
    windows = os.environ.get("LOCALAPPDATA")
    parent = Path(windows, "Intel Corporation") if windows else Path.home() / "intel"
    try:
        return (parent / _OPENVINO).read_text(encoding="utf-8").strip() == "1"
    except (OSError, ValueError):
        return False
