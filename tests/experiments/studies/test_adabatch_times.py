from types import SimpleNamespace

import pytest

from experiments.reproduce.outcomes import results
from gradbatch.experiments.reproduce.results import Outcome
from gradbatch.experiments.studies.adabatch_times import EXPERIMENTS, gain, time_sizes

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


@pytest.mark.parametrize(
    ("experiment", "numbers", "note"),
    [(GPU, ["1"], "2 rounds of 5 turns"), (PROCESSES, ["1", "2"], "2 rounds of 10 turns")],
)
def test_every_size_takes_its_turns_with_every_number_of_processes(experiment, numbers, note):
    notes = []
    one = experiment.trials("quick")[0]
    values = one.work(one.settings, SimpleNamespace(note=notes.append))
    assert notes == [note]
    assert list(values["seconds_per_sample"]) == numbers
    for by_size in values["seconds_per_sample"].values():
        assert list(by_size) == ["16", "32", "64", "128", "256"]
        for times in by_size.values():
            assert len(times) == 2
            assert min(times) > 0


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    one = PROCESSES.trials("quick")[0]
    with pytest.raises(AssertionError):
        time_sizes(one.settings, SimpleNamespace(note=print), sizes=(16, 33), rounds=1)
