"""Main: what ``python -m palimpsest`` starts; the same as ``palimpsest``."""

from palimpsest.cli import main

main()
