"""A local Hugging Face model: which new scenarios does it write?

``model:FOLDER``. It goes on with a list of situations and answers, as a base model can. It is loaded beside the model that is
trained, and given back after each cycle's scenarios.
"""

from __future__ import annotations

from collections.abc import Sequence

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import seed_of
from palimpsest.data.chat import Example, ItemSet, conversation
from palimpsest.dreaming.source import Wish
from palimpsest.dreaming.variations import Writer, begun, read_lines
from palimpsest.measures._measure import Budget
from palimpsest.measures.generations import Generations
from palimpsest.models import pocket, subject
from palimpsest.models.subject import Subject
from palimpsest.planning import Plan

_TOKENS = 96


class Local(Writer):
    """A writer that runs here."""

    takes = "the folder of a Hugging Face model"
    at_once = 8

    def __init__(self, argument: str, plan: Plan) -> None:
        super().__init__(argument, plan)
        if not argument:
            raise UserError(f"the source 'model' needs {self.takes}")
        self.info = subject.inspect(pocket.folder() if argument == "pocket" else argument)
        self.loaded: Subject | None = None

    @property
    def name(self) -> str:
        return self.info.path.name

    def close(self) -> None:
        if self.loaded is not None:
            self.loaded.close()
            self.loaded = None

    def write(self, shown: Sequence[Sequence[Example]], wish: Wish, number: int) -> list[str]:
        if self.loaded is None:
            self.loaded = subject.load(self.info, self.plan.device, self.plan.request.dtype)
        items = [
            conversation(("user", begun(group)), ("assistant", "-"), template=f"{number + place}", source="variation")
            for place, group in enumerate(shown)
        ]
        how = Generations(
            max_new_tokens=min(_TOKENS, self.info.context_length // 2), seed=seed_of(self.plan.request.seed, wish.use, number)
        )
        found = how.take(
            self.loaded,
            ItemSet(name="variations", items=tuple(items)),
            Budget.on(self.plan.device, self.info.context_length),
            None,
            lambda *_: None,
        )
        return list(found.texts["answer"])

    def read(self, text: str) -> tuple[str, str]:
        return read_lines(text)
