"""Buckets: the numbers of high blocks that programs are compiled for."""

from segblocks_jax.exact import exact


def round_to_bucket(count: int, total: int, step: float = 1 / 16) -> int:
    """Rounds a number of high blocks up to a multiple of ``floor(total * step)``, at least 1 and at most all.

    The product is exact: a step of 0.29 of 100 blocks is 29.

    Example:
        >>> round_to_bucket(17, 128), round_to_bucket(3, 10), round_to_bucket(125, 126)
        (24, 3, 126)
    """
    multiple = max(1, int(total * exact(step)))
    return min(total, -(-count // multiple) * multiple)


def buckets(total: int, step: float = 1 / 16) -> tuple[int, ...]:
    """All values that `round_to_bucket` has, ascending.

    Example:
        >>> buckets(10, 0.25)
        (0, 2, 4, 6, 8, 10)
    """
    return tuple(sorted({round_to_bucket(count, total, step) for count in range(total + 1)}))
