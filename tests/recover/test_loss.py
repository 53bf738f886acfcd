"""What a student is trained for: laws of the loss, and that naming the same classes is learned."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax
from tests.recover.test_torch import Net, made
from tests.test_calibrated import samples

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.distributed import joined  # noqa: E402
from twofold.recover import RecoverOptions  # noqa: E402
from twofold.recover.loss import Loss, Scales, Spread, divergence, sizes, tempered  # noqa: E402


class Fixed:
    """Gives the same outputs whatever it is fed."""

    def __init__(self, **outputs: np.ndarray) -> None:
        self._outputs = {name: torch.from_numpy(value) for name, value in outputs.items()}

    def parameters(self) -> list[torch.Tensor]:
        return []

    def outputs(self, batch: object) -> dict[str, torch.Tensor]:
        return self._outputs


class Classifier(Net):
    """Names one of five classes; the scores themselves come out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.two(torch.relu(self.norm(self.one(x)))))
        return 150 * self.out(self.again(x))[:, :, 6, 6]


def scores(seed: int, *shape: int) -> np.ndarray:
    return 3 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("behind", [(), (1, 1)])
def test_the_divergence_is_that_of_scipy(probabilities, behind):
    wanted, found = scores(0, 7, 4, *behind), scores(1, 7, 4, *behind)
    p, q = (softmax(one, axis=1) for one in (wanted, found))
    expected = rel_entr(p.astype(np.float64), q).sum() / 7
    given = (p, q) if probabilities else (wanted, found)
    got = divergence(*map(torch.from_numpy, given), probabilities=probabilities)
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_shares_of_0_are_no_obstacle():
    certain = torch.tensor([[1.0, 0.0, 0.0]])
    assert float(divergence(certain, certain, probabilities=True)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(certain, certain.flip(1), probabilities=True)) > 10


def test_scores_that_differ_by_one_number_name_the_same_classes():
    wanted = scores(0, 7, 4)
    student = Fixed(score=wanted + 2)
    squares, divergences = Loss(student, {"score": Spread(1.0, 1.0)}).parts({}, {"score": wanted}, ["score"])
    assert squares["score"].tolist() == pytest.approx(7 * [4])
    assert float(divergences["score"]) == pytest.approx(0, abs=1e-6)


def test_errors_far_above_the_usual_one_count_by_their_root():
    errors = torch.tensor([0.0, 1e-4, 1.0, 1e6], dtype=torch.float64, requires_grad=True)
    tempered(errors, usual=1.0).backward()
    plain = 1 / len(errors)  # the weight of each in the mean
    assert errors.grad.numpy() / plain == pytest.approx([1, 1, 2**-0.5, 1e-3], rel=1e-4)
    errors = errors.detach()
    assert float(tempered(errors, usual=0.0)) == float(errors.mean())
    assert float(tempered(torch.zeros(3), usual=1.0)) == 0
    assert float(tempered(torch.full((3,), 1e-9), usual=1.0)) == pytest.approx(1e-9, rel=1e-5)


def test_samples_are_measured_by_what_they_vary_themselves():
    wanted = scores(0, 20, 6) * np.geomspace(0.001, 10, 20, dtype=np.float32)[:, None]
    spread = Spread(float(wanted.var()), float(wanted.var(axis=1).mean()))
    found = sizes(torch.from_numpy(wanted), spread).numpy()
    assert found.mean() == pytest.approx(spread.total, rel=1e-5)
    assert found.min() > 0.09 * spread.total  # a blank image does not lead
    np.testing.assert_array_equal(np.argsort(found), np.argsort(wanted.var(axis=1)))
    single = torch.from_numpy(wanted[:, :1])  # one value does not vary: all alike
    assert sizes(single, Spread(3.0, 0.0)).tolist() == pytest.approx(20 * [3])


def test_one_sample_in_many_does_not_lead():
    wanted = np.tile(np.float32([-1, 1, -1, 1]), (20, 1))
    found = wanted + 0.1
    found[7] += 100
    usual = Scales({"score": 0.01}, {})
    loss = Loss(Fixed(score=found), {"score": Spread(1.0, 1.0)})
    plain = float(loss({}, {"score": wanted}))
    loss.scales = usual
    assert plain > 400
    assert float(loss({}, {"score": wanted})) < 2


def test_the_loss_is_the_mean_of_the_outputs_parts():
    wanted = {"score": scores(0, 7, 4), "map": scores(1, 7, 2, 3, 3), "never": np.ones((7, 2), np.float32)}
    found = {"score": scores(2, 7, 4), "map": scores(3, 7, 2, 3, 3), "never": np.zeros((7, 2), np.float32)}
    # What never varies cannot be learned.
    spreads = {"score": Spread(2.0, 1.0), "map": Spread(5.0, 4.0), "never": Spread(0.0, 0.0)}
    loss = Loss(Fixed(**found), spreads)
    squares = {}
    for name in ("score", "map"):
        own, (total, within) = wanted[name].reshape(7, -1).var(axis=1), astuple(spreads[name])
        size = total * (own + 0.1 * total) / (within + 0.1 * total)
        squares[name] = (((found[name] - wanted[name]) ** 2).reshape(7, -1).mean(axis=1) / size).mean()
    assert float(loss({}, wanted)) == pytest.approx((squares["score"] + squares["map"]) / 2, rel=1e-5)
    loss.scales = Scales({}, {"score": 0.3})
    p, logs = softmax(wanted["score"], 1), [log_softmax(one["score"], 1) for one in (wanted, found)]
    nats = (p * (logs[0] - logs[1])).sum() / 7
    with_classes = (((found["score"] - wanted["score"]) ** 2).mean() / 2.0 + 0.3 * nats) / 2
    assert float(loss({}, wanted)) == pytest.approx((with_classes + squares["map"]) / 2, rel=1e-5)
    assert float(Loss(Fixed(**wanted), spreads)({}, wanted)) == 0


@pytest.fixture(scope="module")
def pair():
    """A classifier and a coarse decomposition of it."""
    net = made(Classifier).eval()
    x = torch.from_numpy(samples(4))
    return net, twofold.decompose(net, ranks={"*": 8}, example_inputs=x, no_data=True).model.module


def losses(pair, **options):
    """Divergence and squared error of unseen samples after a recovery."""
    net, smaller = pair
    chosen = RecoverOptions(steps=80, rate=1e-2, batch=8, **options)
    taught = twofold.recover(net, smaller, options=chosen, data=samples(96, seed=3)).model.module
    unseen = torch.from_numpy(samples(200, seed=11))
    with torch.no_grad():
        wanted, found = net(unseen), taught(unseen)
    return float(divergence(wanted, found, probabilities=False)), float((wanted - found).square().mean())


def test_naming_classes_is_learned_where_they_are_named(pair):
    by_shape, said, not_said = losses(pair), losses(pair, classes=True), losses(pair, classes=False)
    assert by_shape == said
    assert said[0] < 0.95 * not_said[0]
    assert not_said[1] < said[1]  # nothing is free


def test_both_halves_of_the_loss_weigh_alike_at_the_start(pair):
    from twofold.calibration.inputs import from_arrays
    from twofold.calibration.runners import runner_for
    from twofold.formats.torch.model import TorchModel
    from twofold.recover.torch import TorchStudent
    from twofold.recover.train import TeacherData

    net, smaller = pair
    x = (torch.from_numpy(samples(4)),)
    teacher = runner_for(TorchModel(net, x))
    inputs = from_arrays(samples(21, seed=5), teacher.inputs).batched(4)  # the last batch is smaller
    with joined("cpu") as world:
        teacher_data = TeacherData(teacher, inputs, world)
    student = TorchStudent(TorchModel(net, x), TorchModel(smaller, x), teacher.outputs, torch.device("cpu"))
    loss = Loss(student, teacher_data.spreads)
    (name,) = teacher.outputs
    (batch,) = inputs.batched(21)
    answer = teacher.run(batch)
    spread = teacher_data.spreads[name]
    assert spread.total == pytest.approx(answer[name].var(), rel=1e-4)
    assert spread.within == pytest.approx(answer[name].var(axis=1).mean(), rel=1e-4)
    with torch.no_grad():
        (numbers_of, _), (errors, divergences) = (loss.parts(batch, answer, names) for names in ([], [name]))
    numbers = teacher_data.scales(loss, False)
    assert numbers.weights == {}
    assert numbers.usual == pytest.approx({name: float(numbers_of[name].median())}, rel=1e-3)
    classes = teacher_data.scales(loss, None)
    assert classes.usual == {}  # a doubtful sample counts in full
    ratio = classes.weights[name] * float(divergences[name]) / float(errors[name].mean())
    assert ratio == pytest.approx(1, rel=1e-3)


def test_maps_name_no_classes_unless_their_shape_says_so():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 2, 1)).eval()
    x = torch.from_numpy(samples(4))
    smaller = twofold.decompose(net, ranks={"0": 8}, example_inputs=x, no_data=True)
    options = [RecoverOptions(steps=4, rate=1e-3, batch=4, classes=wish) for wish in (None, True, False)]
    curves = [twofold.recover(net, smaller, options=one, data=samples(12)).curve for one in options]
    assert curves[0] == curves[1] == curves[2]
