"""The stream of samples: one fixed order, cut into batches of any size.

A loader's batch sampler runs ahead of its workers, so a new batch size set there arrives some batches late.
Here workers make *chunks*, and the main process cuts batches out of them: a new size holds at the very next
`take`, the order of the samples depends on nothing but (seed, epoch), and two integers resume it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch

from gradbatch._batches import to_device
from gradbatch._sources import checked_int, open_source
from gradbatch.errors import InvalidInputError, MeasurementError

__all__ = ["SampleStream"]


class SampleStream:
    """Samples in an order fixed by (seed, epoch), in batches of any size.

    What was *taken* and what was *committed* are two cursors: a sample is committed once it went into an
    update, and only committed samples are in `state_dict`, so a resumed run sees every other sample again. A
    batch never crosses an epoch's end.

    ``dataset`` is one of

    * a tensor, a tuple, list or dict of tensors of one length, or a ``TensorDataset``. Without a
      ``collate_fn`` a batch is indexed at once, and a batch of a tuple is a tuple; without workers it stays
      on the tensors' device.
    * a map-style dataset (``__len__`` and ``__getitem__``): any ``Dataset``, or a list of samples. Without
      workers exactly the samples of a `take` are collated. With workers, chunks of at least 64 samples are
      collated, then cut and joined; so a ``collate_fn`` that pads must pad to a fixed length there, and what
      a transform draws from the global random generators depends on the chunks.
    * an iterable of ready-made batches, such as a ``DataLoader`` (or a list of batches, told apart from a
      list of samples by giving ``dataset_size``). One pass is one epoch. The batches are re-cut, but their
      order, and going back to a place in it, are the iterable's: ``seed`` and ``shuffle`` do not touch it,
      `load_state_dict` restores the counts only, and `rewind` cannot give samples again.

    Args:
        dataset: Where the samples come from.
        seed: Fixes the order of each epoch, together with the epoch.
        num_workers: Worker processes that load chunks; 0 loads in this process.
        collate_fn: Makes a batch of a list of samples; torch's ``default_collate`` where it is ``None``.
        shuffle: Whether each epoch has an order of its own; else samples come as they lie in the dataset.
        prefetch_factor: Chunks that each worker loads ahead.
        dataset_size: Samples in one pass of an iterable of batches; not needed for an ordinary ``DataLoader``
            over a map-style dataset.

    Raises:
        InvalidInputError: If the dataset or an argument cannot be used.

    Example:
        >>> stream = SampleStream((torch.arange(5.0), torch.arange(5)), shuffle=False)
        >>> stream.take(3)
        (tensor([0., 1., 2.]), tensor([0, 1, 2]))
        >>> stream.take(3)
        (tensor([3., 4.]), tensor([3, 4]))
        >>> stream.commit(5)
        >>> stream.epoch, stream.position
        (1, 0)
    """

    def __init__(
        self,
        dataset: Any,
        *,
        seed: int = 0,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        shuffle: bool = True,
        prefetch_factor: int = 2,
        dataset_size: int | None = None,
    ) -> None:
        checked_int("seed", seed)
        checked_int("num_workers", num_workers, 0)
        checked_int("prefetch_factor", prefetch_factor, 1)
        self._source = open_source(
            dataset,
            seed=seed,
            shuffle=shuffle,
            num_workers=num_workers,
            collate_fn=collate_fn,
            prefetch_factor=prefetch_factor,
            dataset_size=dataset_size,
        )
        self._seed, self._shuffle = seed, bool(shuffle)
        self._go_to(0, 0)

    @property
    def epoch(self) -> int:
        """Epochs committed whole."""
        return self._epoch

    @property
    def position(self) -> int:
        """Committed samples of the current epoch; 0 once all of an epoch's are."""
        return self._position

    @property
    def dataset_size(self) -> int:
        """Samples in an epoch."""
        return self._source.dataset_size

    def take(self, n: int, device: torch.device | str | None = None) -> Any:
        """The next ``n`` samples, or those left in the epoch where they are fewer.

        A batch that a ``collate_fn`` gave the wrong size, or that cannot be put together, is refused with an
        `InvalidInputError`; the cursor then stays, and the same samples can be asked for again.

        Args:
            n: Samples asked for, at least 1.
            device: Where to copy the tensors of the batch; ``None`` leaves them where they are.

        Returns:
            A batch as the dataset and ``collate_fn`` make it.
        """
        checked_int("n", n, 1)
        epoch, position = self._read_epoch, self._read_position
        if self._read_ended:
            epoch, position = epoch + 1, 0
        # One more than asked for, to know whether this batch ends the epoch.
        left = self._source.remaining(epoch, position, n + 1)
        count = min(n, left)
        batch = self._source.read(epoch, position, count)
        if device is not None:
            batch = to_device(batch, device)
        # The cursor moves after the last thing that can fail, so that a failed take may be repeated.
        if self._read_ended:
            self._uncommitted.append(0)
        self._read_epoch, self._read_position, self._read_ended = epoch, position + count, left <= n
        self._uncommitted[-1] += count
        return batch

    def available(self, n: int) -> int:
        """How many of the next ``n`` samples lie before the epoch's end.

        Args:
            n: Samples, at least 1.

        Returns:
            The exact number. It is 0 while all samples of an epoch are taken and some are not committed yet:
            the next `take` begins the next epoch. Once all are committed it counts the next epoch's.
        """
        checked_int("n", n, 1)
        if self._read_ended:
            return 0
        return self._source.remaining(self._read_epoch, self._read_position, n)

    def commit(self, n: int) -> None:
        """Count the first ``n`` uncommitted samples as used by an update.

        Args:
            n: Samples, at least 1.

        Raises:
            MeasurementError: If fewer than ``n`` samples are waiting to be committed.
        """
        checked_int("n", n, 1)
        waiting = sum(self._uncommitted)
        if n > waiting:
            raise MeasurementError(
                f"cannot commit `n`={n} samples, since {waiting} were taken and not committed yet: take them first"
            )
        while n:
            count = min(n, self._uncommitted[0])
            n -= count
            self._position += count
            self._uncommitted[0] -= count
            is_whole_epoch = self._uncommitted[0] == 0 and (len(self._uncommitted) > 1 or self._read_ended)
            if is_whole_epoch:
                self._uncommitted.popleft()
                self._epoch, self._position = self._epoch + 1, 0
        if not self._uncommitted:  # all that was taken is committed, to an epoch's end: the next one begins
            self._go_to(self._epoch, 0)

    def rewind(self) -> None:
        """Go back to the committed cursor: samples taken since will be given again.

        Raises:
            MeasurementError: If there are such samples and the dataset is an iterable, which cannot go back.
        """
        waiting = sum(self._uncommitted)
        if waiting and not self._source.can_rewind:
            raise MeasurementError(
                f"cannot give {waiting} uncommitted samples again, since `dataset` is an iterable of batches "
                "and cannot go back: commit them, or give a map-style dataset"
            )
        self._go_to(self._epoch, self._position)

    def state_dict(self) -> dict[str, int | bool]:
        """The committed cursor and what fixes the order, as plain numbers."""
        return {**self._fingerprint(), "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the stream that gave ``state`` stood; what was taken here is forgotten.

        Args:
            state: A `state_dict` of a stream over the same dataset with the same seed and shuffling.

        Raises:
            InvalidInputError: If the state is not complete or belongs to another order of samples.
        """
        for name, ours in self._fingerprint().items():
            theirs = state.get(name)
            if theirs != ours:
                raise InvalidInputError(
                    f"`state` has {name}={theirs!r} and this stream has {name}={ours!r}: "
                    "load it into a stream that is made as the saved one was"
                )
        epoch = checked_int("state['epoch']", state.get("epoch"), 0)
        position = checked_int("state['position']", state.get("position"), 0)
        if self._source.can_rewind and position >= self.dataset_size:
            raise InvalidInputError(
                f"`state` has position={position}, beyond the {self.dataset_size} samples of an epoch: "
                "load a state that `state_dict` gave"
            )
        self._source.close()
        self._go_to(epoch, position)

    def close(self) -> None:
        """Shut the workers down. The cursors stay; a later `take` starts workers again."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _fingerprint(self) -> dict[str, int | bool]:
        """What must be equal for a cursor to mean the same sample."""
        return {"version": 1, "seed": self._seed, "dataset_size": self.dataset_size, "shuffle": self._shuffle}

    def _go_to(self, epoch: int, position: int) -> None:
        """Put both cursors there."""
        self._epoch = self._read_epoch = epoch
        self._position = self._read_position = position
        # Whether the read epoch's samples are all taken: a pass of an iterable may be of any length.
        self._read_ended = False
        # Samples taken and not committed, one count for each epoch from the committed one to the read one.
        self._uncommitted = deque([0])
