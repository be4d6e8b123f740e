"""The baseline: a batch size that never changes."""

from dataclasses import dataclass

from gradbatch._types import Decision, Progress, Rule, Statistics

__all__ = ["Fixed"]


@dataclass(frozen=True, kw_only=True)
class Fixed(Rule[None]):
    """Keep the batch size as it is.

    It measures nothing and answers with the *requested* size, never the used one, so that a short batch at an
    epoch's end changes nothing. With it, the controller's loop is the plain PyTorch loop bit for bit.
    """

    def requires(self, progress: Progress) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def init(self) -> None:
        """No state."""
        return

    def update(self, statistics: Statistics, progress: Progress, state: None) -> tuple[Decision, None]:
        """The requested size again."""
        return Decision(batch_size=progress.batch_size, reason="fixed"), None
