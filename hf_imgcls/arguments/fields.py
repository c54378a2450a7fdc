"""What a run is asked to do: flags and YAML of the Hugging Face world, checked before anything heavy is imported.

Every flag of transformers' ``run_image_classification.py`` is accepted unchanged, including all ``TrainingArguments``
of the installed transformers and names that only older releases had; ours come on top. ``--config FILE`` (YAML or JSON,
or a lone ``FILE.json``) holds the same names, flat; flags win over the file. All mistakes are reported at once.

Only the standard library and PyYAML are imported here: see ``training_fields`` for how that is possible.

Source: transformers' ``examples/pytorch/image-classification/run_image_classification.py`` for names and meanings.
"""

# ruff: noqa: RUF009 (_setting is dataclasses.field with metadata: it shares no mutable default)
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_imgcls.arguments.small_configs import LARGEST_SMALL

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
    "score": "what recipes/measure.py scores",
    "publish": "the model card and the Hub",
    "export": "the model for other runtimes, smaller and faster",
    "push": "what recipes/push.py pushes",
    "pretrain": "how recipes/pretrain.py learns from images alone",
    "repeat": "what recipes/repeat.py repeats",
    "training": "TrainingArguments of the installed transformers",
}


def _setting(
    default: Any, text: str, *, group: str = "", choices: Sequence[str] = (), within: str | None = None, **options: Any
) -> Any:
    """A dataclass field that carries what ``--help`` and the checks need to know about it."""
    metadata = {"help": text, "choices": tuple(choices) or None, "within": within, "group": group}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata, **options)
    return field(default=default, metadata=metadata, **options)


@dataclass
class DataArguments:
    """Which examples are used (group ``data``), how an image becomes model input (group ``pixels``), and how training
    images are varied (group ``augmentation``): there, ``None`` leaves it to the policy ``augmentation``.
    """

    dataset_name: str | None = _setting(
        None, "A dataset on the Hub, a local folder in Hub layout, or 'digits', the built-in sample."
    )
    dataset_config_name: str | None = _setting(None, "The dataset's configuration (with --dataset_name).")
    dataset_revision: str | None = _setting(None, "Branch, tag or commit of the dataset (with --dataset_name).")
    train_dir: str | None = _setting(None, "Folder of training images, one sub-folder per class.")
    validation_dir: str | None = _setting(None, "Folder of validation images, one sub-folder per class.")
    test_dir: str | None = _setting(None, "Folder of test images, one sub-folder per class.")
    train_file: str | None = _setting(
        None, "CSV, JSON lines or parquet of file name and label (parquet: or image) for training."
    )
    validation_file: str | None = _setting(None, "The same for validation.")
    test_file: str | None = _setting(None, "The same for testing.")
    image_folder: str | None = _setting(
        None, "Folder that the file names in --train_file and its like are relative to; if not given, the file's own."
    )
    image_suffix: str | None = _setting(
        None, "Added to file names in --train_file and its like that lack it: '.jpg' for a column of ids."
    )
    unlabelled_dir: str | None = _setting(None, "Folder of images without labels, at any depth.", group="pretrain")
    train_split_name: str | None = _setting(None, "The dataset's split to train on; found by name if not given.")
    validation_split_name: str | None = _setting(
        None, "The dataset's split to validate on; if not given: validation, valid, val or dev."
    )
    test_split_name: str | None = _setting(None, "The dataset's split to test on; if not given: test.")
    image_column_name: str | None = _setting(None, "The image column; inferred from the column types if not given.")
    label_column_name: str | None = _setting(
        None,
        "The label column; inferred from the column types if not given. A list (also inside a column: "
        "objects.category) means several labels per image, as do columns of 0 and 1 with commas between: cat,dog.",
    )
    label_separator: str | None = _setting(
        None, "What is between the labels of an image in a column of texts, for example ';' in 'cat;dog'."
    )
    group_column: str | None = _setting(
        None,
        "A column that names what images belong to, such as a patient, place or series: where splits are cut, a group "
        "stays in one of them.",
    )
    train_val_split: int | float = _setting(
        0.15,
        "Cut from train where there is no validation split: a fraction in (0, 1), or a number of examples; 0 for none.",
        within="[0, inf)",
    )
    test_split: int | float = _setting(
        0.15,
        "Cut from train where there is no test split: a fraction in (0, 1), or a number of examples; 0 for none.",
        within="[0, inf)",
    )
    split_seed: int = _setting(
        42, "Seed of the cuts, apart from --seed so that seeds share a test set.", within="[0, inf)"
    )
    shots_per_class: int | None = _setting(
        None, "Train on at most this many examples of each class, drawn at random.", within="[1, inf)"
    )
    shots_seed: int = _setting(
        0, "Seed of that draw, apart from --split_seed so that draws share validation and test.", within="[0, inf)"
    )
    max_train_samples: int | None = _setting(
        None,
        "Train on at most this many examples; with --streaming only those are fetched, else the whole split.",
        within="[1, inf)",
    )
    max_eval_samples: int | None = _setting(None, "Validate on at most this many examples.", within="[1, inf)")
    max_test_samples: int | None = _setting(None, "Test on at most this many examples.", within="[1, inf)")
    scan_images: bool = _setting(
        True,
        "Decode every image once before training, so that a bad one does not end the run in the middle; "
        "the result is kept.",
    )
    on_bad_image: str = _setting(
        "error", "What to do about images that cannot be read: stop, or leave them out.", choices=["error", "skip"]
    )
    streaming: bool = _setting(False, "Read the dataset while training instead of downloading it first.")
    shuffle_buffer_size: int = _setting(10_000, "Examples held to shuffle from when streaming.", within="[1, inf)")
    download_attempts: int = _setting(
        5,
        "How often a request to the Hub is tried when it is busy (429, 5xx) or the connection drops; waits grow.",
        within="[1, inf)",
    )
    cache_dir: str | None = _setting(None, "Where downloads are kept (default: the Hugging Face cache).")
    token: str | bool | None = _setting(
        None, "Hub token for private data and models; better log in or set HF_TOKEN.", repr=False, compare=False
    )
    trust_remote_code: bool = _setting(False, "Run code that a model or dataset repository contains.")
    image_size: int | None = _setting(
        None,
        "Side of the model's input in pixels; if not given, the image processor's.",
        group="pixels",
        within="[1, inf)",
    )
    image_mean: list[float] | Literal["dataset"] | None = _setting(
        None,
        "Mean of red, green and blue in [0, 1]; dataset: that of the training images, usual for training from scratch; "
        "if not given, the image processor's.",
        group="pixels",
        within="[0, 1]",
        choices=("dataset",),
    )
    image_std: list[float] | Literal["dataset"] | None = _setting(
        None,
        "Standard deviation of red, green and blue; dataset: that of the training images; if not given, the image "
        "processor's.",
        group="pixels",
        within="(0, inf)",
        choices=("dataset",),
    )
    alpha_background: str | None = _setting(
        None,
        "Colour behind transparent pixels: a name or '#rrggbb'; drop: transparency is dropped, as pipeline() drops it. "
        "If not given, the model's own, which is drop unless it was trained with another.",
        group="pixels",
    )
    intensity_range: list[float] | None = _setting(
        None,
        "Values that become black and white in 16-bit, 32-bit and float images; if not given, the model's own, or the "
        "range of the file's type.",
        group="pixels",
    )
    cache_decoded_images: str = _setting(
        "auto",
        "Keep decoded images in memory; auto: when all are small.",
        group="pixels",
        choices=["auto", "true", "false"],
    )
    decoder: str = _setting(
        "auto",
        "What decodes JPEG files, to the same pixels; auto: simplejpeg, which is faster, if it is installed.",
        group="pixels",
        choices=["auto", "pillow", "simplejpeg"],
    )
    max_image_pixels: int = _setting(
        89_478_485, "Images with more pixels than this are refused.", group="pixels", within="[1, inf)"
    )
    augmentation: str = _setting(
        "light",
        "How much training images are varied; the arguments below change it part by part. light: crops and flips; "
        "medium: with RandAugment and erasing; heavy: stronger, with MixUp and CutMix; "
        "views: small crops, colours and blur, for pretraining.",
        group="augmentation",
        choices=["none", "light", "medium", "heavy", "views"],
    )
    random_crop_scale: list[float] | None = _setting(
        None,
        "Smallest and largest share of the image's area that training crops (light: 0.35 1).",
        group="augmentation",
        within="(0, 1]",
    )
    random_crop_ratio: list[float] | None = _setting(
        None,
        "Smallest and largest width / height of a training crop (light: 0.75 1.3333).",
        group="augmentation",
        within="(0, inf)",
    )
    horizontal_flip_probability: float | None = _setting(
        None,
        "Probability that a training image is mirrored left to right (light: 0.5).",
        group="augmentation",
        within="[0, 1]",
    )
    vertical_flip_probability: float | None = _setting(
        None, "Probability that it is turned upside down, mirrored.", group="augmentation", within="[0, 1]"
    )
    rotation_degrees: float | None = _setting(
        None, "It is rotated by up to this angle, either way.", group="augmentation", within="[0, 180]"
    )
    color_jitter: list[float] | None = _setting(
        None,
        "Largest change of brightness, contrast and saturation (0.4: by 40 %) and of hue (0.5: any), in this order.",
        group="augmentation",
        within="[0, inf)",
    )
    auto_augment: str | None = _setting(
        None,
        "A published mix of operations (medium, heavy: randaugment).",
        group="augmentation",
        choices=["none", "randaugment", "trivialaugment", "autoaugment", "augmix"],
    )
    randaugment_num_ops: int | None = _setting(
        None, "Operations of RandAugment on an image (2).", group="augmentation", within="[1, 14]"
    )
    randaugment_magnitude: int | None = _setting(
        None, "Their strength (medium: 5, heavy: 9).", group="augmentation", within="[0, 30]"
    )
    gaussian_blur_probability: float | None = _setting(
        None, "Probability that it is blurred.", group="augmentation", within="[0, 1]"
    )
    gaussian_noise_std: float | None = _setting(
        None, "Deviation of noise that is added, where white is 1.", group="augmentation", within="[0, 1]"
    )
    random_erasing_probability: float | None = _setting(
        None,
        "Probability that a rectangle is painted over (medium: 0.1, heavy: 0.25).",
        group="augmentation",
        within="[0, 1]",
    )
    mixup_alpha: float | None = _setting(
        None,
        "Blend two images and their labels, MixUp; 0 for never (heavy: 0.2).",
        group="augmentation",
        within="[0, inf)",
    )
    cutmix_alpha: float | None = _setting(
        None,
        "Put a part of another image into it, CutMix; 0 for never (heavy: 1.0). With both, each batch gets one.",
        group="augmentation",
        within="[0, inf)",
    )
    augmentation_repeats: int | None = _setting(
        None,
        "Show an image this many times in a batch, each time varied anew; an epoch then sees fewer images.",
        group="augmentation",
        within="[1, inf)",
    )
    augmentation_safety: bool = _setting(
        True,
        "Switch off flips, rotations and changes of hue that turn images of one class into another, after a check.",
        group="augmentation",
    )
    show_batch: bool = _setting(
        False, "Draw a training batch as the model sees it: train_batch.png in --output_dir.", group="augmentation"
    )

    def __post_init__(self) -> None:
        # How a saved model's images are read; no argument, and no part of a recipe: see classifier/saved_reading.py.
        self.model_reading: dict[str, Any] = {}


@dataclass
class FitArguments:
    """The model, where it comes from and which part of it learns (group ``fit``)."""

    overwrite_output_dir: bool = _setting(False, "Replace the run in --output_dir, if there is one.", group="run")
    num_processes: int | None = _setting(
        None,
        "Stop unless the run has this many processes (start them with `accelerate launch`).",
        group="run",
        within="[1, inf)",
    )
    model_name_or_path: str | None = _setting(None, f"Pretrained model: Hub id or folder (default: {DEFAULT_MODEL}).")
    model_type: str | None = _setting(
        None, "Train this architecture from scratch instead, for example vit or convnext."
    )
    model_config: dict[str, Any] | None = _setting(
        None,
        "With --model_type: configuration values as a mapping, for example '{hidden_size: 192}'. ConvNeXt, ResNet, ViT "
        f"and DeiT for up to {LARGEST_SMALL} pixels begin with a small configuration, whose values these replace; one "
        "that names hidden_size(s) begins with the library's.",
    )
    config_name: str | None = _setting(
        None, "Configuration to use instead of the pretrained model's: Hub id or folder."
    )
    model_revision: str = _setting("main", "Branch, tag or commit of the model.")
    image_processor_name: str | None = _setting(
        None, "Image processor to use instead of the model's: Hub id or folder."
    )
    ignore_mismatched_sizes: bool = _setting(
        False, "Initialise anew every weight whose shape differs; a new head needs no flag."
    )
    training_policy: str = _setting(
        "auto",
        "auto: what is not given is chosen by what is trained and on how many images (docs/training.md has the table); "
        "none: transformers' own values.",
        choices=["auto", "none"],
    )
    adaptation: str = _setting(
        "full",
        "Train all weights, the head only, or low-rank adapters; probe: solve for the head on features that are "
        "computed once; partial: the last layers and the head; auto: the probe, then fine-tuning from its head, and "
        "of the two the one with the lower log loss on validation.",
        choices=["full", "head", "probe", "partial", "lora", "auto"],
    )
    auto_finetune: str = _setting(
        "full",
        "With --adaptation auto: how the model is fine-tuned after its probe; lora takes less memory.",
        choices=["lora", "full"],
    )
    freeze_batch_norm: bool = _setting(
        False, "Keep the statistics of BatchNorm as the pretrained model has them, while its weights learn."
    )
    freeze_layers: int = _setting(
        0, "Keep the embeddings and the first N layers or stages as they are.", within="[0, inf)"
    )
    train_layers: int = _setting(
        1, "With --adaptation partial: how many of the last layers or stages are trained.", within="[1, inf)"
    )
    layer_lr_decay: float = _setting(
        1.0,
        "Learning rate of each layer or stage over that of the one behind it; the head has all of --learning_rate.",
        within="(0, 1]",
    )
    unfreeze_epochs: int = _setting(
        0,
        "Train the head alone at first, and one layer or stage more every N epochs; 0: all at once.",
        within="[0, inf)",
    )
    head_dropout: float = _setting(
        0.0, "Share of the head's inputs that training sets to 0; the saved model has no trace of it.", within="[0, 1)"
    )
    lora_rank: int = _setting(8, "Rank of the adapters.", within="[1, inf)")
    lora_alpha: float = _setting(
        16.0, "Scale of the adapters: their output is multiplied by alpha / rank.", within="(0, inf)"
    )
    lora_dropout: float = _setting(0.0, "Dropout before the adapters.", within="[0, 1)")
    lora_target_modules: list[str] | None = _setting(
        None, "Name endings of the layers that get adapters; if not given, chosen for the architecture."
    )
    prune_ratio: float = _setting(
        0.0,
        "Before training, take out this share of a trained model's channels; what is left is a smaller model of its "
        "kind, and training mends it (ViT, DeiT, BEiT, ConvNeXt).",
        within="[0, 1)",
    )
    quantization_aware_training: bool = _setting(
        False,
        "Train a trained model further with the rounding of INT8 in its forward pass; the export to openvino_int8 then "
        "uses the ranges that were learned.",
    )
    loss: str = _setting(
        "auto",
        "What is minimised; auto: cross_entropy, or bce where images have several labels.",
        choices=["auto", "cross_entropy", "bce", "focal", "asymmetric"],
    )
    focal_gamma: float = _setting(
        2.0, "With the focal loss: how much less an example counts that is answered well.", within="[0, inf)"
    )
    imbalance: str = _setting(
        "none",
        "What is done about rare classes: weights in the loss by frequency or by effective number, as many examples "
        "of each class, the focal loss, or logits adjusted by frequency.",
        choices=["none", "weights", "effective_number", "balanced_sampler", "focal", "logit_adjust"],
    )
    effective_number_beta: float = _setting(
        0.999, "With effective_number: 0 weighs all classes alike, towards 1 by frequency.", within="[0, 1)"
    )
    teacher_model: str | None = _setting(
        None, "Learn from this classifier's answers besides the labels (Hub id or folder; classes go by name)."
    )
    distillation_temperature: float = _setting(
        2.0, "Divides the logits of teacher and student: above 1, unlikely classes count more.", within="(0, inf)"
    )
    distillation_weight: float = _setting(
        0.5, "Share of the teacher in the loss; the labels have the rest.", within="(0, 1]"
    )
    drop_path_rate: float | None = _setting(
        None,
        "Stochastic depth: probability that the last block is skipped for an image in training, less for those before "
        "it; by default the model's own.",
        within="[0, 1)",
    )
    channels_last: bool = _setting(
        False, "Keep images and convolutions with the channels last in memory, which GPUs with tensor cores prefer."
    )
    progressive_resizing: float = _setting(
        1.0,
        "Begin with images of this share of the model's size, which cost less; they grow after half of the epochs, and "
        "the last fifth has all of it.",
        within="(0, 1]",
    )
    ema_decay: float | None = _setting(
        None,
        "Average the weights over the steps, this share of the average staying at each; the average is what is "
        "validated and saved. 0.999 suits some thousand steps, 0.9999 many more.",
        within="(0, 1)",
    )
    find_lr: bool = _setting(
        False,
        "Do not train, but find a learning rate: it grows for 200 steps, and lr_range.png in --output_dir shows "
        "where the loss falls fastest.",
        group="run",
    )
    tune: int = _setting(
        0,
        "Do not train once, but N times with other training arguments, each judged on the validation split; "
        "tuned.yaml in --output_dir then has the best ones. The same command goes on with a search.",
        group="run",
        within="[0, inf)",
    )
    tune_space: dict[str, Any] | None = _setting(
        None,
        "With --tune: what is tried, two numbers for a range, a longer list for a choice; by default "
        "'{learning_rate: [a tenth of it, ten times it], weight_decay: [0, 0.3], label_smoothing_factor: [0, 0.2]}'.",
        group="run",
    )
    model_soup: bool = _setting(
        False,
        "At the end, average the checkpoints that are kept (--save_total_limit), each only if the validation split "
        "agrees.",
    )
    repeats: int = _setting(5, "Runs, each with another seed.", group="repeat", within="[1, inf)")
    launch_args: str | None = _setting(
        None, "What `accelerate launch` gets, for example '--num_processes 2'.", group="repeat"
    )
    method: str = _setting(
        "simclr",
        "Tell two views of one image from the others (simclr), or answer as a slower self does to another view (dino).",
        group="pretrain",
        choices=["simclr", "dino"],
    )
    projection_dim: int | None = _setting(
        None, "Width of what is compared (simclr: 128, dino: 4096).", group="pretrain", within="[2, inf)"
    )
    temperature: float | None = _setting(
        None, "Divides what is compared (simclr: 0.5, dino: 0.1).", group="pretrain", within="(0, inf)"
    )
    teacher_momentum: float = _setting(
        0.996,
        "With dino: share of the slower self that stays at the first step; 1 at the last.",
        group="pretrain",
        within="[0, 1)",
    )
    early_stopping_patience: int | None = _setting(
        None, "Stop after this many evaluations without a better --metric_for_best_model.", within="[1, inf)"
    )
    early_stopping_threshold: float = _setting(0.0, "What counts as better, in the metric's unit.", within="[0, inf)")


@dataclass
class MeasureArguments:
    """How the saved model is checked (group ``measure``)."""

    max_parity_samples: int = _setting(
        1000, "Test images on which pipeline() must predict as the Trainer did.", within="[1, inf)"
    )
    report: str = _setting(
        "auto",
        "Write report/ with intervals, slices and examples; auto: if matplotlib and jinja2 are installed.",
        choices=["auto", "true", "false"],
    )
    slice_columns: list[str] | None = _setting(
        None, "Columns of the dataset whose groups are compared; brightness, sharpness and size always are."
    )
    goals: list[str] | None = _setting(
        None, "What must be reached, for example 'accuracy>=0.93' 'worst_class_recall>=0.8'; exit code 3 if one is not."
    )
    measure_latency: bool = _setting(False, "Time the saved model, one image at a time (a goal about it does so too).")
    explain_samples: int = _setting(
        0, "Worst mistakes to explain with heat maps (on a CPU a minute each).", within="[0, inf)"
    )
    calibrate: bool = _setting(
        False, "Fit a temperature on the validation split and fold it into the saved head; answers stay the same."
    )
    split: str = _setting("test", "The split to score.", group="score", choices=["train", "validation", "test"])
    predictions: str | None = _setting(
        None, "Report on this prediction table (a run's folder or parquet file) again, without a model.", group="score"
    )
    compare: list[str] | None = _setting(
        None,
        "Compare two runs (folders or prediction tables) on the same examples: the old one, the new one.",
        group="score",
    )


@dataclass
class PublishArguments:
    """What the model card says besides the records, what is uploaded (group ``publish``) and exported (``export``)."""

    license: str | None = _setting(
        None, "Licence of the model as the Hub names it, for example apache-2.0; if not given, the base model's."
    )
    license_name: str | None = _setting(None, "With --license other: the licence's name.")
    license_link: str | None = _setting(
        None, "With --license other: where its text is, a URL or LICENSE, a file in the run's folder."
    )
    card_notes: str | None = _setting(None, "Markdown file whose text is put into the model card, and kept there.")
    public: bool = _setting(False, "Let everybody see the repository; otherwise a new one is private.")
    hub_tag: str | None = _setting(None, "Tag of the pushed commit, for example v1.0.")
    create_pr: bool = _setting(False, "Open a pull request instead of committing to the branch.")
    commit_message: str | None = _setting(None, "Title of the commit (default: Upload image classifier).")
    overwrite_card: bool = _setting(
        False,
        "Replace the card (of the model or the Space) even if somebody has edited it on the Hub since the last push.",
    )
    publish_images: bool = _setting(
        False, "Publish images of the dataset: three examples for the widget and the demo, and those in the report."
    )
    publish_predictions: bool = _setting(
        False, "Publish the prediction tables too, with file names and the dataset's other columns."
    )
    publish_hashes: bool = _setting(
        False,
        "Publish hashes of the training images' pixels, so that anyone who fine-tunes the model can check their test"
        " images for leaks.",
    )
    verify: bool = _setting(
        True,
        "Load the files in a process with nothing but transformers and compare its answers with the scored ones: before"
        " the push, which a difference stops, and again from the Hub.",
    )
    run: str | None = _setting(None, "The run's folder; the flag may be left out before it.", group="push")
    dry_run: bool = _setting(
        False, "Check everything and show what would be done: train four steps only, send nothing.", group="push"
    )
    space: str | None = _setting(
        None, "Push a demo of the model to this Space, for example me/demo; without RUN, the demo alone.", group="push"
    )
    export_formats: list[str] | None = _setting(
        None,
        f"Formats to write, each into a folder of its own: {', '.join(EXPORT_FORMATS)}.",
        group="export",
    )
    export_opset: int = _setting(18, "Opset of ONNX files.", group="export", within="[17, 23]")
    fold_preprocessing: bool = _setting(
        False,
        "Put normalisation and softmax into ONNX and OpenVINO models: resized uint8 image in, probabilities out.",
        group="export",
    )
    max_accuracy_drop: float = _setting(
        0.005,
        "Accuracy that a quantised model may lose; the most sensitive layers stay in float until it is kept.",
        group="export",
        within="[0, 1]",
    )
    calibration_samples: int = _setting(
        256, "Training images that activation ranges of INT8 models are taken from.", group="export", within="[1, inf)"
    )
    calibration_method: str = _setting(
        "minmax",
        "How onnx_int8 chooses a range: everything seen, what loses least information, or all but outliers.",
        group="export",
        choices=["minmax", "entropy", "percentile"],
    )


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
        in_memory: Whether the data is an object at hand, so that no source of data has to be named.
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
    in_memory: bool = field(default=False, compare=False)
    hooks: dict[str, str] = field(default_factory=dict)
