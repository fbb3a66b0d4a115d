"""`FixedPointLog`: what solvers did reaches the log."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from seqmix.mixers import FixedPointRNN
from seqmix.training.callbacks import FixedPointLog


class Tiny(LightningModule):
    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def training_step(self, batch, batch_idx):
        return self.mixer(batch)[0].square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def logged(mixer, every, tmp_path):
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FixedPointLog(every)],
        default_root_dir=tmp_path,
    )
    trainer.fit(Tiny(mixer), DataLoader(torch.randn(6, 20, 8), batch_size=2))
    return trainer.callback_metrics


@pytest.mark.filterwarnings("ignore")
def test_solves_are_logged(tmp_path):
    metrics = logged(FixedPointRNN(8, solver="sweeps", max_radius=0.9, max_iterations=2), 1, tmp_path)
    assert metrics["fixed_point/iterations"] == 2
    assert metrics["fixed_point/unconverged"] == 1 and metrics["fixed_point/sequential"] == 0
    assert metrics["fixed_point/residual"] > 1e-3
    assert "fixed_point/iterations" not in logged(torch.nn.LSTM(8, 8), 1, tmp_path)
    assert "fixed_point/iterations" not in logged(FixedPointRNN(8), 100, tmp_path)


def test_bad_arguments():
    with pytest.raises(ValueError, match="every must be a positive integer, got 0"):
        FixedPointLog(0)
