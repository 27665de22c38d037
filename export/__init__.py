"""Export to SavedModel and LiteRT: every exported file is run in a process of its own and compared with the model.

- `export_saved_model`: a SavedModel for servers, from raw text where a tokenizer is given.
- `export_tflite`: one .tflite file with a signature per length, for LiteRT on phones and small machines.
- `LiteRTModel`: calls such a file like the Keras model.
- `LiteRTIdsModel`: the same for token ids alone; its one file, `litert_ids.py`, needs numpy and ai-edge-litert only.

TensorFlow is imported when an export starts; `LiteRTModel` needs it for raw text only.
"""

from .litert import export_tflite
from .litert_ids import LiteRTIdsModel
from .litert_model import LiteRTModel
from .report import LiteRTReport
from .saved_model import export_saved_model

__all__ = ["LiteRTIdsModel", "LiteRTModel", "LiteRTReport", "export_saved_model", "export_tflite"]
