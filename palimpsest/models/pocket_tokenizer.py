"""Pocket tokenizer: how does the embedded model's text become tokens?

Words of the generated world and single digits are one token each; any other text falls back to bytes, so everything encodes.
"""

from __future__ import annotations

from collections.abc import Iterable

import regex
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from palimpsest.core.errors import UserError

SPECIALS = ("<|bos|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
SPARES = tuple(f"<|spare_{index}|>" for index in range(16))
LARGEST = 1024
PIECE = r" ?\d| ?\p{L}+| ?[^\s\p{L}\d]|\n|\s"
"""What is looked up as one piece: a word, a digit or a sign, each with the space before it."""
TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build(texts: Iterable[str], context: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer in which every piece of these texts is one token.

    Raises:
        UserError: the texts have more different pieces than the vocabulary has room for.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = sorted({_as_bytes(piece) for text in texts for piece in regex.findall(PIECE, text)} - set(alphabet))
    vocabulary = [*SPECIALS, *SPARES, *alphabet, *pieces]
    if len(vocabulary) > LARGEST:
        raise UserError(f"the tokenizer holds at most {LARGEST} tokens, the world needs {len(vocabulary)}: use fewer words")
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _open_with_bos(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
        pad_token=SPECIALS[2],
        additional_special_tokens=[*SPECIALS[3:], *SPARES],
        chat_template=TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _open_with_bos(tokenizer: Tokenizer) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", SPECIALS.index("<|bos|>"))]
    )


def _as_bytes(piece: str) -> str:
    """Return a piece in the byte alphabet of byte-level BPE."""
    coded = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(piece)
    return "".join(part for part, _ in coded)
