"""The experiment that Model Garden's trainer runs: masked-language-model pretraining of our encoder."""

from official.core import config_definitions, exp_factory
from official.nlp.configs import bert, encoders, pretraining_experiments

from .encoder_config import EncoderConfig


@exp_factory.register_config_factory("krpe_tf/pretraining")
def pretraining() -> config_definitions.ExperimentConfig:
    """Return Model Garden's experiment "bert/pretraining" with our encoder, without next-sentence prediction.

    The loss is scaled by the number of replicas, so that with equally many predictions on each, gradients are those of
    one device on the whole batch. Weight decay excludes position biases, by their names.
    """
    config = pretraining_experiments.bert_pretraining()
    config.task.model = bert.PretrainerConfig(encoder=encoders.EncoderConfig(type="any", any=EncoderConfig()))
    config.task.scale_loss = True
    config.task.train_data.use_next_sentence_label = False
    config.task.validation_data.use_next_sentence_label = False
    return config
