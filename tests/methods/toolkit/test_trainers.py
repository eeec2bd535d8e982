"""Loggers and trainer flags of a run: they change no result."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers.method_helpers import small_data
from helpers.network_helpers import same, weights

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.cnn.module import CnnModule
from mmrs_bench.methods.toolkit import training

FLAGS = {
    "log_every_n_steps": 2,
    "profiler": "simple",
    "enable_model_summary": True,
    "enable_progress_bar": True,
    "detect_anomaly": True,
    "callbacks": [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor", "init_args": {}}],
}


def trained(folder: Path, **execution: Any) -> CnnModule:
    """A CNN after two epochs."""
    data = small_data()
    context = RunContext(seed=0, draw=0, work_dir=folder, execution=ExecutionConfig.of(**execution))
    module = training.initialised(lambda: CnnModule(data.channels, data.num_classes, width=4), context, "cnn")
    training.fit(module, training.Loaders(data.train_dataloader()), context, stage="training", epochs=2)
    training.predict(module, data.pixel_dataloader(data.query[:10]), context)
    return module


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_flags_reach_the_trainer_and_change_no_weights(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain")
    flagged = trained(tmp_path / "flagged", trainer=FLAGS, logger=["csv"])
    assert same(weights(plain), weights(flagged))
    assert not list((tmp_path / "plain").rglob("profile"))
    assert len(list((tmp_path / "flagged" / "profile").iterdir())) == 2, "training and prediction"
    assert "lr-AdamW" in (tmp_path / "flagged" / "logs" / "training" / "metrics.csv").read_text()
    assert list((tmp_path / "plain").rglob("events.out*"))
    assert not list((tmp_path / "flagged").rglob("events.out*"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_loggers_of_other_packages_write_to_the_folder(name: str, tmp_path: Path) -> None:
    if find_spec(name) is None:
        with pytest.raises(ConfigError, match=f"--logger {name}: the package {name} is not installed; install it with"):
            trained(tmp_path, logger=[name])
        pytest.skip(f"the package {name} is not installed; it is no dependency")
    trained(tmp_path, logger=[name])
    assert list(tmp_path.glob({"wandb": "wandb/offline-run-*", "mlflow": "mlruns/*/*/metrics/loss"}[name]))


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("lightning.pytorch.callbacks.Nothing", "Nothing cannot be created"),
        ("lightning.pytorch.LightningModule", "is not a subclass of lightning.pytorch.callbacks.Callback"),
        ({"class_path": "lightning.pytorch.callbacks.LearningRateMonitor", "init_args": {"often": 1}}, "'often'"),
    ],
)
def test_a_callback_that_cannot_be_used_is_one_line(callback: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--trainer\.callbacks: ") as caught:
        trained(tmp_path, trainer={"callbacks": callback})
    assert message in str(caught.value)


def test_the_execution_contains_only_what_differs_from_the_defaults() -> None:
    plain = {"device": "cpu", "precision": "32-true", "inference_batch": 2048, "threads": 1}
    assert ExecutionConfig().model_dump(mode="json") == plain
    given = {"devices": 2, "logger": ["wandb"], "trainer": {"log_every_n_steps": 5}}
    found = ExecutionConfig.of(**given)
    assert found.model_dump(mode="json") == plain | given
    assert ExecutionConfig.of(**found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.max_epochs 3", "trainer.max_epochs can change results; set it in the method's card"),
        ("--trainer.gradient_clip_val 1", "trainer.gradient_clip_val can change results"),
        ("--trainer.precision 16", "trainer.precision is set by the run; use --precision"),
        ("--trainer.callbacks lightning.pytorch.callbacks.EarlyStopping", "EarlyStopping can change results"),
        ("--trainer.callbacks nothing", "write package.module.Class"),
        ("--trainer.profiler fast", "'simple', 'advanced' or 'pytorch'"),
        ("--logger console", "invalid choice: 'console'"),
        ("--devices 0", "devices: Input should be greater than or equal to 1"),
        ("--devices 9999", "--devices 9999: there are only"),
    ],
)
def test_a_run_refuses_other_flags(option: str, message: str, refused: Any, tmp_path: Path) -> None:
    assert message in refused("run", "--methods", "majority", "--results", tmp_path / "results", *option.split())
    assert not (tmp_path / "results").exists()
