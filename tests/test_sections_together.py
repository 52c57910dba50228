"""Sections of a run of rounds that change what another one goes by are refused together, in one line."""

import pytest
from command import decentral, write

RUN = {
    "problem": {"name": "mlp", "hidden": [4], "data": "digits"},
    "train": {"lr": 0.1, "rounds": 2, "batch_size": 8},
}
PHASES = {"phases": {"replicas": {"rounds": 2, "batch_size": 4, "lr": 0.05}}}
NOISE = {"noise_scale": {}}
GROWS = {"noise_scale": {"most_batch": 16, "grow_every": 1}}
ADVERSARIAL = {"adversarial": {"eps": 0.1}}
SEBOOST = {"optimizer": {"name": "seboost", "every": 2}}
RESCALED = {"optimizer": {"name": "sgd", "rescale": "layer"}}
LEGW = {"schedule": {"name": "legew", "base_batch": 32, "base_warmup_epochs": 0.0}}
NLCG = {"optimizer": {"name": "nlcg"}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (PHASES | ADVERSARIAL, "[phases] draws batches that [adversarial] has no examples of"),
        (PHASES | NOISE, "[phases] changes the batches that [noise_scale] measures"),
        (PHASES | SEBOOST, "SEBOOST goes by losses, which workers alone are not told"),
        (PHASES | NLCG, "NLCG goes by losses, which workers alone are not told"),
        (GROWS | ADVERSARIAL, "noise_scale.most_batch changes the batches that [adversarial] moves"),
        (ADVERSARIAL | RESCALED, "[optimizer] rescales one of the two sets of statistics of [adversarial]"),
        (GROWS | LEGW, "noise_scale.most_batch changes what [schedule] goes by"),
        (GROWS | SEBOOST, "[optimizer] evaluates the loss on batches that noise_scale.most_batch changes"),
        (ADVERSARIAL | SEBOOST, "[optimizer] evaluates the loss without the examples of [adversarial]"),
    ],
)  # fmt: skip
def test_they_are_refused(tmp_path, sections, words):
    file = write(tmp_path / "x.toml", **RUN, **sections)
    said = decentral("run", file, "--out", tmp_path / "out")
    assert (said.code, words in said.err.replace("\n", " "), len(said.err) < 300) == (2, True, True), said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "sections",
    [
        NOISE | ADVERSARIAL,
        NOISE | NLCG,
        ADVERSARIAL | NLCG,
        PHASES | {"optimizer": {"name": "lars"}},
        PHASES | LEGW,
        GROWS | {"optimizer": {"name": "lamb"}},
    ],
    ids=lambda sections: " ".join(sections),
)
def test_the_others_run(tmp_path, sections):
    said = decentral("run", write(tmp_path / "x.toml", **RUN, **sections), "--out", tmp_path / "out")
    assert said.code == 0, said.err
