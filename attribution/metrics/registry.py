"""What the numbers are called in tables and plots, and which way is better."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """label: in tables. better: 1 more, -1 less, 0 neither. meaning: one line for the legend."""

    label: str
    better: int
    meaning: str


COLUMNS = {
    "srg": Column("SRG", 1, "area with the least relevant pixels removed first, less that with the most relevant; random 0"),
    "rd": Column("RD@5 %", 1, "drop of the class's probability less that of its sibling's without the top 5 % of the pixels"),
    "insertion": Column("insertion", 1, "area under the probability while pixels come back into the blurred picture"),
    "insertion_start": Column("s_0", 0, "probability of the blurred picture, where insertion starts"),
    "deletion": Column("deletion", -1, "area under the probability while the most relevant pixels turn to the mean colour"),
    "pointing": Column("pointing", 1, "share of pictures whose peak lies on the object"),
    "energy": Column("energy", 1, "share of the positive mass on the object"),
    "energy_gain": Column("gain", 1, "energy over the share of the picture that the object covers"),
    "ap": Column("AP", 1, "average precision of the map as a score for the object's pixels"),
    "contrast_pointing": Column(
        "evidence pointing", 1, "is the peak of class less sibling where the two differ, mean over slots"
    ),
    "contrast_energy": Column("evidence energy", 1, "mass of class less sibling where the two differ"),
    "contrast_ap": Column("evidence AP", 1, "average precision for the pixels in which the two differ"),
    "sd": Column("SD", 1, "rank correlation of a part's mass and the drop of the logit without the part"),
    "sd_swap": Column("SD swap", 1, "the same for slots that are swapped for a sibling's"),
    "pc": Column("PC", 1, "the prediction stays when only the most important parts are kept"),
    "dc": Column("DC", 1, "the prediction changes when the most important parts are removed"),
    "ts": Column("TS", 1, "maps of two classes that share disjoint parts with the picture lie on those parts"),
    "part_srg": Column("part SRG", 1, "SRG with whole parts, rendered again without them"),
    "part_insertion": Column("part insertion", 1, "insertion of whole parts"),
    "part_deletion": Column("part deletion", -1, "deletion of whole parts"),
    "shortcut_pointing": Column("roundel pointing", 1, "is the peak on the roundel that the model relies on"),
    "shortcut_energy": Column("roundel energy", 1, "mass on that roundel"),
    "shortcut_top": Column("roundel top", 1, "share of pictures in which no part is more important than that roundel"),
    "own_hit": Column("own hit", 1, "the peak of a class's map lies on its own object"),
    "other_hit": Column("other hit", -1, "it lies on the object of the other class"),
    "own_energy": Column("own energy", 1, "mass on the class's own object"),
    "other_energy": Column("other energy", -1, "mass on the other object"),
    "own_area": Column("area", 0, "share of the picture that the own object covers: the own energy of a constant map"),
    "gini": Column("Gini", 0, "0 spread evenly, towards 1 on few cells"),
    "max_sensitivity": Column("max-sens.", -1, "largest relative change of the map under noise of +-0.02; constant maps score 0"),
}


def column(name: str) -> Column:
    """The column of a metric, of its `_native` form or of one slot, `<metric>/<slot>`."""
    base, _, slot = name.partition("/")
    native = base.removesuffix("_native")
    known = COLUMNS.get(native, Column(native.replace("_", " "), 0, ""))
    if native != base:
        return Column(f"{known.label}, native", known.better, "the same, of the map at its own resolution")
    return Column(slot, known.better, known.meaning) if slot else known
