"""Lock: does another process write this folder right now?

The operating system holds the lock and drops it when the process ends, however it ends: a killed run never blocks the next.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from palimpsest.core.errors import UserError

try:
    import fcntl
except ImportError:  # not POSIX: two processes on one run are then not noticed
    fcntl = None


class FolderLock:
    """An exclusive lock on a file, taken at once or refused.

    The file itself stays: removing it would let two processes lock two files of one name.

    Raises:
        UserError: another process holds it; the message names it.
        OSError: the file can't be made.
    """

    def __init__(self, file: Path) -> None:
        self._handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            owner = os.read(self._handle, 200).decode(errors="replace").strip() or "another process"
            self.release()
            raise UserError(f"{file.parent} is being written by {owner}; wait for it, or choose another folder") from None
        except OSError:  # a full disk must not leave it locked by a program that gave up
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
