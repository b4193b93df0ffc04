"""Models that have learned nothing yet, by name: for tasks small enough to be learned from nothing on a laptop.

tiny-characters    2 layers of 64, printable ASCII      (0.1 million parameters)
small-characters   4 layers of 128                      (0.8 million)
tiny-bytes         2 layers of 64, the bytes of UTF-8
small-bytes        4 layers of 128
"""

from bellmark.language.model import LanguageModel
from bellmark.language.tokenizers import ByteTokenizer, CharacterTokenizer, Tokenizer
from bellmark.networks.transformer import Architecture

PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))
_SIZES = {"tiny": (64, 2, 4, 128), "small": (128, 4, 4, 256)}
SCRATCH = tuple(f"{size}-{kind}" for kind in ("characters", "bytes") for size in _SIZES)
CONTEXT = 256


def from_scratch(name: str, seed: int = 0) -> LanguageModel:
    """A new model of one of the names in `SCRATCH`."""
    size, kind = name.split("-")
    width, layers, heads, feed_forward = _SIZES[size]
    tokenizer: Tokenizer = CharacterTokenizer(PRINTABLE) if kind == "characters" else ByteTokenizer()
    architecture = Architecture(
        vocabulary=tokenizer.size,
        width=width,
        layers=layers,
        heads=heads,
        key_value_heads=heads,
        head_size=width // heads,
        feed_forward=feed_forward,
        context=CONTEXT,
    )
    return LanguageModel.start(architecture, tokenizer, seed)
