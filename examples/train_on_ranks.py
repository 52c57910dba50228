"""Decentralized training in a script of one's own, on scikit-learn's digits: alone, or under mpirun -n RANKS."""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import decentral as dc

EPOCHS = 10

comm = dc.join("ring")
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)
test = slice(1400, None)
size = 1400 // comm.n  # as many samples for each, so that all make as many steps
mine = slice(comm.rank * size, (comm.rank + 1) * size)
shuffle = torch.Generator().manual_seed(comm.rank)
samples = TensorDataset(x[mine], y[mine])
loader = DataLoader(samples, batch_size=20, shuffle=True, drop_last=True, generator=shuffle)

model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
sgd = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer = dc.Decentralized(sgd, method=dc.algorithms.DecentLaM(0.9), comm=comm, model=model)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

kept = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / f"digits-{comm.rank}-of-{comm.n}.pt"
first = 0
if kept.exists():
    state = torch.load(kept)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    shuffle.set_state(state["shuffle"])
    first = state["epochs"]

for epoch in range(first, EPOCHS):
    model.train()
    for inputs, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    scheduler.step()
    states = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    states = {name: thing.state_dict() for name, thing in states.items()}
    torch.save({**states, "shuffle": shuffle.get_state(), "epochs": epoch + 1}, kept)
    model.eval()
    with optimizer.averaged(), torch.no_grad():  # the mean of all workers' models
        accuracy = (model(x[test]).argmax(1) == y[test]).float().mean()
    if comm.rank == 0:
        sent_mb = comm.ledger.bytes_sent[0] / 1e6
        print(f"epoch {epoch + 1}: accuracy {accuracy:.3f}, {sent_mb:.2f} MB sent by a worker")
