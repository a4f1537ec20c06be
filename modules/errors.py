"""Every error that a user can meet.

LanternError
├── SettingsError            a flag, variable or settings.yaml entry is wrong
├── StorageError             user_data/ cannot be read or written
├── NotFoundError            a chat, message, job or prompt that is not there
├── ForbiddenError           something that only the owner may do
├── InvalidInputError        a value from outside is out of its bounds
│   └── InvalidNameError     a name that may not become a file name
├── DownloadError            a download or its conversion did not finish
│   ├── DownloadStoppedError     it was paused or cancelled
│   └── DownloadIncompleteError  some of its files did not come
├── ModelError               a checkpoint cannot be used
│   ├── ModelNotFoundError   no such folder in models/
│   ├── NotAModelError       the folder lacks what a model needs
│   ├── UnsafeModelError     loading it would run code from it
│   └── LoadFailedError      the engine could not load it
├── AdapterError             a LoRA cannot be used
├── TemplateError            a chat template does not render
├── DatasetError             a dataset cannot be learnt from
├── TrainingError            a training run cannot begin, or go on
├── TunnelError              the share link could not be opened
├── ExtensionError           an extension cannot be used
└── EngineError              a request to the engine failed
    ├── NoModelError         nothing is loaded
    ├── WorkerDiedError      the engine worker ended by itself
    └── PromptTooLongError   the prompt alone exceeds the context

Each carries a message (what happened) and a remedy (what to do), both of them
one sentence; `str(error)` joins the two.
"""

from __future__ import annotations

__all__ = [
    "AdapterError",
    "DatasetError",
    "DownloadError",
    "DownloadIncompleteError",
    "DownloadStoppedError",
    "EngineError",
    "ExtensionError",
    "ForbiddenError",
    "InvalidInputError",
    "InvalidNameError",
    "LanternError",
    "LoadFailedError",
    "ModelError",
    "ModelNotFoundError",
    "NoModelError",
    "NotAModelError",
    "NotFoundError",
    "PromptTooLongError",
    "SettingsError",
    "StorageError",
    "TemplateError",
    "TrainingError",
    "TunnelError",
    "UnsafeModelError",
    "WorkerDiedError",
]


class LanternError(Exception):
    """Something a user can understand and act on."""

    def __init__(self, message: str, remedy: str = "") -> None:
        # What came from outside is quoted in it, and half an emoji can be sent to no page.
        message, remedy = (t.encode("utf-8", "replace").decode() for t in (message, remedy))
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class SettingsError(LanternError):
    """A flag, an environment variable or an entry of settings.yaml is wrong."""


class StorageError(LanternError):
    """`user_data/` cannot be read or written."""


class NotFoundError(LanternError):
    """A chat, message, job or prompt that is not there (or not yours)."""


class ForbiddenError(LanternError):
    """Something that only the owner may do."""


class InvalidInputError(LanternError):
    """A value from outside is out of its bounds. `field` names it where there is one."""

    def __init__(self, message: str, remedy: str = "", field: str = "") -> None:
        super().__init__(message, remedy)
        self.field = field


class InvalidNameError(InvalidInputError):
    """A name that may not become a file name."""


class DownloadError(LanternError):
    """A download, or the conversion that follows it, did not finish."""


class DownloadStoppedError(DownloadError):
    """A download was paused (what has come is kept) or cancelled (it is deleted)."""

    def __init__(self, message: str, remedy: str = "", *, paused: bool) -> None:
        super().__init__(message, remedy)
        self.paused = paused


class DownloadIncompleteError(DownloadError):
    """Some files did not come: `missing` has the path and the reason for each."""

    def __init__(self, message: str, remedy: str, missing: tuple[tuple[str, str], ...]) -> None:
        super().__init__(message, remedy)
        self.missing = missing


class ModelError(LanternError):
    """A checkpoint cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no such folder in the models directory."""


class NotAModelError(ModelError):
    """The folder lacks what a model needs."""


class UnsafeModelError(ModelError):
    """Loading the checkpoint would run code that it carries."""


class LoadFailedError(ModelError):
    """The engine could not load the checkpoint."""


class AdapterError(LanternError):
    """A LoRA cannot be used: damaged, made for another model, or not applied."""


class TemplateError(LanternError):
    """A chat template does not render."""


class DatasetError(LanternError):
    """A dataset cannot be learnt from."""


class TrainingError(LanternError):
    """A training run cannot begin, or go on."""


class TunnelError(LanternError):
    """The share link could not be opened."""


class ExtensionError(LanternError):
    """An extension cannot be used: not there, damaged, or switched off for what it did."""


class EngineError(LanternError):
    """A request to the engine failed."""


class NoModelError(EngineError):
    """No model is loaded."""

    def __init__(self) -> None:
        super().__init__("No model is loaded.", "Load one from the strip at the top of the page.")


class WorkerDiedError(EngineError):
    """The engine worker ended by itself: killed, out of memory, or crashed."""


class PromptTooLongError(EngineError):
    """The prompt alone exceeds the context."""
