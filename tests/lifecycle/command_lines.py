"""Flags that many runs share."""

TINY_VIT = (
    "--model_type", "vit",
    "--model_config",
    "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, patch_size: 4}",
)  # fmt: skip
SMALL_DIGITS = (
    "--dataset_name", "digits", "--image_size", "16", "--max_train_samples", "256", "--max_eval_samples", "61",
    "--max_test_samples", "61", "--per_device_train_batch_size", "32", "--disable_tqdm", "true", "--use_cpu",
    "--horizontal_flip_probability", "0", "--learning_rate", "3e-3", "--report", "false",
)  # fmt: skip
