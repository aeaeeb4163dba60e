"""In searches: what an architecture step minimises, how draws belong together, estimators that remember."""

import pytest
import torch
import torch.nn.functional as F
from small import batch, rng
from small import bilevel as setup

import estimators
import nas
from nas.bilevel.search import Search
from nas.task import Classification
from recipes import InputError, SearchOptions

TOY = {
    "space": "micro",
    "channels": 4,
    "epochs": 2,
    "warmup_epochs": 0,
    "batch_size": 16,
    "train_limit": 80,
    "threads": 1,
    "tensorboard": False,
}
FAST = {**TOY, "data": "digits", "progress": False}
del FAST["space"]


def moved(bilevel, valid, seed=3):
    """The step of the logits, by plain SGD with learning rate 1."""
    before = bilevel.architecture.logits.detach().clone()
    result = bilevel.architecture_step(valid, valid, rng(seed))
    return before - bilevel.architecture.logits.detach(), before, result


@pytest.mark.parametrize("name", ["reinforce_loo", "reinforce_critic"])
def test_the_error_takes_the_place_of_the_loss(name):
    """Estimates from shares of wrong answers, each from a pass of its own; the loss is still reported."""
    bilevel = setup(estimator=name, dtype=torch.float64, architecture_loss="error", draws=4)
    valid = batch(1, torch.float64)
    for seed in (3, 4):  # the critic remembers the first step in the second
        alone = estimators.get(name)
        alone.load_state(bilevel.architecture.estimator.state())
        step, logits, result = moved(bilevel, valid, seed)
        draws = alone(logits.expand(4, *logits.shape), rng(seed))
        with torch.no_grad():
            outputs = [bilevel.supernet(valid[0], draw.argmax(-1).tolist()) for draw in draws]
        errors = torch.stack([(o.argmax(1) != valid[1]).double().mean() for o in outputs])
        assert errors.unique().numel() > 1
        torch.testing.assert_close(step, alone.gradient(logits, draws, errors))
        expected = torch.stack([F.cross_entropy(o, valid[1]) for o in outputs]).mean()
        torch.testing.assert_close(result.loss, expected)


def test_the_error_of_a_task_of_its_own():
    """By default what `correct` does not count, image by image; any metric may take its place."""
    output, target = torch.randn(6, 3, generator=rng(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    task = Classification(3)
    by_image = super(Classification, task).error(output, target)
    assert torch.equal(by_image, task.error(output, target))
    assert by_image.sum() == 6 - task.correct(output, target)

    class Margin(Classification):
        def error(self, output, target):
            return -output.gather(1, target.unsqueeze(1)).squeeze(1)

    bilevel = setup(estimator="reinforce_loo", dtype=torch.float64, architecture_loss="error")
    bilevel.task = Margin(3)
    valid = batch(1, torch.float64)
    step, logits, _ = moved(bilevel, valid)
    draws = bilevel.architecture.estimator(logits.expand(4, *logits.shape), rng(3))
    with torch.no_grad():
        outputs = [bilevel.supernet(valid[0], draw.argmax(-1).tolist()) for draw in draws]
    losses = torch.stack([-o.gather(1, valid[1].unsqueeze(1)).mean() for o in outputs])
    torch.testing.assert_close(step, bilevel.architecture.estimator.gradient(logits, draws, losses))


def test_a_loss_that_is_not_finite_is_no_error_either():
    bilevel = setup(estimator="reinforce_critic", architecture_loss="error")
    with torch.no_grad():
        next(bilevel.supernet.parameters()).fill_(torch.nan)
    logits = bilevel.architecture.logits.detach().clone()
    result = bilevel.architecture_step(batch(1), batch(2), rng(0))
    assert bool(result.skipped)
    assert torch.equal(bilevel.architecture.logits, logits)
    assert bilevel.architecture.estimator.state() == {}


def test_an_error_for_each_image():
    bilevel = setup(
        estimator="reinforce_loo", dtype=torch.float64, architecture_loss="error", draw_per="image"
    )
    valid = batch(1, torch.float64)
    step, logits, _ = moved(bilevel, valid)
    draws = bilevel.architecture.estimator(logits.expand(6, *logits.shape), rng(3))
    with torch.no_grad():
        wrong = (bilevel.supernet(valid[0], draws).argmax(1) != valid[1]).double()
    torch.testing.assert_close(step, bilevel.architecture.estimator.gradient(logits, draws, wrong))


def test_systematic_draws_of_a_step():
    """The gradient is the mean over the systematic draws, which cover the probabilities."""
    bilevel = setup(estimator="reinmax", dtype=torch.float64, draws=5, coupling="systematic")
    valid = batch(1, torch.float64)
    step, before, _ = moved(bilevel, valid)
    logits = before.clone().requires_grad_()
    draws = bilevel.architecture.estimator.systematic(logits, 5, rng(3))
    assert (draws.sum(0) - 5 * logits.softmax(-1)).abs().max() < 1
    losses = [F.cross_entropy(bilevel.supernet(valid[0], draw), valid[1]) for draw in draws]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), logits)
    torch.testing.assert_close(step, gradient)


def test_double_cv_gets_losses_and_gradients():
    """With terms of the draw in both."""

    class Cost(nas.bilevel.Term):
        name = "cost"

        def of_draw(self, draw, progress):
            return (draw * torch.arange(5.0, dtype=draw.dtype)).sum((-2, -1)) ** 2

    bilevel = setup(estimator="double_cv", dtype=torch.float64, terms=[Cost()])
    memory = {"moments": torch.tensor([0.7, 1.0], dtype=torch.float64)}
    bilevel.architecture.estimator.load_state(memory)
    valid = batch(1, torch.float64)
    step, logits, _ = moved(bilevel, valid)
    alone = estimators.get("double_cv")
    alone.load_state(memory)
    draws = alone(logits.expand(4, *logits.shape), rng(3)).requires_grad_()
    losses = torch.stack([F.cross_entropy(bilevel.supernet(valid[0], draw), valid[1]) for draw in draws])
    losses = losses + Cost().of_draw(draws, 0)
    (at_draws,) = torch.autograd.grad(losses.sum(), draws)
    torch.testing.assert_close(step, alone.gradient(logits, draws, losses, at_draws=at_draws))


@pytest.mark.parametrize("name", ["reinforce_critic:memory=30", "reinforce_critic:slope=true", "double_cv"])
def test_a_resumed_search_remembers(name):
    """Stopped in the middle of an epoch and taken up: bit by bit the same."""
    whole, first = (Search.of(SearchOptions(**TOY, estimator=name)) for _ in range(2))
    for _ in whole.epoch(0, 0):
        pass
    steps = first.epoch(0, 0)
    next(steps)
    next(steps)
    second = Search.of(SearchOptions(**TOY, estimator=name))
    second.restore(first.state())
    for _ in second.epoch(0, 2):
        pass
    assert torch.equal(whole.architecture.logits, second.architecture.logits)
    one, two = (search.architecture.estimator.state() for search in (whole, second))
    assert one.keys() == two.keys() != set()
    assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in one)


def test_through_a_checkpoint_on_the_disk():
    options = FAST | {"estimator": "reinforce_critic", "architecture_loss": "error", "epochs": 3}
    whole = nas.search("micro", **options)
    nas.search("micro", out="run", callback=lambda metrics: metrics["epoch"] == 2, **options)
    resumed = nas.search(out="run", resume=True, progress=False)
    assert torch.equal(whole.logits, resumed.logits)
    assert resumed.search.options.architecture_loss == "error"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture_loss": "error"}, "needs an estimator that makes do with values.*not 'reinmax'"),
        ({"architecture_loss": "error", "estimator": "double_cv"}, "not 'double_cv'"),
        (
            {"architecture_loss": "error", "estimator": "reinforce_loo", "measure_every": 1},
            "`measure_every` measures the gradient of the loss",
        ),
        ({"coupling": "systematic"}, "needs `draws` of at least 2"),
        ({"coupling": "systematic", "draws": 4, "estimator": "reinforce_loo"}, "not 'reinforce_loo'"),
        ({"coupling": "systematic", "draws": 4, "estimator": "softmax"}, "not 'softmax'"),
        ({"estimator": "double_cv", "draw_per": "image"}, "which differentiates each draw"),
        ({"estimator": "reinforce_critic", "order": 2}, "`order=2` needs an estimator that differentiates"),
        ({"estimator": "reinforce_critic", "draws": 1}, "needs at least 2"),
        ({"estimator": "softmax", "draws": 4}, "'softmax' draws nothing"),
        ({"estimator": "reinforce_critic", "edge_gradient": "compiled"}, "needs an estimator that diff"),
    ],
)
def test_what_does_not_go_together_is_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        nas.search("micro", **(FAST | options))
    assert "\n" not in str(error.value)
