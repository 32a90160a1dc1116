"""What a linear layer is for, by its name: the one table for all architectures.

    query, key, value     of an attention
    up                    into the feed-forward neurons; two of them, where one is a gate
    writer                to the residual stream: the output of an attention, of a feed-forward part, of a convolution

Layers of one part - an attention, a feed-forward block - share the name in front of what names their role. A layer
that does several things at once (one product for query, key and value) has no role, its parts have theirs
(`layers.fused`). Neither has one that does something of its own (a router, a table's projection, one that both reads
and writes the stream).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ..layers.fused import ATTENTION, FEED_FORWARD
from ..layers.spec import PivotSide

Role = Literal["query", "key", "value", "up", "writer"]

# The last parts of a qualified name, as regular expressions; a part in front that the layers of a part do not all
# have (`self`, `output`) belongs to the ending.
_ATTENTION = rf"(?:self\.)?(?:{'|'.join(ATTENTION)})\."
_ENDINGS: dict[Role, tuple[str, ...]] = {
    "query": (
        r"(?:self\.)?query(?:_proj)?",  # BERT-like, ALBERT; DeBERTa
        r"q_proj|q_lin|q_head|q|Wq",  # Llama-like, BART, OPT, ViT; DistilBERT, XLM; Funnel; T5, MPNet; CTRL
        rf"{_ATTENTION}q|q_attn",  # parts of one product for all three; GPT-2's beside one for key and value
    ),
    "key": (r"(?:self\.)?key(?:_proj)?", r"k_proj|k_lin|k_head|k|Wk", rf"{_ATTENTION}k"),
    "value": (r"(?:self\.)?value(?:_proj)?", r"v_proj|v_lin|v_head|v|Wv", rf"{_ATTENTION}v"),
    "up": (
        r"intermediate\.dense|intermediate_dense",  # BERT-like; wav2vec2
        r"gate_proj|up_proj|wi|wi_0|wi_1|w1|w3",  # Llama-like, MPT; T5; LFM2
        r"fc1|lin1|c_fc|fc_in|dense_h_to_4h",  # BART, OPT, Phi, ViT; DistilBERT, XLM; GPT-2; GPT-J; GPT-NeoX, Bloom
        r"linear_1|(?<=ff\.)layer_1|ffn",  # Funnel; XLNet; ALBERT
        rf"(?:{'|'.join(FEED_FORWARD)})\.(?:gate|up)",  # parts of one product for both
    ),
    "writer": (
        r"output\.dense|output_dense",  # BERT-like; wav2vec2
        # ALBERT, GPT-NeoX; Bloom; Phi; CTRL. MobileBERT's bottleneck reads the stream under such a name.
        r"(?<!bottleneck\.attention\.)(?<=attention\.)dense|(?<=self_attn\.)dense",
        r"out_proj|o_proj|out_lin|post_proj",  # BART, GPT-J, LFM2; Llama-like, ViT; DistilBERT, XLM; Funnel
        r"(?<=attn\.)o|(?<=Attention\.)o",  # MPNet; T5
        r"down_proj|wo|Wo|w2|fc2|lin2|c_proj|fc_out|dense_4h_to_h",  # as in "up"; ModernBERT's Wo
        r"linear_2|(?<=ff\.)layer_2|ffn_output",  # Funnel; XLNet; ALBERT
    ),
}
_PATTERNS: dict[Role, re.Pattern[str]] = {
    role: re.compile(rf"(?:(?P<part>.+?)\.|^)(?:{'|'.join(endings)})$") for role, endings in _ENDINGS.items()
}


class Place(NamedTuple):
    """What a layer is for, and the part of the model that it belongs to."""

    role: Role
    part: str


def place_of(name: str) -> Place | None:
    """Return a layer's role and part by its qualified name; None for a layer of no role."""
    plain = name.replace("layout_", "")  # LiLT has a second, narrower stream of positions, of layers named like this
    for role, pattern in _PATTERNS.items():
        found = pattern.match(plain)
        if found is not None:
            return Place(role, (found["part"] or "") + (":layout" if plain != name else ""))
    return None


def role_of(name: str) -> Role | None:
    """Return what a layer is for by its qualified name; None for a layer of no role."""
    place = place_of(name)
    return None if place is None else place.role


def writes_residual(name: str) -> bool:
    """Tell by its name whether a layer writes to the residual stream, so that its outputs have a fixed order."""
    return role_of(name) == "writer"


def in_attention(name: str) -> bool:
    """Tell by its name whether a layer belongs to an attention, and not to a feed-forward part."""
    place = place_of(name)
    if place is not None and place.role in ("query", "key", "value"):
        return True
    if place is not None and place.role == "up":
        return False
    return any("att" in part.lower() for part in _inside(name))


def _inside(name: str) -> list[str]:
    """Return the parts of a name between the block's number and the layer's own name.

    Where there are none, it is the part in front of the number: XLM numbers blocks inside a list of attentions.
    """
    parts = name.split(".")[:-1]
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return (parts[numbers[-1] + 1 :] if numbers else parts) or parts[-2:-1]


Kind = Literal["attention", "ffn", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FEED_FORWARD = re.compile(r"mlp|ffns?|ff|feed_?forward|denserelu\w*", re.IGNORECASE)
_NEITHER = re.compile(r"conv|mixer|recurrent|ssm|rnn", re.IGNORECASE)


def kind_of(name: str) -> Kind:
    """Tell by its name what kind of part a layer belongs to: an attention, a feed-forward part, or another one."""
    if in_attention(name):
        return "attention"
    role, inside = role_of(name), _inside(name)
    writes = role == "writer" and not any(_NEITHER.search(part) for part in inside)
    return "ffn" if role == "up" or writes or any(_FEED_FORWARD.fullmatch(part) for part in inside) else "other"


def pivot_side_of(name: str) -> PivotSide:
    """Choose the side of a layer's pivots that folds away in a graph: inputs where it writes to the residual stream."""
    return "in" if writes_residual(name) else "out"


def by_part(names: Iterable[str]) -> list[Mapping[Role, list[str]]]:
    """Return the layers of every part by role, in the order of the parts' first layers; those of no role are left out.

    A role that a part has no layer of has an empty list.
    """
    parts: dict[str, dict[Role, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        place = place_of(name)
        if place is not None:
            parts[place.part][place.role].append(name)
    return list(parts.values())


def whole_attentions(names: Iterable[str]) -> list[tuple[str, str, str, str]]:
    """Return query, key, value and output of every attention that has one layer of each."""
    roles: tuple[Role, ...] = ("query", "key", "value", "writer")
    found = []
    for part in by_part(names):
        if all(len(part[role]) == 1 for role in roles):
            query, key, value, output = (part[role][0] for role in roles)
            found.append((query, key, value, output))
    return found


@dataclass(frozen=True)
class Partners:
    """Layers that read or write the same features.

    Attributes:
        kind: "scores" of queries and keys; "values" with the attention's output; "neurons" of a feed-forward part; or
            "alone".
        writers: layers whose outputs are the features, in the model's order.
        readers: layers whose inputs they are.
    """

    kind: Literal["scores", "values", "neurons", "alone"]
    writers: tuple[str, ...]
    readers: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """All of them, those that write first."""
        return (*self.writers, *self.readers)


def partners(names: Iterable[str]) -> list[Partners]:
    """Sort layers into those that share features, by their names; every layer is in one of them, or alone."""
    listed = list(names)
    found = [Partners("alone", (name,)) for name in listed if place_of(name) is None]
    for part in by_part(listed):
        scores = (*part["query"], *part["key"])
        if part["query"] and part["key"]:
            found.append(Partners("scores", scores))
        else:
            found += [Partners("alone", (name,)) for name in scores]
        values, ups, writers = (tuple(part[role]) for role in ("value", "up", "writer"))
        if values:
            found.append(Partners("values", values, writers))
        if ups:
            found.append(Partners("neurons", ups, () if values else writers))
        if not values and not ups:
            found += [Partners("alone", (name,)) for name in writers]
    return found


def feed_forward_parts(names: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Find the feed-forward parts among linear layers, by their names.

    Returns:
        Of every part the layers whose outputs are its neurons - one, or two with a gate - and the one that reads them.
    """
    return [
        (found.writers, found.readers[0])
        for found in partners(names)
        if found.kind == "neurons" and len(found.readers) == 1
    ]
