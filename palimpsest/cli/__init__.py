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
from palimpsest.cli import runs, compare, tune, dream, study, steer, memory, export, lists, data, pocket, doctor  # noqa: F401
# isort: on

from palimpsest.cli._app import BAD_INPUT, INTERRUPTED, app
from palimpsest.core import launch
from palimpsest.core.errors import AlreadyTold, UserError, first_line, is_panic, of_the_machine
from palimpsest.core.secrets import redact

__all__ = ["app", "main"]

_TOGETHER = ("run", "diff")
"""What several processes that were launched together do as one."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""How torch tells that another process is gone."""


def main() -> None:
    """Run the command line and leave with the exit code that a script can read."""
    # On a busy machine, threads that wait for each other by spinning cost several times the work of a small model
    # (docs/LOG.md); torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    code = _run()
    if code and _is_connected():  # the others may be amid a pass: an end in good order would wait for them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]  # click's, which typer keeps to itself
    try:
        _check_launch(sys.argv[1:])
        code = app(standalone_mode=False)
    except UserError as error:
        return _refused(error)
    except usage_error as error:
        if launch.own() == 0:
            error.message = redact(error.message)  # type: ignore[attr-defined]
            error.show()  # type: ignore[attr-defined]
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if why := of_the_machine(error):
            return _refused(UserError(why))
        _crashed(error)
        return 1
    except BaseException as error:
        if not is_panic(error):
            raise
        why = f"a file of the model is broken, most likely tokenizer.json: its reader stopped ({first_line(error)})"
        return _refused(UserError(why))
    if code == INTERRUPTED and launch.own() == 0:  # which typer makes of Ctrl-C too
        from palimpsest.console import err

        err.print("\ninterrupted; the same command goes on where this one stopped")
    return code if isinstance(code, int) else 0


def _check_launch(words: list[str]) -> None:
    """Refuse several processes where they would all do the same.

    Raises:
        UserError: this verb is not made for them.
    """
    verb = next((word for word in words if not word.startswith("-")), "")
    if launch.count() > 1 and verb not in _TOGETHER:
        raise UserError(
            f"{launch.count()} processes can do {' and '.join(_TOGETHER)} together, not '{verb}'; "
            "give that command without accelerate launch or torchrun"
        )


def _refused(error: UserError) -> int:
    """Tell what the user can mend, and return the exit code for it."""
    if _is_told_here(error):
        from palimpsest.console import problem

        problem(error)
    return BAD_INPUT


def _is_told_here(error: UserError) -> bool:
    """Whether this one of several processes shows an error: its own, and where all have the same, the first of them."""
    if isinstance(error, AlreadyTold):
        return False
    return launch.own() == 0 or _is_connected()


def _is_connected() -> bool:
    """Whether this is one of several processes that know of each other."""
    others = sys.modules.get("palimpsest.ranks")
    return others is not None and others.connected()


def _crashed(error: Exception) -> None:
    """Show what a programmer needs; of a process that only lost the others, that."""
    import traceback

    from palimpsest.console import safe

    if launch.count() > 1:
        sys.stderr.write(f"process {launch.own()} of {launch.count()}:\n")
        if any(sign in str(error) for sign in _LOST):
            sys.stderr.write("lost another process, which ended; the same command goes on from what is kept\n")
            return
    sys.stderr.write(safe(traceback.format_exc()))
