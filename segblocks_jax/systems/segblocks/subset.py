"""A few of a data set's items."""

from segblocks_jax.data import SegmentationSource
from segblocks_jax.exact import evenly_spaced


class Some:
    """A few of a source's items, evenly spaced."""

    def __init__(self, source: SegmentationSource, count: int) -> None:
        """At most `count`."""
        self._source, self._indices = source, evenly_spaced(len(source), count)
        self.normalization = source.normalization
        self.sizes = [source.sizes[i] for i in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict:
        return self._source[self._indices[index]]
