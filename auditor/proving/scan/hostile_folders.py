"""Folders that bring code, or a pickle beside clean weights."""

from __future__ import annotations

import json
from collections.abc import Mapping

from auditor.proving.scan import craft
from auditor.proving.scan.specimen import Specimen

__all__ = ["FOLDERS"]

_WEIGHTS = craft.safetensors({"a": craft.entry(0, [1])}, b"\0" * 4)
_EVIL = craft.torch_zip(craft.pickled(craft.PAYLOAD), {})
_CODE = b"import os\n\n\nclass Pipeline:\n    pass\n\n\nos.system('true')\n"
_REMOTE = "diffusers CVE-2026-44513: code of the repository behind the trust_remote_code gate"


def _model(index: Mapping[str, object], more: Mapping[str, bytes]) -> dict[str, bytes]:
    files = {"model_index.json": json.dumps(index).encode()}
    return (
        files | {"unet/config.json": b"{}", "unet/diffusion_pytorch_model.safetensors": _WEIGHTS} | dict(more)
    )


_INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}

_ROWS: tuple[tuple[str, str, dict[str, bytes]], ...] = (
    (
        "custom pipeline class",
        _REMOTE,
        _model(_INDEX | {"_class_name": ["pipeline", "Pipeline"]}, {"pipeline.py": _CODE}),
    ),
    (
        "component class from a file of the folder",
        "diffusers#13446: crafted tuples in model_index.json",
        _model(_INDEX | {"unet": ["my_unet", "UNet"]}, {"my_unet.py": _CODE, "unet/my_unet.py": _CODE}),
    ),
    (
        "component class from another package",
        "diffusers#13446: crafted tuples in model_index.json",
        _model(_INDEX | {"scheduler": ["subprocess", "Popen"]}, {}),
    ),
    (
        "component path outside the folder",
        "path traversal in an index",
        _model(_INDEX | {"../../etc": ["diffusers", "UNet2DConditionModel"]}, {}),
    ),
    (
        "shard outside the folder",
        "path traversal in an index",
        _model(
            _INDEX,
            {
                "unet/diffusion_pytorch_model.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "../../../../etc/passwd"}}
                ).encode()
            },
        ),
    ),
    (
        "pickle beside clean weights",
        "loaders differ on which of two weight files they open",
        {
            "adapter_config.json": b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["to_k"]}',
            "adapter_model.safetensors": _WEIGHTS,
            "adapter_model.bin": _EVIL,
        },
    ),
    (
        "pickle as a model's only weights",
        "the usual container in a model folder",
        {
            "model_index.json": json.dumps(_INDEX).encode(),
            "unet/config.json": b"{}",
            "unet/diffusion_pytorch_model.bin": _EVIL,
        },
    ),
    (
        "adapter config that names code",
        "peft: auto_mapping imports the module that it names",
        {
            "adapter_config.json": json.dumps(
                {
                    "peft_type": "LORA",
                    "r": 1,
                    "lora_alpha": 1,
                    "target_modules": ["to_k"],
                    "auto_mapping": {"base_model_class": "Popen", "parent_library": "subprocess"},
                }
            ).encode(),
            "adapter_model.safetensors": _WEIGHTS,
        },
    ),
)


def _specimen(name: str, stands_for: str, files: dict[str, bytes]) -> Specimen:
    return Specimen(name, "folder", stands_for, lambda: files)


FOLDERS: tuple[Specimen, ...] = tuple(_specimen(*row) for row in _ROWS)
"""All of them."""
