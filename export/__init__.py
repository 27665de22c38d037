"""Export to SavedModel and LiteRT: every exported file is run in a process of its own and compared with the model.

- `export_saved_model`: a SavedModel for servers, from raw text where a tokenizer is given.
- `export_tflite`: one .tflite file with a signature per length, for LiteRT on phones and small machines.
- `compress_bias`: a trained bias as a near band and few exponentials, under a bound on what that changes.
- `classifier_files`, `generator_files`, `translator_files`: a page in which a browser runs such a file; `runs.web_run`
  writes it.
- `LiteRTModel`: calls such a file like the Keras model.
- `LiteRTIdsModel`: the same for token ids alone; its one file, `litert_ids.py`, needs numpy and ai-edge-litert only.
- `export_generator`: a language model that reads and writes token by token, in constant memory; `LiteRTGenerator`
  writes text with it, from one file that needs numpy and ai-edge-litert only.
- `export_translator`: a model of translation, which reads a source and writes its target in constant memory;
  `LiteRTTranslator` translates with it, texts to texts, from one such file.
- `export_litertlm`: a generator packed with its tokenizer for LiteRT-LM.

TensorFlow is imported when an export starts; `LiteRTModel` needs it for raw text only.
"""

from .checks import check_lengths
from .compression import Certificate, compress_bias
from .generator import GENERATOR_COMPANIONS, export_generator
from .generator_report import GeneratorCosts, GeneratorReport, TranslatorReport, WriterReport, generator_summary
from .litert import COMPANIONS, export_tflite
from .litert_generator import LiteRTGenerator
from .litert_ids import LiteRTIdsModel
from .litert_model import LiteRTModel
from .litert_translator import LiteRTTranslator
from .litertjs import litertjs_files
from .litertlm import export_litertlm
from .report import LiteRTReport, comparison_table, markdown_table, summary, weights_name
from .saved_model import SavedModelReport, export_saved_model
from .translator import export_translator
from .web_files import (
    PAGE_CONTENTS,
    classifier_files,
    generator_files,
    normalizer_file,
    translator_files,
    web_model,
)

__all__ = [
    "COMPANIONS",
    "GENERATOR_COMPANIONS",
    "PAGE_CONTENTS",
    "Certificate",
    "GeneratorCosts",
    "GeneratorReport",
    "LiteRTGenerator",
    "LiteRTIdsModel",
    "LiteRTModel",
    "LiteRTReport",
    "LiteRTTranslator",
    "SavedModelReport",
    "TranslatorReport",
    "WriterReport",
    "check_lengths",
    "classifier_files",
    "comparison_table",
    "compress_bias",
    "export_generator",
    "export_litertlm",
    "export_saved_model",
    "export_tflite",
    "export_translator",
    "generator_files",
    "generator_summary",
    "litertjs_files",
    "markdown_table",
    "normalizer_file",
    "summary",
    "translator_files",
    "web_model",
    "weights_name",
]
