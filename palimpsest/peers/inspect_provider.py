"""Inspect provider: any inspect task runs on our subjects (``--model palimpsest/PATH``)."""
