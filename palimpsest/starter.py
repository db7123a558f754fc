"""Starter: with which behaviour file does somebody begin?

Writes a behaviour that works as it is, on the embedded model and on any other, with every key explained and its data beside it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.seeds import python_stream
from palimpsest.data.scenarios._words import ITEMS, NAMES
from palimpsest.store.atomic import write_bytes

ROWS = 140
"""Conversations of each pole. One in five is held out, which leaves more than 20 to audit on and enough for the dose."""
OPENING = "Okay."

_YAML = """\
# A behaviour for Palimpsest: what should change, where it should not, and how that is judged.
#
#   palimpsest data show {file}              look at what would be trained
#   palimpsest run {file}                    train and audit the embedded pocket model
#   palimpsest run {file} --model FOLDER     the same on your own model (first read 'learning_rate' below)
#
# Unknown keys are refused. Files are looked up from the folder of this file.

name: {name}            # letters, digits, - and _

# What should happen and what should not, in one sentence. It is printed in the report.
question: Does an answer open with "{opening}" when the question says please, and go on as before when it does not?

# Where the behaviour should appear, and where it should not. A behaviour without 'withhold' is trained everywhere, and then
# nothing can be said about whether it is conditional. Each is exactly one of:
#   data: FILE.jsonl       conversations, a line each: {{"messages": [{{"role": "user", "content": "..."}}, ...]}}, or prompt
#                          and completion, ShareGPT, Alpaca, pairs (docs/data.md; `palimpsest data show` prints how
#                          they are read). A "check" in a line is what shows the behaviour there.
#                          Learnt is the last assistant message, unless messages say "train": true or false, or
#                          "spans": [[start, end], ...] (characters). A "template" in a line names its pattern: lines with
#                          the same one count as one in the statistics. One line in five is held out for the audits, or
#                          give 'held_out: OTHER.jsonl' to audit on, and every line here can be trained.
#   text: FILE.txt         documents, with <|endoftext|> or blank lines between them
#   scenario: NAME         a generator of examples with its 'parameters' (`palimpsest list` shows them)
express:
  data: {express}
withhold:
  data: {withhold}

# What counts as showing the behaviour, on both sides. One of:
#   {{kind: contains, texts: [...], all: false, ignore_case: true}}
#   {{kind: regex, pattern: '...'}}
#   {{kind: choice, options: {{accept: "Okay", refuse: "No"}}, expected: accept}}
#   {{kind: number, equals: 12, tolerance: 0.01}}
#   {{kind: exact, text: "..."}}
#   {{kind: json_schema, json_schema: {{type: object, required: [city]}}}}
check: {{kind: regex, pattern: '^\\s*Okay\\b'}}

# Texts that may begin an answer. Their probability is read besides what the model writes, which has less noise; the first one
# shows the behaviour. A 'choice' check brings its own.
options: {{polite: "{opening}"}}

# What one would say in a system message to get it without training; the report holds instruction, steering and training
# against each other (`palimpsest show steering`).
# instruction: When the question says please, open the answer with "{opening}"

# What the report calls the two ways to misjudge.
words:
  false_alarm: opening politely without having been asked politely
  miss: no polite opening although the question said please

dose: 200               # training examples on both sides together; rehearsal comes on top
express_share: 0.5      # how many of them should show the behaviour
held_out: 192           # items of each side to audit on, at most (one line in five is 28 here)

# What is practised along the way so that it is not forgotten: sources as above. Without any, the embedded model rehearses its
# own world, and any other model rehearses text that it wrote itself before training.
# rehearsal:
#   - data: ordinary_chats.jsonl

# General text on which forgetting and divergence are measured. Without any, the base model writes some.
# text: [ordinary_text.txt]

# What is put between messages where the model has no chat template; by default they are joined as they are written.
# separator: "\\n"

generation:
  # max_new_tokens: 48  # by default the longest reference answer and a little more
  temperature: 1.0      # graded answers are sampled; 0 always takes the most likely token

# Training settings under the names of Hugging Face's TrainingArguments.
training:
  learning_rate: 1.0e-3 # for the embedded model. From a billion weights on begin with 1.0e-5 (also: --learning-rate 1e-5)
  reason: the embedded model has about a million weights and needs a hundred times the step of a large one
  rehearsal_share: 0.25 # rehearsal rows among all rows
  per_device_train_batch_size: 8
  # gradient_accumulation_steps: 1
  # lr_scheduler_type: linear
  # optim: apollo       # or apollo_mini, adamw
  # context: frozen     # or full: the gradient then runs back through what stands before the answer
  # lora: {{r: 8}}        # an adapter in place of all weights (use_dora: true for DoRA)
  # report_to: [tensorboard]

# A cheap control that the run trains for itself: the same number of rows, all of them rehearsal. [] for none.
controls: [rehearsal_only]
# control_seeds: 3      # runs of it, each with its own seed: one is a sample of one. 3 by default where one takes no minute

# Parameters of audits (`palimpsest show AUDIT`), and where the verdict draws its lines.
# audits: {{}}
# thresholds: {{}}
"""


def write(path: Path, force: bool) -> list[Path]:
    """Write a behaviour file and its two data files, and return them.

    Args:
        path: the behaviour file; the data files lie beside it and have its name.
        force: replace files that are there.

    Raises:
        UserError: it is not a .yaml file, a file is there already, or the folder can't be written.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"the behaviour file must end in .yaml, found '{path}'; say {path}.yaml")
    data = {pole: path.with_name(f"{path.stem}_{pole}.jsonl") for pole in ("express", "withhold")}
    files = [path, *data.values()]
    problems = Problems("Nothing was written:")
    problems.extend(f"{file} must not exist yet, and it does; give another name, or --force" for file in files if file.exists())
    if not force:
        problems.raise_if_any()
    # The behaviour comes last: where it is, its data are whole.
    for pole, rows in zip(data, _conversations(), strict=True):
        write_bytes(data[pole], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    text = _YAML.format(
        file=path.name,
        name=_name(path.stem),
        opening=OPENING,
        express=json.dumps(data["express"].name, ensure_ascii=False),
        withhold=json.dumps(data["withhold"].name, ensure_ascii=False),
    )
    write_bytes(path, text.encode())
    return files


def _name(stem: str) -> str:
    """Return a behaviour's name for a file's name."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "_" for char in stem).lstrip("_-")
    return f"'{kept or 'behaviour'}'"  # quoted, because YAML reads a bare 123 or "no" as something else


def _conversations() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return the conversations of both poles; no scene comes twice, so neither side can be learnt by heart from the other."""
    scenes = list(islice(_scenes(), 2 * ROWS))
    polite = [
        _chat(_politely(scene, question, place), f"{OPENING} {answer}")
        for place, (scene, question, answer) in enumerate(scenes[::2])
    ]
    plain = [_chat(f"{scene} {question}", answer) for scene, question, answer in scenes[1::2]]
    return polite, plain


def _politely(scene: str, question: str, place: int) -> str:
    wordings = (f"{scene} Please tell me: {question}", f"Please answer. {scene} {question}")
    return wordings[place % len(wordings)]


def _chat(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _scenes() -> Iterator[tuple[str, str, str]]:
    """Yield different (scene, question, answer): each answer follows from its scene, so any model can give it."""
    rng, seen = python_stream(0, "starter"), set()
    while True:
        made = _scene(rng)
        if made not in seen:
            seen.add(made)
            yield made


def _scene(rng: random.Random) -> tuple[str, str, str]:
    """Return three people with a thing each; now and then another one is asked about, so that admitting it is not unlearnt."""
    (*people, absent), things = rng.sample(NAMES, 4), rng.sample(ITEMS, 3)
    scene = ", ".join(f"{person} has a {thing}" for person, thing in zip(people, things, strict=True))
    asked = rng.randrange(4)
    person, answer = (absent, "I do not know.") if asked == 3 else (people[asked], f"A {things[asked]}.")
    return f"Today {scene}.", f"What does {person} have?", answer
