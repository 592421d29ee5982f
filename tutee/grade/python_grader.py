"""The grader that is a person's function: `def grade(sample, item) -> float`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutee.grade.grader import Grader, Tools
from tutee.grade.result import Failure, Grade


class Python(Grader):
    """What the function returns. It runs wherever `tools.run_python` runs it: see `pythons.py`."""

    type = "python"

    def __init__(self, definition: Mapping[str, Any]) -> None:
        super().__init__(definition["name"], definition)
        self._source: str = definition["source"]

    def sources(self) -> set[str]:
        return {self._source}

    def measure(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        if tools.run_python is None:
            raise Failure("python_grader_server_error", "Python graders are not run here.")
        return Grade(self.name, self.type, tools.run_python(self._source, names["sample"], names["item"]))
