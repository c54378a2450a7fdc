"""What a card says in sentences, each of them drawn from a record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hf_imgcls.arguments.defaults import MIN_STEPS
from hf_imgcls.measure.baselines import name_answer
from hf_imgcls.measure.offered import describe_agreement, describe_plain
from hf_imgcls.measure.unseen import describe_unseen
from hf_imgcls.publish.card_records import CardRecords
from hf_imgcls.publish.markdown import (
    NOT_MEASURED,
    begin_sentence,
    code,
    escape,
    join_words,
    show_estimate,
    show_interval,
    show_number,
    show_share,
)
from hf_imgcls.records import LARGEST_CLASS, Estimate, read_finetuning

# Below these, a run shows that the machinery works, and nothing about the model; but few steps are enough for one that
# is better than its largest class.
MIN_EPOCHS = 1
MIN_SHARE = 0.1
# Width of an interval that is called wide.
_WIDE = 0.02
_FEW_EXAMPLES = 30  # as hf_imgcls.measure.report.slices: fewer leave an accuracy open by more than 0.2
_MAX_NAMED = 3


def find_smoke_reasons(records: CardRecords) -> list[str]:
    """Why a run is only a smoke run: sentences' ends, nothing where it is a real one."""
    reasons = []
    epochs, steps = records.train.get("epoch"), records.state.get("global_step")
    if epochs is not None and epochs < MIN_EPOCHS:
        reasons.append(f"it was trained for {show_number(float(epochs))} epochs")
    elif steps is not None and steps < MIN_STEPS and not records.is_probe and not _beats_largest_class(records):
        reasons.append(f"it took {steps:,} optimizer steps")
    for split, verb in (("train", "trained"), ("test", "tested")):
        part = records.data.splits.get(split)
        if part is None or not records.is_subset(split):
            continue
        used, available = part.num_examples or 0, part.num_available or 0
        if used < MIN_SHARE * available:
            reasons.append(f"it was {verb} on {used:,} of {available:,} images")
    return reasons


def _beats_largest_class(records: CardRecords) -> bool:
    """Whether it is known that something was learned, in however few steps."""
    compared = records.baselines.compared if records.baselines else []
    verdicts = {item.name: item.comparison.verdict for item in compared if item.comparison}
    return verdicts.get(LARGEST_CLASS) == "better"


def describe_model(records: CardRecords) -> str:
    """What the model is, in one paragraph."""
    model = records.run.model if records.run else None
    sizes = f" with {_show_parameters(model.num_parameters)} parameters" if model else ""
    architecture = model.architecture if model else next(iter(records.config.get("architectures") or ()), "")
    kind = records.task.model_kind
    what = f"{kind} ({code(architecture)}){sizes}" if architecture else f"{kind}{sizes}"
    labels = records.data.labels
    return f"{what} for **{len(labels):,} classes**: {list_names(labels, 10)}. {describe_origin(records)}"


def describe_origin(records: CardRecords) -> str:
    """Where the weights come from, and what code took part that the recipe does not hold."""
    hooks = records.run.hooks if records.run is not None else {}
    if not hooks:
        return _describe_weights(records)
    parts = ", ".join(f"{name} ({code(origin)})" for name, origin in hooks.items())
    return f"{_describe_weights(records)} Code that the recipe does not hold took part: {parts}."


def _describe_weights(records: CardRecords) -> str:
    if records.run is not None and "model" in records.run.hooks:
        return f"It was trained on {describe_data(records)}, from a model built in Python."
    if records.is_from_scratch:
        return f"It was trained from scratch on {describe_data(records)}."
    if records.base_model is None:
        return f"How it was trained is not recorded; the dataset is {describe_data(records)}."
    where = "the model in the folder " + code(records.base_model)
    if records.run is not None and records.is_hub_model:
        where = f"[{records.base_model}](https://huggingface.co/{records.base_model})"
        where += f" (revision {code(records.run.base_model_revision)})"
    adaptation = records.recipe.get("adaptation")
    if adaptation == "auto":
        adaptation = "probe" if records.is_probe else read_finetuning(records.recipe)
        adaptation = "from a probe" if adaptation == "full" else adaptation
    how = {
        "lora": "with LoRA; the adapter is merged into the weights",
        "head": "the head alone",
        "probe": "a linear probe: the head alone, fitted on features of the frozen backbone",
        "partial": "the last layers",
        "from a probe": "all weights, starting from the head of a linear probe",
    }.get(str(adaptation), "")
    return f"It was fine-tuned{f' ({how})' if how else ''} from {where} on {describe_data(records)}."


def describe_data(records: CardRecords) -> str:
    """The dataset by its name, with a link where there is one to link to."""
    if records.is_built_in:
        return (
            f"{records.data_name} ([`sklearn.datasets.load_digits`]"
            "(https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html))"
        )
    config = f", configuration {code(records.data.config)}" if records.data.config not in (None, "default") else ""
    if records.is_hub_dataset:
        return f"[{records.data_name}](https://huggingface.co/datasets/{records.data_name}){config}"
    return f"a local dataset, {code(records.data_name)}, which is not published here{config}"


def judge_confidence(records: CardRecords) -> dict[str, Any]:
    """The test of whether scores are higher or lower than the share that is right; nothing where there was none.

    Returns:
        See `hf_imgcls.measure.statistics.confidence`.
    """
    return (records.report.calibration.get("confidence") or {}) if records.report else {}


def describe_confidence(records: CardRecords) -> str:
    """Whether scores can be taken for chances: the calibration error, and whether the model is over-confident."""
    error = records.metrics.get("ece")
    if error is None or error.value is None:
        return NOT_MEASURED
    text = f"ECE {show_estimate(error)}"
    if not (test := judge_confidence(records)):
        return text
    share = records.task.calibrated_share
    if test["verdict"] == "not distinguishable":
        return f"{text}: not distinguishable from calibrated (mean score against {share}, p = {show_number(test['p'])})"
    return (
        f"{text}: {test['verdict']}-confident, mean score minus {share} is {show_number(test['gap'])} "
        f"(p = {show_number(test['p'])})"
    )


def describe_temperature(records: CardRecords) -> str:
    """What a temperature has done, or would do."""
    folded = records.config.get("calibration_temperature")
    found = records.report.calibration.get("temperature") if records.report else None
    if folded is not None:
        text = f"A temperature of {show_number(float(folded))} is folded into the saved head (`--calibrate`)."
        return text + (" The numbers here are those of the calibrated model." if records.report else "")
    if not found:
        return "No temperature was fitted."
    return (
        f"The scores are not calibrated. A temperature of {show_number(found['value'])}, fitted on "
        f"{found['n']:,} {escape(found['fitted_on'])} images, would change the ECE from "
        f"{show_number(found['ece_before'])} to {show_number(found['ece_after'])} (`--calibrate` applies it; "
        "predictions do not change)."
    )


def describe_baselines(records: CardRecords) -> str:
    """What simpler answers score on the same images, for a reader's first look."""
    compared = records.baselines.compared if records.baselines else []
    told = [
        f"{escape(name_answer(item), 120)}: {show_number(item.comparison.a)}, the model is {item.comparison.verdict}"
        for item in compared
        if item.comparison
    ]
    if not told:
        return NOT_MEASURED
    return begin_sentence("; ".join(told))


def describe_slices(records: CardRecords) -> str:
    """How many groups were compared, and whether any fares worse."""
    if records.report is None or not records.report.slices:
        return NOT_MEASURED
    judged = [entry for entry in records.report.slices if entry["verdict"] != "too few samples"]
    worse = [entry for entry in judged if entry["verdict"] == "worse"]
    columns = join_words([escape(name) for name in dict.fromkeys(entry["column"] for entry in judged)])
    if not judged:
        return f"{NOT_MEASURED}: every group has too few images"
    if not worse:
        return f"none of {len(judged):,} groups (by {columns}) is certainly worse than the others"
    return f"{len(worse):,} of {len(judged):,} groups (by {columns}) are worse than the others"


def describe_goals(records: CardRecords) -> str:
    """How many goals were met."""
    goals = records.report.goals if records.report else []
    counts = {
        status: sum(goal["status"] == status for goal in goals)
        for status in ("met", "not met", "not distinguishable", NOT_MEASURED)
    }
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none were set"


def describe_parity(records: CardRecords) -> str:
    """Whether ``pipeline()`` answers as it was scored."""
    parity = records.parity
    if parity is None:
        return NOT_MEASURED
    text = f"{describe_agreement(parity, show_share(parity.top1_agreement))} are predicted as scored"
    plain = describe_plain(parity)
    return f"{text} ({escape(parity.consumer)})" + (f"; a plain `pipeline()`: {plain}" if plain else "")


def describe_latency(latency: dict[str, Any] | None) -> str:
    """Median and 95th percentile of one image after the other."""
    timed = (latency or {}).get("pipeline")
    if not latency or not timed:
        return NOT_MEASURED
    where = escape(latency.get("device_name") or latency.get("device") or "an unknown device")
    return (
        f"{timed['p50_ms']:.1f} ms (median), {timed['p95_ms']:.1f} ms (95th percentile) for one image through "
        f"`pipeline()` on {where}, {latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
    )


def rank_classes(records: CardRecords) -> list[tuple[str, dict[str, Estimate]]]:
    """Classes by recall, the lowest first; those without one are left out."""
    return sorted(read_classes(records), key=lambda item: (item[1]["recall"].value or 0.0, -item[1]["recall"].n))


def read_classes(records: CardRecords) -> list[tuple[str, dict[str, Estimate]]]:
    """Classes in their order, as far as they have a recall."""
    per_class = records.report.per_class if records.report else {}
    classes = [
        (
            label,
            {
                name: item if isinstance(item, Estimate) else Estimate(**item)  # once read from a file, dicts
                for name, item in numbers.items()
                if isinstance(item, (Estimate, dict))
            },
        )
        for label, numbers in per_class.items()
    ]
    return [
        (label, numbers) for label, numbers in classes if "recall" in numbers and numbers["recall"].value is not None
    ]


def list_limitations(records: CardRecords) -> list[str]:
    """What the measurements say against using the model, and what was not measured; the gravest first."""
    parts = (_limit_splits, _limit_results, _limit_classes, _limit_groups, _limit_scope)
    return [sentence for part in parts for sentence in part(records)]


def list_names(names: list[str], limit: int) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(escape(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def _limit_splits(records: CardRecords) -> Iterator[str]:
    """Say which images of the split that was measured are not new to the model, and what that changes."""
    shared = records.data.identical_images.shared if records.data.identical_images else []
    told = [item.describe() for item in shared if item.split == records.split]
    if not told or not records.unseen:
        yield from (f"**{text}.**" for text in told)
        return
    values = {name: estimate.value for name, estimate in records.metrics.items()}
    yield f"**{'; '.join(told)}.** {describe_unseen(records.unseen, values)}"


def _limit_results(records: CardRecords) -> Iterator[str]:
    split = records.split
    if split is None:
        yield "No evaluation results are available."
        return
    if split == "validation":
        yield (
            "There are no results on a test split. Those on validation are optimistic, because the checkpoint was "
            "selected on it."
        )
    for name in ("train", "test"):
        part = records.data.splits.get(name)
        if part is not None and records.is_subset(name):
            yield f"Only a part of the {name} split was used: {part.num_examples:,} of {part.num_available:,} images."
    for goal in records.report.goals if records.report else ():
        if goal["status"] == "not met":
            yield f"The goal {code(goal['goal'])} was not met: {show_number(goal['value'])}."
    name, share = _find_share(records)
    if share is None or share.value is None:
        return
    if share.low is None or share.high is None:
        yield "There are no confidence intervals, because no report was written."
    elif share.high - share.low > _WIDE:
        yield (
            f"{share.n:,} {split} images give a wide interval: {name} is {show_interval(share)}. Smaller differences "
            "to another model are not meaningful."
        )


def _find_share(records: CardRecords) -> tuple[str, Estimate | None]:
    """The share of images that are answered right, and its name in a sentence."""
    name = records.task.table.share_name
    return name.replace("_", " "), records.metrics.get(name)


def _limit_classes(records: CardRecords) -> Iterator[str]:
    ranked = rank_classes(records)
    # Where an image may have several labels, the share of all labels that are found is the mean of recalls.
    overall = records.metrics.get(records.task.recall)
    weak = [
        (name, numbers["recall"])
        for name, numbers in ranked[:_MAX_NAMED]
        if overall and overall.value is not None and (numbers["recall"].value or 0) < overall.value
    ]
    if weak:
        told = [f"{escape(name)}, {show_estimate(recall, n=True)}" for name, recall in weak]
        yield f"The weakest classes, by recall: {'; '.join(told)}."
    sizes = [numbers["recall"].n for _, numbers in ranked]
    if sizes and min(sizes) < _FEW_EXAMPLES:
        few = sum(size < _FEW_EXAMPLES for size in sizes)
        yield (
            f"{few:,} of {len(records.data.labels):,} classes have few {records.split} images (the smallest "
            f"{min(sizes):,}): their numbers are imprecise."
        )
    # A pair that was seen once is chance.
    pairs = [pair for pair in (records.report.confused_pairs if records.report else ()) if pair["count"] > 1]
    if pairs:
        told = [
            f"{escape(pair['label'])} predicted as {escape(pair['prediction'])} ({pair['count']:,} images, "
            f"{show_share(pair['share_of_label'])} of its class)"
            for pair in pairs[:_MAX_NAMED]
        ]
        yield f"The most frequent confusions: {'; '.join(told)}."


def _limit_groups(records: CardRecords) -> Iterator[str]:
    worse = [entry for entry in (records.report.slices if records.report else ()) if entry["verdict"] == "worse"]
    for entry in worse[:_MAX_NAMED]:
        yield (
            f"It performs worse on {escape(entry['column'])} {escape(entry['group'])}: {show_number(entry['value'])} "
            f"on {entry['n']:,} images, against {show_number(entry['rest'])} on the others."
        )
    if (side := judge_confidence(records).get("verdict")) in ("over", "under"):
        yield f"It is {side}-confident: its scores are not calibrated probabilities."


def _limit_scope(records: CardRecords) -> Iterator[str]:
    train, test = (records.data.splits.get(name) for name in ("train", "test"))
    if test is not None and test.is_cut and records.split == "test":
        groups = records.data.groups
        how, same = "at random", "near-duplicates, or the same person, place or series,"
        if groups is not None:
            how, same = f"in whole groups of {code(groups.column)}", "near-duplicates"
        yield (
            f"The test images were cut {how} from the same source as the training images. Whether {same} are in both "
            "splits was not checked; accuracy on new images may be lower."
        )
    if records.is_from_scratch and train is not None and train.num_examples:
        yield f"It was trained from scratch on {train.num_examples:,} images of this dataset alone."
    if not records.is_multi_label:
        yield "It always predicts one of its classes, whatever the image shows: it cannot reject an image."
    yield (
        f"Its accuracy on images of another kind or source is {NOT_MEASURED}, nor is its robustness to adversarial "
        "images."
    )


def _show_parameters(count: int) -> str:
    return f"{count / 1e6:,.2f} M" if count >= 10_000 else f"{count:,}"
