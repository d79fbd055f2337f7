"""What the standard library can tell of this machine."""

import os
import sys


def memory_bytes() -> int:
    """The machine's main memory."""
    if sys.platform == "win32":
        import ctypes

        kilobytes = ctypes.c_uint64()
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
        return kilobytes.value * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
