"""How alike are visual and text tokens inside a language model? (VILA, section 4.1 and Figure 3.)

All measures are made of cosines, so that the length of an embedding plays no part. Shape letters:
V visual tokens, W text tokens, D width, N images, K words.

The paper draws a Chamfer distance from pairwise cosine similarity, and gives no formula; ours is in
`compare`. Raw cosines tell little by themselves, because the states of a layer share a direction
that has nothing to do with content; `match` takes that out first, and asks about content.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Similarity:
    """Two sets of tokens compared; all values are cosines, from -1 to 1.

    `visual_to_text` is the mean over visual tokens of the cosine with the nearest text token,
    `text_to_visual` the converse, `cosine` the mean over all pairs.
    """

    visual_to_text: float
    text_to_visual: float
    cosine: float

    @property
    def chamfer(self) -> float:
        """The mean of both one-sided terms: a similarity, 1 where each set lies in the other."""
        return (self.visual_to_text + self.text_to_visual) / 2

    @property
    def distance(self) -> float:
        """The Chamfer distance with 1 - cosine between tokens, its two terms averaged: 0 to 2."""
        return 1 - self.chamfer


def pairwise_cosine(visual_VD: torch.Tensor, text_WD: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each visual token with each text token, (V, W); 0 for a zero vector."""
    return normalize(visual_VD.float(), dim=-1) @ normalize(text_WD.float(), dim=-1).T


def compare(visual_VD: torch.Tensor, text_WD: torch.Tensor) -> Similarity:
    """Compare the visual tokens of an image with the tokens of a text.

    Raises ValueError when either holds no token: there is no nearest one then.
    """
    if not len(visual_VD) or not len(text_WD):
        raise ValueError(f"{len(visual_VD)} visual and {len(text_WD)} text tokens; both need one")
    cosine_VW = pairwise_cosine(visual_VD, text_WD)
    return Similarity(
        visual_to_text=float(cosine_VW.max(dim=1).values.mean()),
        text_to_visual=float(cosine_VW.max(dim=0).values.mean()),
        cosine=float(cosine_VW.mean()),
    )


def match(images_ND: torch.Tensor, centroids_KD: torch.Tensor, right_N: torch.Tensor) -> list[bool]:
    """Tell for each image whether the right one of K words is nearest to it.

    `images_ND` are the means of the images' visual tokens, `centroids_KD` the mean states of the
    words in texts, `right_N` each image's word. Images and words are centred, each on their own
    mean, and compared by cosine; guessing scores 1/K.
    """
    images_ND, centroids_KD = images_ND.float(), centroids_KD.float()
    centred_ND = images_ND - images_ND.mean(dim=0)
    centred_KD = centroids_KD - centroids_KD.mean(dim=0)
    nearest_N = pairwise_cosine(centred_ND, centred_KD).argmax(dim=1)
    return (nearest_N == right_N).tolist()
