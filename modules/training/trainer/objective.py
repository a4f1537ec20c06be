"""`Objective`: the summed loss of a batch, by the shortest way that the model allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from modules.training.packing import IGNORED
from modules.training.trainer.attention import NAME
from modules.training.trainer.batches import Batch
from modules.training.trainer.fast.loss import summed_loss
from modules.training.trainer.sharded import is_sharded, type_of, whole

__all__ = ["Objective"]

_PLAIN_ATTENTION = "sdpa"
_SAME = 0.03
"""Relative difference of two ways that compute the same, in 16 bits."""


class Objective:
    """Calls the model on batches, in `dtype`.

    `noise` is NEFTune's alpha: uniform noise on the embeddings of each row while training,
    of strength noise / sqrt(tokens of the row * size) (arxiv.org/abs/2310.05914). Where
    `packs` is False the model's attention cannot keep rows apart, and batches must be padded.
    `sharded` says that all processes must call it together.
    """

    def __init__(self, model: PeftModel, dtype: torch.dtype, noise: float = 0.0) -> None:
        inner: Any = model.get_base_model()
        assert isinstance(inner, PreTrainedModel)
        self._model = inner
        self._dtype = dtype
        self._noise = noise
        self.sharded = is_sharded(inner)
        self._lengths: Tensor | None = None
        self._own_attention = str(inner.config._attn_implementation)
        _embeddings(inner).register_forward_hook(self._after_embeddings)
        self._head = _plain_head(inner)
        inner.set_attn_implementation(NAME)
        self.packs = self._keeps_rows_apart()
        if not self.packs:
            inner.set_attn_implementation(self._own_attention)
        if self._head is not None and not self._head_is_all():
            self._head = None

    def __call__(self, batch: Batch) -> Tensor:
        """The loss summed over the learnt tokens of a batch: float32, a scalar."""
        lengths = torch.tensor(batch.lengths, device=batch.ids.device)
        if batch.cu_seqlens is not None:
            self._lengths = lengths.repeat_interleave(lengths)[None, :, None]
        else:
            self._lengths = lengths[:, None, None]
        with self.precision():
            if self._head is not None:
                hidden = self._hidden(batch)
                # The loss makes its gradients at once, and needs the head no more afterwards.
                with whole(self._head):
                    return summed_loss(hidden, self._head.weight, batch.labels)
            logits = self._model(**_arguments(batch)).logits[:, :-1].float()
        wanted = batch.labels[:, 1:]
        return functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def checkpoint_gradients(self) -> None:
        """Compute every layer a second time in the backward, instead of keeping what it made."""
        model: Any = self._model
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def precision(self) -> AbstractContextManager[object]:
        """What the products of A and B, which are float32, are computed in."""
        device = self._model.device.type
        return torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32)

    @contextmanager
    def answering(self) -> Iterator[PreTrainedModel]:
        """The model as `generate` wants it: with masks, a cache, and no noise."""
        attention = str(self._model.config._attn_implementation)
        training = self._model.training
        self._model.train(False)
        if attention == NAME:
            self._model.set_attn_implementation(_PLAIN_ATTENTION)
        try:
            # Weights that are gathered in inference mode could not be trained over.
            quiet = torch.no_grad() if self.sharded else torch.inference_mode()
            with self.precision(), quiet:
                yield self._model
        finally:
            self._model.set_attn_implementation(attention)
            self._model.train(training)

    def _hidden(self, batch: Batch) -> Tensor:
        decoder = self._model.get_decoder()  # type: ignore[no-untyped-call]
        hidden: Tensor = decoder(**_arguments(batch)).last_hidden_state
        return hidden

    def _after_embeddings(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        # Embeddings that are trained are float32, which the layers after them are not.
        output = output.to(self._dtype)
        if not self._noise or not self._model.training or self._lengths is None:
            return output
        strength = self._noise / (self._lengths * output.shape[-1]).sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * strength.to(output)

    @torch.no_grad()
    def _keeps_rows_apart(self) -> bool:
        """Whether two rows in a pack get the hidden states that each gets alone."""
        device = self._model.device
        # Small and real ids, whatever the vocabulary.
        ids = torch.arange(1, 13, device=device)[None] % self._model.config.vocab_size
        places = torch.arange(12, device=device)[None]
        first, second = (_probe(ids[:, part], places[:, :6]) for part in _HALVES)
        positions = torch.cat([places[:, :6], places[:, :6]], dim=1)
        both = Batch(ids, positions, ids, [0, 6, 12], [6, 6])
        try:
            with self.precision():
                apart = torch.cat([self._hidden(first), self._hidden(second)], dim=1)
                packed = self._hidden(both)
        except (TypeError, ValueError):  # a forward that takes no `cu_seqlens`
            return False
        return _alike(apart, packed)

    @torch.no_grad()
    def _head_is_all(self) -> bool:
        """Whether logits are the head's weight times the hidden states, and nothing more."""
        ids = torch.arange(1, 7, device=self._model.device)[None]
        batch = _probe(ids, ids - 1)
        head = self._head
        assert head is not None
        with self.precision():
            hidden = self._hidden(batch)
            with whole(head):
                own = functional.linear(hidden, head.weight.to(hidden.dtype))
            return _alike(self._model(**_arguments(batch)).logits, own)


_HALVES = (slice(0, 6), slice(6, 12))


def _probe(ids: Tensor, positions: Tensor) -> Batch:
    return Batch(ids, positions, ids, [0, ids.shape[1]], [ids.shape[1]])


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a.float() - b.float()).norm() <= _SAME * a.float().norm())


def _arguments(batch: Batch) -> dict[str, Any]:
    about: dict[str, Any] = {
        "input_ids": batch.ids,
        "position_ids": batch.positions,
        "use_cache": False,
    }
    if batch.cu_seqlens is not None:
        bounds = torch.tensor(batch.cu_seqlens, dtype=torch.int32, device=batch.ids.device)
        about |= {"cu_seqlens": bounds, "max_seqlen": max(batch.lengths)}
    return about


def _embeddings(model: PreTrainedModel) -> nn.Module:
    found = model.get_input_embeddings()
    assert isinstance(found, nn.Module)
    return found


def _plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The head, where it is a weight alone: no bias, no LoRA, not packed."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    trained = getattr(head, "modules_to_save", None)
    if trained is not None:
        head = trained["default"]
    plain = isinstance(head, nn.Linear) and type_of(head) is nn.Linear and head.bias is None
    return head if plain else None
