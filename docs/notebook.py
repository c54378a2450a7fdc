"""From folders of photos to a model on the Hub, cell by cell; a test runs this script as it stands.

python docs/notebook.py PHOTOS      # PHOTOS/cat/1.jpg, PHOTOS/dog/2.jpg ...
"""

# %% Data: folders named after their classes; splits that are missing are cut from train
import sys

import evaluate
from datasets import Features, Value
from transformers import TrainerCallback

import hf_imgcls as ic

data = ic.load_data(sys.argv[1], train_val_split=0.2, test_split=0.2)
settings = {"model_type": "resnet", "image_size": 32, "num_train_epochs": 3, "learning_rate": 3e-3}


# %% Training, with code of your own: a callback, a transform of the uint8 batch (B, 3, H, W), and a metric
class SayLoss(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        print(f"step {state.global_step}: loss {logs.get('loss', '-')}")


def darken(images):
    return (images * 0.9).to(images.dtype)


class Mistakes(evaluate.Metric):
    def _info(self):
        inputs = {"predictions": Value("int64"), "references": Value("int64")}
        return evaluate.MetricInfo(description="Wrong answers", citation="", features=Features(inputs))

    def _compute(self, predictions, references):
        return {"mistakes": sum(a != b for a, b in zip(predictions, references, strict=True))}


old = ic.train(data, output_dir="outputs/old", **settings)
hooks = {"callbacks": [SayLoss()], "train_transform": darken, "metrics": [Mistakes()]}
new = ic.train(data, output_dir="outputs/new", **hooks, **settings)
print(new.state, new.metrics["test_accuracy"], new.metrics["test_mistakes"], new.recipe["learning_rate"])

# %% Judging: each answer is a row; the report and the comparison are made from these rows
table = ic.score(new, data)
print(table.to_pandas().head(3))
report = ic.report(table, goals=["accuracy>=0.5"], data=data, metrics=[Mistakes()])  # the last line of a cell shows it
verdict = ic.compare(old, new)
ic.check_parity(new, data)  # what pipeline("image-classification") answers is what was scored
print(new.classifier()(data.splits["test"][0]["image"], top_k=2))

# %% Shipping
ic.export(new, formats=["onnx"])
ic.push(new, "me/photos", dry_run=True)
