"""How do two folders change places, so that there is no moment without either? Linux does it in one step, other systems in three."""

import ctypes
import errno
import os
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are from the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP, errno.EPERM}
"""What a kernel or file system says that does not exchange."""


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where this machine cannot, and nothing has been moved. Raises OSError."""
    try:
        rename: ctypes._NamedFuncPointer = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux, or a C library of before 2018
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    if (number := ctypes.get_errno()) in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))
