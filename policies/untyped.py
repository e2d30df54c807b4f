"""Which objects of libraries have no type that says what we use of them? Named here, and only here, so that nothing else is `Any`."""

from collections.abc import Callable
from typing import Any

import numpy as np

Model = Any  # a model of transformers or peft, whose parts differ from one architecture to the next
Tokenizer = Any  # a tokenizer of transformers: special tokens and templates are set on the instance
ModelConfig = Any  # a configuration of transformers: its fields are those of the architecture
Context = Any  # what torch hands to the two halves of an autograd.Function
Optimizer = Any  # an optimizer as accelerate wraps it, whose class is not torch's
Scheduler = Any  # what transformers.get_scheduler gives
Arguments = Any  # arguments handed on as they came, to a library's own method
Json = Any  # a value of parsed JSON
Foreign = Any  # an object of a package that need not be installed (vllm), or of a library's inside (a cache's layer, a hook's arguments)
Noise = np.ndarray[tuple[int], np.dtype[np.float64]]  # uniform numbers (T,) in [0, 1), one a token
AnyFunction = Callable[..., Any]  # of a user or of torch: what it takes is tried, not declared
