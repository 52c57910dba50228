"""Experiments of made-up things, a file of each kind of run."""

EXPERIMENT = """
name = "made"
seeds = [1]
[problem]
name = "mlp"
hidden = [6]
data = "stripes"
[topology]
name = "wheel"
workers = 4
[algorithm]
name = "sleepy"
[optimizer]
name = "signed"
[schedule]
name = "sawtooth"
[train]
lr = 0.02
rounds = 6
batch_size = 5
record_every = 2
dtype = "float64"
[sweep]
topology.name = ["wheel", "blinking"]
algorithm.name = ["sleepy", "dsgd"]
[[figure]]
name = "made"
kind = "dots"
y = "consensus_sq"
"""


STAGES = """
[problem]
name = "mlp"
hidden = [6, 6]
data = "stripes"
[stages]
count = 2
[program]
name = "lonely"
head = "flat"
[optimizer]
name = "signed"
[train]
lr = 0.01
rounds = 40
batch_size = 5
"""


NODES = """
[problem]
name = "logistic-regression"
data = "stripes"
[dataflow]
[optimizer]
name = "signed"
[train]
lr = 0.01
rounds = 6
batch_size = 10
"""


PACKETS = """
[problem]
name = "quadratic"
[topology]
name = "wheel"
workers = 4
[algorithm]
name = "pmsgd"
momentum = 0.0
[compression]
name = "loud"
[train]
lr = 0.05
rounds = 30
"""


ALONE = """
[problem]
name = "quadratic"
[topology]
name = "wheel"
workers = 4
[algorithm]
name = "shy"
[train]
lr = 0.05
rounds = 30
"""


ASSISTED = """
[problem]
name = "mlp"
hidden = [6]
data = "stripes"
[assistant]
name = "picky"
[train]
lr = 0.02
rounds = 40
batch_size = 5
"""


FILES = {
    "made": EXPERIMENT, "stages": STAGES, "nodes": NODES, "packets": PACKETS, "alone": ALONE, "assisted": ASSISTED,
}  # fmt: skip
