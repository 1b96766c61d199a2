"""Names that a graph does not have yet."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Names"]


class Names:
    """The names that are taken, and new ones."""

    def __init__(self, *taken: Iterable[str]) -> None:
        """Start with the names in some places."""
        self._taken: set[str] = set().union(*taken)
        self._turn: dict[str, int] = {}  # so that many of one kind are not counted from the start each time

    def update(self, *names: Iterable[str]) -> None:
        """Take more names."""
        self._taken.update(*names)

    def fresh(self, like: str) -> str:
        """A name that nothing has yet, which is taken now: the given one, or that with a number behind it."""
        name = like
        while name in self._taken:
            self._turn[like] = self._turn.get(like, 0) + 1
            name = f"{like}_{self._turn[like]}"
        self._taken.add(name)
        return name
