"""Sequence models where Hugging Face's tools expect theirs: `generate`, `Trainer`, `pipeline`, PEFT, `AutoModel`.

Importing this registers the classes, so `AutoModelForCausalLM.from_pretrained` reads a folder that
`SequenceModel.save_pretrained` wrote. See docs/hugging-face.md.
"""

from seqmix._extras import require

# 5.24 renamed `past_key_values` to `cache`; with releases before it beams would follow wrong states, silently.
_OLDEST = (5, 24)
_found = require("transformers", extra="hf", owner="seqmix.hf").__version__
if tuple(int(part) for part in _found.split(".")[:2]) < _OLDEST:
    raise ImportError(f"seqmix.hf needs transformers 5.24 or newer, found {_found}: pip install 'seqmix[hf]'")

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402

from seqmix.hf.cache import SeqmixCache  # noqa: E402
from seqmix.hf.config import SeqmixConfig  # noqa: E402
from seqmix.hf.model import SeqmixForCausalLM, SeqmixForSequenceClassification  # noqa: E402
from seqmix.hf.tokenizer import byte_tokenizer, tokenizer_from  # noqa: E402

__all__ = [
    "SeqmixCache",
    "SeqmixConfig",
    "SeqmixForCausalLM",
    "SeqmixForSequenceClassification",
    "byte_tokenizer",
    "tokenizer_from",
]

AutoConfig.register("seqmix", SeqmixConfig)
AutoModelForCausalLM.register(SeqmixConfig, SeqmixForCausalLM)
AutoModelForSequenceClassification.register(SeqmixConfig, SeqmixForSequenceClassification)
