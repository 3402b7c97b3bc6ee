"""The three decisions, ordered by severity."""

from __future__ import annotations

from enum import IntEnum


class Decision(IntEnum):
    """What is to happen with a command; of several the greatest counts.

    The order is the language's severity order: a ``forbidden`` is never weakened by an ``allow``, whichever is more
    specific or written later.
    """

    ALLOW = 0
    PROMPT = 1
    FORBIDDEN = 2

    @property
    def word(self) -> str:
        """The word rules files and JSON use: ``allow``, ``prompt`` or ``forbidden``."""
        return self.name.lower()

    @classmethod
    def from_word(cls, word: str) -> Decision | None:
        """The decision ``word`` spells, byte for byte; ``None`` if it spells none."""
        return _BY_WORD.get(word)


_BY_WORD = {decision.word: decision for decision in Decision}
