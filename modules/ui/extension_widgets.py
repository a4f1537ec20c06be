"""`ExtensionWidgets`: what the `ui()` of extensions builds, as a part of the page.

Each is built apart: where one fails or hangs, its pieces are taken out again and the extension
is off. The events of what is built are the owner's alone, whoever sends them; and since every
visitor is sent the same page, what stands in a widget (a key, say) is not in it, but is filled
in for the owner when it is opened.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.blocks import Block, BlockContext
from gradio.components import Component
from gradio.context import Context, LocalContext
from gradio.events import EventData

from modules.access import caller_of
from modules.errors import ExtensionError
from modules.extensions.manager import ExtensionManager
from modules.extensions.script import Script
from modules.scripts import clause_of

__all__ = ["ExtensionWidgets"]

_LABELS = (gr.Button, gr.DownloadButton, gr.UploadButton, gr.HTML, gr.Markdown, gr.State, gr.Timer)
"""Components whose value is what they are, and nothing that somebody entered."""

_BY_THEMSELVES = frozenset({"load", "tick"})
"""Events that come from every open page, whoever looks at it."""


@dataclass(slots=True)
class _Built:
    """What one extension built: its components, and the values they were built with.

    `params` are those of that moment. `seen` are the values that events brought since, and
    `linked` the params that have followed a component's value.
    """

    script: Script
    blocks: dict[int, Block]
    values: dict[int, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    seen: dict[int, Any] = field(default_factory=dict)
    linked: dict[int, str] = field(default_factory=dict)
    place: BlockContext | None = None

    def value(self, id_: int) -> Any:
        """What a component should show now; `gr.skip()` where that is not known."""
        before, now = self.values[id_], self.script.params
        alike = [key for key, value in self.params.items() if _same(value, before)]
        if id_ in self.linked:
            alike = [self.linked[id_]]
        if len(alike) == 1:
            return now.get(alike[0], before)
        if any(not _same(now.get(key), self.params[key]) for key in alike):
            return self.seen.get(id_, gr.skip())
        return self.seen.get(id_, before)


class ExtensionWidgets:
    """Builds the widgets of the extensions that are on when the page is built."""

    def __init__(self, manager: ExtensionManager) -> None:
        self._manager = manager
        self._built: dict[str, _Built] = {}

    def shows(self, name: str) -> bool:
        """Whether the page has widgets of this extension that work.

        One that was switched on anew has other params, which the widgets know nothing of.
        """
        built = self._built.get(name)
        return built is not None and any(built.script is s for s in self._manager.plugins())

    # -- layout ---------------------------------------------------------------------------

    def build_tabs(self) -> None:
        """A tab for each that wants one."""
        for script in self._with_ui():
            if script.is_tab:
                made = functools.partial(
                    gr.Tab, script.display_name, id=f"extension-{script.name}",
                    elem_id=f"tab-extension-{script.name}", elem_classes="extension-tab",
                    render_children=True,
                )  # fmt: skip
                self._build(script, made)

    def build_blocks(self) -> None:
        """A block that unfolds for each of the others."""
        scripts = [script for script in self._with_ui() if not script.is_tab]
        if not scripts:
            return
        with gr.Column(elem_id="extension-blocks"):
            for script in scripts:
                made = functools.partial(
                    gr.Accordion, script.display_name, open=False,
                    elem_id=f"extension-block-{script.name}", elem_classes="extension-block",
                )  # fmt: skip
                self._build(script, made)

    def _with_ui(self) -> list[Script]:
        return [script for script in self._manager.plugins() if "ui" in script.hooks]

    def _build(self, script: Script, make: Callable[[], BlockContext]) -> None:
        root = Context.root_block
        assert root is not None, "widgets are built inside the page"
        config = root.default_config
        blocks, fns = set(config.blocks), set(config.fns)
        context, parent = Context.block, get_parent()
        try:
            with make() as place:
                self._manager.call_waiting(script, "ui")
                _restore(root, place)
        except ExtensionError:
            _restore(root, context)
            _take_out(config, parent, blocks, fns)
            return
        built = _Built(script, {i: b for i, b in config.blocks.items() if i not in blocks})
        built.place = place
        try:
            _require_safe(built.blocks)
        except ExtensionError as error:
            self._manager.fail(script.name, "ui", f"made what the page cannot have: {error}")
            _take_out(config, parent, blocks, fns)
            return
        self._built[script.name] = built
        for number, fn in config.fns.items():
            if number not in fns:
                self._guard(built, fn)

    # -- events ---------------------------------------------------------------------------

    def bind(self, blocks: gr.Blocks) -> None:
        """Fill the widgets in when the owner opens the page."""
        for built in self._built.values():
            shown: list[Any] = [one for one in built.blocks.values() if _holds_value(one)]
            built.params = dict(built.script.params)
            for one in shown:
                built.values[one._id] = one.value
                one.value = None
            filled = [one for one in shown if not one.load_event_to_attach]  # which fills it in
            if filled:
                blocks.load(
                    self._filler(built, [one._id for one in filled]), None, filled,
                    api_visibility="private", show_progress="hidden",
                )  # fmt: skip

    def guard_late(self, blocks: gr.Blocks) -> None:
        """Guard what gradio itself made for these components when the page was complete."""
        for fn in blocks.fns.values():
            for built in self._built.values():
                ids = {block._id for block in (*fn.inputs, *fn.outputs)}
                if ids & set(built.blocks) and not hasattr(fn.fn, "__lantern_guard__"):
                    self._guard(built, fn)

    def _filler(self, built: _Built, ids: list[int]) -> Callable[[gr.Request], Any]:
        def fill(request: gr.Request) -> Any:
            if not _is_owner(request) or not self.shows(built.script.name):
                return _skipped(len(ids))
            values = [built.value(id_) for id_ in ids]
            return values if len(values) > 1 else values[0]

        fill.__lantern_guard__ = True  # type: ignore[attr-defined]
        return fill

    def _guard(self, built: _Built, fn: BlockFunction) -> None:
        """Have an event answer the owner alone, and tell its faults in one sentence."""
        fn.api_visibility = "private"
        if fn.fn is not None:
            fn.fn = self._guarded(built, fn, fn.fn)

    def _guarded(self, built: _Built, fn: BlockFunction, run: Callable[..., Any]) -> Any:
        @contextmanager
        def guard(values: tuple[Any, ...]) -> Iterator[None]:
            self._require(built.script.name)
            before = dict(built.script.params)
            try:
                yield
            except gr.Error:
                raise
            except Exception as error:  # the extension call
                text = f"The extension {built.script.display_name} failed: {clause_of(error)}."
                raise gr.Error(text, print_exception=False) from error
            _note(built, fn, values, before)

        guarded = _wrapped(run, guard, self._manager.within)
        plain = not (inspect.iscoroutinefunction(run) or _generates(run))
        by_itself = bool(fn.targets) and {event for _, event in fn.targets} <= _BY_THEMSELVES
        return self._for_owner(built, fn, guarded) if plain and by_itself else guarded

    def _for_owner(self, built: _Built, fn: BlockFunction, run: Callable[..., Any]) -> Any:
        """`run`, which does nothing for others: their pages ask without their doing."""

        @functools.wraps(run)
        def function(*values: Any, **named: Any) -> Any:
            request = LocalContext.request.get(None)
            if request is None or not _is_owner(request) or not self.shows(built.script.name):
                return _skipped(len(fn.outputs))
            return run(*values, **named)

        return function

    def _require(self, name: str) -> None:
        """Raises gr.Error where the caller is not the owner, or the extension is off."""
        request = LocalContext.request.get(None)
        if request is None or not _is_owner(request):
            text = "Only the owner may use what extensions add to the page."
            raise gr.Error(text, print_exception=False)
        if not self.shows(name):
            raise gr.Error(f"{name} is off. Restart Lantern with it on.", print_exception=False)


def get_parent() -> BlockContext:
    """What the next piece of the page goes into."""
    assert Context.block is not None
    return Context.block


def _wrapped(
    run: Callable[..., Any],
    guard: Callable[[tuple[Any, ...]], Any],
    within: Callable[[Callable[[], Any]], Callable[[], Any]],
) -> Any:
    """`run` inside `guard`, of the same kind and signature, by which gradio decides."""

    @functools.wraps(run)
    async def generator(*values: Any, **named: Any) -> AsyncIterator[Any]:
        with guard(values):
            async for item in run(*values, **named):
                yield item

    @functools.wraps(run)
    async def coroutine(*values: Any, **named: Any) -> Any:
        with guard(values):
            return await run(*values, **named)

    @functools.wraps(run)
    def iterator(*values: Any, **named: Any) -> Iterator[Any]:
        with guard(values):
            yield from within(lambda: run(*values, **named))()

    @functools.wraps(run)
    def function(*values: Any, **named: Any) -> Any:
        with guard(values):
            return within(lambda: run(*values, **named))()

    made: Any = function
    if inspect.iscoroutinefunction(run):
        made = coroutine
    elif _generates(run):
        made = generator if inspect.isasyncgenfunction(run) else iterator
    made.__lantern_guard__ = True
    return made


def _generates(run: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run)


def _skipped(count: int) -> Any:
    """Nothing new for so many components."""
    return [gr.skip()] * count if count > 1 else gr.skip() if count else None


def _is_owner(request: gr.Request) -> bool:
    return request.request is not None and caller_of(request.request.scope).admin


def _note(
    built: _Built, fn: BlockFunction, values: tuple[Any, ...], before: dict[str, Any]
) -> None:
    """Remember what stands in the components, and which param each of them sets."""
    plain = [v for v in values if not isinstance(v, gr.Request | gr.Progress | EventData)]
    if fn.inputs_as_dict or len(plain) != len(fn.inputs):
        return
    now = built.script.params
    for component, value in zip(fn.inputs, plain, strict=True):
        if component._id not in built.values:
            continue
        built.seen[component._id] = value
        set_ = [k for k, v in now.items() if _same(v, value) and not _same(before.get(k), v)]
        if len(set_) == 1:
            built.linked[component._id] = set_[0]


def _holds_value(block: Block) -> bool:
    return (
        isinstance(block, Component)
        and not isinstance(block, _LABELS)
        and getattr(block, "value", None) is not None
    )


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _restore(root: gr.Blocks, block: BlockContext | None) -> None:
    """Put right where gradio builds next, which a `ui` that was broken off leaves anywhere."""
    Context.root_block, Context.block = root, block


def _take_out(config: Any, parent: BlockContext, blocks: set[int], fns: set[int]) -> None:
    """Take out of the page whatever is not among these."""
    for id_ in [one for one in config.blocks if one not in blocks]:
        made = config.blocks.pop(id_)
        if made in parent.children:
            parent.children.remove(made)
    for number in [one for one in config.fns if one not in fns]:
        del config.fns[number]


def _require_safe(blocks: dict[int, Block]) -> None:
    """Refuse what any visitor could call, and what cannot be sent to a browser.

    Raises ExtensionError.
    """
    for block in blocks.values():
        kind = type(block).__name__
        served = [name for name in dir(type(block)) if not name.startswith("__")]
        if any(getattr(getattr(type(block), n, None), "_is_server_fn", False) for n in served):
            raise ExtensionError(f"{kind} has functions that any visitor could call")
        try:
            block.get_config()
        except Exception as error:  # the extension call
            raise ExtensionError(f"{kind}: {error}") from error
