"""What became of an experiment's claims."""

from gradbatch.experiments.reproduce.experiment import Claim, Experiment, Scale, Verdict
from gradbatch.experiments.reproduce.results import Results

__all__ = ["verdicts"]


def verdicts(experiment: Experiment, scale: Scale, results: Results) -> list[tuple[Claim, Verdict]]:
    """The claims of an experiment and what became of them; one is judged when the full runs it rests on are all in.

    Args:
        experiment: Which.
        scale: Of the results.
        results: What came out.

    Returns:
        In the order of the claims.
    """
    return [(claim, _verdict(claim, scale, results.at(**claim.place))) for claim in experiment.claims]


def _verdict(claim: Claim, scale: Scale, results: Results) -> Verdict:
    if scale == "quick":
        return Verdict("open", "quick runs only")
    if not results.is_complete:
        return Verdict("open", f"{results.num_run:,} of {results.num_trials:,} runs are in")
    return claim.judge(results)
