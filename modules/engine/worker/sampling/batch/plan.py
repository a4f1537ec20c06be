"""`Plan`: which rows go through which steps together. Made anew when other rows come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from modules.engine.worker.kernels.choose import Chooser
from modules.engine.worker.sampling.batch import cuts, feedback, penalties, shapes
from modules.engine.worker.sampling.batch.field import Field, Step
from modules.engine.worker.sampling.batch.fused import Draw, fused
from modules.engine.worker.sampling.batch.members import Members
from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.state import State
from modules.engine.worker.sampling.chain import BANS, sampler_order
from modules.engine.worker.sampling.draws import pick, uniform

__all__ = ["Group", "Plan", "make_plan"]

STEPS: Mapping[str, Callable[[Members], Step]] = {
    "ban_eos_token": partial(penalties.ban, name="ban_eos_token"),
    "min_length": partial(penalties.ban, name="min_length"),
    "custom_token_bans": partial(penalties.ban, name="custom_token_bans"),
    "logit_bias": penalties.logit_bias,
    "encoder_repetition_penalty": penalties.prompt_bonus,
    "repetition_penalty": penalties.repetition,
    "presence_penalty": penalties.presence,
    "frequency_penalty": penalties.frequency,
    "dry": penalties.dry,
    "no_repeat_ngram": penalties.no_repeat_ngram,
    "top_n_sigma": cuts.top_n_sigma,
    "temperature": shapes.temperature,
    "dynamic_temperature": shapes.dynamic_temperature,
    "quadratic_sampling": shapes.quadratic_sampling,
    "top_k": cuts.top_k,
    "top_p": cuts.top_p,
    "typical_p": cuts.typical_p,
    "epsilon_cutoff": cuts.epsilon,
    "eta_cutoff": cuts.eta,
    "tfs": cuts.tail_free,
    "top_a": cuts.top_a,
    "min_p": cuts.min_p,
    "mirostat 1": feedback.mirostat_one,
    "mirostat 2": feedback.mirostat_two,
    "xtc": cuts.xtc,
    "adaptive_p": feedback.adaptive_p,
}
"""How to make each step, by the names in `Row.active`."""

_SORTING = {"top_p", "tfs", "xtc", "mirostat 1"}


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that go through the same steps. `places` are theirs in the batch; None for all.

    `fused` does what all steps and `pick` do.
    """

    members: Members
    places: Tensor | None
    steps: tuple[Step, ...]
    greedy: bool
    fused: Draw | None = None

    def process(self, logits: Tensor) -> Field:
        """What the steps make of the batch's logits [rows, vocab]."""
        field = Field(logits if self.places is None else logits.index_select(0, self.places))
        for step in self.steps:
            step(field)
        return field

    def drawn(self, logits: Tensor) -> Tensor:
        """The token [n] of each row, by `fused`."""
        assert self.fused is not None
        return self.fused(logits, self.places)

    def pick(self, field: Field) -> Tensor:
        """The token [n] of each row."""
        if self.greedy:
            # No step of a greedy row leaves the order of the vocabulary.
            return field.scores.argmax(-1)
        numbers = [uniform(row.seed, row.drawn) for row in self.members.rows]
        uniforms = self.members.uploads.floats(numbers, torch.float64)[:, None]
        columns = pick(field.in_order(), uniforms)
        return columns if field.ids is None else field.ids.gather(1, columns[:, None])[:, 0]


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups of a batch; `places` are its rows' in the tokens of all groups, in a row.

    `begins` are where their counts begin in the state, if any of them are counted.
    """

    rows: tuple[Row, ...]
    state: State
    groups: tuple[Group, ...]
    places: Tensor | None
    begins: Tensor | None

    @property
    def plain(self) -> bool:
        """Whether the highest logit is all that is asked for."""
        return all(group.greedy and not group.steps for group in self.groups)

    def draw(self, logits: Tensor, ok: Tensor) -> Tensor:
        """A token [rows] of each row; 0 where it is not `ok` [rows]."""
        fields = [None if group.fused else group.process(logits) for group in self.groups]
        parts = [
            group.pick(field) if field else group.drawn(logits)
            for group, field in zip(self.groups, fields, strict=True)
        ]
        # Masked before anything is looked up by them: of NaN they may be no tokens at all.
        tokens = parts[0] if self.places is None else torch.cat(parts).index_select(0, self.places)
        tokens = tokens * ok
        for group, field in zip(self.groups, fields, strict=True):
            if field and field.learners:
                mine = tokens if group.places is None else tokens.index_select(0, group.places)
                for learn in field.learners:
                    learn(mine)
        return tokens

    def note(self, tokens: Tensor) -> None:
        """Have the rows remember what was drawn for them."""
        if self.begins is not None:
            self.state.count(self.begins, tokens)
            self.state.drop_passed(self.begins, self.rows)
        self.state.write(self.rows, tokens)
        for row in self.rows:
            row.drawn += 1


def make_plan(rows: Sequence[Row], state: State, chooser: Chooser | None = None) -> Plan:
    """Rows of the same order, and with the same dear steps, go together."""
    sorts: dict[tuple[object, ...], list[int]] = {}
    names = [row.active for row in rows]
    for place, row in enumerate(rows):
        sorts.setdefault(_sort_of(row, names[place]), []).append(place)
    groups = []
    for key, places in sorts.items():
        wanted = {name for place in places for name in names[place]}
        members = Members([rows[place] for place in places], state)
        order = key[0]
        assert isinstance(order, tuple)
        steps = tuple(STEPS[name](members) for name in order if name in wanted)
        alone = len(sorts) == 1
        groups.append(
            Group(
                members,
                None if alone else state.uploads.ints(places),
                steps,
                rows[places[0]].params.greedy,
                None if chooser is None else fused(members, chooser),
            )
        )
    flat = [place for places in sorts.values() for place in places]
    inverse = sorted(range(len(flat)), key=flat.__getitem__)
    return Plan(
        tuple(rows),
        state,
        tuple(groups),
        state.uploads.ints(inverse) if len(groups) > 1 else None,
        state.begins(rows) if any(row.counted for row in rows) else None,
    )


def _sort_of(row: Row, names: tuple[str, ...]) -> tuple[object, ...]:
    """What rows have to have in common: first the order of their steps."""
    chosen = set(names)
    narrow = "top_k" in chosen
    dear = not narrow and not chosen.isdisjoint(_SORTING)
    typical = not narrow and "typical_p" in chosen
    return (_order(names), row.params.greedy, narrow, dear, typical)


def _order(names: tuple[str, ...]) -> tuple[str, ...]:
    """The usual order, or that with the temperature last, or if neither will do, `names`."""
    for last in (False, True):
        order = _expanded([*BANS, *sampler_order((), last)])
        if tuple(sorted(names, key=order.index)) == names:
            return tuple(order)
    return names


def _expanded(order: Sequence[str]) -> list[str]:
    both = ["mirostat 1", "mirostat 2"]
    return [name for entry in order for name in (both if entry == "mirostat" else [entry])]
