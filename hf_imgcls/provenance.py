"""Where a run's numbers come from: versions, code and machine. Only the standard library is imported."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "hf_imgcls", "torch", "torchvision", "transformers", "accelerate", "datasets", "evaluate", "huggingface_hub",
    "safetensors", "peft", "timm", "numpy", "pillow", "simplejpeg", "onnx", "onnxruntime", "openvino", "nncf",
    "optimum-onnx", "optimum-intel",
)  # fmt: skip


def list_versions() -> dict[str, str]:
    """Version of Python and of every installed package that takes part in a run."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def find_commit() -> str | None:
    """Commit of the repository that the running recipe lies in, with ``-dirty`` if files differ; None without one."""
    folder = Path(sys.argv[0]).resolve().parent

    def ask(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(folder), *words]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and ask("status", "--porcelain", "--untracked-files=no") else commit


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_processes() -> int:
    """Processes of this run, as the launcher tells them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def has_bfloat16() -> bool | None:
    """Whether the CPU multiplies in bfloat16 (AVX-512 BF16, AMX, Arm's), as Linux tells; None elsewhere."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return None
    return not words.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def describe_hardware() -> dict[str, str | int | list[str]]:
    """Platform, cores that this process may use, and GPUs (if torch has been imported)."""
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch else []
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": count_cores(),
        "gpus": gpus,
    }


def name_process() -> str:
    """Host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"
