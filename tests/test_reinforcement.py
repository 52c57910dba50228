"""The problem "rl" against loops of its papers' equations: environments, networks, losses, replay, and whole rounds."""

import importlib
import math
import sys

import numpy as np
import pytest
import tomli_w
import torch
from command import decentral, experiment, metrics, write
from torch.distributions import Normal

from decentral.errors import UserError
from decentral.problems import PROBLEMS
from decentral.problems.objective import Place
from decentral.problems.other_batches import OtherBatches
from decentral.problems.reinforcement.networks import Critic, dense_blocks, network
from decentral.problems.reinforcement.pendulum import Pendulum
from decentral.problems.reinforcement.point_mass import PointMass
from decentral.problems.reinforcement.replay import Replay
from decentral.problems.reinforcement.representation import OFENet
from decentral.problems.reinforcement.sum_tree import SumTree, leaves_for
from decentral.runs.sections.actors import hosting_ranks
from topologies.streams import stream

RNG = np.random.default_rng(4)
RL = PROBLEMS["rl"]


def test_the_pendulum_has_gymnasiums_equations():
    state = RNG.uniform([-7, -8], [7, 8], (40, 2))
    action = RNG.uniform(-1.3, 1.3, (40, 1))
    found = Pendulum().step(state, action)
    for (theta, omega), (a,), after, seen, reward in zip(state, action, *found[:3], strict=True):
        u = 2 * min(max(a, -1), 1)
        angle = math.atan2(math.sin(theta), math.cos(theta))
        assert reward == pytest.approx(-(angle**2 + 0.1 * omega**2 + 0.001 * u**2), rel=1e-12)
        omega = omega + (3 * 10 / (2 * 1) * math.sin(theta) + 3 / (1 * 1**2) * u) * 0.05
        omega = min(max(omega, -8), 8)
        theta = theta + omega * 0.05
        assert after == pytest.approx([theta, omega], rel=1e-12)
        assert seen == pytest.approx([math.cos(theta), math.sin(theta), omega], rel=1e-12)
    assert not found.over.any()
    first, seen = Pendulum().reset(stream(0, "x"))
    assert abs(first[0]) <= math.pi
    assert abs(first[1]) <= 1
    assert seen == pytest.approx([math.cos(first[0]), math.sin(first[0]), first[1]])


def test_a_point_mass_is_pushed_and_leaves_the_plane_for_good():
    found = PointMass().step(
        np.array([[1.0, -0.5, 0.2, 0.0], [1.99, 0, 1.0, 0]]), np.array([[1.0, -2], [1, 0]])
    )
    v = [0.2 + 0.1 * (2 - 0.1), 0.1 * -2]
    p = [1 + 0.1 * v[0], -0.5 + 0.1 * v[1]]
    assert found.state[0] == pytest.approx([*p, *v])
    assert found.reward[0] == pytest.approx(math.exp(-(p[0] ** 2) - p[1] ** 2))
    assert found.terminated.tolist() == found.over.tolist() == [False, True]


def count(make):
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


@pytest.mark.parametrize(
    ("o", "a", "layers", "seen", "both"),
    [(11, 3, 6, 251, 494), (17, 6, 8, 257, 503), (111, 8, 6, 351, 599), (376, 17, 8, 616, 873)],
)
def test_ofenet_has_the_features_of_its_paper(o, a, layers, seen, both):
    net = OFENet(o, a, 240, layers, "swish")
    z = net.state(torch.zeros(2, o))
    assert (z.shape[1], net.of_pair(z, torch.zeros(2, a)).shape[1]) == (net.seen, net.both) == (seen, both)


def test_critics_have_the_parameters_of_the_paper():
    assert count(lambda: Critic(network(599, [256, 256], 1, "mlp", "relu"))) == 219_649
    assert count(lambda: Critic(network(599, [2048, 2048], 1, "densenet", "swish"))) == 6_656_600


def test_a_dense_block_gives_its_features_first():
    torch.manual_seed(0)
    blocks = dense_blocks(2, [3, 4], "swish", norm=True).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    found, y = blocks(x), x
    for block in blocks:
        linear, norm = block.new[0], block.new[1]
        u = y @ linear.weight.T + linear.bias
        u = (u - u.mean(0)) / (u.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
        y = torch.cat([u / (1 + torch.exp(-u)), y], dim=1)
    assert y.shape == (5, 9)
    torch.testing.assert_close(found, y, rtol=1e-12, atol=1e-12)


def test_the_sum_tree_is_its_leaves_summed_and_searched():
    leaves = np.zeros(leaves_for(11))
    tree = SumTree(np.zeros(2 * len(leaves)))
    assert len(leaves) == 16
    for _ in range(30):
        which, values = RNG.integers(11, size=5), RNG.random(5) * (RNG.random(5) > 0.2)
        tree.put(which, values)
        for k, value in zip(which, values, strict=True):
            leaves[k] = value
        assert tree.total == pytest.approx(leaves.sum())
        assert tree.largest == leaves.max()
        sums = RNG.random(50) * leaves.sum()
        slowly = []
        for u in sums:
            k, total = 0, leaves[0]
            while total <= u:
                k += 1
                total += leaves[k]
            slowly.append(k)
        assert tree.find(sums).tolist() == slowly
        assert (leaves[tree.find(np.full(1, np.nextafter(tree.total, np.inf)))] > 0).all()


def test_a_replay_forgets_the_oldest_and_draws_by_priority():
    settings = RL(replay=6, warmup=1, prioritised=True, priority_exponent=0.5, importance_exponent=0.7)
    rows, tree = torch.zeros(6, 2), torch.zeros(2 * leaves_for(6), dtype=torch.float64)
    replay = Replay(settings, rows, torch.zeros(1, dtype=torch.int64), tree)
    for k in range(4):
        replay.push(torch.tensor([[2.0 * k, 0], [2.0 * k + 1, 0]]))
    assert rows[:, 0].tolist() == [6, 7, 2, 3, 4, 5]
    assert replay.size == 6
    replay.learned(np.array([1, 2]), torch.tensor([4.0, 0.25]))
    sizes = np.array([1, (4 + 1e-6) ** 0.5, (0.25 + 1e-6) ** 0.5, 1, 1, 1])
    drawn = replay.draw(stream(1, "draw"), 40_000)
    share = sizes / sizes.sum()
    assert np.bincount(drawn.which, minlength=6) / 40_000 == pytest.approx(share, abs=1e-4)  # stratified
    weight = (6 * share) ** -0.7
    assert drawn.weight == pytest.approx((weight / weight.max())[drawn.which])
    replay.push(torch.zeros(1, 2))
    assert tree[8 + 2] == pytest.approx((4 + 1e-6) ** 0.5)  # as large as the largest


def place(rows=range(1), **more):
    given = {
        "workers": len(rows), "rows": rows, "seed": 3, "dtype": torch.float64, "device": torch.device("cpu"),
        "batch_size": 7, "weight_decay": 0.0, "oracle": "loop", "eval_samples": 10,
    }  # fmt: skip
    return Place(**{**given, **more})


SMALL = {"width": 5, "depth": 2, "warmup": 20, "replay": 40, "episodes": 2, "episode_steps": 15}
CASES = {
    "sac": {},
    "sac of wide features": {
        "connection": "densenet", "activation": "swish", "representation": "ofenet", "representation_units": 6,
        "representation_layers": 2, "env": "point-mass",
    },
    "sac of fixed temperature": {"temperature": 0.3, "prioritised": True},
    "td3": {"learner": "td3", "policy_delay": 1},
}  # fmt: skip


def linear(p, name, h):
    return torch.stack([(row * h).sum() for row in p[f"{name}.weight"]]) + p[f"{name}.bias"]


def passed(s, p, name, h):
    """A network of one sample, by the names of its parameters."""
    act = torch.relu if s.activation == "relu" else torch.nn.functional.silu
    for k in range(s.depth):
        if s.connection == "mlp":
            h = act(linear(p, f"{name}.{2 * k}", h))
        else:
            h = torch.cat([act(linear(p, f"{name}.{k}.new.0", h)), h])
    return linear(p, f"{name}.{2 * s.depth if s.connection == 'mlp' else s.depth}", h)


def features(s, p, buffers, name, h):
    """A branch of the representation, of one sample, by the running statistics."""
    if s.representation == "none":
        return h
    for k in range(s.representation_layers):
        at = f"representation.{name}.{k}.new"
        u = linear(p, f"{at}.0", h)
        mean, var = buffers[f"{at}.1.running_mean"][0], buffers[f"{at}.1.running_var"][0]
        u = (u - mean) / (var + 1e-5).sqrt() * p[f"{at}.1.weight"] + p[f"{at}.1.bias"]
        h = torch.cat([u * torch.sigmoid(u), h])
    return h


def gaussian(s, p, z, eps):
    mean, log_std = passed(s, p, "actor.body", z).chunk(2)
    normal = Normal(mean, log_std.exp())
    u = mean + log_std.exp() * eps
    return torch.tanh(u), (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)).sum()


def q(s, p, buffers, j, z, a):
    return passed(s, p, f"critics.{j}.body", features(s, p, buffers, "action", torch.cat([z, a])))[0]


def losses_by_loops(s, p, slow, buffers, batch, eps, eps_next):
    """The losses, by the owners of the parameters that they are differentiated by, and each sample's mean |Q_j - y|."""
    tuned, size = s.learner == "sac" and s.temperature is None, len(batch[0])
    alpha = p["log_temperature"].exp()[0] if tuned else s.temperature
    fixed = {name: value.detach() for name, value in p.items()}
    stopped = alpha.detach() if tuned else alpha
    sums, errors = {"critics": 0.0, "actor": 0.0} | ({"log_temperature": 0.0} if tuned else {}), []
    for o, a, r, following, over, w, e, e_next in zip(*batch, eps, eps_next, strict=True):
        z, z_next = (features(s, fixed, buffers, "state", part) for part in (o, following))
        if s.learner == "sac":
            a_next, density = gaussian(s, fixed, z_next, e_next)
            value = (
                min(q(s, {**fixed, **slow}, buffers, j, z_next, a_next) for j in (0, 1)) - stopped * density
            )
            mine, density = gaussian(s, p, z, e)
            sums["actor"] += stopped * density - min(q(s, p, buffers, j, z, mine) for j in (0, 1))
            if tuned:
                sums["log_temperature"] -= alpha * (density.detach() - len(a))
        else:
            there = torch.tanh(passed(s, slow, "actor.body", z_next))
            noise = (s.target_noise * e_next).clamp(-s.target_clip, s.target_clip)
            value = min(q(s, slow, buffers, j, z_next, (there + noise).clamp(-1, 1)) for j in (0, 1))
            sums["actor"] -= q(s, p, buffers, 0, z, torch.tanh(passed(s, p, "actor.body", z)))
        y = r + s.discount * (0 if over else 1) * value.detach()
        apart = [q(s, p, buffers, j, z, a) - y for j in (0, 1)]
        sums["critics"] += w * sum(one**2 for one in apart) / 2
        errors.append(sum(abs(one.detach()) for one in apart) / 2)
    return {owner: total / size for owner, total in sums.items()}, errors


def foretelling_loss(s, p, batch):
    """The mean square error of the foretold observations, with the batch's statistics."""
    h = batch[0]
    for name in ("state", "action"):
        h = torch.cat([h, batch[1]], dim=1) if name == "action" else h
        for k in range(s.representation_layers):
            at = f"representation.{name}.{k}.new"
            u = h @ p[f"{at}.0.weight"].T + p[f"{at}.0.bias"]
            u = (u - u.mean(0)) / (u.var(0, unbiased=False) + 1e-5).sqrt() * p[f"{at}.1.weight"] + p[
                f"{at}.1.bias"
            ]
            h = torch.cat([u * torch.sigmoid(u), h], dim=1)
    foretold = h @ p["representation.predict.weight"].T + p["representation.predict.bias"]
    return ((foretold - batch[3]) ** 2).mean()


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_row_is_that_of_loops_over_samples(case):
    s = RL(**SMALL, **CASES[case])
    objective = s.build(place())
    layout, buffers = objective.layout, objective.buffers
    x = objective.start()[None] + 0.3 * torch.from_numpy(RNG.standard_normal((1, objective.d)))
    buffers["slow"] += 0.3 * torch.from_numpy(RNG.standard_normal(buffers["slow"].shape))
    for value in objective.statistics.values():
        value += torch.from_numpy(RNG.random(value.shape)).to(value.dtype)
    x_before, names = x.clone(), [span.name for span in layout.spans]
    ((columns, g),) = objective.gradient(x, 0)
    assert (columns, g.shape) == (slice(0, objective.d), x.shape)
    assert torch.equal(x, x_before)

    # the batch of round 0, from the replay as the round found it after its actors' step
    again = s.build(place())
    again._collect(x, 0)
    o, a = objective.acting.env.observations, objective.acting.env.actions
    rng = stream(3, "transitions", 0, 0)
    drawn = again.replays[0].draw(rng, 7)
    eps_next, eps = torch.from_numpy(rng.standard_normal((2, 7, a)))
    parts = buffers["replay"][0][torch.from_numpy(drawn.which)].split([o, a, 1, o, 1], dim=1)
    batch = (*parts[:2], parts[2][:, 0], parts[3], parts[4][:, 0], torch.from_numpy(drawn.weight))

    leaf = x[0].clone().requires_grad_()
    p, slow = layout.views(leaf), {}
    copied = ("critics", "actor") if s.learner == "td3" else ("critics",)
    followed = [span for span in layout.spans if span.name.startswith(copied)]
    for span in followed:
        slow[span.name] = buffers["slow"][0][span.start - followed[0].start :][: span.size].view(span.shape)
    losses, errors = losses_by_loops(s, p, slow, buffers, batch, eps, eps_next)
    if s.representation == "ofenet":
        losses["representation"] = foretelling_loss(s, p, batch)
    expected = torch.zeros(objective.d, dtype=torch.float64)
    for owner, loss in losses.items():
        (slope,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        for span in layout.spans:
            if span.name.startswith(owner):
                expected[span.columns] = slope[span.columns]
    torch.testing.assert_close(g[0], expected, rtol=1e-10, atol=1e-10)
    assert (g != 0).any()
    assert {name.partition(".")[0] for name in names} == set(losses)
    assert objective.losses.tolist() == pytest.approx([losses["critics"].item()], rel=1e-10)
    if s.prioritised:
        leaves = buffers["priorities"][0][buffers["priorities"].shape[1] // 2 :]
        last = {k: error.item() for k, error in zip(drawn.which, errors, strict=True)}
        for k, error in last.items():
            assert leaves[k].item() == pytest.approx((error + 1e-6) ** s.priority_exponent, rel=1e-9)


def test_slow_copies_follow_after_each_round_or_each_delayed_one():
    for learner, delay in (("sac", 1), ("td3", 3)):
        s = RL(**SMALL, learner=learner, policy_delay=delay, tau=0.25)
        objective = s.build(place())
        spans = [s for s in objective.layout.spans if s.name.startswith(("actor", "critics"))]
        of_actor = slice(0, next(s.start for s in spans if s.name.startswith("critics")))
        followed = objective.rows.slow
        assert (followed.start == 0) == (learner == "td3")
        x, slow = objective.start()[None].clone(), objective.start()[None, followed].clone()
        for t in range(7):
            if t and t % delay == 0:
                slow = slow + 0.25 * (x[:, followed] - slow)
            ((_, g),) = objective.gradient(x, t)
            torch.testing.assert_close(objective.buffers["slow"], slow, rtol=1e-14, atol=1e-14)
            assert bool(g[:, of_actor].any()) == ((t + 1) % delay == 0)
            x = x - 0.1 * g


def test_actors_act_by_the_pull_before_the_last_and_episodes_end_in_time():
    s = RL(**{**SMALL, "actors": 2, "envs": 3, "steps": 2, "pull_every": 2, "warmup": 6, "replay": 200})
    objective = s.build(place(range(2)))
    assert objective.buffers["pushed"].tolist() == [[36], [36]]
    seen = []
    for t in range(6):
        x = torch.full((2, objective.d), 0.01 * (t + 1), dtype=torch.float64)
        before = objective.buffers["environments"].clone()
        objective.gradient(x, t)
        seen.append(objective.buffers["acting"][0, 0].item())
        env, at = objective.acting.env, 36 + 12 * t
        new = objective.buffers["replay"][1][at : at + 12].view(2, 2, 3, -1).numpy()
        for j in range(2):
            state = before[1, j].numpy()
            for k in range(2):
                assert (new[j, k, :, :3] == state[:, 2:5]).all()
                after = env.step(state[:, :2], new[j, k, :, 3:4])
                assert new[j, k, :, 4] == pytest.approx(after.reward)
                assert new[j, k, :, 5:8] == pytest.approx(after.observation)
                state = np.concatenate([after.state, after.observation, state[:, 5:] + [1, 0]], axis=1)
                for e in np.flatnonzero(state[:, 5] == 15):
                    first, looks = env.reset(stream(3, "episode", 1, j, e, int(state[e, 6])))
                    state[e] = [*first, *looks, 0, state[e, 6] + 1]
            assert objective.buffers["environments"][1, j].numpy() == pytest.approx(state)
    first = objective.start()[1].item()  # after the temperature
    assert seen == [first, first, 0.01, 0.01, 0.03, 0.03]
    assert (objective.buffers["environments"][..., 5] < 15).all()
    assert (objective.buffers["environments"][..., 6] == 2).all()  # 18 steps


def test_a_return_is_of_whole_episodes_without_noise():
    for env, steps in (("pendulum", 15), ("point-mass", 90)):
        s = RL(**{**SMALL, "env": env, "episode_steps": steps, "episodes": 4})
        objective = s.build(place())
        row, total = objective.buffers["acting"][0] + 0.4, []
        policy = objective.carried.put(row)
        views = objective.carried.layout.views(row)
        for e in range(4):
            state, seen = objective.acting.env.reset(stream(3, "evaluation", e))
            total.append(0.0)
            for _ in range(steps):
                mean = passed(s, views, "actor.body", torch.from_numpy(seen)).chunk(2)[0]
                after = objective.acting.env.step(state[None], torch.tanh(mean).numpy()[None])
                total[-1] += after.reward[0]
                if after.over[0]:
                    break
                state, seen = after.state[0], after.observation[0]
        assert objective.acting.returns(policy) == pytest.approx(total, rel=1e-12)


RUN = {
    "problem": {"name": "rl", "width": 6, "warmup": 8, "replay": 60, "episodes": 2, "episode_steps": 12},
    "optimizer": {"name": "adam"},
    "train": {"lr": 0.01, "rounds": 4, "batch_size": 6, "dtype": "float32", "record_every": 4},
}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem": {"env": "pendulums"}}, "did you mean 'pendulum'?"),
        ({"problem": {"env": "gymnasium:Pendulum-v1"}}, "pip install 'decentral[gymnasium]'"),
        ({"problem": {"depth": 0}}, "depth = 0 must be from 1"),
        ({"problem": {"tau": 0.0}}, "tau = 0.0 must be above 0"),
        ({"problem": {"representation_units": 100}}, "must be a multiple of representation_layers = 6"),
        ({"problem": {"actors": 3, "actor_ranks": 2}}, "actor_ranks = 2 must be 0 or divide actors = 3"),
        ({"problem": {"warmup": 61}}, "must hold the 61 transitions"),
        ({"problem": {"temperature": -1.0}}, "temperature = -1.0 must not be negative"),
        ({"problem": {"learner": "dqn"}}, "problem.learner = 'dqn' should be"),
        ({"train": {"batch_size": "full"}}, "has no meaning in a replay"),
        ({"problem": {"width": 2_000_000}}, "make it smaller"),
        (
            {"problem": {"actor_ranks": 1}, "faults": {"absent_workers": [1], "leave_round": 1, "return_round": 2}},
            "does not go with faults.absent_workers",
        ),
        ({"problem": {"actor_ranks": 1}, "algorithm": {"name": "ad-psgd"}}, "has none"),
        ({"topology": None, "algorithm": None, "stages": {"count": 2}, "program": {"name": "gpipe"}}, "rl"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_in_one_line(monkeypatch, changes, words, home):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    merged = {key: {**RUN.get(key, {}), **(value or {})} for key, value in changes.items()}
    table = {
        key: value
        for key, value in experiment(**{**RUN, **merged}).items()
        if changes.get(key, 1) is not None
    }
    (home / "x.toml").write_text(tomli_w.dumps(table))
    said = decentral("run", "x.toml", "--out", "out")
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert words in said.err
    assert len(said.err) < 300
    assert not (home / "out").exists()


def test_ranks_that_do_not_go_with_actors_are_refused():
    for ranks, hosting in ((1, 1), (3, 1), (6, 2), (12, 4)):
        assert hosting_ranks(RL(actors=2, actor_ranks=2), 4, ranks) == hosting
    assert hosting_ranks(RL(), 4, 2) == 2
    for ranks in (2, 4, 9):
        with pytest.raises(UserError, match="launch 3 or 6 or 12 ranks, or set it to 0"):
            hosting_ranks(RL(actors=2, actor_ranks=2), 4, ranks)


def test_workers_without_rounds_learn_too_and_rules_that_evaluate_leave_the_replay_as_it_was(home):
    file = write(home / "x.toml", **RUN, algorithm={"name": "ad-psgd"})
    said = decentral("run", file, "--out", "out")
    assert said.code == 0, said.err
    (rows,) = metrics(home / "out").values()
    first, last = (int(row["environment_steps"]) for row in rows)
    assert first == 4 * 8
    assert 4 * 12 <= last <= 4 * 13  # a gradient that comes too late has had its step
    assert float(rows[-1]["consensus_sq"]) > 0
    objective = RL(**SMALL, prioritised=True).build(place())
    kept = {name: value.clone() for name, value in objective.buffers.items()}
    OtherBatches(objective).evaluated(objective.start()[None], 3)
    assert all(torch.equal(objective.buffers[name], value) for name, value in kept.items())


GYMNASIUM = '''
import numpy as np

class Box:
    def __init__(self, low, high, dtype=np.float32):
        self.low, self.high = np.asarray(low, dtype), np.asarray(high, dtype)
        self.shape, self.dtype = self.low.shape, self.low.dtype
    def __repr__(self):
        return f"Box{self.shape}"

class Spaces:
    Box = Box

spaces = Spaces()
made = []

class Walk:
    """Its hidden state is that of a generator."""
    class spec:
        max_episode_steps = 20
    def __init__(self, bound, shape):
        self.action_space = Box(np.full(shape, -1.0), np.full(shape, bound))
        self.observation_space = Box(np.full(2, -np.inf), np.full(2, np.inf))
        made.append(self)
    def reset(self, *, seed=None):
        self.rng, self.x = np.random.default_rng(seed), 0.0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        assert self.action_space.low[0] <= action[0] <= self.action_space.high[0]
        self.x += float(action[0]) + self.rng.normal()
        return np.array([self.x, action[0]], np.float32), -abs(self.x), self.x > 6, False, {}

def make(name):
    if name == "Walk-v0":
        return Walk(3.0, 1)
    if name == "Unbounded-v0":
        return Walk(np.inf, 1)
    if name == "Picture-v0":
        return Walk(3.0, (1, 1))
    raise KeyError(f"no {name}")
'''


@pytest.fixture
def gymnasium(tmp_path, monkeypatch):
    """A package of that name, with its interface, from which the environments are asked."""
    (tmp_path / "gymnasium.py").write_text(GYMNASIUM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gymnasium", raising=False)
    yield importlib.import_module("gymnasium")
    sys.modules.pop("gymnasium")


def test_an_episode_of_gymnasium_goes_on_from_its_numbers_alone(gymnasium):
    s = RL(**{**SMALL, "env": "gymnasium:Walk-v0", "actors": 2, "envs": 3, "warmup": 5, "replay": 200})
    whole, first = s.build(place()), s.build(place())
    assert whole.acting.env.steps == 15
    x = whole.start()[None]
    for t in range(40):
        whole.gradient(x, t)
        first.gradient(x, t)
        if t % 7 == 3:  # another process goes on, with other environments
            other = s.build(place())
            for name, value in first.buffers.items():
                other.buffers[name].copy_(value)
            first = other
    for name, value in whole.buffers.items():
        assert torch.equal(first.buffers[name], value), name
    replay = whole.buffers["replay"][0]
    assert replay[:, 3].abs().max() > 1  # what acted is -1 to 1, and the environment's own bounds are wider
    assert replay[:, 6].sum() > 0
    assert len(gymnasium.made) < 12 * 8


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Unbounded-v0", "its actions have no bounds"),
        ("Picture-v0", r"its actions are Box\(1, 1\), and must be a Box of one dimension"),
        ("None-v0", "gymnasium cannot make it"),
    ],
)
@pytest.mark.usefixtures("gymnasium")
def test_spaces_of_gymnasium_that_do_not_fit_are_named(name, words):
    with pytest.raises(UserError, match=words):
        RL(env=f"gymnasium:{name}").prepare(1, 0)
    with pytest.raises(UserError, match="after 20 steps; set at most these"):
        RL(env="gymnasium:Walk-v0", episode_steps=21).prepare(1, 0)
