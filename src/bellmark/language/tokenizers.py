"""Text to tokens and back.

    BytePairTokenizer    what open models bring along: `tokenizer.json`, or the tables of a GGUF file
    ByteTokenizer        the 256 bytes of UTF-8, and an end: any text, nothing to learn
    CharacterTokenizer   the characters of a small world (digits, operators), and an end

The last two are for models trained from nothing, and need no package; the first is read by the package `tokenizers`, in
the extra `bellmark[language]`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bellmark.errors import BadInput, CorruptFile
from bellmark.run.disk import write_atomic
from bellmark.run.tree_file import parse_json, read_small

OWN = "bellmark_tokenizer.json"
"""Where the byte and character tokenizers are kept in a model's folder."""

_LONGEST = 200_000_000


class Tokenizer(Protocol):
    """`end` is the token that closes a text, None where there is none; `size` is one more than the largest token."""

    end: int | None

    @property
    def size(self) -> int: ...

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Tokens of a text; `special` adds what the tokenizer puts before and after every text (a beginning)."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without beginnings and ends."""

    def save(self, folder: Path) -> None: ...


class ByteTokenizer:
    """Token i < 256 is byte i, 256 is the end."""

    end: int | None = 256

    @property
    def size(self) -> int:
        return 257

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")

    def save(self, folder: Path) -> None:
        write_atomic(folder / OWN, b'{"kind": "bytes"}\n')


class CharacterTokenizer:
    """Token i is the i-th of `characters`, in the order given; the end comes after the last."""

    def __init__(self, characters: str):
        if len(set(characters)) != len(characters) or not characters:
            raise BadInput(
                f"the characters are {characters[:60]!r}; allowed: at least one, each of them once"
            )
        self.characters = characters
        self.end: int | None = len(characters)
        self._token = {character: token for token, character in enumerate(characters)}

    @property
    def size(self) -> int:
        return len(self.characters) + 1

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        try:
            return [self._token[character] for character in text]
        except KeyError as missing:
            raise BadInput(
                f"{missing.args[0]!r} in {text[:60]!r} is no character of this tokenizer; allowed: {self.characters}"
            ) from None

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.characters[token] for token in tokens if token < len(self.characters))

    def save(self, folder: Path) -> None:
        text = json.dumps({"kind": "characters", "characters": self.characters}, ensure_ascii=False)
        write_atomic(folder / OWN, (text + "\n").encode())


class BytePairTokenizer:
    """A tokenizer of the package `tokenizers`."""

    def __init__(self, inner: Any, end: int | None):
        self.inner = inner
        self.end = end

    @property
    def size(self) -> int:
        return 1 + max(self.inner.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return self.inner.encode(text, add_special_tokens=special).ids

    def decode(self, tokens: Iterable[int]) -> str:
        return self.inner.decode(list(tokens), skip_special_tokens=True)

    def token(self, text: str) -> int | None:
        """The number of a token that is written `text`."""
        return self.inner.token_to_id(text)

    def save(self, folder: Path) -> None:
        write_atomic(folder / "tokenizer.json", self.inner.to_str(pretty=True).encode())


def _package() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise BadInput("this model's tokenizer needs an extra: pip install 'bellmark[language]'") from None
    return tokenizers


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model's folder, None where it has none."""
    if (folder / OWN).is_file():
        description = parse_json(read_small(folder / OWN, _LONGEST), f"{folder / OWN}")
        if description.get("kind") == "bytes":
            return ByteTokenizer()
        if description.get("kind") == "characters" and isinstance(description.get("characters"), str):
            return CharacterTokenizer(description["characters"])
        raise CorruptFile(f"{folder / OWN} describes no tokenizer; allowed kinds: bytes, characters")
    path = folder / "tokenizer.json"
    if not path.is_file():
        if (folder / "tokenizer.model").is_file():
            raise BadInput(
                f"{folder} has a tokenizer.model only; tokenizer.json is needed (transformers writes one)"
            )
        return None
    text = read_small(path, _LONGEST)
    try:
        inner = _package().Tokenizer.from_buffer(text)
    except BadInput:
        raise
    except Exception as error:  # the package raises plain Exception
        raise CorruptFile(f"{path} is no tokenizer: {' '.join(str(error).split())[:200]}") from None
    inner.no_padding()
    inner.no_truncation()
    return BytePairTokenizer(inner, None)


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PATTERNS = {
    # how each cuts a text into words before pairs are merged; {n}: digits that may stay together
    "llama-bpe": _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_CONTROL, _USER_DEFINED = 3, 4


def byte_pair_from_tables(
    kind: str,
    tokens: Sequence[str],
    token_types: Sequence[int],
    merges: Sequence[str],
    begin: int | None,
    end: int | None,
) -> BytePairTokenizer:
    """The byte-level tokenizer whose tables a GGUF file holds; `kind` says how it cuts texts into words.

    `begin` is put before every text, None for nothing.
    """
    package = _package()
    pre = package.pre_tokenizers
    if kind in ("smollm", "starcoder", "refact", "command-r"):
        cut = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)]
    elif kind in ("gpt-2", "default"):
        cut = [pre.ByteLevel(add_prefix_space=False, use_regex=True)]
    elif kind in _PATTERNS:
        split = pre.Split(package.Regex(_PATTERNS[kind]), behavior="isolated", invert=False)
        cut = [split, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        allowed = ", ".join(("smollm", "gpt-2", "default", *_PATTERNS))
        raise BadInput(f"this file's tokenizer cuts texts as {kind!r} does; allowed: {allowed}")
    pairs = []
    for merge in merges:
        # the first space is the token's own where a token begins with one; none of these vocabularies has such
        left, _, right = merge.partition(" ")
        pairs.append((left, right))
    model = package.models.BPE(
        {token: number for number, token in enumerate(tokens)}, pairs, ignore_merges=kind == "llama-bpe"
    )
    inner = package.Tokenizer(model)
    inner.pre_tokenizer = pre.Sequence(cut)
    inner.decoder = package.decoders.ByteLevel()
    if begin is not None:
        name = tokens[begin]
        inner.post_processor = package.processors.TemplateProcessing(
            single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, begin)]
        )
    added = [
        package.AddedToken(token, special=sort == _CONTROL, normalized=False)
        for token, sort in zip(tokens, token_types, strict=True)
        if sort in (_CONTROL, _USER_DEFINED)
    ]
    inner.add_tokens([token for token in added if not token.special])
    inner.add_special_tokens([token for token in added if token.special])
    return BytePairTokenizer(inner, end)
