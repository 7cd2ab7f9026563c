"""Shares as exact fractions, wherever a share becomes a count."""

from fractions import Fraction


def exact(share: float) -> Fraction:
    """The fraction that a float stands for, not the binary value next to it.

    That is the simplest one that rounds to the float, with a denominator up to a million, else the float's
    shortest decimal.

    Example:
        >>> exact(0.29), exact(1 / 3)
        (Fraction(29, 100), Fraction(1, 3))
    """
    decimal = Fraction(str(share))
    simple = decimal.limit_denominator(10**6)
    return simple if float(simple) == float(share) else decimal


def count_of(share: float, total: int) -> int:
    """``share * total`` rounded to the nearest whole number, a half to the even number.

    Example:
        >>> count_of(0.29, 100), count_of(0.29, 50)
        (29, 14)
    """
    return round(exact(share) * total)


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` indices, evenly spaced over `total` items.

    Example:
        >>> evenly_spaced(10, 3)
        [1, 5, 8]
    """
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]
