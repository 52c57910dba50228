"""Decentralized training in a user's own script: a torch optimizer whose step is a round of a method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from decentral.algorithms.traits import Method, traits_of, without_optimizer
from decentral.comm import Communicator
from decentral.comm.mixer import Mixer
from decentral.comm.stand_ins import Averaged
from decentral.errors import AgreedError, UserError
from decentral.optimizers.rescaling_hook import hand_over
from decentral.rounds.advance import advance
from decentral.rounds.early import EarlyComm
from decentral.rounds.script.buffers import averaged_buffers, share_root
from decentral.rounds.script.checks import check_arguments, divergence, doubled_momentum
from decentral.rounds.script.checks_together import check_together, tell_apart
from decentral.rounds.script.inner_optimizer import InnerOptimizer, is_plain
from decentral.rounds.script.not_finite import NotFinite
from decentral.rounds.script.parameter_row import ParameterRow
from decentral.rounds.script.saving import check_load, checksum, restored, saved
from decentral.rounds.script.sent_early import SentEarly
from decentral.rounds.script.telling import agree, say, tell
from decentral.rounds.script.unchanged import Unchanged
from decentral.rounds.trials.columns import cut_note, looks_across
from decentral.rounds.trials.gradient_step import averages_gradients, outer_step
from decentral.rounds.trials.messages import sends_model_first
from topologies.wording import shown


class Decentralized(Optimizer):
    """A torch optimizer of this worker's model whose ``step`` is one round of ``method`` with the other workers.

        x, state = method.step(x, state, g, W(t), lr)

    x: all trainable parameters that ``optimizer`` has. If that is ``torch.optim.SGD`` without momentum, g is the
    gradient, weight decay added, and lr its learning rate: the numbers are those of the same experiment in TOML. Any
    other optimizer decides about the direction, and the method about the mixing: with x' what it would make of x,

        g = (x - x') / lr                       (where lr = 0: g = x - x')

    so DSGD(variant "atc") mixes x', and a method with momentum adds its own to the optimizer's. Where a method does
    no more with g than x - lr g, first or last in its round, ``optimizer`` itself steps there, in place. Under a method
    that averages gradients (PmSGD) it steps with their mean, which is in ``p.grad`` then, on all ranks alike. In place
    of AdamW inside DiLoCo it makes the inner steps. An update rule that hears losses (NLCG) needs ``step(closure)``.
    lr is the largest of the groups' learning rates; a group with another, lr_k, has its gradient times lr_k / lr. A
    learning rate that changes acts as the method says; it should change by the same factor in all groups.

    When it is made parameters, frozen ones too, and with ``model`` its buffers, become those of rank 0. Frozen
    parameters and buffers are never mixed. A parameter without a gradient (``p.grad`` is None) has a gradient of
    zeros in that round, as after ``zero_grad(set_to_none=False)``: it is mixed, and weight decay and momentum of
    whatever optimizer act on it. Every rank must make as many steps; one that makes more is told so. Of several
    instances (a GAN's two) the steps must come in the same order on every rank.

    ``param_groups`` and ``state`` are those of ``optimizer``, so schedulers, clipping and GradScaler work as with any
    other; a step in which a rank's gradients overflow is a round in which its g is 0. Hooks of ``optimizer`` act in its
    own step, whatever the method; torch's global ones and those of this one around the whole round, once. ``train`` and
    ``eval`` are those of ``optimizer``, if it has them.
    What is trained must stay: the groups and, where ``model`` is given, the model's parameters are looked at in every
    step, and UserError is raised if others have taken their place, or if they are frozen or moved.

    ``overlap``: where the method's first message is x itself (DSGD and DmSGD in form awc, EXTRA, DIGing, momentum
    tracking), it is sent after a step and received in the next one, while the gradient is computed. Parameters must
    then not be written to between steps but by this optimizer.
    Memory: x, of which parameters are views, and the method's state; unless ``optimizer`` steps in place, gathered
    small gradients too, and two more x with other optimizers than plain SGD.
    Raises UserError, on all ranks, for what cannot work: float16 and bfloat16 parameters, mixed devices or types of
    numbers, ranks with different models, optimizers that evaluate the loss several times, a graph that the method
    cannot have.
    If models differ in the first step, standard error says whose.
    A gradient that is not finite is named on standard error, with its rank and step, before it spreads.
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
            agree(comm, lambda: check_arguments(optimizer, method, comm, model, overlap))
        else:
            check_arguments(optimizer, method, comm, model, overlap)
        self.inner, self.method, self.comm, self.model, self.overlap = optimizer, method, comm, model, overlap
        self._ready = False
        self._departures = comm.departures
        self._number = 0 if self._departures is None else self._departures.enlist()
        super().__init__(optimizer.param_groups, optimizer.defaults)
        hand_over(optimizer, self)
        self._share()
        given = [p for group in self.param_groups for p in group["params"]]
        trained = [p for p in given if not is_lazy(p) and p.requires_grad and p.numel()]
        check_together(optimizer, method, comm, model, given, trained)
        share_root(comm, [*given, *(() if model is None else (*model.parameters(), *model.buffers()))])
        across = looks_across(method)
        self._warn(across)
        if not is_plain(optimizer):
            self.method = method = without_optimizer(method)
        whole = across or traits_of(method).whole or comm.links is not None
        place = outer_step(method)
        averages = averages_gradients(method)
        self.row = ParameterRow(trained, whole, gathers=place is None or averages)
        alone = bool(traits_of(method).optimizer)
        self._inner_steps = InnerOptimizer(optimizer, self.row, place, alone, averages)
        frozen = [p for p in given if not p.requires_grad]
        self._unchanged = Unchanged(self.row, self.param_groups, frozen, model)
        self._not_finite = NotFinite(self.row, comm)
        self._layout = self.row.layout() if whole else None
        if whole:
            comm.layout = self._layout
        self.t = 0
        comm.check = False  # of the mixing: that was done above, together, and what diverges is warned about
        self.method_state = method.init(self.row.x, comm)
        sends_early = overlap and comm.n > 1 and comm.links is None and sends_model_first(method)
        self._early = SentEarly(self.row, comm, sends_early)
        self._averaging = False
        self._ready = True

    def _warn(self, across: bool) -> None:
        """Of what will go badly; ``across``: the method looks at several columns at once."""
        for note in (divergence(self.method, self.comm.schedule), cut_note(self.method) if across else ""):
            if note:
                say(self.comm.rank, note)
        if self.comm.rank == 0 and (twice := doubled_momentum(self.inner, self.method)):
            warnings.warn(twice, stacklevel=3)  # of who makes this optimizer

    _step_supports_amp_scaling = True  # GradScaler then calls step in every round, as the other ranks need
    grad_scale: torch.Tensor | None
    found_inf: torch.Tensor

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One round with the gradients that are in ``p.grad``; what ``closure``, called first, gives."""
        loss = None
        if closure is not None:
            if not callable(closure):
                raise UserError(f"closure should be a function that gives the loss, not {shown(closure)}")
            with torch.enable_grad():
                loss = closure()
        self._inner_steps.hear(loss)
        self._check_unchanged()
        row, comm = self.row, self.comm
        self._ask("step()")
        overflown = self._unscale()
        if not overflown:
            self._not_finite.look(self.t)
        if self.t == 0 and comm.n > 1:
            tell_apart(comm, row.x)
        if self._layout is not None:
            comm.layout = self._layout  # another optimizer may have set that of its model
        rounds: Mixer = EarlyComm(comm, self._early.posted) if self._early.posted else comm
        given = self._inner_steps.begin(overflown, rounds, self.t)
        if given.averaged:
            rounds = Averaged(rounds)
        x, self.method_state = advance(
            self.method,
            row.x,
            self.method_state,
            given.gradient,
            rounds,
            self.t,
            given.lr,
            given.decay,
            row.width,
        )
        if x.data_ptr() != row.x.data_ptr():
            row.x.copy_(x)
        self._inner_steps.end(given)
        row.written()
        self.t += 1
        self.inner._opt_called = True  # type: ignore[attr-defined]  # a scheduler may have been made for that one
        if self._departures is not None:
            self._departures.steps += 1
        self._ask("")
        self._early.send(self.t)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """That of ``optimizer``."""
        self.inner.zero_grad(set_to_none)

    def __getattr__(self, name: str) -> Any:
        """``train`` and ``eval`` are those of ``optimizer``, if it has them, as schedule-free ones do."""
        if name in ("train", "eval") and hasattr(self.__dict__.get("inner"), name):
            self._check_outside()
            return getattr(self.inner, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: parameters are laid out in one row when this optimizer is made."""
        if getattr(self, "_ready", False):
            raise UserError(
                "a parameter group came late; add it to the inner optimizer before making Decentralized"
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """What this rank needs to go on, but for its model: to be saved by each rank, beside ``model.state_dict()``."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        early = self._early.mpi_bytes
        state = saved(self.inner, self.method, self.method_state, self.t, self.row.x, self.comm, early)
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, on every rank, after ``model.load_state_dict``: bit for bit.

        Raises UserError on all ranks if one was given another rank's state, or one of another method, round or model.
        """
        self._ask("load_state_dict()")
        self._early.settle()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        agree(self.comm, lambda: self._check_load(state_dict))
        if len(set(tell(self.comm, str(state_dict["rounds"])))) > 1:
            raise AgreedError(
                "ranks were given states of different rounds; load those that were saved together"
            )
        self.inner.load_state_dict(state_dict["inner"])
        self._share()
        self.method_state = restored(state_dict, self.method_state, self.comm)
        self.t = state_dict["rounds"]
        self._ask("")
        self._early.send(self.t)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _check_load(self, state_dict: Any) -> None:
        self._check_unchanged()
        check_load(state_dict, self.comm, self.inner, repr(self.method), checksum(self.row.x))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model is the mean of all workers' models, for evaluation; every rank enters it.

        With ``model`` its buffers of real and complex numbers (batch norm's running mean and variance) are averaged
        too; of sparse ones the values. This is no traffic of the method, and not billed. Afterwards all is as it was.
        If the mean is not finite, standard error says whose model is not.
        """
        row = self.row
        self._check_unchanged()
        buffers = () if self.model is None else self.model.buffers()
        self._ask("averaged()")
        with averaged_buffers(self.comm, buffers):
            mean = self.comm.observe_mean(row.x)
            self._not_finite.tell(mean, self.t)
            self._ask("")
            row.bind(row.views_of(mean))
            self._averaging = True
            try:
                yield
            finally:
                self._averaging = False
                row.bind(row.views)

    def _ask(self, purpose: str) -> None:
        """From here on ranks wait for each other for this."""
        if self._departures is not None:
            self._departures.number, self._departures.purpose = self._number, purpose

    def _share(self) -> None:
        """The groups and the state of the inner optimizer are this one's: the same objects."""
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def _check_outside(self) -> None:
        if self._averaging:
            raise UserError("this is within averaged(), where the model is the mean of all; leave it first")

    def _check_unchanged(self) -> None:
        self._check_outside()
        self._share()
        self._unchanged.check(self.param_groups)
        self._early.check()

    def _unscale(self) -> bool:
        """Divide the gradients by GradScaler's scale, if it has left that to this step; whether they overflowed."""
        given = vars(self)  # by GradScaler, for the time of the step
        if float(given.get("found_inf", 0.0)) > 0:
            return True
        scale = given.get("grad_scale")
        if scale is not None:
            for p in self.row.parameters:
                if p.grad is not None:
                    p.grad.mul_(1.0 / float(scale))
        return False

    def __getstate__(self) -> NoReturn:
        raise UserError("Decentralized cannot be pickled or copied; keep its state_dict() instead")
