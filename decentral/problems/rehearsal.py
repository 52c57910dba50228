"""The trial of a problem's module, once for all runs that train it alike."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from decentral.errors import UserError
from decentral.problems import trial
from decentral.problems.capabilities import is_ours
from decentral.problems.evaluation import placed
from decentral.problems.models.conversion import check_trainable, converted
from decentral.problems.models.draws import GENERATORS, Generators
from decentral.problems.models.tried import TRUSTED, Tried
from decentral.problems.plain_passes import PlainPasses
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.problems.capabilities import Layered, Made
    from decentral.problems.objective import Place

_MOST = 64
_KNOWN: dict[Any, Tried] = {}


def rehearsed(problem: Layered, made: Made, place: Place) -> Tried:
    """What a trial has found of the model in ``made``. Raises UserError where it cannot be trained."""
    if is_ours(problem):
        return TRUSTED
    module = made.module
    what = f"model {shown(problem.factory)}" if hasattr(problem, "factory") else "the model"
    # the classes: a file of the user's that is imported anew has others of the same names
    classes = tuple(type(part) for part in module.modules())
    key = (
        repr(problem),
        repr(module),
        classes,
        place.workers,
        place.seed,
        place.dtype,
        place.device,
        place.batch_size,
    )
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        _KNOWN[key] = _tried(problem, made, place, what)
    return _KNOWN[key]


def _tried(problem: Layered, made: Made, place: Place, what: str) -> Tried:
    check_trainable(made.module, what)

    def make() -> nn.Module:
        # not a copy, which would be without hooks of parameters
        return converted(problem.made(place.workers, place.seed).module, place.device, place.dtype)

    def begun(made: Made) -> PlainPasses:
        return PlainPasses(what, make, _batches(made, place), made.dataset.classes)

    @functools.cache  # made anew when it is asked for, if it is: what is remembered should hold no models
    def unbatchable() -> str:
        if looped:
            return looped
        with Generators(GENERATORS, place.device).kept():
            return trial.unbatchable(begun(problem.made(place.workers, place.seed)))

    with Generators(GENERATORS, place.device).kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run will say the same
        try:
            plain = begun(made)
            trial.check_loop(plain)
            looped = trial.looped(plain)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{what} cannot be tried ({type(error).__name__}: {error}); mend it") from error
    # torch's are seeded in any case, which costs little: a model may draw only now and then
    return Tried(plain.draws | {"torch"}, unbatchable, stateless=False, notes=_notes(plain, made, place))


def _notes(plain: PlainPasses, made: Made, place: Place) -> tuple[str, ...]:
    notes = []
    if plain.counting:
        notes.append(
            f"the model changes its attribute {shown(plain.counting)} in each pass, and the workers of a process share "
            "it; what should be each worker's own is a buffer"
        )
    if place.dtype != torch.float64 and any(p.dtype == torch.float64 for p in made.module.parameters()):
        notes.append('the model has float64 parameters, which are rounded to train.dtype = "float32"')
    return tuple(notes)


def _batches(made: Made, place: Place) -> list[tuple[Tensor, Tensor]]:
    """Two batches as large as those of the run; of "full" ones the largest and the smallest."""
    inputs, labels = made.dataset.train_x, made.dataset.train_y
    if place.batch_size == "full":
        by_size = sorted(made.shards, key=len)
        chosen = [torch.from_numpy(by_size[k]) for k in (-1, 0)]
    else:
        chosen = [
            torch.arange(k * place.batch_size, (k + 1) * place.batch_size) % len(labels) for k in range(2)
        ]
    return [(placed(inputs[some], place), labels[some].to(place.device)) for some in chosen]
