"""What scripts with the drop-in begin with, and how a test starts them on ranks."""

from ranks import run_ranks


def passes(ranks, code, *args):
    done = run_ranks(ranks, "-c", code, *args)
    assert done.stdout.count("fine") == ranks, done.stderr
    return done


SETUP = """
import copy, os, sys, warnings
warnings.simplefilter("error")
import numpy as np, torch
from torch import nn
from torch.nn.functional import cross_entropy
import decentral as dc
A = dc.algorithms
comm = dc.join("ring")
rank = comm.rank
other = 1 - rank
draw = torch.Generator().manual_seed(7)
X = torch.randn(2, 40, 6, 5, generator=draw, dtype=torch.float64)
Y = torch.randint(3, (2, 40, 6), generator=draw)

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()

def backward(model, t, worker=rank):
    loss = cross_entropy(model(X[worker, t]), Y[worker, t])
    loss.backward()
    return loss

def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
"""


def ends(ranks, code, *args):
    return run_ranks(ranks, "-c", SETUP + code, *args, timeout=90)
