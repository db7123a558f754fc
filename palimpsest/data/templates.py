"""Templates: how is a stranger's Jinja rendered so that it always ends, in bounded memory?

Jinja's sandbox keeps a template from reaching into Python, not from looping for ever or from writing a text that fills the
memory. Here every step is paid from a budget, and what an operation may make is paid before it is made: loops, calls,
operators, filters, tests, and the text that is written. The budget counts work and not seconds, so a template that ends does
so on every machine.
"""

from __future__ import annotations

import re
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from contextvars import ContextVar
from functools import wraps
from string import Formatter
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment, modifies_known_mutable
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

STEPS = 400_000
"""Of one rendering. The longest templates known take some ten a message."""
_CHARACTERS = 256
"""So many characters are read or written in one step."""
_LONGEST = 2**23
"""Characters of one text."""
_LARGEST = 100_000
"""A width, a precision or a number of pieces, as Jinja's own limit of a range."""
_LONGEST_SOURCE = 2**18
_MOST_BITS = 2**16
_DEEPEST = 100
"""Levels of lists within lists: comparing and hashing go down in C, without a limit of their own."""
_LEFT: ContextVar[list[int]] = ContextVar("_LEFT")


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_AT_SIGHT = _names(
    "length count first last default d map select reject selectattr rejectattr batch slice reverse items attr list random"
)
"""Filters that do not read what the values in a list hold."""
_PLAIN_TESTS = _names(
    "defined undefined none string number mapping iterable sequence boolean true false integer float callable sameas filter "
    "test odd even divisibleby escaped"
)
"""Tests that look at one value and no further."""
_NOT_LONGER = _names(
    "strip lstrip rstrip split rsplit splitlines startswith endswith removeprefix removesuffix find rfind index rindex count "
    "partition rpartition lower upper title capitalize casefold swapcase encode decode center ljust rjust zfill trim string "
    "safe escape e forceescape striptags wordcount int float abs round sort unique min max groupby dictsort urlencode "
    "filesizeformat truncate pprint format"
)
"""Methods of texts, and filters, that write no more than a few times what they are given; a width is paid by itself."""
_SCOPES = ("_loop_vars", "_block_vars")
"""What Jinja hands every call inside of a loop or a block, and takes out before the function sees it."""
_GROWING_LISTS = frozenset(("append", "extend", "insert", "pop"))
_CONVERSION = re.compile(r"%(?:\([^()]*\))?[#0 +-]*(\d*)(?:\.(\d*))?([(*]?)")


class TooMuch(TemplateRuntimeError):
    """A template asks for more work or memory than any honest one."""


class BoundedEnvironment(SandboxedEnvironment):
    """A sandbox whose templates end: the settings, filters and extensions of another environment, each at its price.

    Args:
        like: the environment whose templates are rendered here.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, like: Environment) -> None:
        super().__init__(
            trim_blocks=like.trim_blocks,
            lstrip_blocks=like.lstrip_blocks,
            keep_trailing_newline=like.keep_trailing_newline,
            undefined=like.undefined,
            loader=like.loader,
            extensions=[type(one) for one in like.extensions.values()],
            optimized=False,  # the optimiser would work out constants while it compiles
        )
        self.immutable = isinstance(like, ImmutableSandboxedEnvironment)
        self.template_class = _BoundedTemplate
        self.globals.update({key: value for key, value in like.globals.items() if key not in ("range", "lipsum")})
        self.globals.pop("lipsum", None)  # random words: no prompt is made of them
        self.filters.update({name: self._priced(name, one, name not in _AT_SIGHT, True) for name, one in like.filters.items()})
        self.tests.update({name: self._priced(name, one, name not in _PLAIN_TESTS, False) for name, one in like.tests.items()})

    def compile(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Compile a template in which loops, comparisons and texts ask for their steps."""
        try:
            if isinstance(source, str):
                if len(source) > _LONGEST_SOURCE:
                    raise TooMuch(f"it has {len(source):,} characters, and may have {_LONGEST_SOURCE:,}")
                source = self.parse(source)
            tree = _Priced().visit(source)
            tree.set_environment(self)
            return super().compile(tree, *args, **kwargs)
        except (RecursionError, MemoryError):
            raise TooMuch("it is nested too deeply") from None

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (self.immutable and modifies_known_mutable(obj, attr))

    # ---------------------------------------------------------------- the budget

    def spend(self, steps: int = 1) -> bool:
        """Take steps from the budget of this rendering.

        Raises:
            TooMuch: there are not so many left.
        """
        left = _LEFT.get()
        left[0] -= steps
        if left[0] < 0:
            raise TooMuch(f"it takes more than {STEPS:,} steps")
        return True

    def reserve(self, characters: int) -> None:
        """Pay for a text before it is made."""
        if characters > _LONGEST:
            raise TooMuch(f"it makes a text of more than {_LONGEST:,} characters")
        self.spend(characters // _CHARACTERS)

    def read(self, value: Any) -> Any:
        """Return a value whose every part will be read, having paid for that."""
        self._weigh(value)
        return value

    def copied(self, value: Any) -> Any:
        """Return a value of which a part is cut out."""
        self.spend(1 + _size(value) // _CHARACTERS)
        return value

    def looked_in(self, value: Any) -> Any:
        """Return what something is looked for in: a dictionary or a range does not go through its values."""
        return value if isinstance(value, Mapping | range) else self.read(value)

    def _weigh(self, value: Any) -> int:
        """Pay for reading all parts of a value, as often as each of them stands in it; return the price."""
        price, waiting = 0, [(value, 0)]
        while waiting:
            one, depth = waiting.pop()
            parts = _parts(one)
            cost = 1 + len(parts) + (0 if parts else _size(one) // _CHARACTERS)
            self.spend(cost)
            price += cost
            if depth > _DEEPEST:
                raise TooMuch(f"it nests lists more than {_DEEPEST} levels deep")
            waiting += [(part, depth + 1) for part in parts]
        return price

    def _whole(self, value: Any) -> Any:
        """Return a value to be read to its end; what comes one by one is taken together, so that its length is known."""
        return self.read(list(value) if isinstance(value, Iterator) else value)

    def _made(self, value: Any) -> Any:
        """Return what an operation gave, paid by its length."""
        if isinstance(value, Iterator):
            return self._counted(value)
        if isinstance(value, str | bytes):
            self.reserve(len(value))
        elif isinstance(value, list | tuple | dict | set | frozenset):
            self.spend(len(value))
        return value

    def _counted(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.spend()
            yield value

    # ---------------------------------------------------------------- what a template does

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in Jinja
        """Call something: a macro, a method of a text or a list, a function."""
        if getattr(__obj, "__self__", None) is __self:  # what this module itself put there
            return __obj(*args)
        __self.spend(1 + len(args) + len(kwargs))
        if isinstance(__obj, Macro | BlockReference | LoopContext):
            return super().call(__context, __obj, *args, **kwargs)
        args = tuple(map(__self._whole, args))
        kwargs = {key: value if key in _SCOPES else __self._whole(value) for key, value in kwargs.items()}
        if isinstance(__obj, types.BuiltinMethodType):
            __self._price_method(__obj.__self__, __obj.__name__, (*args, *kwargs.values()))
        return __self._made(super().call(__context, __obj, *args, **kwargs))

    def _price_method(self, owner: Any, name: str, given: Sequence[Any]) -> None:
        if isinstance(owner, str | bytes | int):
            self._price_growth(name, owner, given)
            self.reserve(_size(owner))
        elif isinstance(owner, list | tuple | set | frozenset):
            self.copied(owner) if name in _GROWING_LISTS else self.read(owner)

    def _price_growth(self, name: str, value: Any, given: Sequence[Any]) -> None:
        """Pay for what an operation may write beyond what it is given: at so many places, so much."""
        for one in given:
            if isinstance(one, int) and abs(one) > _LARGEST:
                raise TooMuch(f"it gives '{name}' a number beyond {_LARGEST:,}")
        most = max((self._length(name, one) for one in given), default=0)
        if name in _NOT_LONGER:
            places = 1
        elif name == "replace" and given and isinstance(given[0], str | bytes) and isinstance(value, type(given[0])):
            places = value.count(given[0])  # type: ignore[arg-type]
        elif name == "expandtabs" and isinstance(value, str):
            places = value.count("\t")
        elif name == "indent" and isinstance(value, str):
            places = value.count("\n") + 1
        elif name == "tojson":
            places = self._weigh(value) * _DEEPEST
        else:
            places = _size(value) + 1
        self.reserve(places * most)

    def _length(self, name: str, value: Any) -> int:
        """Return how many characters an argument may bring in at each place."""
        if isinstance(value, int):
            return abs(value)
        return self._weigh(value) * _CHARACTERS if _parts(value) and name != "join" else _size(value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result may be large."""
        if operator == "%" and isinstance(left, str | bytes):
            self._price_percent(left, right)
        elif operator == "+":
            self.spend(_size(left) // _CHARACTERS + _size(right) // _CHARACTERS)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if operator in ("*", "**") and bits > _MOST_BITS:
                raise TooMuch(f"it works out a number of more than {_MOST_BITS:,} bits")
        elif operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(times, int):
                    self.reserve(_size(one) * max(times, 0))
        return self._made(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look something up; hashing a key reads all of it."""
        if not isinstance(argument, str | int | slice):
            self._weigh(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a text's ``format`` with its widths checked."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @wraps(wrapped)
        def bounded(*args: Any, **kwargs: Any) -> str:
            widths = []
            for _, field, spec, _ in Formatter().parse(value.__self__):
                if spec and "{" in spec:
                    raise TooMuch("it takes the width of a text from a value")
                widths += [_width(number) for number in re.findall(r"\d+", spec or "")] if field is not None else []
                widths += [0] if field is not None else []
            price = self._weigh(args) + self._weigh(kwargs)
            self.reserve(sum(widths) + len(widths) * price * _CHARACTERS)
            return wrapped(*args, **kwargs)

        return bounded

    def _price_percent(self, text: str | bytes, values: Any) -> None:
        found = list(_CONVERSION.finditer(text if isinstance(text, str) else text.decode("latin-1")))
        if any(match[3] for match in found):
            raise TooMuch("it takes the width of a text from a value, or a name with brackets")
        widths = sum(_width(number) for match in found for number in (match[1], match[2] or ""))
        self.reserve(len(text) + widths + len(found) * self._weigh(values) * _CHARACTERS)

    def _priced(self, name: str, function: Callable[..., Any], reads_all: bool, grows: bool) -> Callable[..., Any]:
        """Return a filter or a test that is paid before it is called, and by what it gives."""
        skipped = int(hasattr(function, "jinja_pass_arg"))  # it is first given the context or the environment

        @wraps(function)
        def priced(*args: Any, **kwargs: Any) -> Any:
            self.spend()
            before, given = args[:skipped], args[skipped:]
            if name in ("list", "reverse"):
                self.spend(_size(given[0]) if given else 0)
            if not reads_all:
                return self._made(function(*args, **kwargs))
            given = tuple(map(self._whole, given))
            kwargs = {key: self._whole(value) for key, value in kwargs.items()}
            rest = (*given[1:], *kwargs.values())
            if name == "format" and given and isinstance(given[0], str):
                self._price_percent(given[0], rest)
            elif name == "sum" and any(
                isinstance(one, list | tuple) for one in rest
            ):  # adds list to list, and copies each time
                self.spend(_size(given[0]) * self._weigh(given[0]))
            elif rest and grows:
                self._price_growth(name, given[0], rest)
            return self._made(function(*before, *given, **kwargs))

        return priced


class _BoundedTemplate(Template):
    def render(self, *args: Any, **kwargs: Any) -> str:
        token = _LEFT.set([STEPS])
        try:
            return super().render(*args, **kwargs)
        except RecursionError:
            raise TooMuch("it calls itself without end") from None
        except MemoryError:
            raise TooMuch("it takes more memory than there is") from None
        finally:
            _LEFT.reset(token)


class _Priced(NodeTransformer):
    """Puts the price into a template where Jinja has no hook for it."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        node.body.insert(0, _statement(node))
        if node.test is not None:
            node.test = nodes.And(_call(node, "spend"), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:  # noqa: N802
        self.generic_visit(node)
        written = sum(len(one.data) for one in node.nodes if isinstance(one, nodes.TemplateData))
        node.nodes = [one if isinstance(one, nodes.TemplateData) else _call(one, "read", one) for one in node.nodes]
        return [_statement(node, written // _CHARACTERS), node] if written >= _CHARACTERS else [node]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_call(one, "read", one) for one in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if any(not isinstance(one, nodes.Const) for one in (node.expr, *(operand.expr for operand in node.ops))):
            node.expr = _call(node, "read", node.expr)
            for operand in node.ops:
                operand.expr = _call(node, "looked_in" if operand.op in ("in", "notin") else "read", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call(node, "copied", node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _call(node, "read", node.key)
        return node


def _call(at: nodes.Node, name: str, *values: nodes.Expr) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=at.lineno)
    return nodes.Call(function, list(values), [], None, None, lineno=at.lineno)


def _statement(at: nodes.Node, steps: int = 1) -> nodes.ExprStmt:
    return nodes.ExprStmt(_call(at, "spend", nodes.Const(steps, lineno=at.lineno)), lineno=at.lineno)


def _size(value: Any) -> int:
    """Return how long a value is; 0 where it has no length of its own."""
    if isinstance(value, int):
        return value.bit_length()
    return len(value) if isinstance(value, str | bytes | range | Mapping | Sequence | Set | ValuesView) else 0


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, Namespace):  # which shows its values where it is written
        value = object.__getattribute__(value, "_Namespace__attrs")
    if isinstance(value, Mapping):
        return (*value.keys(), *value.values())
    return tuple(value) if isinstance(value, list | tuple | deque | Set | ValuesView) else ()


def _width(number: str) -> int:
    if len(number) > len(str(_LARGEST)) or int(number or 0) > _LARGEST:
        raise TooMuch(f"it asks for a text of a width beyond {_LARGEST:,}")
    return int(number or 0)
