"""The one map from an optional package to the pip line that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from hf_imgcls.errors import MissingExtraError

_EXTRA_MODULES: dict[str, tuple[str, ...]] = {
    "lora": ("peft",),
    "timm": ("timm",),
    "decode": ("simplejpeg",),
    "report": ("matplotlib", "jinja2"),
    "explain": ("captum",),
    "optimum": ("optimum.onnxruntime", "optimum.intel"),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}


def require(extra: str) -> ModuleType:
    """Import the first module of an extra, or say how to install it.

    Args:
        extra: Name of an extra in pyproject.toml, for example ``"lora"``.

    Returns:
        The extra's first module.

    Raises:
        MissingExtraError: A module of the extra cannot be imported.
    """
    modules = []
    for name in _EXTRA_MODULES[extra]:
        try:
            modules.append(importlib.import_module(name))
        except ImportError as error:
            raise MissingExtraError(
                f"the package {name.split('.')[0]!r} is needed here and cannot be imported: {error}",
                f"the optional dependencies of the extra {extra!r}",
                f'pip install "hf_imgcls[{extra}]"',
            ) from error
    return modules[0]
