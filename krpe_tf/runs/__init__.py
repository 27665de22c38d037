"""A run: one folder with a trained model and all that is needed to use it.

checkpoints/                                                                      while `train_run` trains
model.keras  tokenizer.json  task.json  labels.json  training.json  logs/         written by `train_run`
model.tflite  model.report.json  model.report.md  saved_model/  model.litertlm    written by `export_run`
"""

from .export import export_run
from .folder import load_run, load_task, save_run
from .generate import GeneratedText, generate_run
from .predict import predict_run, show_answers
from .recipe import choose_task, make_recipe
from .settings import RunSettings, load_config
from .state import RunState
from .train import train_run
from .translate import SEARCH, evaluate_run, translate_run
from .web import web_run, web_server

__all__ = [
    "SEARCH",
    "GeneratedText",
    "RunSettings",
    "RunState",
    "choose_task",
    "evaluate_run",
    "export_run",
    "generate_run",
    "load_config",
    "load_run",
    "load_task",
    "make_recipe",
    "predict_run",
    "save_run",
    "show_answers",
    "train_run",
    "translate_run",
    "web_run",
    "web_server",
]
