"""KeyedCache: values that several threads ask for and one makes."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class KeyedCache(Generic[K, V]):
    """A dictionary whose values are made when first asked for, each by one thread, different ones at once."""

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._locks: dict[K, threading.Lock] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K, make: Callable[[], V]) -> tuple[V, bool]:
        """The value, and whether this call made it. What `make` raises, is raised; the next call tries again."""
        if key in self._values:
            return self._values[key], False
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key in self._values:
                return self._values[key], False
            self._values[key] = make()
            return self._values[key], True
