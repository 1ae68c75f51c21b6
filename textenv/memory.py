"""How the process treats memory that it has freed."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next request instead of giving it back to the system.

    Training on a CPU frees and takes hundreds of megabytes in every step; getting each page from the system anew,
    filled with zeros, was a quarter of the processor time of a PPO update. The peak stays what it was, the process
    just does not shrink between peaks.

    Holds for the whole process; ``TEXTENV_KEEP_MEMORY=0`` leaves things as they are.

    Returns:
        Whether it is done; False with another C library than glibc, or switched off.
    """
    if os.environ.get("TEXTENV_KEEP_MEMORY", "1") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
