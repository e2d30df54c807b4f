"""Which libraries talk while they are imported? To be imported before them: it sets their loggers, and does nothing else."""

import logging

# a line where it misses a kernel of its own (a CPU with avx512_bf16), and later one for every product in 8 bit
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
