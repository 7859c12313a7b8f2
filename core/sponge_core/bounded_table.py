"""A table with a bounded number of entries, for what is kept about clients that nobody counts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["BoundedTable"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedTable(Generic[K, V]):
    """Entries by key, made on first use. When it is full, the entry that was used least recently is dropped."""

    def __init__(self, most: int, make: Callable[[], V]) -> None:
        """`most`: number of entries, >= 1. `make`: a new entry."""
        self._most = most
        self._make = make
        self._entries: dict[K, V] = {}

    def use(self, key: K) -> V:
        """The entry of `key`, which is now the one used last."""
        # A dictionary keeps the order of insertion: its first key is the one used least recently.
        entry = self._entries.pop(key, None)
        if entry is None:
            if len(self._entries) >= self._most:
                del self._entries[next(iter(self._entries))]
            entry = self._make()
        self._entries[key] = entry
        return entry

    def __len__(self) -> int:
        return len(self._entries)
