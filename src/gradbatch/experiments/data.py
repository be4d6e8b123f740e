"""The data that is trained on: splits, what one input looks like, and where the files lie."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gradbatch.errors import InvalidInputError, MissingDataError

__all__ = ["Dataset", "InputSpec", "Split", "data_root"]


class Split(NamedTuple):
    """Samples and what they should be answered with.

    Attributes:
        inputs: Images as floats, [N, ...], or texts as token numbers, [N, T].
        targets: Class numbers: one a sample, [N], or one a token, [N, T].
    """

    inputs: Tensor
    targets: Tensor

    def to(self, device: str) -> "Split":
        """The same samples on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))

    def at(self, indices: Tensor) -> "Split":
        """The samples at some places, in the order of these."""
        return Split(self.inputs[indices], self.targets[indices])

    def draw(self, size: int, generator: Generator | None = None) -> "Split":
        """Independent samples: drawn with replacement, where the generator is, or else where the samples are."""
        device = self.targets.device if generator is None else generator.device
        return self.at(torch.randint(len(self.targets), (size,), generator=generator, device=device))


@dataclass(frozen=True)
class InputSpec:
    """What one input looks like, which is what a model is built for.

    Attributes:
        shape: Of one input, without the axis of the samples.
        num_tokens: Size of the vocabulary of a text; 0 for images.
    """

    shape: tuple[int, ...]
    num_tokens: int = 0

    @property
    def num_features(self) -> int:
        """Numbers in one input, of whatever shape."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits of a task.

    Attributes:
        train: Trained on.
        test: Only ever evaluated on.
        validation: Taken out of the training set when asked for; for choosing between runs.
        num_tokens: Size of the vocabulary of a text; 0 for images.
    """

    train: Split
    test: Split
    validation: Split | None = None
    num_tokens: int = 0

    @property
    def input_spec(self) -> InputSpec:
        """What a model for it must take."""
        return InputSpec(tuple(self.train.inputs.shape[1:]), self.num_tokens)

    def to(self, device: str) -> "Dataset":
        """The same splits on a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)

    def with_validation(self, fraction: float, *, seed: int) -> "Dataset":
        """Hold a random part of the training set out.

        Args:
            fraction: Share of the training set, in [0, 1); 0 holds nothing out.
            seed: Of the choice.

        Returns:
            The data set with ``validation``, and a training set without its samples.

        Raises:
            InvalidInputError: If the fraction leaves either side without a sample.
        """
        if fraction == 0:
            return self
        num_train = len(self.train.targets)
        num_held_out = round(fraction * num_train)
        if not 0 < num_held_out < num_train:
            raise InvalidInputError(
                f"`validation` {fraction:g} would hold out {num_held_out} of {num_train} training samples: "
                "name a fraction that leaves samples on both sides"
            )
        order = torch.randperm(num_train, generator=torch.Generator().manual_seed(seed))
        held_out, kept = order[:num_held_out], order[num_held_out:].sort().values
        return replace(self, train=self.train.at(kept), validation=self.train.at(held_out))

    def with_per_class(self, count: int, *, seed: int) -> "Dataset":
        """Keep a random part of the training set in which all classes are equally frequent.

        A validation set is to be held out before, so that it does not shrink with the training set.

        Args:
            count: Training samples to keep of each class that has any.
            seed: Of the choice.

        Returns:
            The data set with the smaller training set, its samples in their old order.

        Raises:
            InvalidInputError: If a class has too few samples, or a sample has more than one class.
        """
        targets = self.train.targets
        if targets.dim() != 1:
            raise InvalidInputError(
                f"`per_class` needs one class a sample, and a sample of this task has {targets[0].numel()} targets: "
                "leave it out"
            )
        if count < 1:
            raise InvalidInputError(f"`per_class` must be at least 1, got {count}")
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
        kept = []
        for label in targets.unique().tolist():
            places = order[targets[order] == label]
            if len(places) < count:
                raise InvalidInputError(
                    f"`per_class` {count} needs as many training samples of each class, and class {label} has "
                    f"{len(places)}: name at most the number in the rarest class"
                )
            kept.append(places[:count])
        return replace(self, train=self.train.at(torch.cat(kept).sort().values))


def data_root(root: Path | None, *, task: str, needs: str) -> Path:
    """The folder of the data sets, resolved; the one that the environment names by default.

    Args:
        root: The folder if one was named.
        task: Whose data is sought.
        needs: What belongs where below the folder, to end a sentence with.

    Returns:
        The folder; what is in it is not looked at.

    Raises:
        MissingDataError: If no folder was named, or if it is not there.
    """
    named = root or os.environ.get("GRADBATCH_DATA")
    if not named:
        raise MissingDataError(
            f'the task "{task}" reads its data from disk and was not told where: name a folder with '
            f"--data-dir or GRADBATCH_DATA, and put {needs} below it"
        )
    folder = Path(named).resolve()
    if not folder.is_dir():
        raise MissingDataError(
            f'the task "{task}" looks for its data in {folder}, which is no folder: name another with --data-dir or '
            f"GRADBATCH_DATA, and put {needs} below it"
        )
    return folder
