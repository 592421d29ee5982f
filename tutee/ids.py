"""Time-ordered identifiers.

Every row's id is a UUIDv7 (RFC 9562, section 5.7) in hex behind the prefix that its kind has in OpenAI's API
(`ftjob-`, `file-`, `chatcmpl-`) or our own (`msg-`, `gen-`). Ids sort by creation time, to a quarter of a microsecond
(section 6.2, method 3); nothing else is in them.
"""

from __future__ import annotations

import os
import time


def new_id(prefix: str) -> str:
    """A fresh id such as `ftjob-01932f…`: 48 bits of milliseconds, 12 of the fraction of one, 62 random bits. After a
    prefix that ends in an underscore (`resp_`) comes no hyphen."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (nanoseconds << 12) // 1_000_000 << 64
    value |= 0b10 << 62 | int.from_bytes(os.urandom(8), "big") >> 2
    return f"{prefix}{value:032x}" if prefix.endswith("_") else f"{prefix}-{value:032x}"
