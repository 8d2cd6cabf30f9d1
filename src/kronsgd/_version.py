"""The version, for every part of the library to see."""

__version__ = "0.1.0"
