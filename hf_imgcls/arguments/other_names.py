"""What other training tools call an argument of ours: not accepted, since a recipe has one name for each thing, but
answered with the name to use.

Source: the documented arguments of Ultralytics YOLO (https://docs.ultralytics.com/usage/cfg), timm's ``train.py``
(https://github.com/huggingface/pytorch-image-models/blob/main/train.py), torchvision's classification reference
(https://github.com/pytorch/vision/tree/main/references/classification), AutoTrain
(https://huggingface.co/docs/autotrain/image_classification_params) and fastai.
"""

from __future__ import annotations

_DATA = ("dataset_name", "train_dir", "train_file")
_LEARNING_RATE = ("learning_rate",)
_EPOCHS = ("num_train_epochs",)
_BATCH = ("per_device_train_batch_size",)
_EVAL_BATCH = ("per_device_eval_batch_size",)
_WORKERS = ("dataloader_num_workers",)
_MODEL = ("model_name_or_path", "model_type")
_PRECISION = ("bf16", "fp16")
_PATIENCE = ("early_stopping_patience",)
_SIZE = ("image_size",)
_AUGMENTATION = ("augmentation", "auto_augment")
_ERASING = ("random_erasing_probability",)
_SMOOTHING = ("label_smoothing_factor",)
_WARMUP = ("warmup_ratio", "warmup_steps")
_SCHEDULE = ("lr_scheduler_type",)

# Their name, dashes as underscores -> ours, the likeliest first
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    # Learning rate and optimizer
    "lr": _LEARNING_RATE, "lr0": _LEARNING_RATE, "lr_max": _LEARNING_RATE, "base_lr": _LEARNING_RATE,
    "optimizer": ("optim",), "opt": ("optim",), "optimizer_name": ("optim",),
    "momentum": ("optim_args",), "opt_betas": ("adam_beta1", "adam_beta2"), "opt_eps": ("adam_epsilon",),
    "wd": ("weight_decay",),
    "clip_grad": ("max_grad_norm",), "grad_clip": ("max_grad_norm",), "gradient_clip_val": ("max_grad_norm",),
    "sched": _SCHEDULE, "scheduler": _SCHEDULE, "lr_scheduler": _SCHEDULE, "cos_lr": _SCHEDULE,
    "warmup": _WARMUP, "warmup_epochs": _WARMUP, "lr_warmup_epochs": _WARMUP,
    "layer_decay": ("layer_lr_decay",),
    # How long, and in which portions
    "epochs": _EPOCHS, "num_epochs": _EPOCHS, "n_epochs": _EPOCHS, "max_epochs": _EPOCHS, "steps": ("max_steps",),
    "batch_size": _BATCH, "batch": _BATCH, "bs": _BATCH, "train_batch_size": _BATCH,
    "val_batch_size": _EVAL_BATCH, "eval_batch_size": _EVAL_BATCH, "validation_batch_size": _EVAL_BATCH,
    "accumulate": ("gradient_accumulation_steps",), "gradient_accumulation": ("gradient_accumulation_steps",),
    "grad_accum_steps": ("gradient_accumulation_steps",), "accumulate_grad_batches": ("gradient_accumulation_steps",),
    "patience": _PATIENCE, "early_stopping": _PATIENCE, "patience_epochs": _PATIENCE,
    # Data
    "data": _DATA, "data_dir": ("train_dir",), "data_path": _DATA, "dataset": _DATA, "root": ("train_dir",),
    "train_data": _DATA, "train_path": ("train_dir", "train_file"),
    "val_dir": ("validation_dir",), "valid_dir": ("validation_dir",), "eval_dir": ("validation_dir",),
    "val_file": ("validation_file",), "valid_file": ("validation_file",), "csv": ("train_file",),
    "train_split": ("train_split_name",), "val_split": ("validation_split_name", "train_val_split"),
    "valid_split": ("validation_split_name", "train_val_split"), "valid_pct": ("train_val_split",),
    "image_column": ("image_column_name",), "image_key": ("image_column_name",), "input_key": ("image_column_name",),
    "target_column": ("label_column_name",), "label_column": ("label_column_name",),
    "target_key": ("label_column_name",),
    "workers": _WORKERS, "num_workers": _WORKERS, "cache": ("cache_decoded_images",),
    # Pixels and augmentation
    "imgsz": _SIZE, "img_size": _SIZE, "input_size": _SIZE, "resolution": _SIZE, "train_crop_size": _SIZE,
    "mean": ("image_mean",), "std": ("image_std",),
    "aa": _AUGMENTATION, "augment": _AUGMENTATION, "augmentations": _AUGMENTATION,
    "hflip": ("horizontal_flip_probability",), "fliplr": ("horizontal_flip_probability",),
    "vflip": ("vertical_flip_probability",), "flipud": ("vertical_flip_probability",), "degrees": ("rotation_degrees",),
    "scale": ("random_crop_scale",), "ratio": ("random_crop_ratio",),
    "reprob": _ERASING, "erasing": _ERASING, "random_erase": _ERASING,
    "mixup": ("mixup_alpha",), "cutmix": ("cutmix_alpha",), "smoothing": _SMOOTHING, "label_smoothing": _SMOOTHING,
    # Model
    "model": _MODEL, "model_name": _MODEL, "arch": _MODEL, "architecture": _MODEL, "backbone": _MODEL,
    "weights": _MODEL,
    "pretrained": ("model_name_or_path",), "initial_checkpoint": ("model_name_or_path",),
    "freeze": ("adaptation", "freeze_layers"), "freeze_backbone": ("adaptation",), "linear_probe": ("adaptation",),
    "peft": ("adaptation",), "use_peft": ("adaptation",), "lora": ("adaptation",), "lora_r": ("lora_rank",),
    "dropout": ("head_dropout",), "drop": ("head_dropout",), "drop_path": ("drop_path_rate",),
    "class_weights": ("imbalance",), "class_weight": ("imbalance",),
    "model_ema": ("ema_decay",), "ema": ("ema_decay",), "model_ema_decay": ("ema_decay",),
    # Where, and what for
    "device": ("use_cpu", "num_processes"), "gpus": ("num_processes",), "num_gpus": ("num_processes",),
    "amp": _PRECISION, "half": _PRECISION, "mixed_precision": _PRECISION, "precision": _PRECISION,
    "compile": ("torch_compile",), "torchcompile": ("torch_compile",),
    "grad_checkpointing": ("gradient_checkpointing",),
    "output": ("output_dir",), "out": ("output_dir",), "save_dir": ("output_dir",), "project_name": ("output_dir",),
    "name": ("run_name",), "resume": ("resume_from_checkpoint",), "exist_ok": ("overwrite_output_dir",),
    "repo_id": ("hub_model_id",), "hub_repo_id": ("hub_model_id",), "private": ("public",),
    "format": ("export_formats",), "formats": ("export_formats",), "eval_metric": ("metric_for_best_model",),
    "metric": ("metric_for_best_model",), "log_with": ("report_to",), "wandb": ("report_to",),
    "log_interval": ("logging_steps",),
}  # fmt: skip
