"""Rescaling in rounds, without rounds, in stages and in phases, against plain loops."""

import copy
from typing import ClassVar

import pytest
import torch
from networks_with_norms import by_hand
from rescaled_runs import CUT, HERE, OF_CNN, config, of_user
from torch.nn.functional import cross_entropy

from decentral.runs.asynchronous import training as asynchronous
from decentral.runs.journal import Journal
from decentral.runs.rounds.phases import PhasedTraining
from decentral.runs.rounds.training import Training
from decentral.runs.stages import training as stages


def module(run):
    return run.problem.made(run.workers, 3).module.double().train()


def trained_by_hand(
    modules, batch, mixing=None, averaged=False, momentum=0.5, by="filter", every=2, decay=0.05
):
    """10 rounds of W (x - lr m) on these modules, each with its momentum; ``averaged``: with the mean gradient."""
    params = [list(one.parameters()) for one in modules]
    spared = {name for path in OF_CNN for name in (f"{path}.weight", f"{path}.bias")}
    decays = [0.0 if name in spared else decay for name, _ in modules[0].named_parameters()]
    velocities = [[torch.zeros_like(p) for p in own] for own in params]
    for t in range(10):
        grads = []
        for i, one in enumerate(modules):
            x, y = batch(i, t)
            grads.append(torch.autograd.grad(cross_entropy(one(x), y), params[i]))
        if averaged:
            mean = [torch.stack(each).mean(0) for each in zip(*grads, strict=True)]
            grads = [mean for _ in modules]
        with torch.no_grad():
            for own, given, kept in zip(params, grads, velocities, strict=True):
                for p, g, v, wd in zip(own, given, kept, decays, strict=True):
                    v.mul_(momentum).add_(g + wd * p)
                    p.sub_(0.1 * v)
            if mixing is not None:
                for each in zip(*params, strict=True):
                    mixed = [sum(w * p for w, p in zip(row, each, strict=True)) for row in mixing]
                    for p, value in zip(each, mixed, strict=True):
                        p.copy_(value)
        if (t + 1) % every == 0:
            for one in modules:
                by_hand(one, by, OF_CNN)
    return modules


def same_models(training, modules):
    for i, one in enumerate(modules):
        torch.testing.assert_close(training.x[i], training.objective.layout.flatten(one), rtol=0, atol=1e-10)
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(training.objective.buffers[name][i], buffer, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["dsgd", "pmsgd"])
def test_rounds_are_those_of_a_plain_loop_and_can_be_resumed(algorithm):
    momentum = {"momentum": 0.0} if algorithm == "pmsgd" else {}
    run = config(algorithm={"name": algorithm, **momentum}, train={"checkpoint_every": 5})
    kept = []

    class Keeping(Journal):
        def keep(self, state):
            kept.append(copy.deepcopy(state))

    training = Training(run, HERE, Keeping())
    assert training.run().status == "finished"
    mixing = run.topology.mixing().matrix(0).toarray() if algorithm == "dsgd" else None

    def batch(i, t):
        inputs, labels = training.objective._batch(t)
        return inputs[i], labels[i]

    same_models(
        training, trained_by_hand([module(run) for _ in range(3)], batch, mixing, averaged=mixing is None)
    )
    resumed = Training(run, HERE, Journal(), kept[0])  # after round 5: the next rescaling is after the sixth
    resumed.run()
    assert torch.equal(resumed.x, training.x)
    for name, buffer in training.objective.buffers.items():
        assert torch.equal(resumed.objective.buffers[name], buffer)


@pytest.mark.parametrize("algorithm", ["ad-psgd", "async-push-sum"])
def test_an_asynchronous_worker_alone_is_a_plain_loop(algorithm):
    run = config(algorithm={"name": algorithm}, topology={"name": "complete", "workers": 1})
    training = asynchronous.Training(run, HERE, Journal())
    plain = module(run)
    by_hand(plain, "filter", OF_CNN)  # at the start too
    worker = training.workers[0]
    assert training.run().status == "finished"

    def batch(_, t):
        inputs, labels = worker.objective._batch(t)
        return inputs[0], labels[0]

    assert worker.t == 10
    trained_by_hand([plain], batch)
    plain(batch(0, 10)[0])  # a gradient that comes too late, but has gone through the batch norms
    torch.testing.assert_close(
        worker.side.model()[0], training.objective.layout.flatten(plain), rtol=0, atol=1e-10
    )
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(worker.objective.buffers[name][0], buffer, rtol=1e-10, atol=1e-10)


def test_asynchronous_workers_keep_models_whose_shares_are_small_at_norm_one():
    run = config(algorithm={"name": "async-push-sum"}, optimizer={"rescale_every": 1})
    training = asynchronous.Training(run, HERE, Journal())
    steps, seen = [w._rescale for w in training.workers.values()], []
    for worker, rescale in zip(training.workers.values(), steps, strict=True):

        def noted(worker=worker, rescale=rescale):
            rescale()
            z = worker.objective.layout.views(worker.side.model()[0])["3.weight"]
            seen.append((float(worker.side.w), z.flatten(1).norm(dim=1)))

        worker._rescale = noted
    training.run()
    assert min(w for w, _ in seen) < 0.9
    assert all(torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-12) for _, norms in seen)


@pytest.mark.parametrize("count", [1, 3])
def test_stages_rescale_their_own_layers(count):
    run = config(topology=None, algorithm=None, **CUT | {"stages": {"count": count}})
    training = stages.Training(run, HERE, Journal())
    assert training.run().status == "finished"
    plain = module(run)
    trained_by_hand([plain], lambda i, t: training.plan.samples.batch(i, t))
    expected = dict(plain.state_dict())
    names, found = training.assembly.names, 0
    for stage in training.stages:
        for name, value in stage.network.modules().state_dict().items():
            if int(name.partition(".")[0]) in stage.span or (
                stage.last and name.startswith(f"{stage.depth}.")
            ):
                torch.testing.assert_close(value, expected[names[name]], rtol=1e-10, atol=1e-10)
                found += 1
    assert found == len(expected)


def test_a_weight_whose_batch_norm_is_in_the_next_stage_is_left_out_and_said():
    found = {}
    for cut in (1, 2):
        change = {"stages": {"count": 2, "cut": [cut]}, "program": {"name": "backprop"}}
        notes = []
        journal = Journal(begun=lambda facts, said, notes=notes: notes.extend(said))
        run = config(topology=None, algorithm=None, **of_user("apart"), **change)
        training = stages.Training(run, HERE, journal)
        assert training.run().status == "finished"
        parts = training.stages[0].network.layers[0][1], training.stages[1].network.layers[2][0]
        found[cut] = [abs(float(part.weight.detach()[0].norm()) - 1) < 1e-12 for part in parts]
        said = "1 weight(s), the first of them '0.1.weight', are not rescaled"
        assert any(said in note for note in notes) is (cut == 1)
    assert found == {1: [False, True], 2: [True, True]}


def test_the_second_of_phases_rescales_by_its_own_rule(home):
    replicas = {"rounds": 3, "batch_size": 8, "lr": 0.05, "optimizer": {"name": "sgd", "rescale": "layer"}}
    training = execute_phases(config(optimizer=None, phases={"replicas": replicas}))
    for norms in training.norms[:1]:
        assert not torch.allclose(norms, torch.ones(3, dtype=torch.float64), atol=1e-3)
    for norms in training.norms[10:13]:
        torch.testing.assert_close(norms, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert len(training.norms) == 13


def execute_phases(run):
    class Watching(PhasedTraining):
        norms: ClassVar[list] = []

        def _advance(self, *args):
            super()._advance(*args)
            self.norms.append(self.objective.layout.views(self.x)["3.weight"].flatten(1).norm(dim=1))

    training = Watching(run, HERE, Journal())
    assert training.run().status == "finished"
    return training
