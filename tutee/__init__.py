"""tutee: your own ChatGPT, taught by the people who use it."""

__version__ = "0.1.0"
