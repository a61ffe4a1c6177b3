"""Whether bytes are a pickle, told by following their first opcodes."""

from __future__ import annotations

from auditor.artifact.pickle_guard.walker import Walk, walk

__all__ = ["is_cut_line", "probe_pickle"]

_OPCODES = 20_000
_TINY_PICKLES = 16
_TEXT_OPCODES = tuple(b"SVILFcipgP"[at : at + 1] for at in range(10))


def probe_pickle(head: bytes, whole: bool) -> str | None:
    """Says why ``head`` begins a pickle, or returns None.

    A protocol 0 pickle has no magic, so what counts is what the real machine would do: end properly with a
    value, or call something. Text such as ``N.`` ends properly too, but refers to nothing and holds nothing.

    Args:
        head: first bytes of a file or member.
        whole: whether nothing follows them.

    Returns:
        One sentence of evidence, or None.
    """
    if len(head) >= 2 and head[0] == 0x80 and head[1] <= 5:
        return f"a pickle of protocol {head[1]}"
    if head.startswith(b"PK\x03\x04"):
        # "P" asks the loader for an object named by text, which no loader of zip files answers.
        return None
    position = 0
    for _ in range(_TINY_PICKLES):
        found = walk(head, position, max_opcodes=_OPCODES)
        evidence = _evidence(found, whole)
        if evidence is not None or found.broken:
            return evidence
        position = found.end
        if position == len(head):
            return None
    return "many tiny pickles in a row"


def is_cut_line(head: bytes) -> bool:
    """Whether ``head`` may begin a pickle whose opcodes of text run on behind it: more of it has to be read."""
    if head[:1] not in _TEXT_OPCODES or head.startswith(b"PK\x03\x04"):
        return False
    return walk(head, max_opcodes=_OPCODES).end >= len(head) - 1


def _evidence(found: Walk, whole: bool) -> str | None:
    if found.calls:
        return "opcodes of an old pickle protocol that call something"
    ended = not found.broken and not found.exhausted
    if ended and (found.references or found.opcodes > 2):
        return "a complete pickle of an old protocol"
    # Words on lines of their own can read as references, but not as the opcodes around them.
    if found.references and found.opcodes - len(found.references) > 2:
        return "opcodes of an old pickle protocol, then a break"
    # Cut off in the middle of a long argument or a long list: everything so far was a pickle.
    cut = found.exhausted or (not whole and found.broken.startswith("the stream ends"))
    return "opcodes of an old pickle protocol" if cut and found.opcodes else None
