from types import SimpleNamespace

import pytest

from experiments.reproduce.outcomes import results
from gradbatch.experiments.reproduce.results import Outcome
from gradbatch.experiments.studies.adabatch_times import EXPERIMENTS, gain

PROCESSES, GPU = EXPERIMENTS


def timed(*by_number):
    """Seconds a sample at batch sizes 16 and 32, by number of processes, in two rounds; all twice as slow in one."""
    seconds = {
        str(number): {str(size): [own, 2 * own] for size, own in zip((16, 32), times, strict=True)}
        for number, times in enumerate(by_number, start=1)
    }
    return Outcome(line=1, values={"seconds_per_sample": seconds}, provenance={})


def answers(*outcomes, experiment=PROCESSES):
    found = results(*(({"model": f"net {n}"}, own) for n, own in enumerate(outcomes)))
    return [claim.judge(found).answer for claim in experiment.claims]


MORE = timed((3e-4, 1e-4), (4e-4, 1e-4))
HARDLY = timed((3e-4, 1e-4), (3.2e-4, 1e-4))  # 1.52 times, against 1.5
LESS = timed((3e-4, 1e-4), (2e-4, 1e-4))


def test_the_gain_is_the_small_batch_over_the_mean_of_all_stages():
    assert gain(MORE, 1) == pytest.approx([1.5, 1.5])
    assert gain(MORE, 2) == pytest.approx([1.6, 1.6])


def test_the_claim_holds_where_more_processes_gain_more():
    assert answers(MORE) == ["holds"]
    assert answers(LESS) == answers(HARDLY) == ["does not hold"]
    assert answers(MORE, LESS) == ["in part"]


def test_the_table_compares_the_same_rounds():
    title, table = PROCESSES.blocks(results(({"model": "net"}, MORE)))
    assert title == "### net"
    assert table.rows == [
        ["1 process", "4.5", "1.5", "**1.50** (1.50–1.50)", "1"],
        ["2 processes", "6", "1.5", "**1.60** (1.60–1.60)", "1"],
        ["times as fast", "0.75", "1.00", "", "1"],
    ]


def test_on_a_gpu_one_process_is_held_against_the_small_batch():
    faster, hardly = timed((3e-4, 1e-4)), timed((3e-4, 2.9e-4))
    assert answers(faster, experiment=GPU) == ["holds"]
    assert answers(hardly, experiment=GPU) == ["does not hold"]
    table = GPU.blocks(results(({"model": "net"}, faster)))[1]
    assert table.rows == [["1 process", "4.5", "1.5", "**1.50** (1.50–1.50)", "1"]]
    assert "more processes" not in table.caption


def test_one_process_takes_its_turns():
    notes = []
    one = GPU.trials("quick")[0]
    values = one.work(one.settings, SimpleNamespace(note=notes.append))
    assert notes == ["2 rounds of 5 turns"]
    assert list(values["seconds_per_sample"]) == ["1"]
    for times in values["seconds_per_sample"]["1"].values():
        assert len(times) == 2
        assert min(times) > 0
