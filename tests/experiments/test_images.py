import math

import pytest
import torch

from gradbatch.experiments.images import crop_and_flip, load_digits, standardised


@pytest.fixture(scope="module")
def digits():
    return load_digits(None)


def test_digits_are_split_once_and_for_all(digits):
    torch.manual_seed(123)
    again = load_digits(None)
    assert len(digits.train.targets) == 1437
    assert len(digits.test.targets) == 360
    assert torch.equal(digits.test.inputs, again.test.inputs)
    everything = torch.cat([digits.train.inputs, digits.test.inputs])
    assert everything.min() == 0
    assert everything.max() == 1
    assert set(digits.test.targets.tolist()) == set(range(10))


def test_no_test_image_is_trained_on(digits):
    train = {tuple(image) for image in digits.train.inputs.tolist()}
    assert not any(tuple(image) in train for image in digits.test.inputs.tolist())


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_grey_images_are_read_and_scaled(name, load_task):
    data = load_task(name)
    assert data.train.inputs.shape == (60_000, 1, 28, 28)
    assert data.test.inputs.shape == (10_000, 1, 28, 28)
    assert data.train.inputs.max() == 1
    assert torch.bincount(data.test.targets).sum() == 10_000
    # Published means of the training pixels: 0.1307 and 0.2860.
    expected = {"mnist": 0.1307, "fashion-mnist": 0.2860}[name]
    assert data.train.inputs.mean().item() == pytest.approx(expected, abs=1e-4)
    assert load_task(name) is data  # read once a process


@pytest.mark.data
def test_both_forms_of_cifar10_are_the_same_images(load_task):
    whole, crop = load_task("cifar10"), load_task("cifar10-crop")
    assert (whole.train.inputs.shape, whole.test.inputs.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert (crop.train.inputs.shape, crop.test.inputs.shape) == ((50_000, 3, 24, 24), (10_000, 3, 24, 24))
    means = whole.train.inputs[:20_000].mean(dim=(0, 2, 3))
    assert means.tolist() == pytest.approx([0, 0, 0], abs=0.02)
    # The first training images: frog, truck, truck, deer, car.
    assert whole.train.targets[:5].tolist() == crop.train.targets[:5].tolist() == [6, 9, 9, 4, 1]
    std, mean = torch.tensor([0.2023, 0.1994, 0.2010]), torch.tensor([0.4914, 0.4822, 0.4465])
    for place in (0, 49_999):
        image, middle = whole.train.inputs[place], crop.train.inputs[place]
        pixels = 255 * (image * std.view(3, 1, 1) + mean.view(3, 1, 1))[:, 4:28, 4:28]
        assert torch.allclose(pixels, pixels.round(), atol=1e-3)
        assert torch.allclose(middle, (pixels - pixels.mean()) / pixels.std(correction=0), atol=1e-4)


def test_an_image_is_standardised_by_itself():
    images = torch.rand(4, 3, 5, 5) * torch.tensor([1.0, 10.0, 100.0, 1e-3]).view(4, 1, 1, 1)
    found = standardised(images)
    assert torch.allclose(found.mean(dim=(1, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(found[:3].std(dim=(1, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    # Below a deviation of 1 / sqrt(75) an image is divided by that.
    assert torch.allclose(found[3], (images[3] - images[3].mean()) * math.sqrt(75), atol=1e-6)
    assert torch.equal(standardised(torch.full((1, 3, 5, 5), 7.0)), torch.zeros(1, 3, 5, 5))


def test_every_image_is_one_of_its_crops_or_mirrored():
    images = torch.randn(300, 2, 5, 6)
    before = images.clone()
    found = crop_and_flip(images)
    assert torch.equal(images, before)
    assert found.shape == images.shape
    seen = set()
    for image, changed in zip(images, found, strict=True):
        padded = torch.zeros(2, 13, 14)
        padded[:, 4:9, 4:10] = image
        crops = {(y, x): padded[:, y : y + 5, x : x + 6] for y in range(9) for x in range(9)}
        fits = [(*place, False) for place, crop in crops.items() if torch.equal(crop, changed)]
        fits += [(*place, True) for place, crop in crops.items() if torch.equal(crop.flip(2), changed)]
        assert fits
        seen.update(fits[:1])
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(9))
    share_mirrored = sum(is_mirrored for _, _, is_mirrored in seen) / len(seen)
    assert 0.3 < share_mirrored < 0.7


def test_chance_comes_from_torch_s_generator():
    images = torch.randn(50, 3, 8, 8)
    torch.manual_seed(1)
    first, second = crop_and_flip(images), crop_and_flip(images)
    torch.manual_seed(1)
    assert torch.equal(crop_and_flip(images), first)
    assert not torch.equal(first, second)
