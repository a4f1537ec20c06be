"""Cut-offs for many rows. Formulas are those of sampling/truncation.py and of transformers.

The neutral value of each keeps all tokens of a row that does not want it.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import pad

from modules.engine.worker.sampling.batch.field import Field, Step
from modules.engine.worker.sampling.batch.members import Members
from modules.engine.worker.sampling.draws import COIN, uniform
from modules.engine.worker.sampling.pieces import running_sum

__all__ = ["epsilon", "eta", "min_p", "tail_free", "top_a", "top_k", "top_n_sigma", "top_p",
           "typical_p", "xtc"]  # fmt: skip


def top_n_sigma(members: Members) -> Step:
    """Keeps logits ≥ max - n · standard deviation."""
    n = members.column("top_n_sigma", lambda p: p.top_n_sigma, math.inf)

    def step(field: Field) -> None:
        scores = field.scores
        there = scores.isfinite()
        count = there.sum(-1, keepdim=True)
        mean = scores.where(there, 0).sum(-1, keepdim=True) / count
        sigma = ((scores - mean).where(there, 0).square().sum(-1, keepdim=True) / count).sqrt()
        field.cut(scores < scores.amax(-1, keepdim=True) - n * sigma)

    return step


def top_k(members: Members) -> Step:
    """Keeps the k highest, and those equal to the last of them; all rows of a group want it."""
    vocab = members.state.vocab
    places = members.uploads.ints([min(row.params.top_k, vocab) - 1 for row in members.rows])

    def step(field: Field) -> None:
        highest = field.narrow()
        field.cut(field.scores < highest.gather(1, places[:, None]))

    return step


def top_p(members: Members) -> Step:
    """Drops the lowest tokens that together have no more than 1 - p."""
    limit = members.column("top_p", lambda p: 1 - p.top_p, -1)

    def step(field: Field) -> None:
        field.sort()
        dropped = running_sum(field.scores.softmax(-1)) <= limit
        dropped[:, -1:].fill_(False)
        field.cut(dropped)

    return step


def typical_p(members: Members) -> Step:
    """Keeps those whose surprise is nearest to the expected one, up to a mass."""
    mass = members.column("typical_p", lambda p: max(p.typical_p, 1e-6), 2)

    def step(field: Field) -> None:
        logp = field.scores.log_softmax(-1)
        p = logp.exp()
        entropy = -(logp * p).nansum(-1, keepdim=True)
        distance = (-logp - entropy).abs()
        ascending, order = distance.sort(dim=-1, stable=True)
        last = (running_sum(p.gather(1, order)) < mass).sum(-1, keepdim=True)
        last = last.clamp_(max=distance.shape[-1] - 1)
        field.change(field.scores.masked_fill(distance > ascending.gather(1, last), -torch.inf))

    return step


def epsilon(members: Members) -> Step:
    """Keeps p ≥ ε, and the most likely token."""
    limit = members.column("epsilon_cutoff", lambda p: p.epsilon_cutoff * 1e-4, 0)

    def step(field: Field) -> None:
        p = field.scores.softmax(-1)
        field.cut((p < limit) & (field.scores < field.scores.amax(-1, keepdim=True)))

    return step


def eta(members: Members) -> Step:
    """Keeps p ≥ min(ε, √ε · exp(-entropy)), and the most likely token."""
    most = members.column("eta_cutoff", lambda p: p.eta_cutoff * 1e-4, 0)

    def step(field: Field) -> None:
        logp = field.scores.log_softmax(-1)
        p = logp.exp()
        entropy = -(logp * p).nansum(-1, keepdim=True)
        limit = torch.minimum(most, most.sqrt() * (-entropy).exp())
        field.cut((p < limit) & (field.scores < field.scores.amax(-1, keepdim=True)))

    return step


def tail_free(members: Members) -> Step:
    """Keeps the sorted tokens until |p''| has summed up to the share z of its total."""
    z = members.column("tfs", lambda p: p.tfs, 2)
    active = members.active("tfs")

    def step(field: Field) -> None:
        field.sort()
        bends = field.scores.flip(-1).softmax(-1).diff(n=2).abs()
        share = running_sum(bends) / bends.sum(-1, keepdim=True).clamp(min=1e-30)
        dropped = pad(share > z, (1, 0), value=False)
        dropped = pad(dropped, (0, 1), value=True) & active
        field.cut(dropped.flip(-1))

    return step


def top_a(members: Members) -> Step:
    """Keeps p ≥ a · max(p)²."""
    a = members.column("top_a", lambda p: p.top_a, 0)

    def step(field: Field) -> None:
        p = field.scores.softmax(-1)
        field.cut(p < a * p.amax(-1, keepdim=True).square())

    return step


def min_p(members: Members) -> Step:
    """Keeps p ≥ m · max(p)."""
    share = members.column("min_p", lambda p: p.min_p, 0)

    def step(field: Field) -> None:
        p = field.scores.softmax(-1)
        field.cut(p < share * p.amax(-1, keepdim=True))

    return step


def xtc(members: Members) -> Step:
    """With a probability, drops all tokens with p ≥ threshold but the least likely of them."""
    threshold = members.column("xtc", lambda p: p.xtc_threshold, 2)
    protected = members.mask("xtc")
    rows, uploads = members.rows, members.uploads

    def step(field: Field) -> None:
        field.sort()
        likely = field.scores.softmax(-1)[:, :-1]
        # A token goes if the next less likely one is likely enough; one ruled out never is.
        dropped = pad((likely >= threshold) & (likely > 0), (1, 0), value=False)
        coins = [uniform(row.seed, row.drawn, COIN) < row.params.xtc_probability for row in rows]
        acts = uploads.ints(coins)[:, None].bool()
        acts = acts & ~(dropped & field.at(protected)).any(-1, keepdim=True)
        field.change(field.scores.masked_fill(dropped & acts, -torch.inf))

    return step
