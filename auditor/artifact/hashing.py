"""Hashes that name a file and the tensors in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from auditor.artifact.safetensors_header import TensorSpec

__all__ = ["tensor_hash"]


def tensor_hash(tensors: Mapping[str, TensorSpec], digests: Mapping[str, bytes]) -> str:
    """Names the tensors of a file, whatever their order and the metadata around them.

    Two files that differ only in header metadata, padding or tensor order have the same tensor hash, so a
    re-labelled copy is recognised.

    Args:
        tensors: specifications by name.
        digests: SHA-256 of each tensor's bytes, by name.

    Returns:
        64 hexadecimal digits: SHA-256 over the sorted names, dtypes, shapes and digests.
    """
    total = hashlib.sha256(b"tensors/1\n")
    for name in sorted(tensors):
        spec = tensors[name]
        label = name.encode("utf-8")
        shape = ",".join(map(str, spec.shape))
        # The length comes first, so that no name can imitate the end of another record.
        total.update(f"{len(label)}:".encode() + label + f"|{spec.dtype}|{shape}|".encode() + digests[name])
    return total.hexdigest()
