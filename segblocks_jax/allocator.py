"""What this process asks of glibc's allocator."""

import ctypes
import functools

# Names and numbers of glibc's malloc.h: one heap for all threads, no mappings, an end that is not given back.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_OPTIONS = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 2**27}


@functools.cache
def keep_freed_memory() -> bool:
    """Asks glibc to keep what this process frees, for what it allocates next.

    Blocks above 32 MiB, such as the one that a compiled program works in, are mapped for each call and
    given back after it otherwise, and the kernel clears each of their pages again. The setting is the
    process's, for as long as it lives: its resident memory stays at the most that it used, and threads
    that start later share one heap. So call it before the first computation: threads that have a heap
    of their own by then keep it, and blocks of more than 64 MiB that they allocate are mapped as before.
    It does nothing to memory of GPUs.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (Another mallopt has other numbers.)
        set_option = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(set_option(option, value) for option, value in _OPTIONS.items())
