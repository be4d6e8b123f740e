"""CABS on MNIST against a twin in numpy that shares no code with the library: its own network, backward pass,
per-sample gradients, rule and updates. Only the order of the samples and the first weights are common."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gradbatch as gb
from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.image_models import mlp
from gradbatch.experiments.tasks import TASKS

LR, EPOCHS = 0.5, 2


def softmax_losses(logits, targets):
    """Cross-entropy of each sample, and its gradient in the logits."""
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(targets))
    grads = np.exp(log_probabilities)
    grads[rows, targets] -= 1
    return -log_probabilities[rows, targets], grads


def per_sample_gradients(weights, inputs, targets):
    """Losses [B], and for each weight the gradients [B, ...] of single samples, every one of them built whole."""
    w1, b1, w2, b2 = weights
    hidden = inputs @ w1.T + b1
    active = np.maximum(hidden, 0)
    losses, g2 = softmax_losses(active @ w2.T + b2, targets)
    g1 = (g2 @ w2) * (hidden > 0)
    return losses, [g1[:, :, None] * inputs[:, None, :], g1, g2[:, :, None] * active[:, None, :], g2]


class Twin:
    """CABS and plain SGD in numpy: the authors' constants, averages from 0 and 1, sizes from 16 to 2048."""

    def __init__(self, weights):
        self.weights = weights
        self.variance, self.loss = 0.0, 1.0

    def step(self, inputs, targets):
        """Train on a batch; its mean loss, and the size of the next."""
        losses, gradients = per_sample_gradients(self.weights, inputs, targets)
        means = [gradient.mean(0) for gradient in gradients]
        variance = 0.0
        for gradient, mean in zip(gradients, means, strict=True):
            gradient -= mean  # in place: these are hundreds of megabytes for a large batch
            variance += np.vdot(gradient, gradient) / len(inputs)
        self.variance = 0.95 * self.variance + 0.05 * variance
        self.loss = 0.95 * self.loss + 0.05 * losses.mean()
        self.weights = [w - LR * mean for w, mean in zip(self.weights, means, strict=True)]
        return losses.mean(), min(max(int(np.rint(LR * self.variance / self.loss)), 16), 2048)


@pytest.mark.data
def test_every_batch_size_in_the_log_is_the_twin_s(data_dir):
    data = TASKS["mnist"].load(data_dir).train
    images, labels = data.inputs.double().flatten(1), data.targets
    model = mlp(InputSpec((784,)), 10).double()
    twin = Twin([p.detach().numpy().copy() for p in model.parameters()])
    stream = gb.SampleStream((images, labels), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    controller = gb.Controller(gb.CABS(), model, optimizer, stream, batch_size=16)
    records, expected = [], []
    for inputs, targets in controller.run(epochs=EPOCHS):
        expected.append(twin.step(inputs.numpy(), targets.numpy()))
        controller.backward(F.cross_entropy(model(inputs.flatten(1)), targets))
        records.append(controller.step())

    assert controller.estimator == "layers"
    assert sum(record.batch_size for record in records) == EPOCHS * len(images)
    assert [record.next_batch_size for record in records] == [size for _, size in expected]
    sizes = {record.next_batch_size for record in records}
    assert min(sizes) == 16  # the phase at the lower bound, and a real spread above it
    assert max(sizes) > 64
    # Two summation orders in double precision, carried through thousands of updates.
    assert [record.loss for record in records] == pytest.approx([loss for loss, _ in expected], rel=1e-6)
