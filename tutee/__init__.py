"""tutee: your own ChatGPT, taught by the people who use it."""

import os

__version__ = "0.1.0"

# Where there is no AVX-512, Intel's library adds up a row of a product in an order that depends on the rows beside it,
# unless it is told otherwise before its first product: no log-prob would be the same alone and in company.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
