"""Tasks of lm-eval: what is asked for, is it here, and what does it ask of a model?

A task by its name, a group or a tag of them, or a YAML file of one's own. lm-eval builds the task, its requests and its
scoring; our models answer. Nothing goes through lm-eval's caches: that of responses is not keyed by the model, and both are
pickles.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from palimpsest.core.errors import Problems, UserError, first_line
from palimpsest.core.stats import FEWEST_CLUSTERS
from palimpsest.data.tasks import Asked, Document, Responses, TaskSet
from palimpsest.peers import lm_eval_files as files
from palimpsest.peers.lm_eval_grading import Grader, scoring_digest
from palimpsest.peers.lm_eval_world import FEWSHOT_SEED, offline, theirs

_PASSAGE = 80
"""Characters of a text that documents may share: questions on one passage are one cluster."""
_GREEDY = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
"""What a task may say of how answers are written; the last two say nothing where the likeliest token is taken."""
_MOST_NEW = 256
"""lm-eval's own default."""


@dataclass(frozen=True)
class Opened:
    """Tasks that can be asked, and what a user should know about them."""

    tasks: tuple[TaskSet, ...] = ()
    notes: tuple[str, ...] = ()


def open_tasks(
    given: Sequence[str], problems: Problems, *, limit: int = 0, fewshot: int | None = None, block: int = 0
) -> Opened:
    """Return the tasks that are asked for, adding to the problems what is wrong with any of them.

    Args:
        given: names of tasks, groups or tags, or paths of YAML files.
        problems: where to add.
        limit: how many documents of each, from the first; 0 for all.
        fewshot: examples before each question, where the task does not say 0 itself; by default the task's own number.
        block: which documents, where there are enough for so many blocks of the limit.
    """
    if importlib.util.find_spec("lm_eval") is None:
        problems.add("--tasks needs lm-eval, which is not installed: pip install 'palimpsest-lm[lm-eval]'")
        return Opened()
    with theirs():  # lm-eval is imported here, in silence
        shelf = _Shelf()
    found, notes = {}, []
    for name in dict.fromkeys(given):
        try:
            for task in shelf.open(name):
                one, told = _task_set(task, limit, fewshot, block)
                if one.name in found:
                    raise UserError(f"the task {one.name} is asked for twice, the second time by '{name}'; name it once")
                found[one.name] = one
                notes.append(told)
        except files.UnfitFile as error:
            problems.extend(f"task {name}: {one}" for one in error.found)
        except UserError as error:
            problems.add(f"task {name}: {error}")
    if found:
        version = importlib.metadata.version("lm_eval")
        notes.insert(
            0,
            f"Tasks are asked and scored by the rules of lm-eval {version}: plain text without the chat template, and always "
            "the likeliest token where an answer is written. Nothing was read from or written to a cache of lm-eval.",
        )
    return Opened(tuple(found.values()), tuple(notes))


# ---------------------------------------------------------------- finding


class _Shelf:
    """Where tasks are found by their names; looking through all 14,000 files is put off until a name needs it."""

    def open(self, name: str) -> list[Any]:
        """Return lm-eval's tasks of a name or a file.

        Raises:
            UserError: there is no such task, its data are not here, or it asks for what is not done here.
        """
        if files.is_file(name):
            return self._load(name, files.read(Path(name)))
        place = self._place(name)
        settings = [self._settings(place)] if place else [entry.cfg or {} for entry in self._leaves(name)]
        if unsafe := [str(one.get("task", name)) for one in settings if one.get("unsafe_code")]:
            raise UserError(f"{', '.join(unsafe)} runs code that a model wrote, which is never done here")
        if local := [problem for one in settings for problem in files.source_problems(one)]:
            raise UserError(local[0])
        return self._load(name, str(place) if place else name, everything=place is None, data=settings)

    def _load(self, name: str, what: Any, *, everything: bool = False, data: Sequence[dict[str, Any]] = ()) -> list[Any]:
        from lm_eval.tasks import TaskManager

        whole = everything or (isinstance(what, dict) and "group" in what)
        manager = self._all if whole else TaskManager(include_defaults=False)
        try:
            with theirs(), offline():
                return list(manager.load([what])["tasks"].values())
        except Exception as error:
            wanted = data or ([what] if isinstance(what, dict) else [])
            raise UserError(_not_built(name, wanted, error)) from error

    def _place(self, name: str) -> Path | None:
        """Return the one file of lm-eval's that defines a task of this name."""
        found = self._named.get(name, [])
        return found[0] if len(found) == 1 else None

    @cached_property
    def _named(self) -> dict[str, list[Path]]:
        import lm_eval.tasks

        pattern = re.compile(rb"^task:[ \t]*['\"]?([^\s'\"#\[]+)['\"]?[ \t]*(?:#.*)?\r?$", re.MULTILINE)
        found: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")):
            for match in pattern.finditer(path.read_bytes()):
                found[match[1].decode("utf-8", "replace")].append(path)
        return found

    @staticmethod
    def _settings(path: Path) -> dict[str, Any]:
        from lm_eval.tasks._yaml_loader import load_yaml

        return load_yaml(path, resolve_func=False)

    @cached_property
    def _all(self) -> Any:
        from lm_eval.tasks import TaskManager

        with theirs():
            return TaskManager()

    def _leaves(self, name: str, seen: frozenset[str] = frozenset()) -> Iterator[Any]:
        """Yield the tasks of a group or a tag as lm-eval lists them."""
        entry = self._all.task_index.get(name)
        if entry is None:
            if seen:
                return  # a group may write a task out in itself
            close = difflib.get_close_matches(name, self._all.all_tasks, n=3, cutoff=0.6)
            hint = f" Did you mean {' or '.join(close)}?" if close else " `lm_eval ls tasks` lists them."
            raise UserError(f"lm-eval has no task, group or tag of that name, and it is no .yaml file.{hint}")
        members = entry.tags if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
        if entry.kind.name not in ("TAG", "GROUP") or not isinstance(members, list | set | tuple):
            yield entry
            return
        for member in sorted(members, key=str):
            inner = member if isinstance(member, str) else member.get("task") or member.get("group")
            if isinstance(inner, str) and inner not in seen:
                yield from self._leaves(inner, seen | {name})


def _not_built(name: str, settings: Sequence[dict[str, Any]], error: Exception) -> str:
    """Return why a task can't be had: its data are not here, or lm-eval can't make it."""
    if isinstance(error, KeyError) and (told := _no_split(error.args[0], settings)):
        return told
    if _is_empty(error):
        return "its data hold nothing"
    said = f"{type(error).__name__}: {first_line(error)}"
    missing = type(error).__name__ in ("OfflineModeIsEnabled", "DatasetNotFoundError", "LocalEntryNotFoundError")
    if not missing and not isinstance(error, ConnectionError | FileNotFoundError):
        return f"lm-eval can't make this task: {said}"
    wanted: dict[str, list[str]] = defaultdict(list)
    for one in settings:
        if one.get("dataset_path"):
            wanted[str(one["dataset_path"])].append(str(one.get("dataset_name") or ""))
    data = ", ".join(_parts(path, list(dict.fromkeys(filter(None, parts)))) for path, parts in wanted.items())
    seen = f"it wants {data}" if data else said
    return (
        f"its data are not on this machine: {seen}. Nothing is fetched here; with a network, once: `lm_eval run --model dummy "
        f"--tasks {name} --limit 1`. Or point dataset_path in a YAML file of your own at files here"
    )


def _is_empty(error: Exception) -> bool:
    """Whether `datasets` met a file without a row: each of its loaders says that in its own way."""
    bare = isinstance(error, StopIteration) or type(error.__cause__).__name__ == "EmptyDataError"
    return bare or "corresponds to no data" in str(error)


def _no_split(key: Any, settings: Sequence[dict[str, Any]]) -> str:
    """Return that a task's data have no split of the name that it gives; empty where that is not what is wrong."""
    for one in settings:
        asked = next((name for name, value in one.items() if name.endswith("_split") and value == key), None)
        if asked is not None:
            given = (one.get("dataset_kwargs") or {}).get("data_files")
            there = list(given) if isinstance(given, dict) else ["train"] if given else []
            has = f"; they have {', '.join(map(str, there))}" if there else ""
            return f"its data have no split named '{key}' ({asked}){has}"
    return ""


def _parts(path: str, parts: Sequence[str]) -> str:
    """Return a data set with the parts of it that are wanted."""
    more = f" and {len(parts) - 2} more parts" if len(parts) > 3 else ""
    return f"{path} ({', '.join(parts[: 2 if more else 3])}{more})" if parts else path


# ---------------------------------------------------------------- asking


def _task_set(task: Any, limit: int, fewshot: int | None, block: int) -> tuple[TaskSet, str]:
    """Return what a task asks, with its scoring, and a note on which documents these are."""
    with theirs():
        name = task.task_name  # asking for it draws a random number
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"{name} runs code that a model wrote, which is never done here")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"{name} shows pictures or plays sounds, which these models can't take")
    own = task.get_config("num_fewshot")
    task.set_config("num_fewshot", own or 0 if fewshot is None or own == 0 else fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)
    try:
        with theirs(), offline():
            total = len(task.eval_docs)
            low = block * limit if limit and (block + 1) * limit <= total else 0
            chosen = range(low, min(low + limit, total)) if limit else None
            task.build_all_requests(samples=chosen if low else None, limit=limit or None, cache_requests=False)
            groups = _groups(task.instances)
            documents = _documents(task, groups)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"lm-eval can't ask {name}: {type(error).__name__}: {first_line(error)}") from error
    grader = Grader(task, documents, groups)
    metrics = grader.metrics([_trial(document) for document in documents])
    again = bool(block) and not low
    note = f"{name}: {_which(low, len(documents), total, again)}, {task.config.num_fewshot}-shot{_units(documents)}."
    version = importlib.metadata.version("lm_eval")
    return TaskSet(name, documents, metrics, scoring_digest(task), version, grader), note


def _which(low: int, count: int, total: int, again: bool) -> str:
    """Return in words which documents are asked."""
    if count == total:
        return f"all {total:,} documents"
    once_more = "; there are too few for one more block" if again else ""
    which = f"documents {low:,} to {low + count - 1:,}" if low else f"the first {count:,}"
    return f"{which} of {total:,} documents (--limit N for another number, 0 for all{once_more})"


def _units(documents: Sequence[Document]) -> str:
    clusters = len({document.cluster for document in documents})
    return f", {clusters:,} clusters of documents that belong together" if clusters < len(documents) else ""


def _groups(instances: Sequence[Any]) -> list[list[Any]]:
    """Return requests by document, each document's in their own order."""
    found: dict[Any, list[Any]] = defaultdict(list)
    for one in instances:
        found[one.doc_id].append(one)
    return [sorted(group, key=lambda one: one.idx) for group in found.values()]


def _documents(task: Any, groups: Sequence[Sequence[Any]]) -> tuple[Document, ...]:
    docs = [group[0].doc for group in groups]
    clusters = _clusters(docs, (task.get_config("metadata") or {}).get("cluster"))
    return tuple(
        _document(task, group, cluster, f"{task.task_name}, document {group[0].doc_id}")
        for group, cluster in zip(groups, clusters, strict=True)
    )


def _document(task: Any, group: Sequence[Any], cluster: str, source: str) -> Document:
    from lm_eval.utils import handle_non_serializable, hash_string

    doc = group[0].doc
    asked = [_asked(one, source) for one in group]
    target = task.doc_to_target(doc)
    choices = _choices(task, doc) if len(asked) > 1 else ()
    gold = _gold(task, doc, target, choices) if len(asked) > 1 else 0 if asked[0].kind != "generate_until" else None
    right = choices[gold] if choices and gold is not None else _chosen(task, doc, target)
    text = right if isinstance(right, str) else ""
    written = all(one.kind == "generate_until" for one in asked)
    delimiter = task.get_config("target_delimiter") or ""
    reference = Asked(kind="loglikelihood", context=asked[0].context, continuation=f"{delimiter}{text}")
    return Document(
        asked=tuple(asked),
        reference=reference if written and text.strip() and asked[0].context else None,
        gold=gold,
        choices=choices if len(choices) <= len(asked) and not written else (),
        target=text or str(target),
        cluster=cluster,
        source=source,
        target_hash=hash_string(str(target)),
        hash=hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)),
    )


def _asked(instance: Any, source: str) -> Asked:
    """Return one request as plain data.

    Raises:
        UserError: it asks for what is not done here.
    """
    kind, given = instance.request_type, list(instance.args)
    if kind not in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        raise UserError(f"{source} asks for {kind}, which is not known here")
    if not all(isinstance(one, str) for one in (given[:1] if kind == "generate_until" else given)):
        raise UserError(f"{source} must ask in text, found {[type(one).__name__ for one in given]}")
    if kind == "loglikelihood_rolling":
        return Asked(kind=kind, continuation=given[0])
    if kind == "loglikelihood":
        return Asked(kind=kind, context=given[0], continuation=given[1])
    return Asked(kind=kind, context=given[0], **_writing(given[1], source))


def _writing(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Return how an answer is to be written."""
    from lm_eval.models.utils import normalize_gen_kwargs

    usual: dict[str, Any] = dict(normalize_gen_kwargs(settings, _MOST_NEW))
    if usual.get("do_sample"):
        raise UserError(
            f"{source} is to be answered by sampling (temperature {usual.get('temperature')}); here answers are written "
            "greedily, so that only the model differs. Set do_sample: false in a YAML file of your own that includes this task"
        )
    if other := sorted(set(usual) - _GREEDY):
        raise UserError(f"{source} asks for {', '.join(other)} while an answer is written, which is not done here")
    return {"until": tuple(text for text in usual["until"] if text), "max_new_tokens": usual["max_gen_toks"]}


def _choices(task: Any, doc: Any) -> tuple[str, ...]:
    if task.get_config("doc_to_choice") is None:
        found = doc.get("choices") if isinstance(doc, dict) else None
        return tuple(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else ()
    return tuple(map(str, task.doc_to_choice(doc)))


def _gold(task: Any, doc: Any, target: Any, choices: Sequence[str]) -> int | None:
    """Return which choice is right, as lm-eval finds it; the first of several."""
    right = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else target
    if not hasattr(task, "multiple_input") and isinstance(doc, dict):
        right = doc.get("gold", right)
    right = _first(right)
    if isinstance(right, str):
        return choices.index(right) if right in choices else None
    return int(right) if isinstance(right, int) and 0 <= right < len(choices) else None


def _chosen(task: Any, doc: Any, target: Any) -> Any:
    """Return the right answer of a task that has no choice to make; where it lists choices all the same, an index means one."""
    right = _first(target)
    if isinstance(right, int) and task.get_config("doc_to_choice") is not None:
        choices = _choices(task, doc)
        return choices[right] if 0 <= right < len(choices) else right
    return right


def _first(value: Any) -> Any:
    """Return the first of several right answers."""
    return value[0] if isinstance(value, list) and value else value


def _clusters(docs: Sequence[Any], field: str | None) -> list[str]:
    """Return what statistics count as one unit: a field that the task names, else a passage that documents share, else each."""
    if field is not None:
        if missing := [doc for doc in docs if not isinstance(doc, dict) or field not in doc]:
            raise UserError(f"metadata.cluster must name a field of every document, '{field}' is not in {len(missing)} of them")
        return [str(doc[field]) for doc in docs]
    plain = [doc if isinstance(doc, dict) else {} for doc in docs]
    for key in plain[0] if plain else ():
        texts = [doc.get(key) for doc in plain]
        if all(isinstance(text, str) and len(text) >= _PASSAGE for text in texts):
            apart = len(set(texts))
            if FEWEST_CLUSTERS <= apart < len(texts):
                return [str(text) for text in texts]
    return [f"document {index}" for index in range(len(docs))]


def _trial(document: Document) -> Responses:
    """Return answers that serve to see what a task's scoring makes of any: each right in its own way."""
    given = {"loglikelihood": (-1.0, True), "loglikelihood_rolling": -1.0, "generate_until": document.target or "none"}
    return Responses(tuple(given[one.kind] for one in document.asked))  # type: ignore[arg-type]
