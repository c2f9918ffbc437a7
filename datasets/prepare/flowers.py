"""Oxford Flowers 102 (Nilsback and Zisserman 2008)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.prepare.archives import Source, inside
from datasets.prepare.downloads import Download
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.tables import pick, read_mat

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="Oxford Flowers 102",
    url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    licence="not quoted here: see the site; photographers retain the copyright",
    split="official: setid.mat, as train, val and test",
    official={"train": (1020, 102), "val": (1020, 102), "test": (6149, 102)},
)
SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
# By number, from the site's table of categories.
NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, bird of
paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower, purple
coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red ginger, grape
hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation, garden phlox, love in
the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten rose,
barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common
dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia,
pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring
crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower,
lotus, toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow, mexican petunia,
bromelia, blanket flower, trumpet creeper, blackberry lily
"""

DOWNLOADS = [
    Download(f"{ABOUT.url}102flowers.tgz", md5="52808999861908f626f3c1f4e79d11fa"),
    Download(f"{ABOUT.url}imagelabels.mat", md5="e0620be6f572b9609742df49c70aed4d"),
    Download(f"{ABOUT.url}setid.mat", md5="a5357ecc9cb78c4bef273ce3793fc85c"),
]

HELP = "8,189 photographs of 102 flowers (Nilsback and Zisserman 2008)"
DESCRIPTION = (
    "Oxford Flowers 102 from 102flowers.tgz, imagelabels.mat and setid.mat, unpacked or not. The official splits are 1,020 "
    "images for train, 1,020 for val and 6,149 for test (main.py --test test)."
)
SOURCE_HELP = "folder that holds these three files, or the pictures in jpg/"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write Oxford Flowers as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, lambda files: list(_read(files)), settings)


def _read(files: Source) -> Iterator[Photo]:
    folder, label_file = files.find("jpg/", "102flowers.t*"), files.find("imagelabels.mat")
    names = " ".join(NAMES.split()).split(", ")
    labels = read_mat(label_file, "labels")[0]
    path = files.find("setid.mat")
    for split, key in SPLITS.items():
        for index in read_mat(path, key)[0]:
            name = f"image_{int(index):05}.jpg"
            yield Photo(name, inside(folder, name), pick(label_file, names, pick(path, labels, index)), split)
