"""Cluster files and ``advise`` with what no cluster has: one line, and soon."""

from __future__ import annotations

import pytest

from decentral.commands.advise import advise
from decentral.errors import UserError
from decentral.network.cluster import Cluster
from decentral.network.cluster_file import read_calibrated, read_cluster

LINKS = '[links]\nlatency_s = "50 us"\nbandwidth_bytes_s = "10 Gb/s"\n'
CURVES = "[compute]\nround_bytes = {}\ngossip_s = [1, 1]\nall_reduce_s = [1, 1]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 100_000, "is not valid TOML: it is nested too deeply"),
        ("a = " + "{a=" * 5_000, "is not valid TOML: it is nested too deeply"),
        ("a." * 50_000 + "b = 1", "line 1 has a key of more than 100 parts"),
        ("a . " * 50_000 + "b = 1", "line 1 has a key of more than 100 parts"),
        ("workers = " + "9" * 5_000, "it holds an integer of more than 4,300 digits"),
        ("workers = 99999999\n" + LINKS, "workers = 99999999 is more than 100,000"),
        (
            "workers = 8\n" + LINKS + CURVES.format("[nan, 2]"),
            "compute.round_bytes = [nan, 2.0] must be positive",
        ),
        (
            "workers = 8\n[links]\nlatency_s = '" + "x" * 5_000 + "'\nbandwidth_bytes_s = 1\n",
            "is not a quantity",
        ),
        ("\0", "is not valid TOML: line 1 holds NUL bytes"),
    ],
)
def test_a_cluster_file_that_cannot_be_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError) as refusal:
        read_calibrated(tmp_path / "c.toml")
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path / "c.toml"))
    assert len(str(refusal.value)) < 300


def test_a_byte_order_mark_is_no_part_of_a_cluster_and_links_may_be_a_table(tmp_path):
    (tmp_path / "c.toml").write_text("\ufeffworkers = 8\r\n" + LINKS)
    assert read_cluster(tmp_path / "c.toml").n == 8
    (tmp_path / "c.csv").write_text("from,to,latency_s,bandwidth_bytes_s\n0,1,50 us,10 Gb/s\n1,2,0.5,1e9\n")
    cluster = read_cluster(tmp_path / "c.csv")
    assert cluster.latency_s([0, 2], [1, 1]).tolist() == [50e-6, 0.5]
    assert cluster.bandwidth_bytes_s(1, 0) == 1.25e9


@pytest.mark.parametrize(
    ("latency_s", "rate", "model_bytes", "compute_s", "message"),
    [
        (0.0, 1e9, float("inf"), 0.1, "model_bytes = inf must be a positive number of bytes, 1e+18 at most"),
        (0.0, 1e9, 1e308, 0.1, "model_bytes = 1e+308 must be"),
        (0.0, 1e9, float("nan"), 0.1, "model_bytes = nan must be"),
        (0.0, 1e9, 1e6, float("inf"), "compute_s = inf must be a number of seconds from 0 to 1e+18"),
        (0.0, 1e9, 1e6, -1.0, "compute_s = -1 must be"),
        (1e308, 1e9, 1e6, 0.1, "a vector of 1e+06 bytes takes more than 1e+18 seconds; see to latency_s"),
        (0.0, 1e-308, 1e6, 0.1, "a vector of 1e+06 bytes takes more than 1e+18 seconds; see to latency_s"),
    ],
)
def test_times_without_end_are_refused(latency_s, rate, model_bytes, compute_s, message):
    with pytest.raises(UserError) as refusal:
        advise(Cluster.uniform(8, latency_s, rate), model_bytes, compute_s)
    assert message in str(refusal.value)
