"""A run: one folder with a trained model and all that is needed to use it.

checkpoints/                                                          while `train_run` goes on
model.keras  tokenizer.json  labels.json  training.json  logs/        written by `train_run`
model.tflite  model.report.json  model.report.md  saved_model/        written by `export_run`
"""

from .folder import load_run, save_run
from .settings import RunSettings, load_config
from .train import train_run
from .use import export_run, predict_run

__all__ = ["RunSettings", "export_run", "load_config", "load_run", "predict_run", "save_run", "train_run"]
