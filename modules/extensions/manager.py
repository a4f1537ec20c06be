"""`ExtensionManager`: which extensions are on, in which order, and what became of the others."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from modules.engine.client import EngineClient
from modules.errors import ExtensionError, InvalidInputError, NotFoundError
from modules.extensions import webui
from modules.extensions.calls import DECLINED, Deadlines, call, call_waiting, iterate
from modules.extensions.chosen import Chosen, chosen_of, fitting, is_plain
from modules.extensions.discover import Found, discover
from modules.extensions.hooks import IN_WORKER, TYPES
from modules.extensions.script import Plugins, Script
from modules.scripts import HOST, HookError, import_script
from modules.settings import Origins, Settings
from modules.signals import Signal

__all__ = ["ExtensionInfo", "ExtensionManager", "open_extensions"]

log = logging.getLogger(__name__)

Status = Literal["off", "on", "failed"]

_CORRECT = "Correct its script.py, then switch it on again."
_WITHHELD = "It is named in settings.yaml alone, which does not count where others reach the page."
_WEBUI = "modules.extensions.webui"
_RESERVED = frozenset({"display_name", "is_tab"})


@dataclass(frozen=True, slots=True)
class ExtensionInfo:
    """One extension as a user should see it.

    `error` and `remedy` are sentences: which hook failed, how, and in which line. `params` are
    its plain values. `name` is the folder.
    """

    name: str
    display_name: str
    about: str
    state: Status
    error: str
    remedy: str
    hooks: tuple[str, ...]
    has_ui: bool
    params: Mapping[str, Any]


@dataclass(slots=True)
class _Extension:
    """What is known of one. `version` counts how often it was switched on."""

    found: Found
    state: Status = "off"
    error: str = ""
    remedy: str = ""
    script: Script | None = None
    values: dict[str, Any] = field(default_factory=dict)
    version: int = 0

    @property
    def params(self) -> dict[str, Any]:
        """Its plain params: as they are now, or as they would be once it is on."""
        if self.script is not None:
            return {k: v for k, v in self.script.params.items() if is_plain(v)}
        return {k: v for k, v in (self.found.params | self.values).items() if is_plain(v)}


class ExtensionManager:
    """The extensions of one folder. Belongs to the event loop, but for `start`.

    Whatever one of them does (raise, hang, return nonsense, end the program), it is switched
    off with a word about it, and the caller goes on.
    """

    def __init__(
        self,
        folder: Path,
        chosen: Chosen | None = None,
        *,
        host: webui.HookHost | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.changed = Signal()
        self.deadlines = deadlines or Deadlines()
        self._folder = folder
        self._chosen = chosen or Chosen()
        self._host = host
        self._plugins = Plugins()
        self._lock = asyncio.Lock()
        self._order = list(self._chosen.names)
        self._extensions: dict[str, _Extension] = {}
        self._declared: frozenset[str] = frozenset()
        self._look()

    def start(self) -> None:
        """Switch on what was chosen, before there is an event loop."""
        for name in self._chosen.withheld:
            log.warning("The extension %s is off. %s", name, _WITHHELD)
        for name in self._chosen.names:
            extension = self._extensions.get(name)
            if extension is None:
                # Told in the list, too, since a launch should not fail for it.
                missing = Found(name, self._folder / name / "script.py", name)
                extension = self._extensions[name] = _Extension(missing)
                self._note_failure(extension, f"There is no {self._folder.name}/{name}/script.py.",
                                   "Look at the name, or at --extension-dir.")  # fmt: skip
                continue
            try:
                script = self._begun(extension)
            except ExtensionError as error:
                self._note_failure(extension, error.message, error.remedy)
            else:
                self._register(extension, script)

    # -- what there is --------------------------------------------------------------------

    def infos(self) -> tuple[ExtensionInfo, ...]:
        """All in the folder: those that are on in their order, then the others by name."""
        self._look()
        rank = {name: place for place, name in enumerate(self._order)}
        last = len(rank)
        extensions = sorted(
            self._extensions.values(), key=lambda e: (rank.get(e.found.name, last), e.found.name)
        )
        return tuple(self._info(extension) for extension in extensions)

    def is_on(self, name: str) -> bool:
        """Whether this one is there, switched on, and works."""
        extension = self._extensions.get(name)
        return extension is not None and extension.state == "on"

    def plugins(self) -> tuple[Script, ...]:
        """The scripts that are on and imported, in their order."""
        on = (self._extensions[name] for name in self.names_on())
        return tuple(e.script for e in on if e.script is not None)

    @property
    def declared(self) -> frozenset[str]:
        """Every hook that an extension which is on has."""
        return self._declared

    @property
    def has_tensor_hooks(self) -> bool:
        """Whether one of them runs in the engine worker."""
        return bool(self._declared & IN_WORKER)

    def names_on(self) -> list[str]:
        """The names of those that are on, in their order."""
        return [name for name in self._order if self.is_on(name)]

    def declaring(self, hook: str) -> list[Script]:
        """The scripts that are on and have this hook, in their order."""
        return self._plugins.declaring(hook)

    def in_worker(self) -> list[tuple[Found, dict[str, Any], int]]:
        """Extensions with tensor hooks that are on, in order: with params and version."""
        on = (self._extensions[name] for name in self.names_on())
        return [(e.found, e.params, e.version) for e in on if e.found.tensor_hooks]

    # -- on and off -----------------------------------------------------------------------

    async def enable(self, name: str) -> None:
        """Import an extension as its file is now, and switch it on, the last in the order.

        Raises ExtensionError, after which it is listed as failed, and NotFoundError.
        """
        self._note_loop()
        async with self._lock:
            self._look()
            extension = self._extension(name)
            if extension.state == "on":
                return
            try:
                script = await asyncio.to_thread(self._begun, extension)
            except ExtensionError as error:
                self._note_failure(extension, error.message, error.remedy)
                raise
            self._register(extension, script)

    async def disable(self, name: str) -> None:
        """Switch an extension off. Raises NotFoundError."""
        async with self._lock:
            extension = self._extension(name)
            self._unregister(extension)
            extension.state, extension.error, extension.remedy = "off", "", ""
            self._note_hooks()

    async def set_param(self, name: str, key: str, value: Any) -> None:
        """Give one of an extension's params another value, until the next start.

        Raises NotFoundError, and InvalidInputError for a value of another kind.
        """
        extension = self._extension(name)
        known = extension.params
        if key not in known or key in _RESERVED:
            raise NotFoundError(f"{name} has no param {key[:60]!r}.", "Look at its script.py.")
        extension.values[key] = fitting(known[key], value, f"{name}-{key}")
        if extension.script is not None:
            extension.script.params[key] = extension.values[key]
        self.changed.notify()

    def fail(
        self, name: str, hook: str, error: BaseException | str, version: int | None = None
    ) -> None:
        """Switch one off for what its `hook` did; everything else goes on.

        With `version`, only if it was not switched on again since.
        """
        extension = self._extensions.get(name)
        if extension is None or extension.state != "on":
            return
        if version not in (None, extension.version):
            return
        self._unregister(extension)
        self._note_failure(extension, f"{hook} {error}.", _remedy(error))

    # -- calls ----------------------------------------------------------------------------

    async def call(self, script: Script, hook: str, *values: Any) -> Any:
        """What one script makes of a hook's arguments, checked.

        Raises ExtensionError, after the extension was switched off.
        """
        self._note_loop()
        try:
            run = self.within(lambda: getattr(script, hook)(*values))
            return checked(hook, await call(run, script.name, self.deadlines.of(hook)))
        except HookError as error:
            raise self._failed(script, hook, error) from error

    def call_waiting(self, script: Script, hook: str, *values: Any) -> Any:
        """As `call`, where there is no event loop."""
        try:
            run = self.within(lambda: getattr(script, hook)(*values))
            return checked(hook, call_waiting(run, script.name, self.deadlines.of(hook)))
        except HookError as error:
            raise self._failed(script, hook, error) from error

    async def modified(
        self, hook: str, value: Any, arguments: Callable[[Any], tuple[Any, ...]],
        accept: Callable[[Any], Any] = lambda value: value,
        scripts: Iterable[Script] | None = None,
    ) -> Any:  # fmt: skip
        """`value` after each script that has the hook: what one gives is what the next one gets.

        `arguments` makes a hook's arguments of a value, and `accept` a value of what it
        returned; a ValueError or LanternError of `accept` counts as a fault of the hook.
        """
        for script in self.declaring(hook) if scripts is None else scripts:
            try:
                made = await self.call(script, hook, *copy.deepcopy(arguments(value)))
                value = accept(made)
            except ExtensionError:
                continue
            except (ValueError, TypeError, KeyError, InvalidInputError) as error:
                self.fail(script.name, hook, HookError(f"returned what does not fit: {error}"))
        return value

    async def pieces(self, script: Script, hook: str, *values: Any) -> AsyncGenerator[Any, None]:
        """What a generator hook yields.

        Raises ExtensionError, as `call` does, and without switching anything off where the hook
        returned None, which leaves the reply to the model.
        """
        self._note_loop()
        run = self.within(lambda: getattr(script, hook)(*values))
        items = iterate(run, script.name, self.deadlines.piece_s)
        try:
            async for item in items:
                if item is DECLINED:
                    raise ExtensionError(f"{script.name} leaves it to the model.")
                if not isinstance(item, str):
                    raise HookError(f"yielded a value of type {type(item).__name__} and no text")
                yield item
        except HookError as error:
            raise self._failed(script, hook, error) from error
        finally:
            await items.aclose()

    def within(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """`run`, for a thread of its own, where webui.py finds what it works with."""

        def inside() -> Any:
            HOST.set(self._host)
            return run()

        return inside

    # -- inside ---------------------------------------------------------------------------

    def _note_loop(self) -> None:
        """Where webui.py may ask things of the engine."""
        if self._host is not None and self._host.loop is None:
            self._host.loop = asyncio.get_running_loop()

    def _failed(self, script: Script, hook: str, error: HookError) -> ExtensionError:
        self.fail(script.name, hook, error)
        return ExtensionError(f"The extension {script.name} failed: {hook} {error}.", _CORRECT)

    def _look(self) -> None:
        """Read the folder again, for what is not on."""
        known = {name: extension.found for name, extension in self._extensions.items()}
        found = discover(self._folder, known)
        for name, one in found.items():
            extension = self._extensions.get(name)
            if extension is None:
                values = dict(self._chosen.params.get(name, {}))
                self._extensions[name] = _Extension(one, values=values)
            elif extension.state != "on":
                extension.found = one
        for name, extension in list(self._extensions.items()):
            if name not in found and extension.state == "off":
                del self._extensions[name]

    def _extension(self, name: str) -> _Extension:
        extension = self._extensions.get(name)
        if extension is None:
            raise NotFoundError(f"There is no extension {name[:60]!r}.", "Look at the name.")
        return extension

    def _begun(self, extension: _Extension) -> Script | None:
        """Import a script and set it up; None where it has nothing to do here.

        Waits, so not in the event loop. Raises ExtensionError.
        """

        def bounded(run: Callable[[], Any], hook: str) -> Any:
            return call_waiting(self.within(run), found.name, self.deadlines.of(hook))

        found = extension.found
        if found.error:
            raise ExtensionError(found.error, _CORRECT)
        if found.only_in_worker:
            return None
        hook = "import"
        try:
            module = bounded(lambda: import_script(found.name, found.path), hook)
            script = Script(found.name, module)
            for key, value in extension.values.items():
                if key in script.params:
                    script.params[key] = value
            if "setup" in script.hooks:
                hook = "setup"
                bounded(script.setup, hook)  # type: ignore[attr-defined]
        except HookError as error:
            raise ExtensionError(f"{hook} {error}.", _remedy(error)) from error
        return script

    def _register(self, extension: _Extension, script: Script | None) -> None:
        name = extension.found.name
        extension.script, extension.state = script, "on"
        extension.error = extension.remedy = ""
        extension.version += 1
        if name not in self._order:
            self._order.append(name)
        if script is not None:
            self._plugins.register(script, name)
        self._note_hooks()

    def _unregister(self, extension: _Extension) -> None:
        if extension.script is not None and self._plugins.is_registered(extension.script):
            self._plugins.unregister(extension.script)
        extension.values |= {k: v for k, v in extension.params.items() if k not in _RESERVED}
        extension.script = None
        if extension.found.name in self._order:
            self._order.remove(extension.found.name)

    def _note_failure(self, extension: _Extension, error: str, remedy: str) -> None:
        extension.state, extension.error, extension.remedy = "failed", error, remedy
        log.warning("The extension %s is off: %s %s", extension.found.name, error, remedy)
        self._note_hooks()

    def _note_hooks(self) -> None:
        """Remember which hooks there are, and say that something changed."""
        hooks: set[str] = set()
        for name in self.names_on():
            extension = self._extensions[name]
            hooks |= set(extension.found.tensor_hooks)
            hooks |= set(extension.script.hooks if extension.script else ())
        self._declared = frozenset(hooks)
        self.changed.notify()

    def _info(self, extension: _Extension) -> ExtensionInfo:
        found, script = extension.found, extension.script
        hooks = script.hooks if script is not None else found.hooks
        info = ExtensionInfo(
            name=found.name,
            display_name=script.display_name if script else found.display_name,
            about=found.about,
            state=extension.state,
            error=extension.error or found.error,
            remedy=extension.remedy or (_CORRECT if found.error else ""),
            hooks=hooks,
            has_ui="ui" in hooks,
            params=MappingProxyType(
                {k: v for k, v in extension.params.items() if k not in _RESERVED}
            ),
        )
        if extension.state == "off" and found.name in self._chosen.withheld:
            remedy = f"Start Lantern with --extensions {found.name} to have it."
            return replace(info, error=_WITHHELD, remedy=remedy)
        return info


def checked(hook: str, value: Any) -> Any:
    """What a hook returned, if it is of the right type. Raises HookError."""
    wanted = TYPES.get(hook)
    if wanted is None or hook in IN_WORKER:
        return value
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    if isinstance(value, wanted) and not (int in wanted and isinstance(value, bool)):
        return value
    names = ["None" if one is type(None) else one.__name__ for one in wanted]
    given = "nothing" if value is None else f"a value of type {type(value).__name__}"
    raise HookError(f"returned {given} and not {' or '.join(names)}")


def _remedy(error: BaseException | str) -> str:
    """What to do about a hook's fault."""
    cause = error.__cause__ if isinstance(error, BaseException) else None
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        if cause.name.startswith("modules."):
            return f"Import it from {_WEBUI} in its place; docs/extensions.md says what is there."
        return f"Install it (pip install {cause.name.partition('.')[0]}), and switch it on again."
    return _CORRECT


def open_extensions(settings: Settings, origins: Origins, engine: EngineClient) -> ExtensionManager:
    """The extensions of a launch, those that it wants switched on. Raises SettingsError."""
    host = webui.HookHost(engine, settings)
    manager = ExtensionManager(settings.extension_dir, chosen_of(settings, origins), host=host)
    manager.start()
    return manager
