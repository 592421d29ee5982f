"""`python -m tutee` is the `tutee` command."""

from tutee.cli import app

if __name__ == "__main__":
    app()
