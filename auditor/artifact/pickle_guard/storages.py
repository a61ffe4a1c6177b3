"""Where the bytes of torch storages lie in a file, and whether a tensor stays inside its storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.pickle_guard.values import Storage, Tensor, Value
from auditor.artifact.safetensors_header import DTYPE_BITS
from auditor.artifact.zip_reader import Member, member_chunks

__all__ = ["Store", "Stores", "legacy_stores", "tensor_fault", "zip_stores"]


@dataclass(frozen=True, slots=True)
class Store:
    """The bytes of one storage.

    Attributes:
        nbytes: how many there are.
        chunks: yields them in order, each time it is called.
        window: them as a window of the file, when they are not compressed.
    """

    nbytes: int
    chunks: Callable[[], Iterator[bytes]]
    window: ByteSource | None


@dataclass(frozen=True, slots=True)
class Stores:
    """Storages by key."""

    by_key: dict[str, Store] = field(default_factory=dict)


def zip_stores(source: ByteSource, members: tuple[Member, ...], prefix: str) -> Stores:
    """Storages of a torch zip: members ``<prefix>data/<key>``."""
    found: dict[str, Store] = {}
    for member in members:
        if member.name.startswith(f"{prefix}data/"):
            window = source.window(member.offset, member.stored) if member.method == 0 else None
            found[member.name[len(prefix) + 5 :]] = Store(
                member.size if window is None else window.size,
                lambda member=member: member_chunks(source, member),  # type: ignore[misc]  # a default binds it
                window,
            )
    return Stores(found)


def legacy_stores(
    source: ByteSource, position: int, keys: Value, storages: list[Storage]
) -> tuple[Stores, str]:
    """Storages of a legacy torch file.

    After the pickles come, for each of ``keys``, a 64-bit count and that many elements.

    Returns:
        The storages found, and what is wrong with them (empty if nothing).
    """
    known = {storage.key: storage for storage in storages}
    found: dict[str, Store] = {}
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or set(keys) != known.keys()
    ):
        return Stores(), "the list of storage keys does not name the storages of the pickle"
    for key in keys:
        count = int.from_bytes(source.read(position, 8), "little")
        nbytes = count * DTYPE_BITS[known[key].dtype] // 8
        if count != known[key].count or position + 8 + nbytes > source.size:
            return Stores(found), f"storage '{key}' does not have the length that the pickle says"
        window = source.window(position + 8, nbytes)
        found[key] = Store(nbytes, window.chunks, window)
        position += 8 + nbytes
    fault = "" if position == source.size else f"{source.size - position} bytes follow the last storage"
    return Stores(found), fault


def tensor_fault(tensor: Tensor, stores: Stores | None) -> str:
    """Says how a tensor reaches outside its storage; empty if it does not.

    Without ``stores`` only what the pickle claims is compared.
    """
    storage = tensor.storage
    nbytes = storage.count * DTYPE_BITS[storage.dtype] // 8
    if stores is not None:
        store = stores.by_key.get(storage.key)
        if store is None:
            return f"the storage '{storage.key}' of a tensor is missing"
        if store.nbytes != nbytes:
            return f"storage '{storage.key}' has {store.nbytes} bytes and the pickle says {nbytes}"
    last = tensor.offset + sum(
        (size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True)
    )
    if 0 in tensor.shape:
        return ""
    if (last + 1) * DTYPE_BITS[tensor.dtype] // 8 > nbytes:
        return (
            f"a tensor reaches {(last + 1) * DTYPE_BITS[tensor.dtype] // 8} bytes into a storage of {nbytes}"
        )
    return ""
