"""The one place where wool's version is written."""

__version__ = "0.1.0"
