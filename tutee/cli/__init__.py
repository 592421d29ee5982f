"""The `tutee` command: every verb mapped to one function.

Each module holds the verbs of one subject. They work on the home folder and its database directly, so they also work
while a server runs on it (the server notices within a second) and when none does; only `tutee chat` speaks HTTP.
"""

from tutee.cli.root import app

__all__ = ["app"]
