"""Dream: how is a behaviour changed from the model's own failures, cycle by cycle?

``palimpsest.dream("directions")`` runs the loop (the package can be called like the function ``dream.interface.dream``):
fresh scenarios, the model answers, answers are checked, failures become examples, one pass, an audit on fresh items.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The package itself, called like the function it is named after; torch is imported only then."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        from palimpsest.dream.interface import dream

        return dream(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
