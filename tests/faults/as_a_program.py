"""How does a fork end as a program does? By its work's end, its SystemExit, or a traceback; nothing of the tests goes on in it."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def ended_by(work: Callable[[], object]) -> NoReturn:
    """Do `work` and end this process: with 0, the code of a SystemExit, or 70 and a traceback on what stands for standard error."""
    code = 70
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
