"""An adapter file that is read, changed in place and written again: same keys, same types, same name, same metadata.

Whatever naming the file is in, a repair gets the factors of each layer, and hands back other ones of the same shape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.artifact.adapter import Adapter, Delta, LowRank
from auditor.artifact.identify import Identified
from auditor.artifact.safetensors_write import Entry, write_entries
from auditor.artifact.tensors import FileTensors
from auditor.artifact.tensors import Tensor as StoredTensor
from auditor.engine.files import output_errors
from auditor.errors import IncompatibleArtifact, OutputError, RefusedArtifact
from auditor.text import inert

__all__ = ["NOTE", "AdapterFile", "Factors", "Layer", "open_adapter_file"]

NOTE = "auditor.repair"
"""Key of the header under which a repaired file says what was done to it."""

Layer = tuple[str, str]
"""Component and path of a layer, as the adapter names it."""
Factors = tuple[Tensor, Tensor]
"""(r, in) and (out, r), float64 on the CPU, the scale in the second one; kernels are flattened."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CONFIG = "adapter_config.json"
# What the header says of the hash of its tensors holds no longer.
_HASHES = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")


@dataclass(frozen=True)
class AdapterFile:
    """An open adapter whose every change is a plain low-rank product.

    Attributes:
        path: the weight file itself.
        sha256: of it.
        adapter: what was read from it.
        layers: what each layer's change is stored as.
    """

    path: Path
    sha256: str
    adapter: Adapter
    layers: Mapping[Layer, LowRank]

    def factors(self, layer: Layer) -> Factors:
        """The change of one layer; its weight, flattened to (out, in), changes by ``up @ down``."""
        stored = self.layers[layer]
        up, down = (torch.from_numpy(part) for part in stored.factors())
        return down, up * stored.scale

    def write(self, folder: Path, changed: Mapping[Layer, Factors], note: Mapping[str, object]) -> Path:
        """Writes the file with other factors into ``folder``, and the PEFT configuration beside it where there is one.

        Args:
            folder: is there already.
            changed: layers that are not as they were; the bytes of all others are kept.
            note: JSON values for the header, under :data:`NOTE`.

        Raises:
            OutputError: it cannot be written, or a factor has no finite value in the file's type.
            RefusedArtifact: the file is no longer the one that was read.
        """
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise RefusedArtifact(f"'{inert(str(self.path), 200)}' changed while it was being repaired")
        source = _source(next(iter(self.layers.values())).down)
        assert source is not None
        start = 8 + int.from_bytes(data[:8], "little")
        new = self._stored(changed)
        entries = [
            Entry(name, spec.dtype, spec.shape, (new.get(name) or data[start + spec.start : start + spec.end],))
            for name, spec in source.file.header.tensors.items()
        ]
        kept = {key: value for key, value in source.metadata.items() if key not in _HASHES}
        metadata = {**kept, NOTE: json.dumps(note, sort_keys=True, ensure_ascii=True)}
        target = folder / self.path.name
        with output_errors(target), target.open("xb") as file:
            write_entries(file, entries, metadata)
        config = self.path.with_name(_CONFIG)
        if config.is_file():
            with output_errors(folder / _CONFIG):
                (folder / _CONFIG).write_bytes(config.read_bytes())
        return target

    def _stored(self, changed: Mapping[Layer, Factors]) -> dict[str, bytes]:
        """Key to the bytes of the tensors that are not as they were."""
        out = {}
        for layer, (down, up) in changed.items():
            stored = self.layers[layer]
            scale = stored.scale or 1.0
            for tensor, values in ((stored.down, down), (stored.up, up / scale)):
                out[tensor.name] = _bytes(values.reshape(tensor.shape), tensor)
        return out


def open_adapter_file(found: Identified) -> AdapterFile:
    """An identified adapter as a file that can be written again.

    Args:
        found: open, and kept open while the file is used.

    Raises:
        IncompatibleArtifact: it is not stored as safetensors, or changes something in a way that a repair could not
            write back; the way is named.
    """
    shown = inert(str(found.path), 200)
    adapter = found.require_adapter()
    if adapter.unmatched:
        raise IncompatibleArtifact(
            f"'{shown}' has {len(adapter.unmatched)} keys that are not understood, so that a repair would vouch for "
            "what it never saw"
        )
    if adapter.embeddings or adapter.endings is not None or not adapter.module_count:
        raise IncompatibleArtifact(
            f"'{shown}' holds learned words or states, which are what it is: leave it out rather than repair it"
        )
    layers = {}
    for component, path, delta in adapter.modules():
        layers[component, path] = _plain(delta, f"'{shown}' at {inert(path, 80)}")
    source = _source(next(iter(layers.values())).down)
    if source is None or found.files[0].pickle is not None:
        raise IncompatibleArtifact(f"'{shown}' is a pickle; repairs are written as safetensors: convert it first")
    return AdapterFile(source.file.path, source.file.sha256, adapter, layers)


def _plain(delta: Delta, where: str) -> LowRank:
    if not isinstance(delta, LowRank) or delta.magnitude is not None or delta.mid is not None:
        kind = "DoRA" if isinstance(delta, LowRank) and delta.magnitude is not None else type(delta).__name__
        raise IncompatibleArtifact(f"{where} is {kind}, which no repair can write back; only plain LoRA is repaired")
    if delta.bias_delta is not None or delta.down.spans is not None or delta.up.spans is not None:
        raise IncompatibleArtifact(
            f"{where} changes a bias or shares its factors with other layers; only plain LoRA is repaired"
        )
    if any(part.dtype not in _DTYPES for part in (delta.down, delta.up)):
        raise IncompatibleArtifact(f"{where} is stored as {delta.down.dtype}; repairs write {', '.join(_DTYPES)}")
    return delta


def _source(tensor: StoredTensor) -> FileTensors | None:
    return tensor.source if isinstance(tensor.source, FileTensors) else None


def _bytes(values: Tensor, stored: StoredTensor) -> bytes:
    rounded = values.to(_DTYPES[stored.dtype]).contiguous()
    if not bool(torch.isfinite(rounded).all()):
        raise OutputError(f"repaired values of '{inert(stored.name, 100)}' are not finite in {stored.dtype}")
    return rounded.view(torch.uint8).numpy().tobytes()
