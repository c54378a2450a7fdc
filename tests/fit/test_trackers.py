"""One tracker run per training, with all arguments, one value a step, and the test result."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hf_imgcls.fit.trackers import Tracker, wrap_trackers


class Recorder:
    """A tracker that writes down what it is told."""

    def __init__(self):
        self.events = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.events.append(("begin", json.loads(args.to_json_string())))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.events.append(("log", logs))

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append(("end", None))


def test_a_run_is_open_until_the_test_result_and_hears_nothing_in_between():
    args, state, control = TrainingArguments("x", report_to="none", use_cpu=True), TrainerState(), TrainerControl()
    inner = Recorder()
    tracker = Tracker(inner, {"dataset_name": "digits", "adaptation": "lora", "learning_rate": "shadowed"})
    tracker.on_train_begin(args, state, control)
    tracker.on_log(args, state, control, logs={"loss": 1.0})
    tracker.on_train_end(args, state, control)
    tracker.on_log(args, state, control, logs={"eval_loss": 2.0})
    tracker.finish(args, state, control, {"test_accuracy": 0.5}, model=None)
    assert [event for event, _ in inner.events] == ["begin", "log", "log", "end"]
    assert inner.events[0][1]["dataset_name"] == "digits"
    assert inner.events[0][1]["learning_rate"] == args.learning_rate
    assert inner.events[2][1] == {"test_accuracy": 0.5}
    assert "dataset_name" not in args.to_dict()


def test_a_training_without_steps_is_a_run_too():
    inner = Recorder()
    args = TrainingArguments("x", report_to="none", use_cpu=True)
    Tracker(inner, {}).finish(args, TrainerState(), TrainerControl(), {"test_loss": 1.0}, model=None)
    assert [event for event, _ in inner.events] == ["begin", "log", "end"]


def test_trackers_are_wrapped_and_nothing_else():
    pytest.importorskip("tensorboard")
    callbacks = [SimpleNamespace(), INTEGRATION_TO_CALLBACK["tensorboard"]()]
    wrapped = wrap_trackers(callbacks, {})
    assert wrapped[0] is callbacks[0]
    assert isinstance(wrapped[1], Tracker)
