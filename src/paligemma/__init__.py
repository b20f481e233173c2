"""PaliGemma, PaliGemma 2 and PaliGemma 2 mix in one package."""

__version__ = "0.1.0"
