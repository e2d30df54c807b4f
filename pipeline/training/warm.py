"""What does the process do first that the stages of `all` are forked from? It leaves signals to them, and ends with who started it.

To be imported by that process alone.
"""

import os
import signal
from threading import RLock

from tqdm import tqdm

from pipeline.ending import SIGNALS, with_parent


def _left(number: int, frame: object) -> None:
    """A signal to all processes of a terminal is heeded by the stage, which may save its state."""


for _number in SIGNALS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
        signal.signal(_number, _left)
with_parent(os.getppid())
tqdm.set_lock(RLock())  # its own is a semaphore of the system, which is told to be leaked when all of us are killed
