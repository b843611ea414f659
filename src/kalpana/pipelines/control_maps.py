"""Preprocessors of control maps: the map of a kind from any picture."""

from __future__ import annotations

from functools import lru_cache

from PIL.Image import Image
from torch import Tensor

from kalpana.hub.card import find_model, read_card
from kalpana.hub.weights import load_module
from kalpana.media import to_images, to_pixels
from kalpana.models.map_estimator import PLANES, MapEstimator
from kalpana.types import KalpanaError
from kalpana.world.maps import edges

FILE = "map_estimator.safetensors"
KINDS = ("edges", *PLANES)
THRESHOLD = 0.15  # least step of brightness that is an edge
SURE = 0.3  # least level of a line in an estimated map


@lru_cache(maxsize=1)
def load_map_estimator() -> MapEstimator:
    """The shipped network, cached. Raises KalpanaError if it is missing, changed or damaged."""
    folder = find_model("maps")
    network: MapEstimator = load_module(folder / FILE, "maps", read_card(folder).files)
    return network


def control_map(kind: str, picture: Image, threshold: float = THRESHOLD) -> Image:
    """The map of a kind, one of KINDS, of a picture, in its size.

    Edges are Sobel's, of any picture. The others are estimated by a network that has seen pictures
    of the world alone: lines are white or of full colour, depth has all levels. Raises KalpanaError
    if a pose is asked for and there is no person.
    """
    pixels = to_pixels([picture])
    if kind == "edges":
        plane = edges(pixels, threshold)[:, None].float().expand(-1, 3, -1, -1)
        return to_images(2 * plane - 1)[0]
    found: Tensor = load_map_estimator().maps(pixels)[kind]
    if kind != "depth":
        found = (found > SURE).float()
    if kind == "pose" and not found.any():
        raise KalpanaError("no person was found: a pose needs a picture that shows one")
    return to_images(2 * found - 1)[0]
