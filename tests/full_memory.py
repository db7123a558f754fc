"""The command line, with memory that runs out once in the second process: ``full_memory.py FLAG WORDS``."""

import sys
from pathlib import Path
from typing import Any

import torch

from palimpsest import cli, ranks
from palimpsest.measures import _forward

if __name__ == "__main__":
    flag, usual = Path(sys.argv.pop(1)), _forward._pass

    def passed(*given: Any) -> Any:
        if ranks.own() == 1 and not flag.exists():
            flag.touch()
            raise torch.OutOfMemoryError("out of memory")
        return usual(*given)

    _forward._pass = passed
    cli.main()
