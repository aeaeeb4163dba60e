"""What candidates contribute to the accuracy of the supernet, against computations that are written out."""

import json

import pytest
import small
import torch

import nas
from nas.bilevel import Search
from nas.bilevel.shrinkings.shapley import Game, ShapleyRule
from nas.seeding import generator
from recipes import SearchOptions

SMALL = {"channels": 4, "train_limit": 160, "batch_size": 32, "threads": 1, "tensorboard": False}


@pytest.fixture(scope="module")
def trained():
    return nas.search(
        "micro", epochs=12, warmup_epochs=11, lr=0.2, estimator="softmax", policy="dense", **SMALL
    )


@torch.no_grad()
def accuracy(search, weights, images, labels):
    search.supernet.eval()
    return float((search.supernet(images, weights.clone()).argmax(1) == labels).double().mean())


@pytest.mark.parametrize("truncate", [0.0, 0.6])
def test_credits_are_what_is_lost_as_candidates_leave_one_after_another(trained, truncate):
    search = trained.search
    work, game, number = search.bilevel.work.evaluated, Game(1, 60, truncate), 3
    search.supernet.train()
    found = game.credits(search, number)
    assert search.supernet.training
    batches = search.valid.endless(2 * number)  # 60 images are two batches of 32
    images, labels = (torch.cat(parts) for parts in zip(next(batches), next(batches), strict=True))
    weights = search.architecture.probabilities().clone()
    accuracies, expected, passes = [accuracy(search, weights, images, labels)], torch.zeros(3, 5), 1
    order = torch.randperm(15, generator=generator(search.options.seed, "shapley order", number)).tolist()
    for player in order:
        weights.view(-1)[player] = 0
        accuracies.append(accuracy(search, weights, images, labels))
        expected.view(-1)[player] = accuracies[-2] - accuracies[-1]
        passes += 1
        if accuracies[-1] < truncate * accuracies[0]:
            break
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-6)
    assert accuracies[0] > 0.3
    assert (passes < 16) == (truncate > 0)
    assert search.bilevel.work.evaluated - work == passes * 64
    if not truncate:  # all that the supernet is worth is shared out
        assert found.sum() == pytest.approx(accuracies[0] - accuracies[-1])
    assert not torch.equal(found, game.credits(search, number + 1))


def job(space="micro", **options):
    options = {"space": space, "epochs": 4, "warmup_epochs": 1, "estimator": "softmax"} | SMALL | options
    return Search.of(SearchOptions(**options))


def credited(monkeypatch):
    """Contributions that are numbers of their own, in place of those of a supernet."""
    found = []

    def credits(self, search, number):
        values = torch.rand(
            search.architecture.logits.shape, generator=small.rng(number), dtype=torch.float64
        )
        mask = search.architecture.mask
        found.append((number, values if mask is None else torch.where(mask, values, 0.0)))
        return found[-1][1]

    monkeypatch.setattr(Game, "credits", credits)
    return found


def test_the_logits_follow_a_running_mean_of_standardised_scores(monkeypatch):
    found = credited(monkeypatch)
    search = job("s2", shrink="shapley:permutations=3,momentum=0.6,step=0.2")
    search.architecture.take_out(4, 1)
    logits = search.architecture.logits.detach().clone()
    for epoch in range(5):
        list(search.shrinking.after(search, epoch))
    assert [number for number, _ in found] == [3, 4, 5, 6, 7, 8, 9, 10, 11]  # after epochs 1, 2 and 3 of 4
    mean = 1e-3 * torch.randn(28, 2, generator=generator(search.options.seed, "shapley start"))
    for round_ in range(3):
        credits = [values for _, values in found[3 * round_ : 3 * round_ + 3]]
        average = sum(credits) / 3
        score = average - (sum((one - average) ** 2 for one in credits) / 3).sqrt()
        for rows in (range(14), range(14, 28)):  # of the normal and of the reduction cell
            players = [(row, k) for row in rows for k in range(2) if (row, k) != (4, 1)]
            values = [float(score[player]) for player in players]
            centre = sum(values) / len(values)
            spread = (sum((value - centre) ** 2 for value in values) / (len(values) - 1)) ** 0.5
            for player, value in zip(players, values, strict=True):
                mean[player] = 0.6 * mean[player] + 0.4 * (value - centre) / spread
                logits[player] += 0.2 * mean[player]
    there = search.architecture.mask
    torch.testing.assert_close(search.architecture.logits.detach()[there], logits[there])


def test_none_can_be_taken_out_before_the_first_step():
    search = job("s3", shrink="shapley:keep_none=false")
    search.shrinking.work(search, 0)
    assert [search.architecture.candidates(row) for row in range(28)] == [[1, 2]] * 28
    kept = job("s3", shrink="shapley")
    kept.shrinking.work(kept, 0)
    assert kept.shrinking.taken == []


def test_the_rule_takes_what_contributes_most_for_sure(monkeypatch):
    found = credited(monkeypatch)
    search = job("nasbench201", epochs=1, warmup_epochs=0)
    for row in range(6):
        search.architecture.take_out(row, 4)
    rule = ShapleyRule(4)
    assert len(list(rule.select(search))) == rule.pieces(search) == 4
    assert [number for number, _ in found] == [4, 5, 6, 7]
    credits = torch.stack([values for _, values in found])
    average = credits.mean(0)
    score = average - (credits - average).square().mean(0).sqrt()
    chosen = search.space.choice(rule.selected(search))
    assert chosen == score[:, :4].argmax(1).tolist()
    rest = ShapleyRule(4)
    rest.restore(json.loads(json.dumps({"credits": []})))
    rest.restore({"credits": rule.state()["credits"][:2]})
    assert len(list(rest.select(search))) == 2
    assert rest.selected(search) == rule.selected(search)


def test_a_search_by_contributions_goes_on_where_it_was():
    def make():
        return job(epochs=3, shrink="shapley:permutations=2,images=32", batch_size=16)

    (whole, lines), (parts, others) = (small.in_pieces(make, 3, pieces) for pieces in (False, True))
    assert others == lines
    assert all(line["valid_loss"] is None for line in lines)
    assert torch.equal(parts.architecture.logits, whole.architecture.logits)
    assert whole.architecture.logits.abs().max() > 0.02  # they start near 0.001
    assert lines[0]["probabilities"] != lines[1]["probabilities"]
    assert parts.bilevel.work == whole.bilevel.work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": "shapley:permutations=0"}, "permutations is 0, expected 1"),
        ({"shrink": "shapley:truncate=1.5"}, "truncate is 1.5"),
        ({"shrink": "shapley:step=0"}, "step is 0.0"),
        ({"shrink": "shapley:momentum=1"}, "momentum is 1.0"),
        ({"derive": "shapley:images=0"}, "images is 0"),
        ({"shrink": "shapley", "terms": ("entropy",)}, "the term 'entropy' goes by architecture steps"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(nas.InputError, match=message):
        nas.search("micro", epochs=2, **options, **SMALL)
