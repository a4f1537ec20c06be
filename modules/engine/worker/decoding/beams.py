"""`BeamSearch`: several replies grow at once, and the likeliest as a whole is the one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, takewhile

import torch
from torch import Tensor

from modules.engine.worker.decoding.method import Drawn, Method
from modules.engine.worker.detokenizer import Detokenizer
from modules.engine.worker.runner import Runner
from modules.engine.worker.sampler import require_finite
from modules.engine.worker.sequence import Sequence, Track

__all__ = ["BeamSearch"]


@dataclass(frozen=True, slots=True, eq=False)
class _Beam:
    """A growing reply. `score` is the sum of its tokens' log-probabilities.

    The detokenizer, which is there where there are stop strings, watches for them.
    """

    track: Track
    score: float
    reply: list[Drawn]
    detokenizer: Detokenizer | None


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A beam with one more token, which may end it; `logits` [vocab] come before that token."""

    parent: _Beam
    logits: Tensor
    token_id: int
    score: float
    detokenizer: Detokenizer | None
    ended: bool


@dataclass(frozen=True, slots=True, order=True)
class _Whole:
    """A reply that has ended, with the score after the length penalty."""

    score: float
    reply: list[Drawn] = field(compare=False)


class BeamSearch(Method):
    """Beam search as transformers' `generate` does it, without chance.

    Processors work on log-probabilities, and the best candidates of all beams together go
    on. One that ends among the first `num_beams` is kept, its score divided by its number of
    tokens to the power of the length penalty. The search ends when no beam can go on, or
    when `num_beams` replies are whole and `early_stopping` is on or no beam has a better
    score than the worst of them. What is passed on is what all of them have in common.
    Source: https://huggingface.co/blog/how-to-generate#beam-search
    """

    def __init__(self, seq: Sequence, runner: Runner) -> None:
        super().__init__(seq, runner)
        self._params = seq.sampler.params
        self._beams: list[_Beam] = []
        self._whole: list[_Whole] = []
        """The best first, `num_beams` at most."""
        self._tracks: list[Track] = []
        self._numbers = count()

    def alone(self) -> bool:
        """Always: every beam is computed."""
        return True

    def step(self) -> list[Drawn]:
        """A token for each beam; returns what no beam will change any more."""
        return self._grown(self._beams, self.computed([beam.track for beam in self._beams]))

    def draw(self, logits: Tensor) -> list[Drawn]:
        """The first token of each beam."""
        watch = self.seq.detokenizer.copy() if self.seq.request.stops else None
        return self._grown([_Beam(self.seq, 0.0, [], watch)], logits[None])

    def release(self) -> None:
        """Give up the beams; the prompt may be kept."""
        for track in self._tracks:
            self.runner.release(track, keep=False)
        super().release()

    def _grown(self, beams: list[_Beam], rows: Tensor) -> list[Drawn]:
        """Lets the best candidates go on, or ends the search."""
        width = self._params.num_beams
        going_on: list[_Candidate] = []
        for rank, candidate in enumerate(self._candidates(beams, rows)):
            if rank >= width and len(going_on) >= width:
                break
            if not candidate.ended:
                going_on.append(candidate)
            elif rank < width:
                self._keep(candidate)
        given = len(self.seq.token_ids) - self.seq.prompt_tokens
        if self._over(going_on):
            return self._whole[0].reply[given:]
        self._beams = self._successors(going_on[:width])
        replies = [*(beam.reply for beam in self._beams), *(whole.reply for whole in self._whole)]
        return _common([reply[given:] for reply in replies])

    def _candidates(self, beams: list[_Beam], rows: Tensor) -> Iterator[_Candidate]:
        """The best first; enough that `num_beams` can go on when all others end."""
        require_finite(rows)
        process = self.seq.sampler.process
        scores = torch.stack(
            [
                process(row.log_softmax(-1), beam.track.token_ids) + beam.score
                for beam, row in zip(beams, rows, strict=True)
            ]
        )
        most = (1 + max(1, len(self.seq.end_ids))) * self._params.num_beams
        top = scores.flatten().topk(min(most, scores.numel()))
        for score, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            parent, token_id = divmod(place, scores.shape[-1])
            if score > -torch.inf:
                yield self._candidate(beams[parent], rows[parent], token_id, score)

    def _candidate(self, parent: _Beam, logits: Tensor, token_id: int, score: float) -> _Candidate:
        length = len(parent.track.token_ids) + 1
        ended = token_id in self.seq.end_ids or length >= self.seq.max_tokens
        watch = parent.detokenizer
        if watch is not None and token_id not in self.seq.end_ids:
            watch = watch.copy()
            watch.push(token_id)
            ended = ended or watch.stopped
        return _Candidate(parent, logits, token_id, score, watch, ended)

    def _keep(self, candidate: _Candidate) -> None:
        reply = self._reply(candidate)
        score = candidate.score / len(reply) ** self._params.length_penalty
        self._whole.append(_Whole(score, reply))
        self._whole.sort(reverse=True)
        del self._whole[self._params.num_beams :]

    def _over(self, going_on: list[_Candidate]) -> bool:
        if not going_on:
            return True
        if len(self._whole) < self._params.num_beams:
            return False
        length = len(going_on[0].parent.reply) + 1
        best = going_on[0].score / length**self._params.length_penalty
        return self._params.early_stopping or best <= self._whole[-1].score

    def _successors(self, chosen: list[_Candidate]) -> list[_Beam]:
        """The candidates as beams. The first of a beam's takes its cache, the others copies."""
        tracks: list[Track] = []
        for candidate in chosen:
            track = candidate.parent.track
            # The prompt's own cache stays as it is, for the next request.
            taken = track is self.seq or track in tracks
            tracks.append(self._forked(track) if taken else track)
        for track in [track for track in self._tracks if track not in tracks]:
            self._tracks.remove(track)
            self.runner.release(track, keep=False)
        beams = []
        for candidate, track in zip(chosen, tracks, strict=True):
            track.token_ids.append(candidate.token_id)
            reply = self._reply(candidate)
            beams.append(_Beam(track, candidate.score, reply, candidate.detokenizer))
        return beams

    def _forked(self, track: Track) -> Track:
        fork = Track(
            id=f"{self.seq.id}/beam{next(self._numbers)}",
            token_ids=list(track.token_ids),
            max_tokens=track.max_tokens,
            mix=track.mix,
        )
        self._tracks.append(fork)
        self.runner.fork(track, fork)
        return fork

    def _reply(self, candidate: _Candidate) -> list[Drawn]:
        return [*candidate.parent.reply, self.drawn(candidate.token_id, candidate.logits)]


def _common(replies: list[list[Drawn]]) -> list[Drawn]:
    """What all replies begin with."""
    alike = (len({drawn.token_id for drawn in place}) == 1 for place in zip(*replies, strict=False))
    return replies[0][: sum(takewhile(bool, alike))]
