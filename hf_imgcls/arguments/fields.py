"""What a run is asked to do: flags and YAML of the Hugging Face world, checked before anything heavy is imported.

Every flag of transformers' ``run_image_classification.py`` is accepted unchanged, including all ``TrainingArguments``
of the installed transformers and names that only older releases had; ours come on top. ``--config FILE`` (YAML or JSON,
or a lone ``FILE.json``) holds the same names, flat; flags win over the file. All mistakes are reported at once.

Only the standard library and PyYAML are imported here: see `hf_imgcls.arguments.installed` for how that is possible.

Source: transformers' ``examples/pytorch/image-classification/run_image_classification.py`` for names and meanings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hf_imgcls.arguments.data_fields import AugmentationGroup, DataGroup, PixelsGroup, UnlabelledGroup

DEFAULT_MODEL = "google/vit-base-patch16-224-in21k"
EXPORT_FORMATS = (  # what `hf_imgcls.publish.export` writes
    "onnx", "onnx_fp16", "onnx_int8", "onnx_int8_dynamic", "openvino", "openvino_fp16", "openvino_int8",
    "openvino_int8_weights", "torch_export", "aot_inductor", "torchscript", "executorch", "tflite",
)  # fmt: skip
GROUPS = {
    "run": "what to do and where",
    "data": "which examples",
    "pixels": "from an image file to model input",
    "augmentation": "how training images are varied",
    "fit": "the model and how it is adapted",
    "measure": "how the result is checked",
    "score": "what hf-imgcls measure scores",
    "publish": "the model card and the Hub",
    "export": "the model for other runtimes, smaller and faster",
    "push": "what hf-imgcls push pushes",
    "pretrain": "how hf-imgcls pretrain learns from images alone",
    "repeat": "what hf-imgcls repeat repeats",
    "training": "TrainingArguments of the installed transformers",
}


@dataclass
class RunGroup:
    """What to do."""

    GROUP = "run"

    overwrite_output_dir: bool = False
    """Replace the run in --output_dir, if there is one."""
    num_processes: Annotated[int | None, "[1, inf)"] = None
    """Number of processes; stop unless the run has as many (start them with `accelerate launch`)."""
    find_lr: bool = False
    """Run a learning rate range test instead of training: the rate grows for 200 steps, and lr_range.png in
    --output_dir shows where the loss falls fastest."""
    tune: Annotated[int, "[0, inf)"] = 0
    """Search training arguments in N trials, each judged on the validation split, instead of training once; tuned.yaml
    in --output_dir then has the best ones. The same command continues a search."""
    tune_space: dict[str, Any] | None = None
    """With --tune: the search space, two numbers for a range, a longer list for a choice; by default '{learning_rate:
    [a tenth of it, ten times it], weight_decay: [0, 0.3], label_smoothing_factor: [0, 0.2]}'."""


@dataclass
class FitGroup:
    """The model, where it comes from and which part of it learns."""

    GROUP = "fit"

    model_name_or_path: str | None = None
    """Pretrained model: Hub id or folder (default: google/vit-base-patch16-224-in21k)."""
    model_type: str | None = None
    """Train this architecture from scratch instead, for example vit or convnext."""
    model_config: dict[str, Any] | None = None
    """With --model_type: configuration values as a mapping, for example '{hidden_size: 192}'. ConvNeXt, ResNet, ViT and
    DeiT for up to 96 pixels begin with a small configuration, whose values these replace; one that names hidden_size(s)
    begins with the library's."""
    config_name: str | None = None
    """Configuration to use instead of the pretrained model's: Hub id or folder."""
    model_revision: str = "main"
    """Branch, tag or commit of the model."""
    image_processor_name: str | None = None
    """Image processor to use instead of the model's: Hub id or folder."""
    ignore_mismatched_sizes: bool = False
    """Initialise anew every weight whose shape differs; a new head needs no flag."""
    training_policy: Literal["auto", "none"] = "auto"
    """auto: arguments that are not given follow from what is trained and from the number of images (docs/training.md
    has the table); none: transformers' own values."""
    adaptation: Literal["full", "head", "probe", "partial", "lora", "auto"] = "full"
    """Train all weights, the head only, or low-rank adapters; probe: fit a linear head on cached features; partial: the
    last layers and the head; auto: the probe, then fine-tuning from its head, keeping the one with the lower log loss
    on validation."""
    auto_finetune: Literal["lora", "full"] = "full"
    """With --adaptation auto: how the model is fine-tuned after its probe; lora takes less memory."""
    freeze_batch_norm: bool = False
    """Keep the running statistics of BatchNorm as the pretrained model has them; its weights still learn."""
    freeze_layers: Annotated[int, "[0, inf)"] = 0
    """Freeze the embeddings and the first N layers or stages."""
    train_layers: Annotated[int, "[1, inf)"] = 1
    """With --adaptation partial: how many of the last layers or stages are trained."""
    layer_lr_decay: Annotated[float, "(0, 1]"] = 1.0
    """Learning rate of each layer or stage as a share of the next one's; the head has the full --learning_rate."""
    unfreeze_epochs: Annotated[int, "[0, inf)"] = 0
    """Train the head alone at first, and unfreeze one more layer or stage every N epochs; 0: all at once."""
    head_dropout: Annotated[float, "[0, 1)"] = 0.0
    """Dropout before the head, in training only; the saved model does not contain it."""
    lora_rank: Annotated[int, "[1, inf)"] = 8
    """Rank of the adapters."""
    lora_alpha: Annotated[float, "(0, inf)"] = 16.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    lora_dropout: Annotated[float, "[0, 1)"] = 0.0
    """Dropout before the adapters."""
    lora_target_modules: list[str] | None = None
    """Name endings of the layers that get adapters; if not given, chosen for the architecture."""
    prune_ratio: Annotated[float, "[0, 1)"] = 0.0
    """Before training, prune this share of a trained model's channels; training recovers the accuracy of the smaller
    model (ViT, DeiT, BEiT, ConvNeXt)."""
    quantization_aware_training: bool = False
    """Train a trained model further with INT8 rounding in its forward pass; the export to openvino_int8 then uses the
    ranges that were learned."""
    loss: Literal["auto", "cross_entropy", "bce", "focal", "asymmetric"] = "auto"
    """Training loss; auto: cross_entropy, or bce for multi-label data."""
    focal_gamma: Annotated[float, "[0, inf)"] = 2.0
    """With the focal loss: how strongly well-classified examples are down-weighted."""
    imbalance: Literal["none", "weights", "effective_number", "balanced_sampler", "focal", "logit_adjust"] = "none"
    """How rare classes are treated: loss weights by frequency or by effective number, sampling classes equally, the
    focal loss, or logits adjusted by frequency."""
    effective_number_beta: Annotated[float, "[0, 1)"] = 0.999
    """With effective_number: 0 weights all classes equally, values close to 1 by frequency."""
    teacher_model: str | None = None
    """Distil this classifier: learn from its predictions and the labels (Hub id or folder; classes match by name)."""
    distillation_temperature: Annotated[float, "(0, inf)"] = 2.0
    """Divides the logits of teacher and student: above 1, unlikely classes count more."""
    distillation_weight: Annotated[float, "(0, 1]"] = 0.5
    """Weight of the teacher in the loss; the labels have the rest."""
    drop_path_rate: Annotated[float | None, "[0, 1)"] = None
    """Stochastic depth: probability that the last block is skipped for a training image, smaller for earlier blocks; by
    default the model's own."""
    channels_last: bool = False
    """Use the channels-last memory format, which GPUs with tensor cores prefer for convolutions."""
    progressive_resizing: Annotated[float, "(0, 1]"] = 1.0
    """Begin with images of this share of the model's input size, which are cheaper; they grow after half of the epochs,
    and the last fifth has the full size."""
    ema_decay: Annotated[float | None, "(0, 1)"] = None
    """Decay of an exponential moving average of the weights, which is then what is validated and saved. 0.999 suits
    some thousand steps, 0.9999 many more."""
    model_soup: bool = False
    """At the end, average the checkpoints that are kept (--save_total_limit), each only if it helps on the validation
    split."""
    early_stopping_patience: Annotated[int | None, "[1, inf)"] = None
    """Stop after this many evaluations without a better --metric_for_best_model."""
    early_stopping_threshold: Annotated[float, "[0, inf)"] = 0.0
    """Smallest change that counts as better, in the metric's unit."""


@dataclass
class RepeatGroup:
    """How a run is repeated."""

    GROUP = "repeat"

    repeats: Annotated[int, "[1, inf)"] = 5
    """Number of runs, each with another seed."""
    launch_args: str | None = None
    """Arguments of `accelerate launch`, for example '--num_processes 2'."""


@dataclass
class PretrainGroup:
    """How a backbone learns from images alone."""

    GROUP = "pretrain"

    method: Literal["simclr", "dino"] = "simclr"
    """simclr: tell two views of one image from those of others; dino: predict a slowly moving teacher's output."""
    projection_dim: Annotated[int | None, "[2, inf)"] = None
    """Width of the projection that is compared (simclr: 128, dino: 4096)."""
    temperature: Annotated[float | None, "(0, inf)"] = None
    """Divides what is compared (simclr: 0.5, dino: 0.1)."""
    teacher_momentum: Annotated[float, "[0, 1)"] = 0.996
    """With dino: momentum of the teacher at the first step; it grows to 1 at the last."""


@dataclass
class MeasureGroup:
    """How the saved model is checked."""

    GROUP = "measure"

    max_parity_samples: Annotated[int, "[1, inf)"] = 1000
    """Test images on which pipeline() must predict what the Trainer predicted."""
    report: Literal["auto", "true", "false"] = "auto"
    """Write report/ with intervals, slices and examples; auto: if matplotlib and jinja2 are installed."""
    slice_columns: list[str] | None = None
    """Columns of the dataset whose groups are compared; brightness, sharpness and size always are."""
    goals: list[str] | None = None
    """Targets, for example 'accuracy>=0.93' 'worst_class_recall>=0.8'; exit code 3 if one is missed."""
    metrics: list[Any] | None = None
    """Your own evaluate metrics, as well: paths of .py files, or names on the Hub (with --trust_remote_code true)."""
    measure_latency: bool = False
    """Time the saved model, one image at a time (a goal about latency does so too)."""
    explain_samples: Annotated[int, "[0, inf)"] = 0
    """Number of worst mistakes to explain with heat maps (a minute each on a CPU)."""
    calibrate: bool = False
    """Fit a temperature on the validation split and fold it into the saved head; predictions stay the same."""


@dataclass
class ScoreGroup:
    """What is scored."""

    GROUP = "score"

    split: Literal["train", "validation", "test"] = "test"
    """The split to score."""
    predictions: str | None = None
    """Write the report of this prediction table (a run's folder or parquet file) again, without a model."""
    compare: list[str] | None = None
    """Compare two runs (folders or prediction tables) on the same examples: the old one, the new one."""


@dataclass
class PublishGroup:
    """What the model card says in addition to the records, and what is uploaded."""

    GROUP = "publish"

    license: str | None = None
    """Licence of the model as the Hub names it, for example apache-2.0; if not given, the base model's."""
    license_name: str | None = None
    """With --license other: the licence's name."""
    license_link: str | None = None
    """With --license other: where its text is, a URL or LICENSE, a file in the run's folder."""
    card_notes: str | None = None
    """Markdown file whose text is inserted into the model card and kept there."""
    public: bool = False
    """Make the repository public; otherwise a new one is private."""
    hub_tag: str | None = None
    """Tag of the pushed commit, for example v1.0."""
    create_pr: bool = False
    """Open a pull request instead of committing to the branch."""
    commit_message: str | None = None
    """Title of the commit (default: Upload image classifier)."""
    overwrite_card: bool = False
    """Replace the card (of the model or the Space) even if it was edited on the Hub since the last push."""
    publish_images: bool = False
    """Publish images of the dataset: three examples for the widget and the demo, and those in the report."""
    publish_predictions: bool = False
    """Publish the prediction tables too, with file names and the dataset's other columns."""
    publish_hashes: bool = False
    """Publish hashes of the training images' pixels, so that anyone who fine-tunes the model can check their test
    images for leaks."""
    verify: bool = True
    """Load the files in a process with nothing but transformers and compare its predictions with the scored ones:
    before the push, which a difference stops, and again from the Hub."""


@dataclass
class PushGroup:
    """What is pushed."""

    GROUP = "push"

    run: str | None = None
    """The run's folder; as the first word it needs no flag."""
    dry_run: bool = False
    """Check everything and show what would be done: train four steps only, send nothing."""
    space: str | None = None
    """Push a demo of the model to this Space, for example me/demo; without RUN, the demo alone."""


@dataclass
class ExportGroup:
    """The model for other runtimes."""

    GROUP = "export"

    export_formats: list[str] | None = None
    """Formats to write, each into a folder of its own: onnx, onnx_fp16, onnx_int8, onnx_int8_dynamic, openvino,
    openvino_fp16, openvino_int8, openvino_int8_weights, torch_export, aot_inductor, torchscript, executorch, tflite."""
    export_opset: Annotated[int, "[17, 23]"] = 18
    """Opset of ONNX files."""
    fold_preprocessing: bool = False
    """Put normalisation and softmax into ONNX and OpenVINO models: resized uint8 image in, probabilities out."""
    max_accuracy_drop: Annotated[float, "[0, 1]"] = 0.005
    """Accuracy that a quantised model may lose; its most sensitive layers stay in float until it loses no more."""
    calibration_samples: Annotated[int, "[1, inf)"] = 256
    """Training images that give the activation ranges of INT8 models."""
    calibration_method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How onnx_int8 chooses a range: all values, the least loss of information, or all but outliers."""


# Dataclasses list the fields of their last base first.


@dataclass
class DataArguments(AugmentationGroup, PixelsGroup, UnlabelledGroup, DataGroup):
    """Which examples are used, how an image becomes model input, and how training images are varied."""

    def __post_init__(self) -> None:
        # How a saved model's images are read; no argument, and no part of a recipe: see classifier/saved_reading.py.
        self.model_reading: dict[str, Any] = {}


@dataclass
class FitArguments(PretrainGroup, RepeatGroup, FitGroup, RunGroup):
    """The model, where it comes from and which part of it learns."""


@dataclass
class MeasureArguments(ScoreGroup, MeasureGroup):
    """How the saved model is checked."""


@dataclass
class PublishArguments(ExportGroup, PushGroup, PublishGroup):
    """What the model card says in addition to the records, what is uploaded and exported."""


@dataclass
class Arguments:
    """Everything a run was asked to do.

    Attributes:
        data: Which examples, and how they become model input.
        fit: The model and its adaptation.
        measure: How the result is checked.
        publish: What is told and uploaded.
        training: Keyword arguments for ``TrainingArguments``, given or our defaults. ``warmup_ratio`` and
            ``logging_dir`` are no fields of transformers 5; ``lr_scheduler_type`` may be ``"step"``, which is ours.
        hub_token: Kept apart from ``training``, which ends up in files.
        explicit: Names the user gave, in today's spelling.
        notes: What was changed about the user's words, one sentence each.
        policy: Names that the training policy has filled in.
        hooks: Code that was handed over from Python, name -> where it is from, see `hf_imgcls.fit.hooks`.
    """

    data: DataArguments
    fit: FitArguments
    measure: MeasureArguments
    publish: PublishArguments
    training: dict[str, Any]
    hub_token: str | None = field(default=None, repr=False, compare=False)
    explicit: set[str] = field(default_factory=set, compare=False)
    notes: list[str] = field(default_factory=list, compare=False)
    policy: set[str] = field(default_factory=set, compare=False)
    hooks: dict[str, str] = field(default_factory=dict)
