"""HuggingFace's names for the parts of a ViT's block, beside ours."""

THEIR_NAMES = {
    "attention.query": "attention.q_proj",
    "attention.key": "attention.k_proj",
    "attention.value": "attention.v_proj",
    "attention.projection": "attention.o_proj",
    "norm_attention": "layernorm_before",
    "norm_mlp": "layernorm_after",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
