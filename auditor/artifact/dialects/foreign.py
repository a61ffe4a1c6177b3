"""Transformer denoisers that are not read, told by names that SD3 and Flux do not have.

Names are those of diffusers, of the labs' own code, and of the flattened kohya naming, so that a separator is
``.`` or ``_``. Attention alone often has the same names everywhere (``transformer_blocks.0.attn.to_q``,
``double_blocks.0.img_attn.qkv``): a pattern stands for something that only the family itself has.
"""

from __future__ import annotations

__all__ = ["FOREIGN_TRANSFORMERS"]

# The beginning of a module path, behind whatever prefix the file has.
_START = (
    r"(?:^|^(?:transformer|diffusion_model|model\.diffusion_model|base_model\.model)\.|"
    r"^(?:lora_unet|lora_transformer|lycoris)_)"
)
_LAYER = _START + r"(?:layers|noise_refiner|context_refiner)[._]\d+[._]"

# (pattern, what it is). First match wins: those that share a name with another stand before it.
FOREIGN_TRANSFORMERS: tuple[tuple[str, str], ...] = (
    (
        r"(?:double_stream|single_stream)_modulation|to_qkv_mlp_proj|ff(?:_context)?[._]linear_(?:in|out)\b",
        "a Flux.2 adapter or model",
    ),
    (r"distilled_guidance_layer", "a Chroma adapter or model"),
    (
        r"token_refiner[._]|double_blocks\.\d+\.(?:img|txt)_attn_(?:qkv|proj)|"
        r"(?:double|single)_blocks[._]\d+[._](?:(?:img|txt)_(?:mlp[._]fc[12]|mod[._]linear)|modulation[._]linear)|"
        r"single_transformer_blocks[._]3[89][._]attn[._]to_[qkv]\b",
        "a HunyuanVideo adapter or model",
    ),
    (r"single_blocks[._](?:3[89]|4\d)[._]", "a Flux.2 or HunyuanVideo adapter or model"),
    (
        r"transformer_blocks[._]\d+[._](?:img|txt)_(?:mlp[._]net|mod[._]1)|"
        r"(?<!single_)transformer_blocks[._](?:3[89]|[4-9]\d)[._]attn[._](?:to|add)_",
        "a Qwen-Image adapter or model",
    ),
    (
        r"(?:double|single)_layers[._]\d|joint_transformer_blocks[._]\d|cond_seq_linear",
        "an AuraFlow adapter or model",
    ),
    (r"(?:double|single)_stream_blocks[._]\d", "a HiDream adapter or model"),
    (
        _START
        + r"blocks[._]\d+[._](?:(?:self|cross)_attn[._](?:[qkvo]|[kv]_img)(?:\.|$)|attn[12][._]to_|ffn[._])",
        "a Wan adapter or model",
    ),
    (r"ff[._]conv_(?:inverted|depth|point)|mlp[._](?:inverted|depth|point)_conv", "a Sana adapter or model"),
    (r"cross_attn[._](?:q|kv)_linear", "a PixArt or Sana adapter or model"),
    (
        rf"adaln_single|caption_projection|scale_shift_table|patchify_proj|{_START}transformer_blocks[._]\d+[._]attn1[._]",
        "a PixArt, Sana, LTX-Video or other cross-attention transformer file",
    ),
    (_LAYER + r"attention[._]to_", "a Z-Image adapter or model"),
    (_LAYER + r"attn[._]to_", "a Lumina 2 adapter or model"),
    (_LAYER + r"(?:attention[._](?:qkv|out)\b|feed_forward[._])", "a Lumina 2 or Z-Image adapter or model"),
)
