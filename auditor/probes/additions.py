"""What an adapter adds beside the weights it changes, which a probe of the base's own words and prompts never reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.text import inert

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["additions_told", "changes_weights"]

_SHOWN = 3


def changes_weights(subject: Subject) -> bool:
    """Whether any weight of the base changes; if not, its own words mean what they meant."""
    return bool(subject.changes.modules)


def additions_told(subject: Subject) -> str:
    """In one clause, what is added to the base; empty if nothing is."""
    from auditor.pipeline.added_words import stages_of

    changes = subject.changes
    words = stages_of(list(changes.embeddings))
    parts = []
    if words:
        shown = ", ".join(f"'{inert(word, 40)}'" for word in list(words)[:_SHOWN])
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        parts.append(f"{len(words)} {'word' if len(words) == 1 else 'words'} ({shown}{more})")
    if changes.endings is not None:
        steps, count, _ = changes.endings.shape
        parts.append(f"{count} states at the end of every prompt, in {steps} steps")
    return " and ".join(parts)
