"""Where another scanner flags an ordinary file: why we hold that it is wrong, one sentence a case."""

from __future__ import annotations

from auditor.proving.scan.specimen import Specimen

__all__ = ["dispute"]

_REBUILD = (
    "torch writes every state dict with torch._utils._rebuild_tensor_v2; on a storage of the same file and plain "
    "numbers, as here, it makes a tensor and nothing else"
)
_TRAINING = (
    "kohya's scripts write the optimizer's dotted name and its arguments into the metadata; nobody executes them, "
    "and every LoRA of that trainer holds such a line"
)
_TORCH_KINDS = (
    *("torch lora", "torch lora as bin", "legacy torch lora", "torch embedding", "legacy torch embedding"),
    *("learned embeds", "torch checkpoint", "torch training state", "torch file packed anew"),
)
_TRAINED_KINDS = ("kohya fp32 with metadata", "kohya sdxl with captions", "kohya bf16")

# (scanner, kind of benign file) -> why
_REASONS: dict[tuple[str, str], str] = {
    **{(scanner, kind): _REBUILD for scanner in ("fickling", "modelaudit") for kind in _TORCH_KINDS},
    **{("modelaudit", kind): _TRAINING for kind in _TRAINED_KINDS},
}


def dispute(scanner: str, specimen: Specimen) -> str:
    """The reason why a benign specimen flagged by ``scanner`` is no catch; empty if there is none on file."""
    return _REASONS.get((scanner, specimen.stands_for), "")
