"""KeyedCache: values made once for several threads; the least recently used one is dropped first."""

import collections
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Entry(Generic[V]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[V] = []  # None yet, or one.


class KeyedCache(Generic[K, V]):
    """A mapping whose values are made when first asked for, each by one thread, different ones at once.

    Attributes:
        max_size: how many values are kept; None: all.
        made: how many values were made so far, dropped ones included.
    """

    def __init__(self, max_size: int | None = None) -> None:
        """Holds nothing yet."""
        self.max_size, self.made = max_size, 0
        self._entries: collections.OrderedDict[K, _Entry[V]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, make: Callable[[], V]) -> tuple[V, bool]:
        """The value, and whether this call made it. What `make` raises, is raised; the next call tries again."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.values:
                return entry.values[0], False
            try:
                value = make()
            except BaseException:
                with self._lock:
                    if self._entries.get(key) is entry:
                        del self._entries[key]
                raise
            entry.values.append(value)
        with self._lock:
            self.made += 1
            self._drop()
        return value, True

    def clear(self) -> None:
        """Drops all values."""
        with self._lock:
            self._entries.clear()

    def _drop(self) -> None:
        excess = 0 if self.max_size is None else len(self._entries) - self.max_size
        done = [key for key, entry in self._entries.items() if entry.values]
        for key in done[: max(excess, 0)]:
            del self._entries[key]
