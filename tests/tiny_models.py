"""Configs of tiny models: the whole suite trains nothing larger."""

# One tiny config per family of heads; about 10-60 thousand parameters each, 32x32 images.
TINY_CONFIGS = {
    "vit": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
    "deit": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8,
    },
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 8},
    "beit": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8,
        "layer_scale_init_value": 0.1, "drop_path_rate": 0.0,
    },
    "swin": {
        "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4,
        "drop_path_rate": 0.0,
    },
    # layer_scale_init_value 1: with the default 1e-6 the blocks do nothing, and a test would prove little.
    "convnext": {"depths": [1, 1], "hidden_sizes": [16, 32], "num_stages": 2, "layer_scale_init_value": 1.0},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    "mobilenet_v2": {"depth_multiplier": 0.25, "classifier_dropout_prob": 0.0},
}  # fmt: skip
