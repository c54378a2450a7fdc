"""What the template of a card is filled with."""

from __future__ import annotations

import re
from typing import Any

from hf_imgcls.catalogue import choose_selection
from hf_imgcls.layout import EXPORTS_PICTURE
from hf_imgcls.measure.offered import describe_plain
from hf_imgcls.publish.card_conversions import build_conversions
from hf_imgcls.publish.card_facts import (
    describe_confidence,
    describe_data,
    describe_model,
    describe_slices,
    describe_temperature,
    find_smoke_reasons,
    list_limitations,
)
from hf_imgcls.publish.card_records import CardRecords
from hf_imgcls.publish.card_snippets import build_snippets
from hf_imgcls.publish.card_tables import (
    MAX_CLASSES,
    build_baselines,
    build_classes,
    build_counts,
    build_exports,
    build_goals,
    build_metrics,
    build_overview,
    build_settings,
    build_slices,
    build_splits,
    describe_exports,
)
from hf_imgcls.publish.files import select_images
from hf_imgcls.publish.markdown import (
    NOT_MEASURED,
    begin_sentence,
    clean,
    code,
    escape,
    join_words,
    show_duration,
    show_number,
    show_share,
)
from hf_imgcls.records import DataRecord, RunRecord

_PICTURES = (
    ("report/confusion.png", "Confusion matrix: true classes in rows, answers in columns"),
    ("report/classes.png", "Recall of the classes with intervals"),
)
# What groups are formed by whatever the data, see `hf_imgcls.measure.report.image_statistics`.
_MEASURED_GROUPS = (
    "brightness", "contrast", "sharpness", "width", "height", "aspect_ratio", "file_bytes",
)  # fmt: skip
# Source: https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html
_DIGITS = (
    "They are a copy of the test set of UCI's [Optical Recognition of Handwritten Digits]"
    "(https://archive.ics.uci.edu/ml/datasets/Optical+Recognition+of+Handwritten+Digits) by E. Alpaydin and C. Kaynak."
)


def build_view(records: CardRecords, *, name: str, is_on_hub: bool, license_sentence: str) -> dict[str, Any]:
    """Everything that ``card_template.md`` names, already in Markdown.

    Args:
        records: The run's records.
        name: Hub id, or the folder's name.
        is_on_hub: Whether ``name`` is a Hub id.
        license_sentence: From `hf_imgcls.publish.card_metadata.choose_license`.
    """
    report = records.report
    has = records.files.__contains__
    return {
        "title": escape(name, 120),
        "shortfall": escape(records.baselines.shortfall, 800) if records.baselines else "",
        "smoke": find_smoke_reasons(records),
        "changes": [f"{code(name)} {what}" for name, what in records.changes.items()],
        "about": describe_model(records),
        "overview": build_overview(records, license_sentence),
        "files": records.files,
        "model_name": clean(name, 120) if re.fullmatch(r"[\w./-]+", name) else '"$MODEL"',
        "snippet_model": _quote(name),
        "is_on_hub": is_on_hub,
        "preprocessing": describe_preprocessing(records),
        "conversions": build_conversions(records),
        "plain": describe_plain(records.parity) if records.parity else "",
        "data": escape(records.data_name),
        "multi_label": records.is_multi_label,
        "limitations": list_limitations(records),
        "split": records.split,
        "level": show_share(report.confidence_level) if report else "",
        "metrics": build_metrics(records),
        "baselines": build_baselines(records),
        "classes": build_classes(records),
        "classes_shortened": report is not None and len(report.per_class) > MAX_CLASSES,
        "num_labels": f"{len(records.data.labels):,}",
        "pictures_shown": bool(select_images(records.files)),
        "pictures": [{"path": path, "text": text} for path, text in _PICTURES if has(path)],
        "confidence": begin_sentence(describe_confidence(records)),
        "temperature": describe_temperature(records),
        "reliability": "report/reliability.png" if has("report/reliability.png") else "",
        "slices_sentence": begin_sentence(describe_slices(records)),
        "slices": build_slices(records),
        "slices_picture": "report/slices.png" if has("report/slices.png") else "",
        "goals": build_goals(records),
        "data_sentence": _tell_data(records),
        "splits": build_splits(records),
        "counts": build_counts(records),
        "data_notes": [escape(note, 400) for note in records.data.notes],
        "training": describe_training(records),
        "settings": build_settings(records),
        "exports": build_exports(records),
        "exports_sentence": describe_exports(records),
        "snippets": build_snippets(records, _quote(name), is_on_hub),
        "exports_picture": EXPORTS_PICTURE if has(EXPORTS_PICTURE) else None,
        "subgroups": _tell_subgroups(records),
        "data_rights": _tell_rights(records),
        "command": build_command(records.run),
        "reproduce": _tell_reproduction(records),
        "versions": _tell_versions(records.run),
        "citation_words": _tell_citation(records),
        "bibtex": build_bibtex(records, name, is_on_hub),
    }


def describe_preprocessing(records: CardRecords) -> str:
    """The image processor in words."""
    processor = records.processor
    size = processor.get("size") or {}
    if {"height", "width"} <= set(size):
        steps = [f"resized to {size['width']} x {size['height']} pixels"]
    elif "shortest_edge" in size:
        steps = [f"the shortest edge resized to {size['shortest_edge']} pixels"]
    else:
        return "the saved image processor"
    crop = processor.get("crop_size")
    if processor.get("do_center_crop") and crop:
        steps.append(f"center-cropped to {crop['width']} x {crop['height']}")
    if processor.get("do_normalize") and processor.get("image_mean") and processor.get("image_std"):
        mean, std = (", ".join(f"{value:g}" for value in processor[key]) for key in ("image_mean", "image_std"))
        steps.append(f"normalised with mean {mean} and standard deviation {std}")
    return "images in RGB, " + join_words(steps)


def describe_training(records: CardRecords) -> str:
    """How long, on what, in what steps, and which weights were kept."""
    run, train, state = records.run, records.train, records.state
    if run is None:
        return "How the model was trained is not recorded."
    images = run.world_size * run.per_device_train_batch_size * run.gradient_accumulation_steps
    sentences = []
    # What auto had set out to train is not what was trained, where it kept its probe.
    if run.model is not None and not (records.is_probe and records.recipe.get("adaptation") == "auto"):
        trained, total = run.model.num_trainable_parameters, run.model.num_parameters
        all_of_them = f"All {total:,} parameters were trained."
        some = f"{trained:,} parameters were trained; the saved model has {total:,}."
        sentences.append(all_of_them if trained == total else some)
    epochs = f"{train['epoch']:g} epochs" if "epoch" in train else "Epochs not recorded"
    steps = f", {state['global_step']:,} optimizer steps" if "global_step" in state else ""
    plural = "es" if run.world_size > 1 else ""
    if records.is_probe:
        sentences.append(
            "The head was fitted by L-BFGS on features of the frozen backbone, without augmentation; its L2 penalty, "
            f"{show_number(train.get('train_penalty'))}, was chosen on validation."
        )
    else:
        sentences.append(
            f"{epochs}{steps} of {images:,} images ({run.world_size} process{plural} x "
            f"{run.per_device_train_batch_size} x {run.gradient_accumulation_steps} accumulated), seed {run.seed}."
        )
    gpus = [escape(name) for name in run.hardware.get("gpus") or ()]
    cores = f"{escape(run.hardware.get('processor', 'a processor'))} with {run.hardware.get('cores', 'some')} cores"
    machine = f"{cores} and {', '.join(gpus)}" if gpus else f"{cores}, without a GPU"
    seconds = train.get("train_runtime")
    taken = show_duration(seconds) if seconds is not None else "a time that was not recorded"
    sentences.append(f"It took {taken} on {machine}.")
    if run.resumed_from:
        places = ", ".join(map(code, run.resumed_from))
        starts = train.get("train_num_starts")  # records of older releases lack it
        part = f"all {starts} parts together" if starts else "the last part"
        sentences.append(f"It was interrupted and resumed from {places}; the time is that of {part}.")
    if records.recipe.get("load_best_model_at_end") and state.get("best_global_step"):
        metric = str(records.recipe.get("metric_for_best_model", "auto")).removeprefix("eval_")
        if metric == "auto":
            adaptation = str(records.recipe.get("adaptation", "full"))
            metric = choose_selection(adaptation, multi_label=records.is_multi_label)
        best = f" ({show_number(float(state['best_metric']))})" if state.get("best_metric") is not None else ""
        step = f"{state['best_global_step']:,}"
        sentences.append(f"The weights of step {step} were kept: the best {escape(metric)} on validation{best}.")
    return " ".join(sentences)


def build_command(run: RunRecord | None) -> str:
    """The command that repeats the run."""
    processes = f" --num_processes {run.world_size}" if run is not None and run.world_size > 1 else ""
    return f"hf-imgcls finetune --config recipe.yaml{processes}"


def build_bibtex(records: CardRecords, name: str, is_on_hub: bool) -> str:
    """An entry for this model: nothing in it that nobody stated."""
    safe = re.sub(r"[{}\\%#&~^$\"]", "", clean(name, 120))
    fields = {"title": safe}
    if records.run is not None:
        fields["year"] = records.run.started_at[:4]
        fields["note"] = f"Image classifier, trained with hf_imgcls {records.run.versions.get('hf_imgcls', '')}".strip()
    if is_on_hub:
        fields["url"] = f"https://huggingface.co/{name}"
    lines = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items())
    return f"@misc{{{re.sub(r'[^A-Za-z0-9]+', '_', safe).strip('_') or 'model'},\n{lines}\n}}"


def _quote(text: str) -> str:
    """A Python string that a code block of Markdown holds, whatever is in it."""
    return '"' + "".join(c if re.fullmatch(r"[\w ./@+-]", c) else f"\\u{ord(c):04x}" for c in text) + '"'


def _tell_data(records: CardRecords) -> str:
    data = records.data
    parts = [f"The dataset is {describe_data(records)}"]
    parts.append(f", at revision {code(data.revision)}." if data.revision else ".")
    if records.is_built_in:
        parts.append(f" {_DIGITS}")
    parts.append(f" Images are in the column {code(data.image_column)}, labels in {code(data.label_column)}.")
    if data.image_modes:
        modes = join_words([f"{count:,} {code(mode)}" for mode, count in data.image_modes.items()])
        parts.append(f" All images were decoded before training; their modes: {modes}.")
    else:
        parts.append(f" Whether all images can be decoded was {NOT_MEASURED}.")
    parts.append(f" {_tell_copies(data)}")
    return "".join(parts)


def _tell_copies(data: DataRecord) -> str:
    found = data.identical_images
    if found is None:
        return f"Near-duplicates, leaks between the splits and wrong labels: {NOT_MEASURED}."
    shared = "; ".join(item.describe() for item in found.shared) or "no image is in two splits"
    return f"Compared by their pixels: {shared}. Near-duplicates and wrong labels: {NOT_MEASURED}."


def _tell_subgroups(records: CardRecords) -> str:
    slices = records.report.slices if records.report else []
    columns = [escape(name) for name in dict.fromkeys(entry["column"] for entry in slices)]
    columns = [name for name in columns if name.replace("\\", "") not in _MEASURED_GROUPS]
    if not columns:
        return "not measured: the dataset has no columns for them, and only groups by image properties were compared."
    return f"groups by {join_words(columns)} were compared, see above; others were not measured."


def _tell_rights(records: CardRecords) -> str:
    number = len(select_images(records.files))
    images = f" {number:,} of its images are shown here, in the report or as examples." if number else ""
    if records.is_hub_dataset:
        return f"See the card of [{records.data_name}](https://huggingface.co/datasets/{records.data_name}).{images}"
    if records.is_built_in:
        return f"See the page of the dataset that is named under *Data*.{images}"
    return f"The dataset {'itself ' if images else ''}is not published here.{images}"


def _tell_reproduction(records: CardRecords) -> str:
    run = records.run
    if run is None:
        return "The run's versions and seed are not recorded."
    where = f" at commit {code(run.code.removesuffix('-dirty'))}" if run.code else ""
    changed = ", with uncommitted changes" if run.code and run.code.endswith("-dirty") else ""
    needs = ""
    if not records.is_hub_dataset and not records.is_built_in:
        needs = f" This needs the dataset {code(records.data_name)}; the fingerprints above identify it."
    return f"This uses the recipes of hf_imgcls{where}{changed} and this folder's `recipe.yaml`.{needs}"


def _tell_versions(run: RunRecord | None) -> str:
    if run is None:
        return "Not recorded."
    return ", ".join(f"{escape(name)} {escape(version)}" for name, version in run.versions.items()) + "."


def _tell_citation(records: CardRecords) -> str:
    data = "the dataset as its own card asks"
    if not records.is_hub_dataset:
        data = "the dataset as named under *Data*" if records.is_built_in else "the dataset as its owner asks"
    base = ", the base model as its card asks" if records.base_model else ""
    return f"No paper describes this model. Cite it by its name and revision{base}, and {data}."
