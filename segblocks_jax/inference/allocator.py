"""Settings of the C library's allocator for processes that run one program after another."""

import ctypes
import functools

# Names and numbers of glibc's malloc.h; and what is kept: mappings, the heap's end, threads' heaps.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_OPTIONS = {_M_MMAP_THRESHOLD: 2**31 - 1, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**27}


@functools.cache
def keep_freed_memory() -> bool:
    """Asks glibc to keep what this process frees, for what it allocates next.

    Blocks above 32 MiB, such as the one that a compiled program works in, are mapped for each call and
    given back after it otherwise, and the kernel clears each of their pages again. The setting is the
    process's, for as long as it lives: its resident memory stays at the most that it used. Blocks of up
    to 2 GiB are kept that the main thread allocates, of up to 64 MiB those of other threads; of any
    where the environment variable GLIBC_TUNABLES was glibc.malloc.arena_max=1 when the process
    started. It does nothing to memory of GPUs.

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
