"""Graders: what one answer to one item is worth, in OpenAI's definitions.

    grader = parse_grader({"type": "string_check", …})          # InvalidInput names the field at fault
    grade = grader.grade(item, Sample("the answer"), Tools(ask=…, run_python=…))
    grade.reward, grade.failed, grade.errors, grade.sub_rewards, grade.usage; grade.to_dict() is OpenAI's reply

`Tools` are two callables that the caller injects: `ask` puts a question to a model, `run_python` runs a person's
function (`tutee.grade.pythons.Pythons` does, in a sandbox). Knows no server, no store and no engine, so the same
graders work for `/v1/fine_tuning/alpha/graders`, for evals and for reinforcement in the worker.
"""

from tutee.grade.definition import parse_grader
from tutee.grade.grader import Ask, Grader, ModelAnswer, ModelQuestion, RunPython, Tools
from tutee.grade.result import ERROR_KEYS, Failure, Grade, Usage
from tutee.grade.sample import Sample

__all__ = [
    "ERROR_KEYS",
    "Ask",
    "Failure",
    "Grade",
    "Grader",
    "ModelAnswer",
    "ModelQuestion",
    "RunPython",
    "Sample",
    "Tools",
    "Usage",
    "parse_grader",
]
