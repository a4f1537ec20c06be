"""`fused`: a whole group drawn by one kernel, where its parameters are the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from modules.engine.worker.kernels.choose import MOST_BANS, MOST_K, Choice, Chooser, Counts
from modules.engine.worker.sampling.batch.members import Members
from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.draws import uniform

__all__ = ["Draw", "fused"]

Draw = Callable[[Tensor, Tensor | None], Tensor]
"""From the batch's logits [rows, vocab] and the places of a group to its tokens [n]."""

_BANS = ("ban_eos_token", "min_length", "custom_token_bans")
_NAMES = (
    *_BANS,
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("temperature", "top_k", "top_p", "min_p"),
)


def fused(members: Members, chooser: Chooser) -> Draw | None:
    """How to draw for these rows; None where one of them wants what the kernel has not."""
    choices = [_choice(row, members.state.vocab) for row in members.rows]
    known = [choice for choice in choices if choice is not None]
    if len(known) < len(choices):
        return None
    uploads, state, rows = members.uploads, members.state, members.rows
    params = uploads.raw(b"".join(choice.packed for choice in known)).view(len(known), -1)
    bans = uploads.ragged([choice.bans or [-1] for choice in known], -1)
    begins = state.begins(rows) if any(row.counted for row in rows) else None

    def draw(logits: Tensor, places: Tensor | None) -> Tensor:
        uniforms = uploads.doubles([uniform(row.seed, row.drawn) for row in rows])
        counts = None if begins is None else Counts(state.table, begins)
        return chooser(logits, places, params, bans, uniforms, counts)

    return draw


def _choice(row: Row, vocab: int) -> Choice | None:
    names, params = row.active, row.params
    if params.greedy or "top_k" not in names or params.top_k > MOST_K:
        return None
    if tuple(name for name in _NAMES if name in names) != names:
        return None  # another sampler, or another order
    bans = _banned(row, vocab)
    if len(bans) > MOST_BANS:
        return None
    return Choice(
        repetition=params.repetition_penalty if "repetition_penalty" in names else 1,
        presence=params.presence_penalty if "presence_penalty" in names else 0,
        frequency=params.frequency_penalty if "frequency_penalty" in names else 0,
        divisor=max(params.temperature, 1e-5) if "temperature" in names else 1,
        dropped=1 - params.top_p if "top_p" in names else -1,
        min_p=params.min_p if "min_p" in names else 0,
        top_k=params.top_k,
        bans=bans,
    )


def _banned(row: Row, vocab: int) -> Sequence[int]:
    named = {i for name in _BANS if name in row.active for i in row.tokens.get(name, [])}
    return sorted(i for i in named if i < vocab)
