"""A recommender and the workers' users as an objective, with dense outputs that are fed in again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from decentral.problems.evaluation import Evaluation
from decentral.problems.losses import masked_squares
from decentral.problems.model_objective import ModelObjective
from decentral.problems.rating_evaluation import RatingEvaluation

if TYPE_CHECKING:
    from decentral.problems.data.dataset import Dataset
    from decentral.problems.models.tried import Tried
    from decentral.problems.objective import Place
    from decentral.problems.oracles import Batches, Blocks

_BEFORE = "models of the batch"  # no buffer of the model, which has none


class RatingObjective(ModelObjective):
    """Masked squares of the workers' users; full batches, whose numbers of ratings differ, always by the loop.

    Dense re-feeding (``refeed``): the second optimiser step of a batch is a second round of it, with all that a round
    has: the method's step, its messages, the clock. With x^t a worker's model before round t,

        round 2k:      batch k, MMSE(f(r; x^{2k}), r) over its ratings r
        round 2k + 1:  y = f(r; x^{2k}), a constant: MSE(f(y; x^{2k+1}), y) over all n entries of y

    So f(r) is that of the first step's own forward pass, with the same dropped units, as in arXiv 1708.01715, and PmSGD
    of one worker is that paper's loop. What is kept for it is x^{2k} (h, d), so y is computed a second time: in
    exchange nothing kept has the size of a batch, which phases change. A re-fed round sees no samples anew.
    """

    judged_by: ClassVar[type[Evaluation]] = RatingEvaluation

    def __init__(
        self, module: nn.Module, dataset: Dataset, shards: list[NDArray[np.int64]], place: Place, tried: Tried,
        refeed: bool,
    ) -> None:  # fmt: skip
        full = place.batch_size == "full"
        here = replace(place, oracle="loop") if full else place
        super().__init__(module, dataset, shards, here, tried, masked_squares)
        if full and place.oracle == "batched":
            self.notes.append("full batches have different numbers of ratings, so gradients are looped")
        self.refeed = refeed
        if refeed:
            self.buffers = {_BEFORE: self._start.expand(len(place.rows), -1).clone()}

    def gradient(self, x: Tensor, t: int) -> Blocks:
        """Gradients of round t: over the batch, or over what the models have made of it."""
        if not self.refeed:
            return super().gradient(x, t)
        k, again = divmod(t, 2)
        inputs, labels = self._full or self._batch(k)
        if again:
            inputs = labels = self._outputs(inputs, t - 1)
        else:
            self.buffers[_BEFORE].copy_(x)
        return self.gradient_of(x, inputs, labels, t)

    @torch.no_grad()
    def _outputs(self, inputs: Batches, t: int) -> Batches:
        """What the models made of the inputs in the forward pass of round t."""
        generators = self.evaluation.generators
        with generators.kept():
            outputs = [self._output(row, batch, t) for row, batch in enumerate(inputs)]
        return torch.stack(outputs) if isinstance(inputs, Tensor) else outputs

    def _output(self, row: int, inputs: Tensor, t: int) -> Tensor:
        if self.draws:  # the same units as then
            self.evaluation.generators.seed(self.place.seed, "model", self.place.rows[row], t)
        of = self.layout.views(self.buffers[_BEFORE][row])
        outputs: Tensor = functional_call(self.evaluation.module, of, (inputs,))
        return outputs

    def samples(self, rounds: int) -> int:
        """Seen by all workers."""
        return super().samples((rounds + 1) // 2 if self.refeed else rounds)
