"""How long one answer takes: through ``pipeline()`` as a consumer calls it, and the model's forward pass alone."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_imgcls.arrays import FloatArray
from hf_imgcls.classifier.pipeline import load_pipeline
from hf_imgcls.classifier.runtimes import find_exported_file
from hf_imgcls.errors import ArgumentError, ModelError

# With fewer than 72 runs the slowest of them need not lie above the 95th percentile (0.95^n > 0.025).
NUM_RUNS = 100
NUM_WARMUP_RUNS = 10


def measure_latency(
    model_name_or_path: str | Path,
    image: Image.Image,
    *,
    device: str | None = None,
    runs: int = NUM_RUNS,
    warmup: int = NUM_WARMUP_RUNS,
    num_threads: int | None = None,
    model_revision: str | None = None,
    is_trusted: bool = False,
) -> dict[str, Any]:
    """Time a saved classifier on one image after the other.

    Args:
        model_name_or_path: A folder or Hub id that ``pipeline("image-classification")`` can load.
        image: A decoded image, best of the size that the classifier will be given.
        device: ``"cpu"``, ``"cuda"`` and so on; None takes what ``pipeline()`` takes.
        runs: Timed calls of each kind, one after the other.
        warmup: Calls before them, which are not timed.
        num_threads: Threads of torch on the CPU; None leaves them. They are as before afterwards.
        model_revision: Branch, tag or commit of a Hub model.
        is_trusted: Whether an exported model that runs native code may be loaded.

    Returns:
        ``batch_size`` (1), ``warmup``, ``device``, ``device_name``, ``threads``, ``dtype``, ``image_size_px`` (width,
        height), ``size_mb`` (see `measure_size_mb`), and ``pipeline`` and ``model``, each with ``timed`` (what was
        timed, in words), ``n`` and, in ms, ``p50_ms``, ``p50_low_ms``, ``p50_high_ms``, ``p95_ms``, ``p95_low_ms``,
        ``p95_high_ms``: percentiles and their 95 % intervals (see `estimate_percentile`). The intervals tell how sure
        the percentiles of this machine in this hour are, not what another machine would do.

    Raises:
        ArgumentError: No timed run is asked for.
        ModelError: The model cannot be loaded.
    """
    if runs < 1 or warmup < 0:
        raise ArgumentError(f"{runs} timed runs and {warmup} for warm-up", "at least 1 and at least 0", "raise them")
    with _use_threads(num_threads):
        # Nothing but what a consumer writes: dtype and, unless given, device are what such a consumer gets.
        options: dict[str, Any] = {"model_kwargs": {"use_safetensors": True}}
        options |= {} if device is None else {"device": device}
        if model_revision is not None:
            options["revision"] = model_revision
        try:
            classifier = load_pipeline(model_name_or_path, is_trusted=is_trusted, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"no image classifier could be loaded from {str(model_name_or_path)!r}: {str(error)[:300]}",
                'what pipeline("image-classification") can load',
                "check the name and the revision",
            ) from error
        model, used = classifier.model, classifier.device
        image = image.convert("RGB")
        pixels = classifier.preprocess(image)["pixel_values"].to(used)

        def forward() -> Any:
            with torch.inference_mode():
                return model(pixel_values=pixels)

        settle = _find_synchronize(used)
        timings = {
            "pipeline": time_calls(lambda: classifier(image), runs=runs, warmup=warmup, synchronize=settle),
            "model": time_calls(forward, runs=runs, warmup=warmup, synchronize=settle),
        }
        threads = torch.get_num_threads()
    width, height = image.size
    words = {
        "pipeline": f"pipeline(image): a decoded {width} x {height} image to named scores",
        "model": f"model(pixel_values) of shape {tuple(pixels.shape)}, already on the device",
    }
    return {
        "batch_size": 1,
        "warmup": warmup,
        "device": str(used),
        "device_name": name_device(used),
        "threads": threads,
        "dtype": str(model.dtype).removeprefix("torch."),
        "image_size_px": [width, height],
        "size_mb": measure_size_mb(model_name_or_path),
        **{name: {"timed": words[name], **summarize_timings(values)} for name, values in timings.items()},
    }


def time_calls(
    call: Callable[[], Any], *, runs: int, warmup: int, synchronize: Callable[[], Any] = lambda: None
) -> FloatArray:
    """Durations of ``runs`` calls in ms, (runs,), after ``warmup`` calls that are not timed.

    Args:
        call: What to time.
        runs: Calls that are timed.
        warmup: Calls before them: caches fill, kernels are chosen, memory is taken.
        synchronize: Waits for work that the device does behind our back.
    """
    for _ in range(warmup):
        call()
    durations = np.empty(runs)
    for run in range(runs):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        durations[run] = time.perf_counter() - start
    return durations * 1_000


def summarize_timings(durations: FloatArray) -> dict[str, Any]:
    """``n``, and median and 95th percentile of durations in ms, each with the ends of its interval (None: no end)."""
    summary: dict[str, Any] = {"n": len(durations)}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        value, low, high = estimate_percentile(durations, share)
        summary |= {f"{name}_ms": value, f"{name}_low_ms": low, f"{name}_high_ms": high}
    return summary


def estimate_percentile(
    values: FloatArray, share: float, level: float = 0.95
) -> tuple[float, float | None, float | None]:
    """A percentile and a confidence interval that holds for any distribution.

    Args:
        values: (N,) independent measurements, N >= 1.
        share: 0.95 for the 95th percentile.
        level: Of the interval, at least.

    Returns:
        The percentile (linear between values), and the ends of its interval, each one of the values; None where so few
        values have no such end.

    Source:
        Order statistics and the binomial distribution: Hahn and Meeker (1991), "Statistical Intervals", chapter 5.
    """
    from scipy.stats import binom

    ordered = np.sort(values)
    n, tail = len(ordered), (1 - level) / 2
    # The k-th smallest lies above the percentile with the chance that fewer than k values lie below it.
    low_rank = int(binom.ppf(tail, n, share))
    high_rank = int(binom.ppf(1 - tail, n, share)) + 1
    low = float(ordered[low_rank - 1]) if low_rank >= 1 else None
    high = float(ordered[high_rank - 1]) if high_rank <= n else None
    return float(np.quantile(ordered, share)), low, high


def measure_size_mb(folder: str | Path) -> float | None:
    """Size of a folder's weights in megabytes of 1,000,000 bytes; None without any.

    Weights are ``*.safetensors`` at its top level, or everything but JSON where it holds an exported model.
    """
    paths = list(Path(folder).glob("*.safetensors"))
    if not paths and find_exported_file(folder) is not None:
        paths = [path for path in Path(folder).iterdir() if path.is_file() and path.suffix != ".json"]
    sizes = [path.stat().st_size for path in paths]
    return math.fsum(sizes) / 1e6 if sizes else None


@contextmanager
def _use_threads(num_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        yield
    finally:
        torch.set_num_threads(before)


def _find_synchronize(device: torch.device) -> Callable[[], Any]:
    """What waits until the device has done its work; the CPU does it at once."""
    if device.type == "cpu":
        return lambda: None
    return torch.get_device_module(device).synchronize


def name_device(device: torch.device) -> str:
    """A device's name as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _name_processor() if device.type == "cpu" else device.type


def _name_processor() -> str:
    """The processor's name; Linux keeps it where `platform` does not look."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
