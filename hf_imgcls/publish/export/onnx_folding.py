"""What every ONNX file gets in the end: its description, and preprocessing inside the graph where that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_imgcls.errors import ModelError
from hf_imgcls.publish.export.description import describe_model

if TYPE_CHECKING:
    from hf_imgcls.publish.export.exporter import ExportSource


def finish_onnx(path: Path, source: ExportSource) -> int:
    """Fold the preprocessing into the file if asked for, let it describe itself, and check it against ONNX's own rules.

    Returns:
        The file's opset.

    Raises:
        ModelError: It is not the one that was asked for: an exporter may fail to convert a graph, and go on.
    """
    import onnx

    if source.options.fold_preprocessing:
        fold_onnx(path, source)
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, describe_model(source))
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path), full_check=False)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset != source.options.export_opset:
        raise ModelError(
            f"{type(source.model).__name__} was written with opset {opset}",
            f"export_opset {source.options.export_opset}, which this exporter cannot convert it to",
            f"pass --export_opset {opset}, or export on transformers 4.57",
        )
    return opset


def fold_onnx(path: Path, source: ExportSource) -> None:
    """Put normalisation before an ONNX model and softmax behind it.

    The input becomes ``image``, uint8 ``(batch, H, W, 3)`` as an image decodes and the processor resizes it, and
    the output ``probabilities``, float32 ``(batch, K)``. Resizing stays outside: no two libraries do it alike, and
    the model's accuracy was measured with the processor's.

    Args:
        path: A file with the input ``pixel_values`` and the output ``logits``, float32; changed in place.
        source: Gives image size and normalisation.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    height, width = source.image_size
    normalizer = source.normalizer
    old_input, old_output = graph.input[0].name, graph.output[0].name
    before = [
        helper.make_node("Cast", ["image"], ["folded_levels"], name="folded_cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["folded_levels"], ["folded_planes"], name="folded_transpose", perm=[0, 3, 1, 2]),
    ]
    constants = {}
    if normalizer.mean is not None and normalizer.std is not None:
        constants = {"folded_mean": normalizer.mean.numpy(), "folded_std": normalizer.std.numpy()}
        before += [
            helper.make_node("Sub", ["folded_planes", "folded_mean"], ["folded_centred"], name="folded_subtract"),
            helper.make_node("Div", ["folded_centred", "folded_std"], [old_input], name="folded_divide"),
        ]
    else:
        constants = {"folded_factor": np.float32(normalizer.rescale_factor or 1.0)}
        before.append(helper.make_node("Mul", ["folded_planes", "folded_factor"], [old_input], name="folded_scale"))
    nodes = [
        *before,
        *graph.node,
        helper.make_node("Softmax", [old_output], ["probabilities"], name="folded_softmax", axis=-1),
    ]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in constants.items()
    )
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", height, width, 3]))
    num_labels = source.model.config.num_labels
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", num_labels]))
    onnx.save(model, str(path))
