"""Bans, biases and penalties. Formulas are those of sampling/penalties.py and of transformers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from modules.engine.worker.sampling.batch.field import Field, Step
from modules.engine.worker.sampling.batch.members import Members

__all__ = ["ban", "dry", "frequency", "logit_bias", "no_repeat_ngram", "presence",
           "prompt_bonus", "repetition"]  # fmt: skip

_REACH = 50
"""Tokens of a repetition that DRY counts."""

_MOST = 2**26
"""Comparisons of tokens that are made at once, each of some bytes."""


def ban(members: Members, name: str) -> Step:
    """Rules out the tokens of `name`, where that leaves any."""
    banned = members.mask(name)

    def step(field: Field) -> None:
        field.change(_spared(field.scores, field.at(banned)))

    return step


def logit_bias(members: Members) -> Step:
    """score(t) + bias(t)."""
    vocab = members.state.vocab
    pairs = [
        [entry.split(":") for entry in row.params.logit_bias] if "logit_bias" in row.active else []
        for row in members.rows
    ]
    known = [{int(i): float(bias) for i, bias in some if int(i) < vocab} for some in pairs]
    places = [row * vocab + i for row, biases in enumerate(known) for i in biases]
    values = [bias for biases in known for bias in biases.values()]
    table = torch.zeros(len(known) * vocab, device=members.uploads.device)
    table.scatter_(0, members.uploads.ints(places), members.uploads.floats(values))
    table = table.view(len(known), vocab)

    def step(field: Field) -> None:
        field.change(field.scores + field.at(table))

    return step


def prompt_bonus(members: Members) -> Step:
    """The repetition penalty of the prompt, by 1 / bonus."""
    name = "encoder_repetition_penalty"
    penalty = members.column(name, lambda p: 1 / p.encoder_repetition_penalty, 1)
    prompt = members.mask(name)

    def step(field: Field) -> None:
        scores = field.scores
        penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
        field.change(torch.where(field.at(prompt), penalised, scores))

    return step


def repetition(members: Members) -> Step:
    """score · penalty where it is negative, score / penalty where it is not."""
    penalty = members.column("repetition_penalty", lambda p: p.repetition_penalty, 1)

    def step(field: Field) -> None:
        scores = field.scores
        # Of the two the lower, since the penalty is never below 1.
        penalised = torch.minimum(scores * penalty, scores / penalty)
        field.change(torch.where(field.at(members.counts()) > 0, penalised, scores))

    return step


def presence(members: Members) -> Step:
    """score - presence · [count > 0]."""
    penalty = members.column("presence_penalty", lambda p: p.presence_penalty, 0)

    def step(field: Field) -> None:
        field.change(field.scores - penalty * (field.at(members.counts()) > 0))

    return step


def frequency(members: Members) -> Step:
    """score - frequency · count."""
    penalty = members.column("frequency_penalty", lambda p: p.frequency_penalty, 0)

    def step(field: Field) -> None:
        field.change(field.scores - penalty * field.at(members.counts()))

    return step


def dry(members: Members) -> Step:
    """score(t) - multiplier · base^(n - allowed), where t prolongs a repetition of n tokens."""
    multiplier = members.column("dry", lambda p: p.dry_multiplier, 0)
    base = members.column("dry", lambda p: p.dry_base, 1)
    allowed = members.column("dry", lambda p: p.dry_allowed_length, _REACH + 1)
    state, count, where = members.state, len(members.rows), members.having("dry")
    rows = [members.rows[i] for i in where]
    places = members.uploads.ints(where)
    breakers = members.uploads.ragged([row.tokens["dry"] for row in rows], -1)

    def step(field: Field) -> None:
        spans = [min(row.length, row.params.repetition_penalty_range or row.length) for row in rows]
        ids = state.last(rows, spans)
        ids = ids.masked_fill((ids[:, :, None] == breakers[:, None]).any(-1), -1)
        lengths = _repeated(ids, min(_REACH, ids.shape[1]))
        longest = lengths.new_zeros((len(rows), state.vocab + 1))
        longest.scatter_reduce_(1, _known(ids, state.vocab), lengths, "amax")
        excess = field.at(_spread(longest, places, count, state.vocab)) - allowed
        penalty = multiplier * torch.pow(base, excess)
        field.change(torch.where(excess >= 0, field.scores - penalty, field.scores))

    return step


def no_repeat_ngram(members: Members) -> Step:
    """Rules out what would make a run of so many tokens occur twice."""
    state, count = members.state, len(members.rows)
    where = members.having("no_repeat_ngram")
    rows = [members.rows[i] for i in where]
    places = members.uploads.ints(where)
    needed = [row.params.no_repeat_ngram_size - 1 for row in rows]
    enough = members.uploads.ints(needed)[:, None]

    def step(field: Field) -> None:
        ids = state.last(rows, [row.length for row in rows])
        found = _repeated(ids, min(max(*needed, 1), ids.shape[1])) >= enough
        banned = torch.zeros((len(rows), state.vocab + 1), dtype=torch.bool, device=ids.device)
        following = _known(ids, state.vocab)
        banned.scatter_(1, following.where(found, state.vocab), True)
        field.change(_spared(field.scores, field.at(_spread(banned, places, count, state.vocab))))

    return step


def _spared(scores: Tensor, banned: Tensor) -> Tensor:
    """The scores with the banned ones ruled out, in the rows where that leaves any."""
    left = scores.masked_fill(banned, -torch.inf)
    return torch.where(left.amax(-1, keepdim=True).isneginf(), scores, left)


def _known(ids: Tensor, vocab: int) -> Tensor:
    """Token ids, with the column past the vocabulary for those that have no logit."""
    return ids.where((ids >= 0) & (ids < vocab), vocab)


def _spread(table: Tensor, places: Tensor, count: int, vocab: int) -> Tensor:
    """A table [some, vocab + 1] of some rows, at their places in one [count, vocab] of all."""
    if len(table) < count:
        table = table.new_zeros((count, vocab + 1)).index_copy_(0, places, table)
    return table[:, :vocab]


def _repeated(ids: Tensor, reach: int) -> Tensor:
    """How long a suffix of `ids` [n, width] also stands before each of its tokens: [n, width].

    At most `reach` tokens count, and -1 matches nothing.
    """
    if len(ids) > 1 and ids.numel() * reach > _MOST:
        return torch.cat([_repeated(ids[i : i + 1], reach) for i in range(len(ids))])
    suffix = ids[:, -reach:]
    suffix = suffix.masked_fill(suffix < 0, -2)
    before = pad(ids[:, :-1], (reach, 0), value=-1).unfold(1, reach, 1)
    matches = before == suffix[:, None]
    # Backwards from the end, the product stays 1 until the first token that differs.
    return matches.flip(-1).cumprod(-1, dtype=torch.int8).sum(-1)
