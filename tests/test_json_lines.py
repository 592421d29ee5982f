"""What is written as a line is one line for every reader, and is read again as it was."""

import io
import json

from tutee.json_lines import json_line, json_lines

ENDS = "\n \r \r\n \x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029"
"""All that `str.splitlines` takes for the end of a line."""


def test_a_text_with_every_line_end_is_one_line() -> None:
    row = {"text": ENDS, "größe": "Fuß 🙂", "n": [1.5, None, True]}
    written = json_line(row) + json_line({})
    assert len(written.decode().splitlines()) == 2
    assert [json.loads(line) for line in written.decode().splitlines()] == [row, {}]
    assert [value for _, value in json_lines(io.BytesIO(written), "file")] == [row, {}]
    assert "größe" in written.decode()


def test_half_a_surrogate_pair_does_not_end_the_file() -> None:
    assert json_line({"text": "a\ud800b"}) == b'{"text": "a?b"}\n'
