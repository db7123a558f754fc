"""Inspect logs: which conversations does a log of an evaluation hold?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError
from palimpsest.data.inspect_logs import messages_of, open_archive


def samples_of(log: Mapping[str, Any], where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and conversation, in our shape, of each sample of a log.

    Raises:
        UserError: it holds no samples (a header alone).
    """
    samples = log.get("samples")
    if not isinstance(samples, list) or not samples:
        raise UserError(f"{where} can't be used: the inspect log holds no samples (status: {str(log.get('status'))[:40]})")
    for number, sample in enumerate(samples, start=1):
        yield number, _line(sample, log["eval"])


def samples_of_archive(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and conversation, in our shape, of each sample of an ``.eval`` file.

    Raises:
        UserError: it is no whole inspect log, or packed in a way that can't be read here.
    """
    with open_archive(path) as archive:
        if not len(archive):
            raise UserError(f"{path} can't be used: it is a zip file without the header or the samples of an inspect log")
        about = archive.header.get("eval", {})
        for number, sample in enumerate(archive.samples(), start=1):
            yield number, _line(sample, about)


def _line(sample: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample as a transcript line: its own id, its times, its messages."""
    if not isinstance(sample, Mapping):
        raise UserError(f"a sample must be keys and values, found {type(sample).__name__}")
    run = about.get("eval_id") or about.get("run_id") or about.get("created")
    line: dict[str, Any] = {
        "messages": messages_of(sample),
        "id": sample.get("uuid") or f"{run} {sample.get('id')} {sample.get('epoch')}",
        "metadata": sample.get("metadata"),
    }
    if time := sample.get("completed_at") or sample.get("started_at") or about.get("created"):
        line["timestamp"] = time
    if isinstance(sample.get("target"), str) and sample["target"]:
        line["better"] = sample["target"]  # kept only where the behaviour's check agrees
    return line
