"""The one map from an optional package to the command that installs it."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

from hf_imgcls import telemetry
from hf_imgcls.errors import MissingExtraError

_EXTRA_MODULES: dict[str, tuple[str, ...]] = {
    "lora": ("peft",),
    "timm": ("timm",),
    "decode": ("simplejpeg",),
    "report": ("matplotlib", "jinja2"),
    "explain": ("captum",),
    "optimum": ("optimum.onnxruntime", "optimum.intel"),
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
    "executorch": ("executorch.runtime",),
    "tflite": ("litert_torch", "ai_edge_litert"),
    "tune": ("optuna",),
    "pretrain": ("lightly",),
    "prune": ("torch_pruning",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}


def require(extra: str, module: str | None = None) -> ModuleType:
    """Import the first module of an extra, or say how to install it.

    Args:
        extra: Name of an extra in pyproject.toml, for example ``"lora"``.
        module: Another module of the extra, which not everything in it needs.

    Returns:
        The module asked for.

    Raises:
        MissingExtraError: A module of the extra cannot be imported.
    """
    modules = []
    for name in (module,) if module else _EXTRA_MODULES[extra]:
        try:
            imported = importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(
                f"the package {name.split('.')[0]!r} is needed here and cannot be imported: {error}",
                f"the optional dependencies of the extra {extra!r}",
                describe_installation(extra),
            ) from error
        telemetry.quiet(imported)
        modules.append(imported)
    return modules[0]


def describe_installation(extra: str) -> str:
    """The command that installs an extra, whether hf_imgcls came from an index, a wheel or a clone.

    It names the packages themselves, as the installed distribution lists them: hf_imgcls may be on no index.
    """
    from packaging.requirements import Requirement

    packages = []
    for line in metadata.requires("hf_imgcls") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            requirement.marker = None
            packages.append(f'"{requirement}"')
    return f"pip install {' '.join(packages)}"
