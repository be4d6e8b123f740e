"""The span of one measured pass, from the forward to what is made of its backward."""

from collections.abc import Callable, Sequence
from types import TracebackType

from torch import Tensor

from gradbatch.errors import MeasurementError
from gradbatch.probe.heard import Heard, Plan
from gradbatch.probe.hooks import Listener

__all__ = ["Measurement"]


class Measurement:
    """The context of one measured pass; see `Probe.measure`, which also has the arguments not listed.

    Args:
        listen: ``(measurement, is_announced) -> listener``, which begins to hear.
        take_in: ``(measurement, heard, plan)``, called once at the end, with ``None`` for what was heard where the
            pass failed or never came.
        num_samples: See `Probe.measure`, as for the following.
        loss_scale: Likewise.
        weight: Likewise.
        keep_gradient: Likewise.
        is_part: Likewise.
    """

    def __init__(
        self,
        listen: "Callable[[Measurement, bool], Listener]",
        take_in: "Callable[[Measurement, Heard | None, Plan | None], None]",
        *,
        num_samples: int,
        loss_scale: float,
        weight: float,
        keep_gradient: bool,
        is_part: bool,
    ) -> None:
        self._listen = listen
        self._take_in = take_in
        self.num_samples = num_samples
        self.loss_scale = loss_scale
        self.weight = weight
        self.keep_gradient = keep_gradient
        self.is_part = is_part
        self._listener: Listener | None = None
        self._is_announced = False

    def __enter__(self) -> "Measurement":
        """Listen to the one pass that accumulates gradients, whoever calls it."""
        self._listener = self._listen(self, False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def begin(self) -> None:
        """Listen to the pass that `backward` will make."""
        self._listener = self._listen(self, True)

    def backward(self, loss: Tensor, *, loss_scale: float | None = None, weight: float | None = None) -> None:
        """Send the loss of what was heard backward."""
        listener = self._listener
        assert listener is not None
        self.loss_scale = self.loss_scale if loss_scale is None else loss_scale
        self.weight = self.weight if weight is None else weight
        listener.attach([loss])
        self._is_announced = listener.is_own = True
        try:
            loss.backward()
        finally:
            listener.is_own = False

    def close(self, *, failed: bool = False) -> None:
        """End the measurement, once; after a failure nothing enters the sums."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        plan, whole = listener.plan, None
        try:
            own = listener.end()
            if not failed and (own or self._is_announced):
                whole = _joined(own)
        except BaseException:  # the probe must not wait for a measurement that is over
            self._take_in(self, None, None)
            raise
        self._take_in(self, whole, plan)


def _joined(passes: Sequence[Heard]) -> Heard:
    """All that our own passes said, as one."""
    whole = Heard(accumulates=True)
    for heard in passes:
        joined = whole.joined(heard)
        if joined is None:
            raise MeasurementError(
                f"{len(passes)} backward passes accumulated gradients within one measurement, which needs exactly "
                "one: call backward once, on the sum of the losses"
            )
        whole = joined
    return whole
