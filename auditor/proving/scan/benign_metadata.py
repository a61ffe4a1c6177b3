"""Metadata as trainers write it: settings, tags by the thousand, captions in many scripts."""

from __future__ import annotations

import json

import numpy as np

__all__ = ["training_metadata"]

_TAGS = (
    "1girl",
    "solo",
    "looking at viewer",
    "blue eyes",
    "sks person",
    "masterpiece",
    ":3",
    "^_^",
    "o_o",
    "<|>_<|>",
    "a photo of a cat",
    "in the style of van gogh",
    "50mm f/1.8",
    "score_9",
    "rating:safe",
    "year 2023",
    "ohwx man",
    "a woman, smiling & waving",
    "5 > 3",
    "shot on film (kodak portra 400)",
    "<lora:add_detail:0.6>",
    "<s1><s2>",
    "фото человека в шляпе",
    "портрет, масло",
    "猫耳",
    "黒髪ロング",
    "한복을 입은 여자",
    "une photo d'été à la plage",
    "Ελλάδα, θάλασσα",
    "صورة قطة",
    "عکس بچه‌ها",
    "תמונה של חתול",
    "हिन्दी चित्र",
    "क्‍ष",
    "👩‍🎨 painting",
    "naïve café",
)


def training_metadata(rng: np.random.Generator, tags: int = 40) -> dict[str, str]:
    """Keys and values as kohya's scripts write them, with ``tags`` counted captions."""
    rank = int(rng.choice((4, 8, 16, 32)))
    frequency = {
        f"{rng.choice(_TAGS)}, take {i}" if i >= len(_TAGS) else _TAGS[i]: int(rng.integers(1, 99))
        for i in range(tags)
    }
    return {
        "ss_training_comment": "second try, lower learning rate",
        "ss_learning_rate": "0.0001",
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=[0.9, 0.99])",
        "ss_tag_frequency": json.dumps({"10_sks person": frequency}, ensure_ascii=bool(rng.random() < 0.5)),
        "ss_dataset_dirs": json.dumps({"10_sks person": {"n_repeats": 10, "img_count": 24}}),
        "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 768], "count": 20}}}),
        "ss_network_args": json.dumps({"conv_dim": str(rank), "conv_alpha": "1"}),
        "ss_session_id": str(int(rng.integers(2**31))),
        "ss_num_epochs": "10",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": f"my lora r{rank}",
        "modelspec.date": "2026-03-04T05:06:07",
        "modelspec.description": "See https://example.org/models for sample pictures.",
    }
