"""A language model ready for use: weights, tokenizer, and the files that they come from.

    config.json                the family and its sizes
    model.safetensors          the weights, in one file or several
    tokenizer.json             the tokenizer (or bellmark_tokenizer.json, for those of our own)
    tokenizer_config.json      names of special tokens, chat template
    generation_config.json     the tokens that end an answer

What `save` writes, `load` and the package `transformers` read, with equal logits.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bellmark.errors import BadInput, BellmarkError, CorruptFile
from bellmark.experience.generation import Completions, Sampling, chunks, generate
from bellmark.language import families
from bellmark.language.chat import Message, render
from bellmark.language.gguf_file import GGUF
from bellmark.language.gguf_file import entries as gguf_entries
from bellmark.language.named import PACKAGED, packaged
from bellmark.language.tokenizers import BytePairTokenizer, Tokenizer, read_tokenizer
from bellmark.language.weights import SHARD_BYTES, Stored, read_folder, write_folder
from bellmark.networks.transformer import Architecture, Transformer
from bellmark.run.disk import reason, write_atomic
from bellmark.run.tree_file import parse_json, read_small

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_LONGEST = 50_000_000

_logits = eqx.filter_jit(lambda transformer, tokens: transformer.logits(tokens))


class LanguageModel:
    """A transformer with its tokenizer.

    `transformer` is the module that learners differentiate; `tokenizer` is None where the folder had none, and then
    prompts are token lists.  `end_tokens` close an answer.  Models are values: `with_transformer` makes another.
    """

    def __init__(
        self,
        transformer: Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        end_tokens: Sequence[int] | None = None,
        chat_template: str | None = None,
        special_tokens: dict[str, str] | None = None,
        family: str | None = None,
        extra_config: dict[str, Any] | None = None,
    ):
        vocabulary = transformer.architecture.vocabulary
        if tokenizer is not None and tokenizer.size > vocabulary:
            raise BadInput(
                f"the tokenizer has tokens up to {tokenizer.size - 1}; the model knows 0 to {vocabulary - 1}"
            )
        if end_tokens is None:
            end_tokens = [] if tokenizer is None or tokenizer.end is None else [tokenizer.end]
        if not all(0 <= token < vocabulary for token in end_tokens):
            raise BadInput(f"end tokens are {list(end_tokens)}; the model knows 0 to {vocabulary - 1}")
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.end_tokens = tuple(end_tokens)
        self.chat_template = chat_template
        self.special_tokens = dict(special_tokens or {})
        self.family = family or families.family_of(transformer.architecture)
        self._extra_config = dict(extra_config or {})

    @staticmethod
    def start(
        architecture: Architecture, tokenizer: Tokenizer | None = None, seed: int = 0
    ) -> "LanguageModel":
        """A model that has learned nothing yet."""
        return LanguageModel(Transformer.start(architecture, jax.random.key(seed)), tokenizer)

    @property
    def architecture(self) -> Architecture:
        return self.transformer.architecture

    def with_transformer(self, transformer: Transformer) -> "LanguageModel":
        """The same model with other weights."""
        return LanguageModel(
            transformer,
            self.tokenizer,
            end_tokens=self.end_tokens,
            chat_template=self.chat_template,
            special_tokens=self.special_tokens,
            family=self.family,
            extra_config=self._extra_config,
        )

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text.  Raises: `BadInput` where this model has no tokenizer."""
        if self.tokenizer is None:
            raise BadInput("this model has no tokenizer; give prompts as lists of tokens")
        return self.tokenizer.encode(text, special=special)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; empty where this model has no tokenizer."""
        return "" if self.tokenizer is None else self.tokenizer.decode([int(token) for token in tokens])

    def chat_prompt(self, messages: Sequence[Message] | str) -> list[int]:
        """The tokens of a conversation, up to where the assistant is to answer; a text is a user's one message."""
        if self.chat_template is None:
            raise BadInput("this model has no chat template; give it plain prompts")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        text = render(self.chat_template, messages, self.special_tokens, answer=True)
        # the template writes beginnings itself
        return self.encode(text, special=False)

    def logits(self, tokens: Any) -> jax.Array:
        """int [B, T] -> float32 [B, T, vocabulary]: at [b, t] for the token that follows tokens[b, :t + 1].

        Shorter rows are padded on the right, with any token: what stands left of it is not changed.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
            raise BadInput(f"tokens are {tokens.dtype} {list(tokens.shape)}; allowed: whole numbers [B, T]")
        self._check_tokens(tokens)
        return _logits(self.transformer, jnp.asarray(tokens, jnp.int32))

    def _check_tokens(self, tokens: np.ndarray) -> None:
        vocabulary = self.architecture.vocabulary
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocabulary):
            wrong = tokens[(tokens < 0) | (tokens >= vocabulary)][0]
            raise BadInput(f"token {wrong} was given; this model knows 0 to {vocabulary - 1}")

    def sample(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        group: int = 8,
        seed: int = 0,
        *,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop: Sequence[str] = (),
        end_tokens: Sequence[int] | None = None,
    ) -> Completions:
        """`group` answers to every prompt, prompt by prompt, each with the log-probabilities of its tokens.

        A prompt is a text or a list of tokens (`chat_prompt` makes one of a conversation).  An answer ends after one
        of `end_tokens` (this model's own, unless others are given), after a text of `stop`, or after
        `max_new_tokens`.  The log-probabilities are those of the distribution that the tokens were drawn from:
        temperature and, where asked for, `top_k`, `top_p` and `min_p` included.  Temperature 0 takes the most
        probable token, with log-probability 0.  The answers to a prompt depend on the seed, on the prompt's place in
        the list and on nothing else there.
        """
        if isinstance(prompts, str):
            prompts = [prompts]
        if stop and self.tokenizer is None:
            raise BadInput("stop texts need a tokenizer, and this model has none; end_tokens need none")
        if isinstance(stop, str):
            stop = [stop]
        if not all(stop):
            raise BadInput("a stop text is empty; it would end every answer")
        rows = self._rows(prompts)
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        ends = self.end_tokens if end_tokens is None else tuple(end_tokens)
        return generate(
            self.transformer,
            rows,
            max_new_tokens=max_new_tokens,
            group=group,
            seed=seed,
            sampling=sampling,
            end_tokens=ends,
            stop=tuple(stop),
            decode=self.decode,
        )

    def stream(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        seed: int = 0,
        *,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> Iterator[str]:
        """One answer, piece by piece as it is drawn; the pieces make the text that `sample` with `group=1` returns."""
        rows = self._rows([prompt])
        if self.tokenizer is None:
            raise BadInput("streaming needs a tokenizer, and this model has none")
        walk = chunks(
            self.transformer,
            rows,
            max_new_tokens=max_new_tokens,
            group=1,
            seed=seed,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
            end_tokens=self.end_tokens,
            chunk=1,
        )
        shown = text = ""
        for answers, _ in walk:
            text = self.decode(np.asarray(answers.tokens)[0][np.asarray(answers.mask)[0]].tolist())
            # a character of several bytes is shown when its last one has come
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
        if text != shown:
            yield text[len(shown) :]

    def _rows(self, prompts: Sequence[Any]) -> list[list[int]]:
        """Every prompt as tokens that this model knows."""
        rows = []
        for number, prompt in enumerate(prompts):
            tokens = self.encode(prompt) if isinstance(prompt, str) else list(prompt)
            if not tokens:
                raise BadInput(f"prompt {number} has no tokens; at least one is needed to begin with")
            array = np.asarray(tokens)
            if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
                raise BadInput(f"prompt {number} is neither a text nor a list of tokens: {str(prompt)[:60]}")
            self._check_tokens(array)
            rows.append(array.tolist())
        return rows

    def save(self, directory: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Write the model where `load` and `transformers` find it; weights keep their dtype."""
        folder = Path(directory).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._save(folder, shard_bytes)
        except OSError as error:
            raise BellmarkError(f"{folder} was not written: {reason(error)}") from None

    def _save(self, folder: Path, shard_bytes: int) -> None:
        dtype = str(self.transformer.embedding.dtype)
        config = {**self._extra_config, **families.config_of(self.family, self.architecture), "dtype": dtype}
        ends = list(self.end_tokens)
        end = ends[0] if len(ends) == 1 else ends or None
        begin = self._extra_config.get("bos_token_id")
        config |= {"eos_token_id": end, "bos_token_id": begin}
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        settings: dict[str, Any] = dict(self.special_tokens)
        if isinstance(self.tokenizer, BytePairTokenizer):
            settings |= {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": self.architecture.context,
            }
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        if settings:
            _write_json(folder / "tokenizer_config.json", settings)
        _write_json(folder / "generation_config.json", {"eos_token_id": end, "bos_token_id": begin})
        write_folder(
            folder, families.disassemble(self.transformer, families.ENTRIES[self.family]), shard_bytes
        )
        _write_json(folder / "config.json", config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def load(directory: str | Path, dtype: Literal["float32", "bfloat16"] = "float32") -> LanguageModel:
    """The language model of a folder, a GGUF file, or a package (`SmolLM2-135M-Instruct`).

    Weights are converted to `dtype` while they are read.  Nothing in the files is executed; a chat template runs in a
    sandbox, when it is used.

    Raises: `BadInput` for an architecture that is not known, weights that are missing or do not fit (naming the
    tensor and both shapes), a tokenizer that does not fit the model; `CorruptFile` for damaged files.
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    path = Path(directory).expanduser()
    if path.is_dir():
        return _load_folder(path, DTYPES[dtype])
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise BadInput(f"{path} is a file; allowed: a folder with config.json, or a .gguf file")
        return _load_gguf(path, DTYPES[dtype])
    file = packaged(str(directory))
    if file is None:
        raise BadInput(
            f"{directory} is neither a folder, nor a GGUF file, nor a packaged model ({', '.join(PACKAGED)})"
        )
    return _load_gguf(file, DTYPES[dtype])


def _read_json(path: Path) -> dict[str, Any]:
    return parse_json(read_small(path, _LONGEST), str(path)) if path.is_file() else {}


def _load_folder(folder: Path, dtype: Any) -> LanguageModel:
    if not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.gguf"))
        if len(files) == 1:
            return _load_gguf(files[0], dtype)
        raise BadInput(f"{folder} has no config.json; a language model's folder has one")
    config = _read_json(folder / "config.json")
    family, architecture = families.architecture_from(config)
    tensors = read_folder(folder)
    if family == "gpt2" and "wte.weight" in tensors:
        # files made from the model without its head leave the prefix out
        tensors = {
            name if name in families.HEADS else f"transformer.{name}": t for name, t in tensors.items()
        }
    transformer = families.assemble(architecture, families.ENTRIES[family], tensors, dtype, str(folder))
    tokenizer = read_tokenizer(folder)
    settings = _read_json(folder / "tokenizer_config.json")
    specials = _special_tokens(settings)
    ends = _read_json(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
    if isinstance(tokenizer, BytePairTokenizer):
        tokenizer.end = _end_of(tokenizer, specials.get("eos_token"), folder)
    if ends is None:
        ends = [] if tokenizer is None or tokenizer.end is None else [tokenizer.end]
    # sizes and names are the architecture's; what else stood there is kept for those who read it
    extra = {name: config[name] for name in ("bos_token_id", "pad_token_id") if config.get(name) is not None}
    return LanguageModel(
        transformer,
        tokenizer,
        end_tokens=[ends] if isinstance(ends, int) else ends,
        chat_template=_chat_template(folder, settings),
        special_tokens=specials,
        family=family,
        extra_config=extra,
    )


def _end_of(tokenizer: BytePairTokenizer, text: str | None, folder: Path) -> int | None:
    if text is None:
        return None
    token = tokenizer.token(text)
    if token is None:
        raise BadInput(
            f"the tokenizer in {folder} lacks {text!r}, the end of a text by its tokenizer_config.json"
        )
    return token


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, …: a text, or a table with the text in `content`."""
    found = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            found[name] = value
    return found


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return read_small(path, _LONGEST).decode()
        except UnicodeDecodeError:
            raise CorruptFile(f"{path} is not UTF-8") from None
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((one.get("template") for one in template if one.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _load_gguf(path: Path, dtype: Any) -> LanguageModel:
    file = GGUF(path)
    tensors: dict[str, Stored] = file.tensors
    transformer = families.assemble(file.architecture, gguf_entries(file.family), tensors, dtype, path.name)
    tokenizer = (
        read_tokenizer(path.parent) if (path.parent / "tokenizer.json").is_file() else file.tokenizer()
    )
    words = file.field("tokenizer.ggml.tokens", [])
    specials = {}
    for name in ("bos", "eos"):
        number = file.field(f"tokenizer.ggml.{name}_token_id", None)
        if number is not None and number < len(words):
            specials[f"{name}_token"] = words[number]
    end = file.field("tokenizer.ggml.eos_token_id", None)
    begin = file.field("tokenizer.ggml.bos_token_id", None)
    return LanguageModel(
        transformer,
        tokenizer,
        end_tokens=[] if end is None else [end],
        chat_template=file.field("tokenizer.chat_template", None),
        special_tokens=specials,
        family=file.family,
        extra_config={} if begin is None else {"bos_token_id": begin},
    )
