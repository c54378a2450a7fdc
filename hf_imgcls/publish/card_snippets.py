"""Code in a card that loads a run's exported models: by Optimum in a stock pipeline, and by the runtime alone."""

from __future__ import annotations

from pathlib import PurePosixPath

from hf_imgcls.publish.card_records import CardRecords
from hf_imgcls.publish.markdown import code, join_words
from hf_imgcls.records import ExportRecord

_FAMILIES = {".onnx": "ONNX Runtime", ".xml": "OpenVINO"}
# Of a file that takes uint8 images and gives probabilities.
_FOLDED = "_folded"
_OPTIMUM = {
    "ONNX Runtime": ("optimum.onnxruntime", "ORTModelForImageClassification"),
    "OpenVINO": ("optimum.intel", "OVModelForImageClassification"),
}
_LOAD = {
    "ONNX Runtime": (
        'session = onnxruntime.InferenceSession(f"{{folder}}/{file}")',
        "about = session.get_modelmeta().custom_metadata_map",
    ),
    "OpenVINO": (
        'model = openvino.Core().read_model(f"{{folder}}/{file}")',
        'about = {{key: value.value for key, value in model.get_rt_info(["model_info"]).astype(dict).items()}}',
        'model = openvino.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})',
    ),
}
_RUN = {
    "ONNX Runtime": "session.run(None, {session.get_inputs()[0].name: pixels})[0][0]",
    "OpenVINO": "model(pixels)[0][0]",
}


def build_snippets(records: CardRecords, name: str, is_on_hub: bool) -> list[dict[str, str]]:
    """Code for each kind of exported file that the card's run has.

    A runtime alone needs every step of the image processor; where these are not known, only Optimum's code is shown.

    Args:
        records: The run's records.
        name: Hub id, or the folder's name, as a Python string in quotes.
        is_on_hub: Whether it is a Hub id.

    Returns:
        ``title`` and ``code`` of each.
    """
    snippets = []
    for runtime in _FAMILIES.values():
        for ending in ("", _FOLDED):
            entries = [entry for entry in records.exports if _family(entry) == (runtime, ending)]
            if not entries:
                continue
            others = join_words([code(f"{entry.format}/{entry.path}") for entry in entries[1:]])
            also = f"; likewise {others}" if others else ""
            if not ending and not (runtime == "OpenVINO" and records.config.get("model_type") == "timm_wrapper"):
                title = f"By Optimum{also}:"
                snippets.append({"title": title, "code": _load_with_optimum(runtime, entries[0], name)})
            if entries[0].preprocessing is not None:
                title = f"With {runtime} alone{', which gets the image as it is' if ending else ''}{also}:"
                snippets.append({"title": title, "code": _load_alone(runtime, entries[0], name, is_on_hub)})
    return snippets


def _family(entry: ExportRecord) -> tuple[str, str]:
    ending = _FOLDED if entry.format.endswith(_FOLDED) else ""
    return _FAMILIES.get(PurePosixPath(entry.path).suffix, ""), ending


def _load_with_optimum(runtime: str, entry: ExportRecord, name: str) -> str:
    module, model = _OPTIMUM[runtime]
    return (
        f"from {module} import {model}\n"
        "from transformers import pipeline\n\n"
        f'model = {model}.from_pretrained({name}, subfolder="{entry.format}", file_name="{entry.path}")\n'
        f'classifier = pipeline("image-classification", model=model, image_processor={name})\n'
        'print(classifier("picture.png"))'
    )


def _load_alone(runtime: str, entry: ExportRecord, name: str, is_on_hub: bool) -> str:
    package = "onnxruntime" if runtime == "ONNX Runtime" else "openvino"
    is_folded = entry.format.endswith(_FOLDED)
    lines = ["import json", "", "import numpy as np", f"import {package}"]
    if is_on_hub:
        lines += ["from huggingface_hub import snapshot_download"]
    lines += ["from PIL import Image, ImageOps", ""]
    if is_on_hub:
        lines += [f'folder = snapshot_download({name}, allow_patterns="{entry.format}/*") + "/{entry.format}"']
    else:
        lines += [f'folder = {name} + "/{entry.format}"']
    lines += [line.format(file=entry.path) for line in _LOAD[runtime]]
    lines += ['labels, steps = json.loads(about["labels"]), json.loads(about["preprocessing"])', ""]
    lines += ['image = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")', *_RESIZE]
    lines += ["pixels = np.asarray(image)[None]"] if is_folded else _NORMALISE
    lines += [f"scores = {_RUN[runtime]}"]
    if not is_folded:
        lines += ["scores = np.exp(scores - scores.max())", "scores /= scores.sum()"]
    return "\n".join([*lines, "print(labels[scores.argmax()], scores.max())"])


_RESIZE = [
    'edge, short = steps["shortest_edge"], min(image.size)',
    'size = steps["resize"] or [edge * side // short for side in image.size]',
    'image = image.resize(size, steps["resample"])',
    'if steps["crop"]:',
    '    left, top = [(side - crop) // 2 for side, crop in zip(image.size, steps["crop"])]',
    '    image = image.crop((left, top, left + steps["crop"][0], top + steps["crop"][1]))',
]
_NORMALISE = [
    'pixels = np.asarray(image, dtype=np.float32) * (steps["rescale_factor"] or 1)',
    'pixels = (pixels - (steps["mean"] or [0] * 3)) / (steps["std"] or [1] * 3)',
    "pixels = pixels.transpose(2, 0, 1)[None].astype(np.float32)",
]
