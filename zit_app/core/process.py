"""Which process is meant: a number may be given again to another one, a number with a start time may not."""

import os
import subprocess
import sys
from pathlib import Path


def started(pid: int) -> str | None:
    """An opaque text that is the same for as long as the process lives, None when there is no such process.

    Linux: boot id and start tick of /proc/PID/stat. macOS: `ps`. Windows: creation time from the kernel.
    """
    if sys.platform == "win32":
        return _started_on_windows(pid)
    if sys.platform == "linux":
        return _started_on_linux(pid)
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def own_identity() -> dict[str, str | int | None]:
    """`pid` and `started` of this process, as they stand in a run's status."""
    return {"pid": os.getpid(), "started": started(os.getpid())}


def _started_on_linux(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may hold spaces; state is field 3, start tick field 22.
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":  # dead, only not yet collected by its parent
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{fields[19]}"


def _started_on_windows(pid: int) -> str | None:
    if sys.platform != "win32":
        return None
    import ctypes

    query_limited_information, still_active = 0x1000, 259
    kernel = ctypes.windll.kernel32
    handle = kernel.OpenProcess(query_limited_information, False, pid)
    if not handle:
        return None
    created, ignored, code = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint32()
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.GetProcessTimes(
        handle, ctypes.byref(created), ctypes.byref(ignored), ctypes.byref(ignored), ctypes.byref(ignored)
    )
    kernel.CloseHandle(handle)
    return str(created.value) if code.value == still_active else None
