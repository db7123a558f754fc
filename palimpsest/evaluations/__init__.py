"""Evaluations: two models answered the same questions; what differs?

Anybody's logs (``sources``, a module each) become tasks of items with scores; ``matching`` pairs the items, ``paired`` does the
statistics, ``account`` tells them. Nothing here needs the tool that wrote the log.
"""
