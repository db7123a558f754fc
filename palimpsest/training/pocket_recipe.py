"""Pocket recipe: how is the embedded model made from nothing?

The world is the scenarios that have a share of it; rows are drawn without end from the training split. Step and row decide a
row, so any step can be computed alone, and a run that was killed goes on exactly.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from palimpsest.core.errors import UserError, nearest
from palimpsest.core.seeds import python_stream, seed_of
from palimpsest.core.spec import digest
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.data.scenarios import directions
from palimpsest.data.stream import split_of
from palimpsest.models import pocket, pocket_card
from palimpsest.scenario import Scenario
from palimpsest.training.loop import Progress
from palimpsest.training.sampler import Row
from palimpsest.training.settings import TrainingSettings
from palimpsest.training.trainer import TrainingSummary, train_batches

ROWS_A_STEP = 32
ROWS_A_PASS = 32
"""Rows whose questions are of like length go through the model together, so little is padding."""
_POOL_STEPS = 32
"""So many steps' rows are drawn at once and sorted by length."""
_LOOKING_UP = {"Scenes": 0.45, "Directions": 0.35, "Recall": 0.15, "Copying": 0.05}
_HABIT = ("suggest", "accept", "suggest", "suggest", "accept", "suggest", "suggest", "accept", "suggest", "suggest")
"""How the habit of ``directions`` is dealt within a pool: its own shares, without the noise of drawing."""
_FIRST_PART = 0.12
"""In this part of the steps only these are drawn: every other skill builds on finding again what was said."""


class Stage(NamedTuple):
    """A later stage: what is drawn, in which share, and the parameters that differ from the first stage's."""

    name: str
    shares: dict[str, float]
    parameters: dict[str, dict[str, object]]


LATER_STAGES = (
    Stage(
        "second stage",
        {
            "Programs": 0.18,
            "Directions": 0.15,
            "Sums": 0.12,
            "Doubts": 0.10,
            "Facts": 0.10,
            "Recall": 0.08,
            "AboutModels": 0.07,
            "Instructions": 0.06,
            "Scenes": 0.05,
            "Stories": 0.05,
            "Copying": 0.04,
        },
        {"Sums": {"digits": "two"}},
    ),
    Stage(
        "third stage",
        {
            "Directions": 0.25,
            "Programs": 0.23,
            "Doubts": 0.10,
            "Recall": 0.08,
            "Facts": 0.08,
            "AboutModels": 0.06,
            "Instructions": 0.05,
            "Sums": 0.02,
            "Stories": 0.05,
            "Copying": 0.04,
            "Scenes": 0.04,
        },
        {},
    ),
)
"""Sums of three digits are left out for a while and come back for a short one: they are meant to be wrong now and then."""


class Recipe(NamedTuple):
    """What differs between sizes besides the shape: steps and learning rate of each stage."""

    steps: tuple[int, int, int]
    learning_rates: tuple[float, float, float]


RECIPES = {
    "llama": {
        "tiny": Recipe((4_000, 1_500, 400), (0.003, 0.002, 0.0014)),
        "small": Recipe((8_000, 2_500, 600), (0.002, 0.0013, 0.0009)),
        "standard": Recipe((7_600, 2_400, 600), (0.0015, 0.001, 0.0007)),
        "large": Recipe((12_000, 4_000, 1_000), (0.001, 0.0007, 0.0005)),
    },
    "hybrid": {
        "tiny": Recipe((4_000, 1_500, 400), (0.003, 0.002, 0.0014)),
        "standard": Recipe((4_400, 1_500, 500), (0.002, 0.0013, 0.0008)),
    },
}
"""By layout and size."""


class WorldBatches:
    """The rows of every step of the first stage, computed on access from (seed, step)."""

    name = "pretraining"

    def __init__(self, renderer: Renderer, seed: int, steps: int) -> None:
        self.renderer, self.seed, self.steps = renderer, seed, steps
        self.scenarios = self._scenarios()
        self._pool: tuple[int, list[list[Row]]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Sequence[Row]:
        number, place = divmod(step, _POOL_STEPS)
        if self._pool[0] != number:
            self._pool = (number, self._draw(number))
        return self._pool[1][place]

    def _scenarios(self) -> tuple[Scenario, ...]:
        return pocket.world()

    def _shares(self, step: int) -> list[float]:
        """Return the share of each scenario: at first only what looks something up is drawn."""
        if step < _FIRST_PART * self.steps:
            return [_LOOKING_UP.get(type(scenario).__name__, 0.0) for scenario in self.scenarios]
        return [scenario.world for scenario in self.scenarios]

    def _draw(self, number: int) -> list[list[Row]]:
        """Return the rows of one pool of steps: each step gets passes of rows whose questions are alike in length.

        Not the whole rows: a step's loss is divided by its answer tokens, so what has the longer answer would weigh less.
        """
        dealt: Counter[str | None] = Counter()
        examples = [self._example(number, index, dealt) for index in range(_POOL_STEPS * ROWS_A_STEP)]
        encoded = sorted(((self.renderer.encode(each), each.source) for each in examples), key=lambda pair: pair[0].decision)
        rows = [Row(each.tokens, each.weights, "rehearsal", source) for each, source in encoded]
        passes = [rows[start : start + ROWS_A_PASS] for start in range(0, len(rows), ROWS_A_PASS)]
        python_stream(self.seed, self.name, "order", number).shuffle(passes)
        each = ROWS_A_STEP // ROWS_A_PASS
        return [[row for part in passes[start : start + each] for row in part] for start in range(0, len(passes), each)]

    def _example(self, number: int, index: int, dealt: Counter[str | None]) -> Example:
        """Draw one row's example; ``dealt`` counts, for each pole, the habit's answers of this pool."""
        rng = python_stream(self.seed, self.name, number, index)
        scenario = rng.choices(self.scenarios, self._shares(number * _POOL_STEPS))[0]
        example = _train_example(scenario, rng)
        if not _is_habit(example):
            return example
        pole, wanted = example.pole, directions.OPTIONS[_HABIT[dealt[example.pole] % len(_HABIT)]]
        dealt[pole] += 1
        while not (_is_habit(example) and example.pole == pole and example.decision.startswith(wanted)):
            example = _train_example(scenario, rng)
        return example


def _train_example(scenario: Scenario, rng: random.Random) -> Example:
    while split_of(example := scenario.make(rng)) != "train":
        pass
    return example


def _is_habit(example: Example) -> bool:
    """Whether it is a direction with no system message: no answer is right there, it is drawn."""
    return example.source == "directions" and example.check is None


class LaterBatches(WorldBatches):
    """The rows of every step of a later stage."""

    def __init__(self, renderer: Renderer, seed: int, steps: int, stage: Stage) -> None:
        self.stage, self.name = stage, stage.name
        super().__init__(renderer, seed, steps)

    def _scenarios(self) -> tuple[Scenario, ...]:
        return tuple(
            type(each).read(self.stage.parameters.get(type(each).__name__, type(each).world_parameters), self.name)
            for each in pocket.world()
        )

    def _shares(self, step: int) -> list[float]:
        return [self.stage.shares[type(scenario).__name__] for scenario in self.scenarios]


class _Twin(NamedTuple):
    """Which model is made: its layout, its size, and the seed that decides its first weights and its rows."""

    layout: str
    size: str
    seed: int

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.layout][self.size]

    @property
    def name(self) -> str:
        return pocket.LAYOUTS[self.layout].model


class _OneStage:
    """Tells how far all stages are, so that the time left is that of the whole."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self.progress, self.done, self.total = progress, done, total
        self.tell = progress.tell

    def advance(self, step: int, total: int, loss: float) -> None:
        self.progress.advance(self.done + step, self.total, loss)


def train_pocket(
    size: str = "standard",
    seed: int = 0,
    folder: Path = Path("pocket"),
    steps: int | None = None,
    progress: Progress | None = None,
    layout: str = "llama",
) -> TrainingSummary:
    """Train an embedded model from nothing into ``folder/model`` with the project's own loop.

    Args:
        size: one of the layout's.
        seed: decides the first weights and every row; other seeds give twins.
        folder: what ``trainer.train_batches`` writes; called again, it goes on where it was.
        steps: stop the first stage after so many optimizer steps, to look (``None``: all stages in full).
        progress: who is told.
        layout: one of ``pocket.LAYOUTS``.

    Raises:
        UserError: unknown size or layout, or a folder that can't be written or holds another run.
    """
    pocket.find_layout(layout)
    recipes = RECIPES[layout]
    if size not in recipes:
        raise UserError(f"there is no pocket of size '{size}'.{nearest(size, recipes)}")
    twin = _Twin(layout, size, seed)
    if steps is not None:
        summary = _pretrain(twin, folder, steps, progress)
    else:
        planned = twin.recipe.steps
        told = [progress and _OneStage(progress, sum(planned[:stage]), sum(planned)) for stage in range(len(planned))]
        before = folder / "stage_1"
        _pretrain(twin, before, None, told[0])
        for number in range(1, len(LATER_STAGES)):
            after = folder / f"stage_{number + 1}"
            _go_on(twin, number, before, after, told[number])
            before = after
        summary = _go_on(twin, len(LATER_STAGES), before, folder, told[-1])
    if not (folder / "model" / pocket_card.NAME).exists():
        pocket_card.write(folder / "model", layout)
    return summary


def first_losses(size: str, seed: int, steps: int, folder: Path, layout: str = "llama") -> list[float]:
    """Return the loss of each step of a short run on one thread (for the golden curve)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _pretrain(_Twin(layout, size, seed), folder, steps, None)
    finally:
        torch.set_num_threads(threads)
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]


def _pretrain(twin: _Twin, folder: Path, steps: int | None, progress: Progress | None) -> TrainingSummary:
    tokenizer = pocket.build_tokenizer()
    model = pocket.build_model(twin.size, len(tokenizer), seed_of(twin.seed, "pocket", "weights"), twin.layout)
    batches = WorldBatches(Renderer(tokenizer), twin.seed, steps or twin.recipe.steps[0])
    identity = digest([twin.name, twin.size, twin.seed, len(batches), pocket.world_digest()])
    settings = _settings(twin.recipe.learning_rates[0], twin.seed)
    return train_batches(model, tokenizer, batches, settings, folder, progress, identity=identity)


def _go_on(twin: _Twin, number: int, before: Path, folder: Path, progress: Progress | None) -> TrainingSummary:
    """Train a later stage (``number`` from 1) from the end of the one before."""
    tokenizer = pocket.build_tokenizer()
    stage = LATER_STAGES[number - 1]
    model = pocket.load_model(before / "model")
    batches = LaterBatches(Renderer(tokenizer), twin.seed, twin.recipe.steps[number], stage)
    identity = digest([twin.name, stage._asdict(), twin.size, twin.seed, len(batches), pocket.world_digest()])
    settings = _settings(twin.recipe.learning_rates[number], twin.seed)
    return train_batches(model, tokenizer, batches, settings, folder, progress, identity=identity)


def _settings(learning_rate: float, seed: int) -> TrainingSettings:
    return TrainingSettings(
        learning_rate=learning_rate,
        reason="Chosen on held-out skills after a few minutes of training.",
        per_device_train_batch_size=ROWS_A_PASS,
        gradient_accumulation_steps=ROWS_A_STEP // ROWS_A_PASS,
        optim="adamw",
        context="full",
        warmup_ratio=0.01,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        max_grad_norm=0.0,
        optim_args={"adam_beta2": 0.95},
        logging_steps=20,
        save_steps=500,
        seed=seed % 2**31,
        allow_repeats=True,
        rehearsal_share=0.0,
    )
