"""Task files: may this YAML file of a user be handed to lm-eval, and what would it do there?

lm-eval runs Python code that a task's file names, fetches metrics and data from the network, reads pickles where a file says
so, and lets a template reach into Python. A file of a user is data here. So it is read by a loader of our own: what it
includes, merges and refers to is written out first, then every key, metric and loader of data must be one that is known to be
harmless, and lm-eval is handed the plain result. Files that come with lm-eval are its own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from palimpsest.core import yaml_files
from palimpsest.core.errors import UserError, first_line, nearest
from palimpsest.core.files import expanded, is_there, take_note

_GROUP = ("group", "group_alias", "task", "tag", "aggregate_metric_list", "metadata")
_TASK = (
    *("task", "task_alias", "tag", "metadata", "dataset_path", "dataset_name", "dataset_kwargs"),
    *(
        "training_split",
        "validation_split",
        "test_split",
        "fewshot_split",
        "num_fewshot",
        "fewshot_config",
        "fewshot_delimiter",
    ),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter", "gen_prefix"),
    *("output_type", "generation_kwargs", "repeats", "filter_list", "metric_list"),
    *("should_decontaminate", "doc_to_decontamination_query"),
)
_FEWSHOT = (
    *("sampler", "split", "samples", "fewshot_indices", "gen_prefix", "fewshot_delimiter", "target_delimiter"),
    *("doc_to_text", "doc_to_target", "doc_to_choice"),
)
"""Keys of a user's own file, of a task, a group, and of the examples before a question. All that they name are data."""
_CODE = ("process_docs", "process_results", "custom_dataset", "class")
_RUNS = "would run Python code, which is not done for a file of your own; write it as a template, or include one of lm-eval's"
_NOT_DONE = {
    "unsafe_code": "what a model writes is never run here",
    "use_prompt": "write the prompt out in doc_to_text",
    "doc_to_image": "these models take no pictures",
    "doc_to_audio": "these models take no sounds",
}
LOADERS = ("json", "csv", "parquet", "text", "arrow", "xml")
"""Loaders of data files that read nothing but data."""
_LOADING = (
    *("data_files", "data_dir", "field", "sep", "delimiter", "header", "names", "column_names", "quotechar", "escapechar"),
    *("encoding", "encoding_errors", "columns", "sample_by", "keep_linebreaks", "trust_remote_code"),
)
"""What a file may say to them; trust_remote_code: it says nothing to them any more."""
_MOST_REPEATS = 100


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
    found: list[str] = []
    settings = _written_out(path, (), found)
    if not found and "group" not in settings and not isinstance(settings.get("task"), str):
        found.append("it must name its task in 'task' (or a group of tasks in 'group')")
    for one in _tasks(settings):
        found += _problems(one, path.parent)
    if found:
        raise UnfitFile(found)
    return settings


def _written_out(path: Path, including: tuple[Path, ...], found: list[str]) -> dict[str, Any]:
    """Return a file's settings over those of the files that it includes, adding to ``found`` what may not stand in it."""
    import lm_eval

    path = expanded(path).resolve()
    if path in including:
        found.append(f"{including[-1]} includes {path}, which includes itself")
        return {}
    try:
        if path.is_relative_to(Path(lm_eval.__file__).resolve().parent):
            from lm_eval.tasks._yaml_loader import load_yaml

            return load_yaml(path)
        node = yaml_files.compose(path, "1.1")  # as lm-eval itself reads it
        if code := [f"{path}, {one}" for one in _code(node)]:
            found += code
            return {}
        settings = yaml_files.construct(path, node, "1.1")
    except UserError as error:
        found.append(str(error))
        return {}
    except Exception as error:  # of lm-eval's own loader
        found.append(f"{path} can't be read: {first_line(error)}")
        return {}
    included = settings.pop("include", None) or []
    names = included if isinstance(included, list) else [included]
    if wrong := [one for one in names if not isinstance(one, str)]:
        found.append(f"{path}: 'include' must name files, found {wrong[0]!r}")
        return {}
    found += [f"{path}, {one}" for task in _tasks(settings) for one in _foreign(task)]
    merged: dict[str, Any] = {}
    for name in names:
        merged |= {
            key: value
            for key, value in _written_out(path.parent / expanded(name), (*including, path), found).items()
            if key != "task_list"  # says what tasks its own file defines
        }
    return merged | settings


def _code(root: yaml.Node) -> Iterator[str]:
    """Yield where a file has a tag of its own: lm-eval's would import and run what it names."""
    for key, node in yaml_files.nodes(root):
        if node.tag.startswith("!"):
            what = f" {node.value}" if isinstance(node, yaml.ScalarNode) else ""
            yield f"line {node.start_mark.line + 1}, {key or 'the whole file'}: '{node.tag}{what}' {_RUNS}"


def _tasks(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the settings of a task, or of a group and all tasks that it writes out itself."""
    members = settings.get("task")
    if not isinstance(members, list):
        yield settings
        return
    yield {key: value for key, value in settings.items() if key != "task"}
    for member in members:
        if isinstance(member, dict):
            yield from _tasks(member)


def _foreign(settings: dict[str, Any]) -> Iterator[str]:
    """Yield which keys of a user's own file are none that are read here."""
    known = {*_TASK, *(_GROUP if "group" in settings else ())}
    for key in settings:
        if key in _CODE:
            yield f"'{key}' {_RUNS}"
        elif key not in known and key not in _NOT_DONE:
            yield f"unknown key '{key}'.{nearest(str(key), known)}"
    for outer, inner in (("fewshot_config", _FEWSHOT), ("dataset_kwargs", _LOADING)):
        given = settings.get(outer) or {}
        if not isinstance(given, dict):
            yield f"{outer} must hold keys and values, found {given!r}"
            continue
        for key in given:
            if key in _CODE:
                yield f"'{outer}.{key}' {_RUNS}"
            elif key not in inner:
                yield f"'{outer}.{key}' is not read here.{nearest(str(key), inner)}"


def _problems(settings: dict[str, Any], folder: Path) -> Iterator[str]:
    """Yield what is wrong with a task's settings, those that it includes too, and look up its data files."""
    yield from (f"{key}: {why}" for key, why in _NOT_DONE.items() if settings.get(key))
    repeats = settings.get("repeats", 1)
    if not isinstance(repeats, int) or not 1 <= repeats <= _MOST_REPEATS:
        yield f"repeats must be 1 to {_MOST_REPEATS}, found {repeats!r}"
    yield from _metric_problems(settings.get("metric_list") or [])
    yield from source_problems(settings)
    yield from _data_problems(settings, folder)


def source_problems(settings: dict[str, Any]) -> Iterator[str]:
    """Yield why a task's data would be neither what a loader of plain data makes of files nor a data set of the hub."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    source = settings.get("dataset_path")
    if source is None or source in LOADERS:
        return
    if not isinstance(source, str):
        yield f"dataset_path must be text, found {source!r}"
    elif source in _PACKAGED_DATASETS_MODULES:
        yield f"dataset_path: data are not read by '{source}' here, only by {', '.join(LOADERS)}"
    elif "://" in source or "::" in source or is_there(source):
        yield (
            f"dataset_path '{source}' would read whatever is there; give one of {', '.join(LOADERS)}, and the files in "
            "dataset_kwargs.data_files"
        )


def _metric_problems(listed: Any) -> Iterator[str]:
    import lm_eval.api.metrics  # noqa: F401 - fills the registries
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY

    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        yield f"metric_list must list metrics as `- metric: NAME`, found {listed!r}"
        return
    for one in listed:
        name, way = one.get("metric"), one.get("aggregation")
        if isinstance(name, str) and (name not in METRIC_REGISTRY or one.get("hf_evaluate")):
            yield (
                f"the metric '{name}' is not one of lm-eval's own, so it would be fetched and run."
                f"{nearest(name, METRIC_REGISTRY.keys())}"
            )
        if isinstance(way, str) and way not in AGGREGATION_REGISTRY:
            yield f"there is no aggregation '{way}'.{nearest(way, AGGREGATION_REGISTRY.keys())}"


def _data_problems(settings: dict[str, Any], folder: Path) -> Iterator[str]:
    """Look up data files from where the program runs, as lm-eval does, or else beside the task's file."""
    options = settings.get("dataset_kwargs") or {}
    if settings.get("dataset_path") not in LOADERS:
        return
    wrong: list[str] = []

    def found(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: found(part) for key, part in value.items()}
        if isinstance(value, list):
            return [found(part) for part in value]
        if not isinstance(value, str):
            wrong.append(f"data_files must name files, found {value!r}")
        elif "://" in value or "::" in value:
            wrong.append(f"the data file {value} would be fetched, which is never done; save it and name it here")
        elif any(char in value for char in "*?["):
            take_note(Path(one) for one in glob(value, recursive=True))  # noqa: PTH207 - from the root, too
        else:
            place = next((one for one in (Path(value), folder / value) if one.is_file()), None)
            if place is None:
                wrong.append(f"the data file {value} is neither in {Path.cwd()} nor beside the task's file")
            else:
                take_note([place])
            return str(place or value)
        return value

    places = {key: found(options[key]) for key in ("data_files",) if options.get(key)}
    if "://" in str(options.get("data_dir")):
        wrong.append("data_dir must be a folder")
    settings["dataset_kwargs"] = {**options, **places}
    yield from wrong
