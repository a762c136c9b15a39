from copy import deepcopy
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gruppo.monitor.progress import SilentProgress
from gruppo.monitor.recorder import Recorder
from gruppo.monitor.run_folder import RunFolder
from gruppo.training.controls import Controls
from gruppo.training.optimizers import MasterWeights
from gruppo.training.packing import Row
from gruppo.training.passes import passes_of
from gruppo.training.sft import DemonstrationStream, SFTTrainer, demonstration_row, steps_of
from models import Caught, distance, logprobs_of, random_rows, tiny

LENGTHS = [(3, 4), (10, 2), (1, 9), (5, 5), (2, 1), (7, 7)]


def trained(
    model: nn.Module, rows: list[Row], budget: int, packing: str, folder: Path
) -> tuple[dict[str, Tensor], float]:
    """The gradient and the loss of one step on all rows but the last two."""
    caught = Caught(MasterWeights(model))
    trainer = SFTTrainer(
        model=model,
        optimizers=caught,
        rows=rows,
        stream=DemonstrationStream(len(rows), 4, seed=0, shuffle=False),
        batch_size=4,
        recorder=Recorder(RunFolder.open(folder, {}), SilentProgress(), stage="sft"),
        controls=Controls(1),
        learning_rate=0.1,
        lr_factor=lambda step: 1.0,
        passes=passes_of(model, budget, packing)[0],
    )
    trainer.run()
    (line,) = RunFolder(folder).read_metrics()
    return caught.gradients, line["loss"]


def test_the_gradient_is_the_formula_for_any_budget(tmp_path: Path):
    model, rows = tiny(), random_rows(LENGTHS, [1.0] * 6, masked=True)
    plain = deepcopy(model).double()
    tokens = [int(row.mask.sum()) for row in rows]
    total = torch.zeros((), dtype=torch.float64)
    for row in rows[:4]:
        total = total - logprobs_of(plain, row, 1.0)[torch.from_numpy(row.mask)].sum()
    (total / (4 * sum(tokens) / 6)).backward()  # batch size x the mean length of all demonstrations
    literal = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for number, (budget, packing) in enumerate(product((1, 22, 1000), ("trees", "padded"))):
        gradients, loss = trained(model, rows, budget, packing, tmp_path / str(number))
        assert distance(gradients, literal) <= 1e-6
        assert loss == pytest.approx(float(total.detach()) / sum(tokens[:4]), rel=1e-6)


def test_demonstrations_come_once_an_epoch_in_an_order_of_the_seed():
    stream = DemonstrationStream(10, 4, seed=3, shuffle=True)
    taken = [stream.take() for _ in range(5)]
    flat = [index for batch in taken for index in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert stream.epoch == 2.0
    again = DemonstrationStream(10, 4, seed=3, shuffle=True)
    again.load_state_dict({"position": 8})
    assert [again.take() for _ in range(3)] == taken[2:]
    assert DemonstrationStream(10, 4, seed=4, shuffle=True).take() != taken[0]
    ordered = DemonstrationStream(5, 3, seed=0, shuffle=False)
    assert [ordered.take() for _ in range(3)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


def test_a_demonstration_learns_its_completion_alone():
    row = demonstration_row((4, 5, 6), (7, 8))
    assert (row.prompt_ids, row.token_ids.tolist(), row.mask.tolist()) == ((4, 5, 6), [7, 8], [True, True])


def test_steps_of_epochs():
    assert [steps_of(100, 32, 1.0), steps_of(100, 32, 2.5), steps_of(3, 32, 1.0)] == [3, 8, 1]
