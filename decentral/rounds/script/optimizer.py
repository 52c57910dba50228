"""Decentralized training in a user's own script: a torch optimizer whose step is a round of a method."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer

from decentral.algorithms.state import numbers_of, tensors_of, with_numbers
from decentral.algorithms.traits import Method, traits_of
from decentral.comm import Communicator
from decentral.comm.mixer import Pending
from decentral.errors import AgreedError, UserError
from decentral.rounds.advance import advance
from decentral.rounds.early import EarlyComm
from decentral.rounds.script.checks import (
    check_arguments,
    check_load,
    check_mixing,
    check_model,
    divergence,
    model_text,
)
from decentral.rounds.script.inner_optimizer import InnerOptimizer
from decentral.rounds.script.join import refuse_together, say, tell
from decentral.rounds.script.parameter_row import ParameterRow
from decentral.rounds.trials.gradient_step import outer_step
from decentral.rounds.trials.messages import sends_model_first


class Decentralized(Optimizer):
    """A torch optimizer of this worker's model whose ``step`` is one round of ``method`` with the other workers.

        x, state = method.step(x, state, g, W(t), lr)

    x: all trainable parameters that ``optimizer`` has. If that is ``torch.optim.SGD`` without momentum, g is the
    gradient, weight decay added, and lr its learning rate: the numbers are those of the same experiment in TOML. Any
    other optimizer decides about the direction, and the method about the mixing: with x' what it would make of x,

        g = (x - x') / lr                       (where lr = 0: g = x - x')

    so DSGD(variant "atc") mixes x', and a method with momentum adds its own to the optimizer's. Where a method does
    no more with g than x - lr g, first or last in its round, ``optimizer`` itself steps there, in place.
    lr is the largest of the groups' learning rates; a group with another, lr_k, has its gradient times lr_k / lr. A
    learning rate that changes acts as the method says; it should change by the same factor in all groups.

    At the start parameters, frozen ones too, and with ``model`` its buffers, become those of rank 0. Frozen parameters
    and buffers are never mixed. A parameter without a gradient (``p.grad`` is None) has a zero gradient in that round:
    it is mixed, and weight decay acts on it. Every rank must make as many steps; one that makes more is told so.
    ``param_groups`` and ``state`` are those of ``optimizer``, so schedulers, clipping and hooks on this
    optimizer work as with any other.

    ``overlap``: where the method's first message is x itself (DSGD and DmSGD in form awc, EXTRA, DIGing, momentum
    tracking), it is sent after a step and received in the next one, while the gradient is computed. Parameters must
    then not be written to between steps but by this optimizer.
    Memory: x and the method's state; unless ``optimizer`` steps in place, gathered small gradients too, and two more x
    with other optimizers than plain SGD.
    Raises UserError, on all ranks, for what cannot work: float16 and bfloat16 parameters, mixed devices or types of
    numbers, ranks with different models, optimizers that evaluate the loss several times, a graph that the method
    cannot have.
    A method that diverges on the graph, whatever the learning rate, is warned about on standard error.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        method: Method[Any],
        comm: Communicator,
        model: nn.Module | None = None,
        overlap: bool = True,
    ) -> None:
        if isinstance(comm, Communicator):
            _agree(comm, lambda: check_arguments(optimizer, method, comm, model))
        else:
            check_arguments(optimizer, method, comm, model)
        self.inner, self.method, self.comm, self.model, self.overlap = optimizer, method, comm, model, overlap
        self._ready = False
        self._departures = comm.departures
        self._number = 0 if self._departures is None else self._departures.enlist()
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share()
        given = [p for group in self.param_groups for p in group["params"]]
        trained = [p for p in given if p.requires_grad and p.numel()]
        _agree(comm, lambda: check_model(given, trained))
        self._check_alike()
        _agree(comm, lambda: check_mixing(method, comm.schedule))
        warning = divergence(method, comm.schedule)
        if warning:
            say(comm.rank, warning)
        self.frozen = [p for p in given if not p.requires_grad]
        self._share_root(given)
        whole = traits_of(method).whole or comm.links is not None
        place = outer_step(method)
        self.row = ParameterRow(trained, whole, gathers=place is None)
        self._inner_steps = InnerOptimizer(optimizer, self.row, place)
        if whole:
            comm.layout = self.row.layout()
        self.t = 0
        self.method_state = method.init(self.row.x, comm)
        self._sends_early = overlap and comm.n > 1 and comm.links is None and sends_model_first(method)
        self._posted: list[Pending] = []
        self._posted_bytes = 0
        self._versions = self.row.versions()
        if self._departures is not None:
            self._departures.under_way.append(self._posted)
        self._ready = True

    def _check_alike(self) -> None:
        """Raise AgreedError on all ranks if one has another model, optimizer or method than rank 0."""
        mine, *_ = theirs = tell(
            self.comm,
            f"{type(self.inner).__name__} of {model_text(self.param_groups, self.model, self.method)}",
        )
        others = [rank for rank, text in enumerate(theirs) if text != mine]
        if others:
            raise AgreedError(
                f"ranks differ: rank 0 has {mine}, rank {others[0]} has {theirs[others[0]]}; build the same model, "
                "optimizer and method on every rank"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One round with the gradients that are in ``p.grad``; what ``closure``, called first, gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_unmoved()
        row, comm, departures = self.row, self.comm, self._departures
        if departures is not None:
            departures.number, departures.purpose = self._number, "step()"
        given = self._inner_steps.begin()
        rounds = EarlyComm(comm, self._posted) if self._posted else comm
        gradient, lr, decay, _ = given
        x, self.method_state = advance(
            self.method, row.x, self.method_state, gradient, rounds, self.t, lr, decay, row.width
        )
        if x.data_ptr() != row.x.data_ptr():
            row.x.copy_(x)
        self._inner_steps.end(given)
        row.written()
        self.t += 1
        self.inner._opt_called = True  # type: ignore[attr-defined]  # a scheduler may have been made for that one
        if departures is not None:
            departures.steps += 1
            departures.purpose = ""
        if self._sends_early:
            self._post()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: parameters are laid out in one row when this optimizer is made."""
        if getattr(self, "_ready", False):
            raise UserError(
                "a parameter group came late; add it to the inner optimizer before making Decentralized"
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """What this rank needs to go on, but for its model: to be saved by each rank, beside ``model.state_dict()``."""
        ledger = self.comm.ledger.state()
        return {
            "inner": self.inner.state_dict(),
            "method": repr(self.method),
            "tensors": tensors_of(self.method_state),
            "numbers": numbers_of(self.method_state),
            "rounds": self.t,
            "ledger": {
                "gossip_bytes": ledger["gossip_bytes"].tolist(),
                "reduced_bytes": ledger["reduced_bytes"],
                "messages": ledger["messages"],
                "mpi_bytes": self.comm.ledger.mpi_bytes
                - self._posted_bytes,  # a message under way is sent anew
            },
            "rank": self.comm.rank,
            "workers": self.comm.n,
            "model_crc32": self._checksum(),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, on every rank, after ``model.load_state_dict``: bit for bit.

        Raises UserError on all ranks if one was given another rank's state, or one of another method, round or model.
        """
        self._ask("load_state_dict()")
        self._settle()
        _agree(self.comm, lambda: check_load(state_dict, self.comm, repr(self.method), self._checksum()))
        if len(set(tell(self.comm, str(state_dict["rounds"])))) > 1:
            raise AgreedError(
                "ranks were given states of different rounds; load those that were saved together"
            )
        self.inner.load_state_dict(state_dict["inner"])
        self._share()
        for target, source in zip(tensors_of(self.method_state), state_dict["tensors"], strict=True):
            target.copy_(source)
        self.method_state = with_numbers(self.method_state, state_dict["numbers"])
        self.t = state_dict["rounds"]
        kept = state_dict["ledger"]
        gossip = torch.tensor(kept["gossip_bytes"]).numpy()
        self.comm.ledger.restore(gossip, kept["reduced_bytes"], kept["messages"], kept["mpi_bytes"])
        self._ask("")
        if self._sends_early:
            self._post()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model is the mean of all workers' models, for evaluation; every rank enters it.

        With ``model`` its floating-point buffers (batch norm's running mean and variance) are averaged too. This is no
        traffic of the method, and not billed. Afterwards all is as it was.
        """
        row, comm = self.row, self.comm
        self._check_unmoved()
        buffers = [] if self.model is None else [b for b in self.model.buffers() if b.is_floating_point()]
        self._ask("averaged()")
        with torch.no_grad():
            mean = comm.observe_mean(row.x)
            means = [_mean(comm, buffer) for buffer in buffers]
            kept = [buffer.clone() for buffer in buffers]
            for buffer, value in zip(buffers, means, strict=True):
                buffer.copy_(value)
        self._ask("")
        row.bind(row.views_of(mean))
        try:
            yield
        finally:
            row.bind(row.views)
            with torch.no_grad():
                for buffer, value in zip(buffers, kept, strict=True):
                    buffer.copy_(value)

    def _ask(self, purpose: str) -> None:
        """From here on ranks wait for each other for this."""
        if self._departures is not None:
            self._departures.number, self._departures.purpose = self._number, purpose

    def _share(self) -> None:
        """The groups and the state of the inner optimizer are this one's: the same objects."""
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def _check_unmoved(self) -> None:
        self.row.check()
        if any(p.grad is not None or p.requires_grad for p in self.frozen):
            raise UserError(
                "a parameter that was frozen when Decentralized was made is trained now; make the optimizers anew"
            )
        if any(p.grad is not None and p.grad.is_sparse for p in self.row.parameters):
            raise UserError("a gradient is sparse, and mixing is dense; use Embedding(sparse=False)")
        if self._posted and self._versions != self.row.versions():
            raise UserError(
                "parameters were written to between two steps, while they were being sent to the neighbours; make "
                "Decentralized with overlap=False, or write to them before the first step"
            )

    def _post(self) -> None:
        """Send the first message of the next round, if it is x itself."""
        if self.t:
            self._versions = self.row.versions()
            ledger, comm = self.comm.ledger, self.comm.at(self.t)
            before = ledger.mpi_bytes
            self._posted += [comm.post(self.row.x[:, block.columns]) for block in self.row.blocks]
            self._posted_bytes = ledger.mpi_bytes - before

    def _settle(self) -> None:
        """Receive what is under way, and forget it."""
        for pending in self._posted:
            self.comm.finish(pending)
        self._posted.clear()
        self._posted_bytes = 0

    def _share_root(self, given: list[nn.Parameter]) -> None:
        """Parameters and buffers become those of rank 0."""
        tensors: list[torch.Tensor] = list(given)
        if self.model is not None:
            tensors += [*self.model.parameters(), *self.model.buffers()]
        with torch.no_grad():
            for tensor in {id(t): t for t in tensors}.values():
                if tensor.numel():
                    whole = tensor.detach().contiguous()
                    self.comm.share_root(whole)
                    if whole.data_ptr() != tensor.data_ptr():
                        tensor.copy_(whole)

    def _checksum(self) -> int:
        return zlib.crc32(self.row.x.cpu().numpy().tobytes())

    def __getstate__(self) -> NoReturn:
        raise UserError("Decentralized cannot be pickled or copied; keep its state_dict() instead")


def _agree(comm: Communicator, check: Callable[[], None]) -> None:
    """Raise AgreedError on all ranks if ``check`` raises UserError on one."""
    mistake = ""
    try:
        check()
    except UserError as error:
        mistake = str(error)
    refuse_together(tell(comm, mistake))


def _mean(comm: Communicator, buffer: torch.Tensor) -> torch.Tensor:
    """Its mean over the workers, in float64."""
    return comm.observe_mean(buffer.double().reshape(1, -1)).view(buffer.shape)
