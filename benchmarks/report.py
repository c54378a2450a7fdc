"""Reports of large splits: 50,000 images with one of ImageNet's 1,000 classes, or with several of COCO's 80.

    python benchmarks/report.py [--output benchmarks/report.txt]

Logits arrive batch by batch, as in scoring, and become a prediction table that is saved; another process loads the file
and makes the report of it twice over, without and with a temperature fitted on a validation table of the same size:
every number, the charts and the page, but no examples, since there are no images. Memory is the peak resident set of
each process, everything that Python imports included. CPU seconds are what a step takes on a quiet machine: it uses one
core, but for a few products of matrices.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import scipy

from hf_imgcls.catalogue import get_primary
from hf_imgcls.measure.report.summary import summarise
from hf_imgcls.measure.report.write import write_report
from hf_imgcls.measure.tables import Table
from hf_imgcls.measure.task import MULTI, SINGLE

BATCH_SIZE = 64
LIMIT_S, LIMIT_GIB = 60.0, 2.0


def write_table(path: Path, split: str, num_examples: int, num_labels: int) -> None:
    """Make up answers that are right about 8 times in 10 and too sure of themselves, batch by batch, and save them."""
    generator = np.random.default_rng(len(split))
    recorder = SINGLE.new_recorder(num_labels, None)
    for start in range(0, num_examples, BATCH_SIZE):
        index = np.arange(start, min(start + BATCH_SIZE, num_examples))
        labels = index % num_labels
        logits = generator.normal(scale=2.0, size=(len(index), num_labels)).astype(np.float32)
        logits[np.arange(len(index)), labels] += generator.normal(9.5, 2.5, len(index))
        recorder.update(2.5 * logits, labels, index)
    names = [f"class {number}" for number in range(num_labels)]
    SINGLE.collect_table(recorder, split=split, labels=names).save(path)


def write_several_labels(path: Path, split: str, num_examples: int, num_labels: int) -> None:
    """The same where an image has 2.9 labels on average, as in COCO, most of them of a few frequent classes."""
    generator = np.random.default_rng(len(split))
    recorder = MULTI.new_recorder(num_labels, None)
    frequency = np.geomspace(1.0, 0.01, num_labels)
    frequency *= 2.9 / frequency.sum()
    for start in range(0, num_examples, BATCH_SIZE):
        index = np.arange(start, min(start + BATCH_SIZE, num_examples))
        targets = generator.random((len(index), num_labels)) < frequency
        logits = generator.normal(np.where(targets, 2.0, -4.0), 1.5).astype(np.float32)
        recorder.update(1.5 * logits, targets.astype(np.float32), index)
    names = [f"class {number}" for number in range(num_labels)]
    MULTI.collect_table(recorder, split=split, labels=names).save(path)


def report_table(path: Path, validation: Path | None) -> None:
    """Load a table, compute every number of its report, and write it."""
    table = Table.load(path)
    record = summarise(table, validation=validation and Table.load(validation))
    write_report(record, path.parent, table=table)
    name = get_primary(multi_label=record.multi_label is not None)
    first = record.metrics[name]
    print(f"{name} {first.value:.4f} [{first.low:.4f}, {first.high:.4f}]", end="")
    if (temperature := record.calibration["temperature"]) is not None:
        print(f", temperature {temperature['value']:.3f}", end="")


def run_step(*arguments: str) -> tuple[float, float, float, str]:
    """Run one step in a process of its own: seconds, those of them on a core, peak GiB, and what it printed."""
    start = time.perf_counter()
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - start
    text, numbers = output.rsplit("\n", 1)
    cpu, peak = numbers.split()
    return seconds, float(cpu), int(peak) / 2**20, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", help="also write the table to this file")
    parser.add_argument("--num_examples", type=int, default=50_000)
    parser.add_argument("--num_labels", type=int, default=1000, help="where an image has one")
    parser.add_argument("--num_several_labels", type=int, default=80, help="where an image may have several")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, kind, *files = arguments.step
        paths, multi_label = [Path(file) for file in files], kind == "several"
        if name == "read":
            report_table(paths[0], paths[1] if len(paths) > 1 else None)
        elif multi_label:
            write_several_labels(paths[0], paths[0].stem, arguments.num_examples, arguments.num_several_labels)
        else:
            write_table(paths[0], paths[0].stem, arguments.num_examples, arguments.num_labels)
        used = resource.getrusage(resource.RUSAGE_SELF)
        # Linux counts memory in KiB.
        print(f"\n{used.ru_utime + used.ru_stime} {used.ru_maxrss}", end="")
        return

    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}, pyarrow {pyarrow.__version__}",
        f"{arguments.num_examples:,} examples, 2,000 bootstrap draws; load average {os.getloadavg()[0]:.1f}",
        f"{'':36s}{'s':>7s}{'CPU s':>8s}{'peak GiB':>10s}",
    ]
    print(*lines, sep="\n", flush=True)
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("num_examples", "num_labels", "num_several_labels")]
    worst_cpu_s = worst_gib = 0.0
    for kind, heading in (
        ("one", f"one of {arguments.num_labels:,} classes each"),
        ("several", f"several of {arguments.num_several_labels:,} classes each"),
    ):
        lines.append(heading)
        print(heading, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            test, validation = (str(Path(folder, f"{split}.parquet")) for split in ("test", "validation"))
            for title, step, *files in (
                ("batches to a saved table", "write", test),
                ("the same for validation", "write", validation),
                ("file to report", "read", test),
                ("files to report with temperature", "read", test, validation),
            ):
                seconds, cpu, gib, text = run_step(*sizes, "--step", step, kind, *files)
                worst_cpu_s, worst_gib = max(worst_cpu_s, cpu), max(worst_gib, gib)
                lines.append(f"  {title:34s}{seconds:7.1f}{cpu:8.1f}{gib:10.2f}   {text}".rstrip())
                print(lines[-1], flush=True)
            lines.append(f"  file: {Path(test).stat().st_size / 2**20:,.0f} MiB")
            print(lines[-1], flush=True)
    is_within = worst_cpu_s < LIMIT_S and worst_gib < LIMIT_GIB
    lines.append(f"{'within' if is_within else 'BEYOND'} {LIMIT_S:.0f} CPU s and {LIMIT_GIB:.0f} GiB for each step")
    print(lines[-1])
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
