"""A jinja2 sandbox in which a template from a stranger runs on a meter.

Jinja's immutable sandbox keeps a template from touching Python; it does not keep it
from looping for ever or from filling the memory. Here every operation that makes text
or lists out of other text or lists is charged before it runs, and a trace function
watches the processor time, so that loops without output end as well.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import CodeType
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from modules.chat.meter import (
    METHOD_COSTS,
    LimitError,
    Meter,
    filter_costs,
    format_cost,
    operator_cost,
    shallow_cost,
)
from modules.errors import TemplateError

__all__ = ["Program", "RefusedError"]

_REMEDY = "Use a checkpoint with another chat template, or the Notebook tab."
_ABSENT_FILTERS = ("batch", "pprint", "slice", "urlize", "wordwrap", "xmlattr")
_ABSENT_METHODS = frozenset({"encode", "maketrans", "to_bytes", "translate"})


class RefusedError(TemplateError):
    """The template called `raise_exception`: it does not take this conversation."""


class Program:
    """A template that is run many times, each time on a full meter, and by one thread.

    Setting up the sandbox takes three quarters of the time of a short rendering; here it is
    done once. No run leaves anything for the next: what a template sets ends with it.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._meter = Meter(0, 0)
        self._code: CodeType | None = None
        self._environment: _Sandbox | None = None

    def run(
        self, variables: Mapping[str, object], *, output: int, work: int, seconds: float
    ) -> str:
        """What the template makes of `variables`.

        `output` and `work` are in characters: of the result, and of everything that is made
        on the way; `seconds` are of processor time. Raises RefusedError when the template
        refuses its input, and TemplateError for a damaged template or a limit.
        """
        meter = self._meter
        meter.renew(work, seconds)
        try:
            if self._code is None:
                with meter.watching():
                    self._code = _compiled(self.source)
            with meter.watching():
                if self._environment is None:
                    self._environment = _Sandbox(meter)
                shared = self._environment.make_globals(None)
                template = Template.from_code(self._environment, self._code, shared)
                return _collected(template.generate(variables), output)
        except LimitError as error:
            raise TemplateError(f"The chat template was stopped: {error}.", _REMEDY) from None
        except TemplateError:
            raise
        except Exception as error:  # a template is foreign code, and raises anything
            detail = f"{type(error).__name__}: {str(error)[:200]}"
            raise TemplateError(
                f"The chat template does not render ({detail}).", _REMEDY
            ) from error


def _collected(pieces: Iterable[str], limit: int) -> str:
    whole, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise LimitError("its output grew too long")
        whole.append(piece)
    return "".join(whole)


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> CodeType:
    # Constant filters run while compiling, hence a meter here, too.
    return _Sandbox(Meter(1_000_000, 0)).compile(source)


# -- the environment ----------------------------------------------------------------------


class _MeteredCode(CodeGenerator):
    """Charges the two expressions that the sandbox does not intercept."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        self.write("environment.charged(")
        super().visit_Getitem(node, frame)
        self.write(")")


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(Namespace):
    """`namespace()`, without private names, and without its content in its text."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TypeError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


class _Sandbox(ImmutableSandboxedEnvironment):
    """Configured as Hugging Face configures it for chat templates, on a meter."""

    code_generator_class = _MeteredCode
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=self._finalized,
            extensions=[_GenerationBlock, loopcontrols],
        )
        self.globals |= {
            "dict": lambda *args, **named: dict(*args, **named),
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        del self.globals["lipsum"]
        costs = filter_costs(meter)
        filters = self.filters | {"tojson": _tojson}
        self.filters = {
            name: self._metered(function, costs.get(name))
            for name, function in filters.items()
            if name not in _ABSENT_FILTERS
        }

    def charged(self, value: Any) -> Any:
        """`value`, which was just made (a slice, mostly), once it is paid for."""
        self._meter.spend(shallow_cost(value))
        return value

    def concatenated(self, parts: tuple[object, ...]) -> str:
        """The operator `~`."""
        self._meter.spend(sum(self._meter.weigh(part) for part in parts))
        return "".join(map(str, parts))

    def concat(self, parts: Iterable[str]) -> str:
        """What a macro or a block of `set`, `call` or `filter` wrote."""
        pieces = list(parts)
        self._meter.spend(sum(map(len, pieces)))
        return "".join(pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, once it is paid for."""
        self._meter.spend(operator_cost(self._meter, operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call, once it is paid for; doubled underscores keep clear of `kwargs`."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = __self._pay_method(owner, __obj.__name__, args, kwargs)
        return __self.charged(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's rule, less a few methods that make much out of little."""
        return attr not in _ABSENT_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` in Jinja's own sandbox, once it is paid for."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def metered(*args: Any, **kwargs: Any) -> str:
            cost = format_cost(self._meter, "{", str(value.__self__), (args, kwargs))
            self._meter.spend(cost)
            return wrapped(*args, **kwargs)

        return metered

    def _pay_method(
        self, owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        if name == "join" and args:
            items = list(args[0])
            self._meter.spend(self._meter.weigh(items) + len(owner) * len(items))
            return (items, *args[1:])
        if name in METHOD_COSTS:
            self._meter.spend(METHOD_COSTS[name](owner, *args, **kwargs))
        return args

    def _metered(
        self, function: Callable[..., Any], cost: Callable[..., int] | None
    ) -> Callable[..., Any]:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            if cost is not None:
                # An iterator would be empty after weighing it.
                rest = [list(a) if isinstance(a, Iterator) else a for a in args[first:]]
                args = (*args[:first], *rest)
                self._meter.spend(cost(*rest, **kwargs))
            return self.charged(function(*args, **kwargs))

        return metered

    def _finalized(self, value: object) -> object:
        if not isinstance(value, str):
            self._meter.spend(self._meter.weigh(value))
        return value


def _raise_exception(message: object) -> NoReturn:
    raise RefusedError(
        f"The model's chat template refuses this conversation: {str(message)[:200]}",
        "Begin with a user message, and let user and assistant take turns.",
    )


def _strftime_now(layout: str) -> str:
    if len(layout) > 100 or re.search(r"%[^a-zA-Z%]*\d", layout):
        raise ValueError("strftime_now takes a short format without widths")
    return datetime.now().astimezone().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes for HTML, which a prompt is not.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
