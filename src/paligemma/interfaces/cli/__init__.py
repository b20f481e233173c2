"""The `paligemma` command. Importing it, and `--help`, need neither torch nor a model."""

from paligemma.interfaces.cli.app import main

__all__ = ["main"]
