"""How long a run trains."""

from dataclasses import dataclass

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.settings import TrainSettings

__all__ = ["Budget"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The total that a run may spend, of one kind.

    Attributes:
        unit: ``"epochs"``, ``"samples"`` or ``"steps"``.
        total: How many, from the run's beginning.
        dataset_size: Samples in an epoch.
    """

    unit: str
    total: int
    dataset_size: int

    @classmethod
    def of(cls, settings: TrainSettings, dataset_size: int) -> "Budget":
        """The one budget of resolved settings.

        Args:
            settings: After `TrainSettings.resolved`.
            dataset_size: Samples in an epoch.

        Returns:
            The budget.
        """
        totals = {"epochs": settings.epochs, "samples": settings.samples, "steps": settings.steps}
        unit, total = next((unit, total) for unit, total in totals.items() if total is not None)
        return cls(unit=unit, total=total, dataset_size=dataset_size)

    @property
    def samples(self) -> int | None:
        """The total in samples; not known in advance where it is in steps."""
        if self.unit == "steps":
            return None
        return self.total * (self.dataset_size if self.unit == "epochs" else 1)

    def left(self, *, step: int, samples_seen: int) -> dict[str, int]:
        """What ``Controller.run`` may still spend, as its keyword.

        Args:
            step: Updates done.
            samples_seen: Samples drawn.

        Returns:
            One keyword and its value, which is 0 or less where the budget is spent.
        """
        spent = {"epochs": samples_seen // self.dataset_size, "samples": samples_seen, "steps": step}
        return {self.unit: self.total - spent[self.unit]}

    def is_spent(self, *, step: int, samples_seen: int) -> bool:
        """Whether the run ends here."""
        return self.left(step=step, samples_seen=samples_seen)[self.unit] <= 0

    def check_covers(self, *, step: int, samples_seen: int) -> None:
        """Refuse to be the budget of a run that has spent more.

        Args:
            step: Updates done.
            samples_seen: Samples drawn.

        Raises:
            InvalidInputError: If more than the total is spent.
        """
        epochs = samples_seen / self.dataset_size
        spent = {"epochs": epochs, "samples": samples_seen, "steps": step}[self.unit]
        if spent > self.total:
            done = f"{spent:.4g}" if self.unit == "epochs" else f"{spent}"
            raise InvalidInputError(
                f"the run has done {done} {self.unit}, more than the budget of {self.total}: name a larger "
                f"--{self.unit}, or leave it out"
            )
