"""One thread, as a rank has: two on a busy machine can be a hundred times slower, and the last bits depend on them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, by sub-processes too
