"""Time-ordered identifiers.

Every row's id is a UUIDv7 (RFC 9562, section 5.7) in hex behind the prefix that its kind has in OpenAI's API
(`ftjob-`, `file-`, `chatcmpl-`) or our own (`msg-`, `gen-`). Ids sort by creation time; nothing else is in them.
"""

from __future__ import annotations

import os
import time


def new_id(prefix: str) -> str:
    """A fresh id such as `ftjob-01932f…`: 48 bits of milliseconds, then 74 random bits. After a prefix that ends in an
    underscore (`resp_`) comes no hyphen."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | ((random >> 62) & 0xFFF) << 64
    value |= 0b10 << 62 | random & ((1 << 62) - 1)
    return f"{prefix}{value:032x}" if prefix.endswith("_") else f"{prefix}-{value:032x}"
