"""Command line: verbs only. It knows no audit, study or scenario by name, and imports torch only when a verb needs it.

Exit codes: 0 as intended (and a diff without a behaviour), 1 crash, 2 not as intended (of a comparison: a regression), 3 what
the user can mend (bad input or usage, a full disk, another process in the same folder), 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

# each module adds its verbs, in the order of --help
# isort: off
from palimpsest.cli import runs, compare, tune, dream, study, steer, memory, lists, data, pocket, doctor  # noqa: F401
# isort: on

from palimpsest.cli._app import BAD_INPUT, INTERRUPTED, app
from palimpsest.core.errors import UserError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and leave with the exit code that a script can read."""
    # On a busy machine, threads that wait for each other by spinning cost several times the work of a small model
    # (docs/LOG.md); torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(_run())


def _run() -> int:
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]  # click's, which typer keeps to itself
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        from palimpsest.console import problem

        problem(error)
        return BAD_INPUT
    except usage_error as error:
        error.show()  # type: ignore[attr-defined]
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception:
        import traceback

        from palimpsest.console import safe

        sys.stderr.write(safe(traceback.format_exc()))
        return 1
    if code == INTERRUPTED:  # which typer makes of Ctrl-C too
        from palimpsest.console import err

        err.print("\ninterrupted; the same command goes on where this one stopped")
    return code if isinstance(code, int) else 0
