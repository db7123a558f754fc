"""Dreaming: how is a behaviour changed from the model's own failures, cycle by cycle?

Fresh scenarios, the model answers, answers are checked, failures become examples, one pass, an audit on fresh items.
``interface.dream`` is the loop.
"""
