"""Inspect provider: any inspect task runs on our subjects (``--model palimpsest/PATH``).

inspect imports this module whenever it starts, through the entry point of the package, so it imports nothing heavy.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="palimpsest")
def palimpsest() -> type[ModelAPI]:
    """Return the provider; torch is imported when it loads its model."""
    from palimpsest.peers.inspect_model import PalimpsestAPI

    return PalimpsestAPI
