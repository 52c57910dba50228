"""Runs of networks with batch norms whose weights are rescaled, and how they are started."""

import tomli_w
import torch
from command import decentral, metrics
from torch import nn

from decentral.comm.world import LocalWorld
from decentral.runs.experiment import expand
from decentral.runs.place import Here

HERE = Here(LocalWorld(), torch.device("cpu"))


CNN = {
    "name": "small",
    "seeds": [3],
    "problem": {"name": "cnn", "width": 2},
    "topology": {"name": "ring", "workers": 3},
    "algorithm": {"name": "dsgd"},
    "optimizer": {"name": "sgd", "momentum": 0.5, "rescale": "filter", "rescale_every": 2},
    "train": {
        "lr": 0.1, "rounds": 10, "batch_size": 8, "weight_decay": 0.05, "dtype": "float64", "record_every": 5,
    },
}  # fmt: skip
CUT = {"stages": {"count": 3}, "program": {"name": "backprop"}}
OF_CNN = {"0": "1", "3": "4", "6": "7"}


def table(**changes):
    """The run, with other keys in its sections; None removes one."""
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in CNN.items()}
    for key, value in changes.items():
        if value is None:
            made.pop(key)
        else:
            made[key] = value if "name" in value else {**made.get(key, {}), **value}
    return made


def config(**changes):
    (planned,) = expand(table(**changes)).runs
    return planned.config


class Apart(nn.Module):
    """Three layers, of which the second has the batch norm of the first's weight, and the third has both."""

    def __init__(self):
        super().__init__()
        first = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
        second = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU())
        third = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.layers, self.head = nn.ModuleList([first, second, third]), nn.Linear(8, 10)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def apart(shape, classes):
    return Apart()


def nothing_before(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 10))


def of_user(factory):
    return {"problem": {"name": "module", "factory": f"rescaled_runs:{factory}"}}


OWN_CLOCK = {"wall_s", "simulated_s", "mpi_bytes_sent"}


def write(path, **changes):
    path.write_text(tomli_w.dumps(table(**changes)))
    return path


def seen(out):
    ((_, rows),) = metrics(out).items()
    return [{k: v for k, v in row.items() if k not in OWN_CLOCK} for row in rows]


def run(file, out):
    said = decentral("run", file, "--out", out)
    assert said.code == 0, said.err
    return seen(out)
