"""A demo of an image classifier: give it an image, see what it takes it for and how sure it is."""

import json
from functools import cache
from pathlib import Path

# What is shown, and where it comes from: model, title, examples.
ABOUT = json.loads((Path(__file__).parent / "demo.json").read_text(encoding="utf-8"))
NUM_SHOWN = 5


@cache
def load_classifier():
    """The model, loaded once, when the first image comes."""
    from transformers import pipeline

    return pipeline("image-classification", model=ABOUT["model"], revision=ABOUT["revision"])


def classify(image):
    """Class name -> score of the best classes, for a ``PIL.Image`` or a file; nothing without an image."""
    if image is None:
        return {}
    answer = load_classifier()(image, top_k=NUM_SHOWN)
    return {item["label"]: item["score"] for item in answer}


def build_demo():
    """The page."""
    import gradio

    examples = [str(Path(__file__).parent / name) for name in ABOUT["examples"]]
    return gradio.Interface(
        classify,
        gradio.Image(type="pil", label="Image"),
        gradio.Label(num_top_classes=NUM_SHOWN, label="Answer"),
        examples=examples or None,
        cache_examples=False,
        title=ABOUT["title"],
        description=ABOUT["description"],
        flagging_mode="never",
        api_name="classify",
    )


if __name__ == "__main__":
    build_demo().launch()
