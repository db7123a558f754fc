"""Peers: the one place that speaks to inspect and lm-eval. They are optional, and nothing else imports them."""
