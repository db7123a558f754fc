"""Report: what does a finished run look like to a person?

``render`` gives the page of a run, ``render_account`` that of several told together, ``summary`` the few lines of a terminal,
``fragment`` the piece of a notebook. Drawing is imported on first use, so that the terminal's table does not wait for it.
"""

from __future__ import annotations

from palimpsest.report.summary import Summary, reach_of, summary
from palimpsest.store.account import Account
from palimpsest.store.record import RunRecord

__all__ = ["Summary", "fragment", "reach_of", "render", "render_account", "summary"]


def render(record: RunRecord) -> str:
    """Return the report of a run: one self-contained HTML page; the same record gives the same bytes."""
    from palimpsest.report import page

    return page.render(record)


def fragment(record: RunRecord) -> str:
    """Return the verdict and its numbers as a small piece of HTML for a notebook."""
    from palimpsest.report import page

    return page.fragment(record)


def render_account(account: Account) -> str:
    """Return the page of several runs told together; the same account gives the same bytes."""
    from palimpsest.report import account as page

    return page.render(account)
