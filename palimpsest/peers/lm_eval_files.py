"""Task files: may this YAML file of a user be handed to lm-eval, and what would it do there?

lm-eval runs Python code that a task's file names, fetches metrics from the network and runs them, and lets a template reach
into Python. A file of a user is data here, so all of that is refused by name; tasks that come with lm-eval are its own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from palimpsest.core.errors import UserError, first_line, nearest
from palimpsest.core.files import read_file, take_note

_LARGEST = 2**20
_STRUCTURE = {"task", "tag", "group", "group_alias", "task_list", "include", "class", "aggregate_metric_list"}
LOCAL = ("json", "csv", "parquet", "text", "arrow", "pandas", "xml")
"""Loaders of data files, which need no network."""


class UnfitFile(UserError):
    """A task's file that can't be used, with everything that is wrong with it."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__("; ".join(found))
        self.found = found


def is_file(given: str) -> bool:
    """Whether a task is given as a file and not by its name."""
    return Path(given).suffix in (".yaml", ".yml")


def read(path: Path) -> dict[str, Any]:
    """Return the settings of a user's task file, with what it includes and its data files found.

    Raises:
        UnfitFile: it can't be read, or asks for what is not done here; all at once.
    """
    if problems := list(_code(path, set())):
        raise UnfitFile(problems)
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        settings = load_yaml(path)
    except Exception as error:
        raise UnfitFile([f"it can't be read: {first_line(error)}"]) from error
    if "group" not in settings and not isinstance(settings.get("task"), str):
        raise UnfitFile(["it must name its task in 'task' (or a group of tasks in 'group')"])
    if problems := [problem for one in _tasks(settings) for problem in _problems(one, path.parent)]:
        raise UnfitFile(problems)
    return settings


def _code(path: Path, seen: set[Path]) -> Iterator[str]:
    """Yield which of a user's files would run code when it is read; what they include of lm-eval's own is left out."""
    import lm_eval

    path = path.expanduser().resolve()
    if path in seen or path.is_relative_to(Path(lm_eval.__file__).parent):
        return
    seen.add(path)
    try:
        root = yaml.compose(read_file(path, _LARGEST).decode("utf-8-sig"), yaml.SafeLoader)
    except UnicodeDecodeError:
        yield f"{path} is not UTF-8 text"
        return
    except (yaml.YAMLError, RecursionError) as error:
        yield f"{path} is not YAML that can be read: {' '.join(str(error).split())[:300]}"
        return
    if not isinstance(root, yaml.MappingNode):
        yield f"{path} must hold keys and values"
        return
    for node in _nodes(root):
        if node.tag.startswith("!"):
            what = node.value if isinstance(node, yaml.ScalarNode) else ""
            yield (
                f"{path}, line {node.start_mark.line + 1}: '{node.tag} {what}' would run Python code, which is not done for a "
                "file of your own; write it as a template, or as a task that comes with lm-eval"
            )
    for key, value in root.value:
        if key.value == "include":
            for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _code(path.parent / one.value, seen)


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [side for pair in node.value for side in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _tasks(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the settings of a task, or of all tasks that a group writes out itself."""
    members = settings.get("task")
    if not isinstance(members, list):
        yield settings
        return
    yield {key: value for key, value in settings.items() if key != "task"}
    for member in members:
        if isinstance(member, dict):
            yield from _tasks(member)


def _problems(settings: dict[str, Any], folder: Path) -> Iterator[str]:
    """Yield what is wrong with a task's settings, and look up its data files."""
    from lm_eval.config.group import GroupConfig
    from lm_eval.config.task import TaskConfig

    known = {one.name for one in (*fields(TaskConfig), *fields(GroupConfig))} | _STRUCTURE
    yield from (f"unknown key '{key}'.{nearest(str(key), known)}" for key in settings if key not in known)
    if settings.get("unsafe_code"):
        yield "unsafe_code: what a model writes is never run here"
    if settings.get("use_prompt"):
        yield "use_prompt: write the prompt out in doc_to_text"
    yield from _metric_problems(settings.get("metric_list") or [])
    yield from _data_problems(settings, folder)


def _metric_problems(listed: Any) -> Iterator[str]:
    import lm_eval.api.metrics  # noqa: F401 - fills the registries
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY

    for one in listed if isinstance(listed, list) else []:
        name, way = (one.get("metric"), one.get("aggregation")) if isinstance(one, dict) else (one, None)
        if isinstance(name, str) and (name not in METRIC_REGISTRY or one.get("hf_evaluate")):
            yield (
                f"the metric '{name}' is not one of lm-eval's own, so it would be fetched and run."
                f"{nearest(name, METRIC_REGISTRY.keys())}"
            )
        if isinstance(way, str) and way not in AGGREGATION_REGISTRY:
            yield f"there is no aggregation '{way}'.{nearest(way, AGGREGATION_REGISTRY.keys())}"


def _data_problems(settings: dict[str, Any], folder: Path) -> Iterator[str]:
    """Look up data files from where the program runs, as lm-eval does, or else beside the task's file."""
    given = (settings.get("dataset_kwargs") or {}).get("data_files")
    if not given:
        return
    missing: list[str] = []

    def found(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: found(part) for key, part in value.items()}
        if isinstance(value, list):
            return [found(part) for part in value]
        if "://" in str(value):
            return value
        if any(char in str(value) for char in "*?["):
            take_note(Path(one) for one in glob(str(value), recursive=True))  # noqa: PTH207 - from the root, too
            return value
        place = next((one for one in (Path(value), folder / value) if one.is_file()), None)
        if place is None:
            missing.append(f"the data file {value} is neither in {Path.cwd()} nor beside the task's file")
        else:
            take_note([place])
        return str(place or value)

    settings["dataset_kwargs"] = {**settings["dataset_kwargs"], "data_files": found(given)}
    yield from missing
