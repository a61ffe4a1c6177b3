"""How much of an untrusted file we are willing to look at.

Each default is far above what real adapters and checkpoints need, and low enough that one hostile file cannot
stall an intake queue. A file beyond a limit is refused, never half-read.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]

_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on size, depth, count, memory and time.

    Attributes:
        file_bytes: largest file that is hashed and read.
        header_bytes: largest safetensors header. The reference library allows 100,000,000; parsed JSON takes
            about ten times its text in memory, and the largest headers met in practice (training captions of
            several hundred thousand images) are below 32 MiB.
        large_header_bytes: a header above this is reported, not refused.
        json_depth: nesting of the header's JSON; the format itself needs 3.
        tensors: tensors in one file.
        dims: dimensions of one tensor (numpy stops at 64, no layer has more than 6).
        name_length: characters of a tensor name or metadata key.
        pickle_bytes: bytes of one pickle stream that are walked (raw tensor data is not part of it in torch
            files).
        pickle_opcodes: opcodes walked over all pickles of a file.
        pickle_globals: distinct references listed in a report.
        pickle_nesting: pickles hidden in the constants of pickles.
        zip_members: entries of one archive, hidden ones included.
        zip_depth: archives inside archives.
        zip_ratio: most bytes that a compressed member above 16 MiB may grow to, per stored byte.
        unpacked_bytes: bytes inflated from compressed members of a file, in all.
        converted_bytes: largest safetensors file written from a pickle.
        memory_bytes: address space of the subprocess that parses pickles.
        seconds: processor time of that subprocess; four times as long by the clock, for a busy machine.
    """

    file_bytes: int = 64 * _GIB
    header_bytes: int = 32 * _MIB
    large_header_bytes: int = 4 * _MIB
    json_depth: int = 8
    tensors: int = 100_000
    dims: int = 16
    name_length: int = 1024
    pickle_bytes: int = 64 * _MIB
    pickle_opcodes: int = 4_000_000
    pickle_globals: int = 2_000
    pickle_nesting: int = 3
    zip_members: int = 50_000
    zip_depth: int = 3
    zip_ratio: int = 250
    unpacked_bytes: int = 2 * _GIB
    converted_bytes: int = 16 * _GIB
    memory_bytes: int = 3 * _GIB
    seconds: int = 60


DEFAULT_LIMITS = Limits()
