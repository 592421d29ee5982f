"""What people can download from OpenAI, read into a home of ours.

`bundle.py` opens a folder or a zip safely and streams the JSON in it; `chats.py` understands the ChatGPT export,
`platform.py` the objects of the API (files, jobs, stored completions, evals); `migrate.py` goes through a folder, says
which is which, and keeps the `Report`. Nothing here talks to a network.
"""

from tutee.data.openai_export.migrate import migrate
from tutee.data.openai_export.report import Refused, Report

__all__ = ["Refused", "Report", "migrate"]
