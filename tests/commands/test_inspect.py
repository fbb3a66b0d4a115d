"""`seqmix inspect`: what it draws is what the functions say, figures are the same each time, mistakes come first."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.__main__ import main
from seqmix._figures import encode, grid
from seqmix.commands._targets import Options, find_target, token_names
from seqmix.inspect import eigenvalues, gradient_norms, mixing_matrix, observe
from seqmix.inspect.figures import draw_over_training, points_of
from seqmix.inspect.records import SpectrumRecord
from seqmix.mixers import LRU
from seqmix.tasks import create_task
from seqmix.training.config.files import load_config
from seqmix.training.config.runs import checkpoint_named, find_checkpoint
from seqmix.training.loading import load_model

SMALL = ["--data.train_length", "8", "--model.d_model", "16", "--mixer.d_state", "6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "s3"
    arguments = [*SMALL, "--data.eval_lengths", "[8]", "--data.eval_size", "8", "--data.batch_size", "4"]
    options = ["--trainer.max_steps", "4", "--trainer.accelerator", "cpu", "--run_dir", str(folder)]
    quiet = ["--progress", "null", "--trainer.logger", "false", "--test_after_fit", "none"]
    assert main(["fit", "--config", "s3", *arguments, *options, *quiet, "--spectrum.every", "2"]) == 0
    return folder


def inspect(*arguments: object) -> None:
    assert main(["inspect", *map(str, arguments)]) == 0


def test_spectrum_of_a_run(run: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "a.svg", tmp_path / "a.npz"
    inspect("spectrum", run, "--out", out, "--data", data, "--sequences", 3)
    svg = out.read_text()
    assert "(1 2 3)" in svg and "BOS" in svg and len(svg) < 300_000
    task = create_task("word-problem", group="S3", train_length=8, eval_size=8)
    words = next(iter(task.val_dataloader()[0]))["tokens"][:3]
    model = load_model(run / "checkpoints" / "last.ckpt")
    (expected,) = observe(model, eigenvalues, words).values()
    with np.load(data) as arrays:
        np.testing.assert_array_equal(arrays[str(run)], expected.numpy())
        np.testing.assert_array_equal(arrays[f"{run}, tokens"], words.numpy())
    again = tmp_path / "b.svg"
    inspect("spectrum", run / "checkpoints" / "last.ckpt", "--out", again)
    inspect("spectrum", run / "checkpoints" / "last.ckpt", "--out", tmp_path / "c.svg")
    assert again.read_bytes() == (tmp_path / "c.svg").read_bytes()


def test_a_config_means_its_newest_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_target("s3", Options()).run is None
    assert capsys.readouterr().err == "seqmix inspect: s3 has no run under runs/: these are new weights\n"
    Path("runs").mkdir()
    Path("runs/s3").symlink_to(run.parent)
    assert find_target("s3", Options()).run == Path(os.path.relpath(run)) and not capsys.readouterr().err
    assert find_target("s3", Options(changes=(("mixer.d_state", 9),))).run is None, "what is changed has new weights"
    assert checkpoint_named("s3").samefile(find_checkpoint("s3", None, None)) and checkpoint_named(str(run)).is_file()
    assert load_config(str(run))["data"]["name"] == "word-problem"


def test_spectrum_over_training(run: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "a.svg", tmp_path / "a.json"
    inspect("spectrum", run, "--over-training", "--out", out, "--data", data)
    arrays = json.loads(data.read_text())
    assert arrays["steps"] == [0, 2, 4]
    shape = np.array(arrays["eigenvalues"]).shape
    assert shape == (3, 4, 9, 6, 2)  # steps, sequences, tokens with BOS, eigenvalues, real and imaginary part
    assert all(f"step {step}" in out.read_text() for step in (0, 2, 4))


def test_real_eigenvalues_have_lines_and_complex_ones_a_plane(tmp_path: Path) -> None:
    for mixer, words in (("mamba", ("eigenvalue (real)",)), ("lru", ("imaginary part", "real part"))):
        inspect("spectrum", mixer, "--out", tmp_path / "a.svg", "--d-model", 8, "--length", 5)
        assert all(word in (tmp_path / "a.svg").read_text() for word in words)


def test_mixing_of_a_mixer(tmp_path: Path) -> None:
    data = tmp_path / "m.npz"
    arguments = ("--length", 7, "--d-model", 8, "--mixer.order", 3, "--seed", 5, "--sequence", 1)
    inspect("mixing", "h-lru", "--out", tmp_path / "m.png", "--data", data, "--heads", 2, *arguments)
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    target = find_target("h-lru", Options(length=7, d_model=8, seed=5, changes=(("mixer.order", 3),)))
    assert target.module.order == 3 and target.inputs.shape == (4, 7, 8)
    with np.load(data) as arrays, torch.no_grad():
        expected = mixing_matrix(target.module, target.inputs)[1]
        np.testing.assert_allclose(arrays["h-lru"], expected.numpy(), rtol=1e-6)


def test_gradients_of_a_model_and_of_its_layer(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "g.npz"
    inspect("gradient", run, "lru", "--d-model", 8, "--out", tmp_path / "g.svg", "--data", data, "--sequences", 2)
    inspect("gradient", run, "--layer", 0, "--out", tmp_path / "h.svg", "--data", tmp_path / "h.npz", "--sequences", 2)
    target = find_target(str(run), Options(sequences=2))
    ((layer, x),) = target.observe(lambda layer, x: (layer, x)).values()
    with np.load(data) as whole, np.load(tmp_path / "h.npz") as alone:
        assert set(whole) == {str(run), "lru"} and whole["lru"].shape == (2, 64)
        np.testing.assert_allclose(whole[str(run)], gradient_norms(target.module, target.inputs).numpy(), rtol=1e-5)
        np.testing.assert_allclose(alone[str(run)], gradient_norms(layer, x).numpy(), rtol=1e-5)


def test_a_config_has_new_weights_and_its_own_data(tmp_path: Path) -> None:
    changes = (("mixer.block_size", 2), ("data.train_length", 8), ("model.n_layers", 2))
    target = find_target("s3", Options(length=20, changes=changes))
    assert target.inputs.shape == (4, 20) and len(target.module.mixers) == 2  # from the shortest test set that has 20
    assert target.module.mixers[0].block_size == 2 and not target.module.training
    assert target.tokens == dict(enumerate(["e", "(2 3)", "(1 2)", "(1 2 3)", "(1 3 2)", "(1 3)"])) | {6: "BOS"}
    assert [*target.observe(lambda layer, x: x.shape)] == ["layer 0", "layer 1"]
    arguments = [argument for key, value in changes for argument in (f"--{key}", value)]
    inspect("mixing", "s3", *arguments, "--layer", 1, "--heads", 0, "--out", tmp_path / "a.svg")
    assert "layer 1, head 0" in (tmp_path / "a.svg").read_text()


def test_sequences_of_a_task_are_not_looked_at_without_end() -> None:
    changes = (("data.train_length", 5000), ("data.eval_lengths", [5000]))
    for length, seen in ((None, 4096), (5000, 5000)):
        target = find_target("parity", Options(sequences=1, length=length, changes=changes))
        assert target.inputs.shape == (1, seen)


def test_names_of_tokens() -> None:
    assert token_names(torch.tensor([[0, 1, 2]]), create_task("parity")) == {0: "0", 1: "1", 2: "BOS"}
    assert token_names(torch.tensor([[3, 5]]), None) == {3: "3", 5: "5"}
    q8 = create_task("word-problem", group="Q8")
    assert token_names(torch.tensor([[7, 8]]), q8) == {7: "7", 8: "BOS"}


def test_a_place_is_drawn_once_for_each_token() -> None:
    values = np.array([[[1, 1j], [1 + 1e-5, -1]]])
    points = points_of("", values, np.array([[3, 3]]), {3: "3"})
    assert sorted(points.values.round(3), key=lambda z: (z.real, z.imag)) == [-1, 1j, 1]
    assert len(points_of("", values, np.array([[3, 4]]), {3: "3", 4: "4"}).values) == 4
    layer = LRU(8, d_state=5)
    same = points_of("", eigenvalues(layer, torch.zeros(2, 6, 8)), np.zeros((2, 6)), {})
    assert len(same.values) == 5 and len(same.names) == 1


def test_many_eigenvalues_are_shades_in_a_small_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = np.repeat([[0, 1]], 4, axis=0)
    records = [SpectrumRecord(step, tokens, {"a": rng.uniform(-1, 1, (4, 2, 300)) + 0j}) for step in range(0, 1000, 20)]
    figure = draw_over_training("", "a", records, {0: "0", 1: "1"})
    (tmp_path / "a.svg").write_bytes(encode(figure, "svg"))
    assert (tmp_path / "a.svg").stat().st_size < 100_000
    for ax, token in zip(figure.axes, (0, 1), strict=True):
        (mesh,) = ax.collections
        share = mesh.get_array().filled(0)
        np.testing.assert_allclose(share.sum(0), 1)  # of each step
        values = records[7].layers["a"][:, token].real
        assert share[60:, 7].sum() == pytest.approx((values >= 0).mean())


def test_panels_are_in_even_rows() -> None:
    for count, columns in ((3, 3), (5, 3), (6, 3), (8, 4), (9, 3)):
        figure, axes = grid(count, width=1, height=1)
        assert len(axes) == count and figure.get_size_inches()[0] == columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spectrun", "lru"], "unknown figure 'spectrun'; did you mean 'spectrum'"),
        (["spectrum", "runs/no/1", "--out", "{}/a.svg"], "expected a checkpoint or a run's folder, got 'runs/no/1'"),
        (["spectrum", "lru", "--out", "{}/a.svg", "--dta", "a"], "unknown option '--dta'; did you mean '--data'"),
        (["gradient", "lru", "--out", "{}/a.svg", "--layer", "2"], "expected one of the 1 layers of lru, got 2"),
        (["spectrum", "lruu", "--out", "{}/a.svg"], "mixer or config 'lruu'; did you mean 'lru'"),
        (["spectrum", "lru", "--out", "{}/a.pdf"], "--out: expected a file that ends in .svg or .png"),
        (["spectrum", "lru", "--out", "{}/no/a.svg"], "--out: expected a file"),
        (["spectrum", "lru", "--out", "{}/a.svg", "--data", "{}/a.csv"], "expected a file that ends in .npz or .json"),
        (["spectrum", "lru", "--out", "{}/a.svg", "--length", "0"], "expected an integer of at least 1, got 0"),
        (["spectrum", "lru", "--out", "{}/a.svg", "--mixer.rmin", "0"], "unknown argument of mixer 'lru': 'rmin'"),
        (["spectrum", "lru", "--out", "{}/a.svg", "--model.d_model", "8"], "unknown option for the mixer 'lru'"),
        (["spectrum", "lru", "--out", "{}/a.svg", "--heads", "0"], "unknown option '--heads'; did you mean '--help'"),
        (["spectrum", "lstm", "--out", "{}/a.svg"], "lstm has no layer whose transitions have eigenvalues"),
        (["spectrum", "lru", "--out", "{}/a.svg", "--over-training"], "--over-training: expected the folder of a run"),
        (["mixing", "lstm", "--out", "{}/a.svg"], "LSTM has no mixing matrix"),
        (["mixing", "gla", "--out", "{}/a.svg", "--heads", "9"], "--heads: expected numbers below 4 for gla, got 9"),
        (["mixing", "gla", "--out", "{}/a.svg", "--sequence", "4"], "--sequence: expected less than --sequences 4"),
        (["gradient", "s3", "--out", "{}/a.svg", "--length", "99999"], "--length: expected at most"),
        (["gradient", "s3", "--out", "{}/a.svg", "--layer", "1"], "--layer: expected one of the 1 layers"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments, message, tmp_path: Path, capsys) -> None:
    assert main(["inspect", *(argument.format(tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_trained_model_is_not_changed(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["inspect", "spectrum", str(run), "--mixer.block_size", "2", "--out", str(tmp_path / "a.svg")]) == 2
    assert "--mixer.block_size: expected an untrained model to change" in capsys.readouterr().err
    (tmp_path / "no.ckpt").write_bytes(b"no")
    assert main(["inspect", "spectrum", str(tmp_path / "no.ckpt"), "--out", str(tmp_path / "a.svg")]) == 2
    assert "is not one of seqmix fit" in capsys.readouterr().err


def test_help_has_examples(capsys) -> None:
    assert main(["inspect"]) == 0
    assert "seqmix inspect gradient" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["inspect", "spectrum", "--help"])
    assert "seqmix inspect spectrum runs/parity/1 --over-training --out parity.svg" in capsys.readouterr().out
