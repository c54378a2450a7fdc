"""A card's tables: of metrics, classes, groups, goals, data, settings and exports."""

from __future__ import annotations

import dataclasses
from typing import Any

from hf_imgcls.arguments.data_fields import DataGroup, UnlabelledGroup
from hf_imgcls.arguments.fields import FitArguments, MeasureArguments, PublishArguments
from hf_imgcls.catalogue import CLASS, HEADLINE, get_metric, list_metrics, list_shown
from hf_imgcls.publish.card_facts import (
    describe_baselines,
    describe_confidence,
    describe_goals,
    describe_latency,
    describe_parity,
    describe_slices,
    rank_classes,
    read_classes,
)
from hf_imgcls.publish.card_records import CardRecords
from hf_imgcls.publish.export.table import name_conditions
from hf_imgcls.publish.markdown import (
    NOT_MEASURED,
    begin_sentence,
    build_table,
    code,
    escape,
    show_estimate,
    show_interval,
    show_number,
    show_share,
)
from hf_imgcls.records import PROBE, Estimate

MAX_CLASSES = 20  # more are shown by their two ends
MAX_WORST, MAX_BEST = 10, 5
MAX_GROUPS = 10
# Settings of a run that say where, how loud and how often, and not how the model is trained.
_OPERATIONAL = {
    "output_dir", "overwrite_output_dir", "num_processes", "do_train", "do_eval", "do_predict", "model_name_or_path",
    "model_revision", "config_name", "image_processor_name", "ignore_mismatched_sizes", "cache_decoded_images",
    "decoder", "max_image_pixels", "per_device_eval_batch_size", "eval_strategy", "eval_steps", "eval_delay",
    "eval_on_start", "eval_accumulation_steps", "label_names", "remove_unused_columns", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "report_to", "run_name", "project", "disable_tqdm", "use_cpu",
    "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "auto_find_batch_size",
    "accelerator_config", "torch_compile_backend", "torch_compile_mode", "skip_memory_metrics", "full_determinism",
    "local_rank", "ddp_timeout", "include_for_metrics", "average_tokens_across_devices", "enable_jit_checkpoint",
    "show_batch", "augmentation_safety", "training_policy", "metrics",
}  # fmt: skip
_OPERATIONAL_PREFIXES = (
    "logging_", "log_", "save_", "dataloader_", "hub_", "push_", "ddp_", "trackio_", "ray_", "restore_",
)  # fmt: skip


def build_overview(records: CardRecords, license_sentence: str) -> str:
    """What decides whether a reader goes on reading."""
    split = records.split or "test"
    rows: list[tuple[str, str]] = []
    for name in _headline_metrics(records):
        estimate = records.metrics.get(name)
        of = f" of {estimate.n:,} {split} images" if estimate and estimate.value is not None else ""
        rows.append((get_metric(name).title, show_estimate(estimate) + of))
    rows.append(("Baselines", describe_baselines(records)))
    ranked = rank_classes(records)
    weakest = NOT_MEASURED
    if ranked:
        name, numbers = ranked[0]
        weakest = f"{escape(name)}: recall {show_estimate(numbers['recall'], n=True)}"
    rows.append(("Weakest class", weakest))
    rows.append(("Calibration", describe_confidence(records)))
    rows.append(("Groups of images", describe_slices(records)))
    rows.append(("Goals", describe_goals(records)))
    rows.append(("Served = scored", describe_parity(records)))
    latency = records.report.latency if records.report else None
    rows.append(("Latency", describe_latency(latency)))
    size = (latency or {}).get("size_mb")
    rows.append(("Size of the weights", f"{size:.1f} MB" if size is not None else NOT_MEASURED))
    rows.append(("Licence", license_sentence))
    level = f"in brackets the {show_share(records.report.confidence_level)} interval" if records.report else "measured"
    return build_table(("At a glance", begin_sentence(level)), [(f"**{name}**", text) for name, text in rows])


def _headline_metrics(records: CardRecords) -> list[str]:
    # What there is of the model's, the most telling first.
    shown = list_shown(HEADLINE, multi_label=records.is_multi_label)
    found = [name for name in shown if name in records.metrics or not records.is_multi_label]
    return found or list(records.metrics)[:2]


def build_metrics(records: CardRecords) -> str:
    """Every metric with its interval and n."""
    rows = [
        (
            get_metric(name).title
            + (f": {text}" if (text := get_metric(name).describe(multi_label=records.is_multi_label)) else ""),
            show_number(estimate.value),
            show_interval(estimate) if estimate.value is not None else escape(estimate.remark, 200) or NOT_MEASURED,
            f"{estimate.n:,}",
        )
        for name, estimate in records.metrics.items()
    ]
    level = f"{show_share(records.report.confidence_level)} interval" if records.report else "Interval"
    return build_table(("Metric", ">Value", ">" + level, ">Images"), rows)


def build_baselines(records: CardRecords) -> str:
    """The simple answers that the model was held against; nothing where none is recorded."""
    compared = records.baselines.compared if records.baselines else []
    if not compared:
        return ""
    rows = []
    for item in compared:
        what = begin_sentence(escape(item.name)) + (f": always {escape(item.answer)}" if item.answer else "")
        if item.name == PROBE and item.num_train:
            what += f" of {item.num_train:,} training images"
        if (told := item.comparison) is None:
            rows.append((what, f"{NOT_MEASURED}: {escape(item.remark, 200)}", "", "", ""))
            continue
        rows.append(
            (
                what,
                f"{get_metric(item.metric).title} {show_number(told.a)}",
                show_number(told.b),
                f"{show_number(told.difference.value)} ({show_interval(told.difference)})",
                f"{told.verdict}, n = {told.difference.n:,}",
            )
        )
    return build_table(("Baseline", "Its figure", ">This model", ">Difference", "This model is"), rows)


def build_classes(records: CardRecords) -> str:
    """All classes in their order, or, of many, the two ends; nothing where no class was measured."""
    classes = read_classes(records)
    if not classes:
        return ""
    if len(classes) <= MAX_CLASSES:
        rows = [_show_class(*item) for item in classes]
    else:
        ranked = [_show_class(*item) for item in rank_classes(records)]
        rows = [*ranked[:MAX_WORST], ("…",) * len(ranked[0]), *ranked[-MAX_BEST:]]
    return build_table(("Class", ">Images", *(f">{get_metric(column).title}" for column in list_metrics(CLASS))), rows)


def _show_class(name: str, numbers: dict[str, Estimate]) -> tuple[str, ...]:
    found = [numbers.get(column) for column in list_metrics(CLASS)]
    cells = [NOT_MEASURED if item is None or item.value is None else show_estimate(item) for item in found]
    return (escape(name), f"{numbers['recall'].n:,}", *cells)


def build_slices(records: CardRecords) -> str:
    """The groups that fare worse or better than the others for certain; nothing where there are none."""
    slices = records.report.slices if records.report else []
    chosen = [entry for entry in slices if entry["verdict"] in ("worse", "better")][:MAX_GROUPS]
    rows = [
        (
            escape(entry["column"]),
            escape(entry["group"]),
            f"{entry['n']:,}",
            f"{show_number(entry['value'])} ({show_number(entry['low'])} to {show_number(entry['high'])})",
            show_number(entry["rest"]),
            escape(entry["verdict"]) + (f": {escape(entry['remark'], 120)}" if entry["remark"] else ""),
        )
        for entry in chosen
    ]
    return build_table(("By", "Group", ">Images", ">Accuracy", ">Of the others", "Verdict"), rows) if rows else ""


def build_goals(records: CardRecords) -> str:
    """What was asked for, and what became of it; nothing where nothing was."""
    rows = []
    for goal in records.report.goals if records.report else ():
        measured = goal["value"] is not None
        estimate = Estimate(goal["value"], goal["low"], goal["high"], goal["n"] or 0, "", goal["reason"])
        where = f", {escape(goal['where'])}" if goal["where"] else ""
        n = f", n = {goal['n']:,}" if goal["n"] else ""
        value = show_estimate(estimate) + n + where if measured else NOT_MEASURED
        reason = f": {escape(goal['reason'], 120)}" if goal["reason"] else ""
        rows.append((code(goal["goal"]), value, f"**{escape(goal['status'])}**{reason}"))
    return build_table(("Goal", ">Measured", "Verdict"), rows) if rows else ""


def build_splits(records: CardRecords) -> str:
    """Each split: where it comes from, its size and its fingerprint."""
    rows = [
        (
            role,
            escape(part.source, 120),
            f"{part.num_examples:,}" if part.num_examples is not None else "not counted",
            code(part.fingerprint) if part.fingerprint else NOT_MEASURED,
        )
        for role, part in records.data.splits.items()
    ]
    return build_table(("Used for", "Taken from", ">Images", "Fingerprint"), rows)


def build_counts(records: CardRecords) -> str:
    """Images of each class in each split; the extremes where there are many classes, nothing where it is not known."""
    counts = {role: part.class_counts for role, part in records.data.splits.items() if part.class_counts}
    if not counts:
        return ""
    labels = records.data.labels
    if len(labels) > MAX_CLASSES:
        rows = []
        for role, found in counts.items():
            least, most = (choose(labels, key=lambda name: found.get(name, 0)) for choose in (min, max))
            rows.append((role, *(f"{found.get(name, 0):,} ({escape(name)})" for name in (least, most))))
        return build_table(("Used for", ">Rarest class, images", ">Most frequent class, images"), rows)
    rows = [(escape(name), *(f"{found.get(name, 0):,}" for found in counts.values())) for name in labels]
    return build_table(("Class", *(f">{role}" for role in counts)), rows)


def build_settings(records: CardRecords) -> str:
    """What the recipe says about the training, as far as it is not transformers' own default."""
    elsewhere = (DataGroup, UnlabelledGroup, MeasureArguments, PublishArguments)
    skipped = {item.name for part in elsewhere for item in dataclasses.fields(part)} | _OPERATIONAL
    rows = [
        (code(name), code(_show_setting(value), 300))
        for name, value in records.recipe.items()
        if name not in skipped and not name.startswith(_OPERATIONAL_PREFIXES) and value is not None
    ]
    known = [item.name for item in dataclasses.fields(FitArguments)]
    rows.sort(key=lambda row: row[0].strip("`") not in known)
    return build_table(("Setting", "Value"), rows) if rows else ""


def _show_setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_show_setting(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_show_setting, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def build_exports(records: CardRecords) -> str:
    """Each exported model with its parity, accuracy and latency; nothing without exports."""
    rows = [
        (
            f"{escape(entry.format)} ({code(f'{entry.format}/{entry.path}')})",
            escape(entry.precision),
            f"{entry.size_mb:.1f} MB",
            f"{round(entry.top1_agreement * entry.num_examples):,} of {entry.num_examples:,} images, "
            f"probabilities within {entry.max_probability_difference:.2g}",
            show_estimate(entry.accuracy),
            f"{entry.latency['p50_ms']:.1f} ms / {entry.latency['p95_ms']:.1f} ms",
            f"{entry.latency['pytorch_p50_ms']:.1f} ms",
        )
        for entry in records.exports
    ]
    header = (
        "Format", "Precision", ">Size", ">Same answer as above", ">Accuracy", ">Median / 95th percentile",
        ">PyTorch's median",
    )  # fmt: skip
    return build_table(header, rows) if rows else ""


def describe_exports(records: CardRecords) -> str:
    """What the exported models were measured on; nothing without exports."""
    if not records.exports:
        return ""
    first = name_conditions(records.exports[0])
    others = [record for record in records.exports if name_conditions(record) != first]
    text = (
        f"Measured on {escape(first)}, through each folder's own files. Latency is measured one image at a time, in "
        "turn with eager PyTorch."
    )
    return text + "".join(f" {escape(item.format)}: measured on {escape(name_conditions(item))}." for item in others)
