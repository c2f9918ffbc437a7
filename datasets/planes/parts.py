"""The aeroplane of the factorial planes: flat pieces in space, one list for each variant of each slot.

Aeroplane coordinates: x forward, y towards the viewer, z up; the whole aircraft is about 1.3 long. Round bodies (fuselage,
nacelles, nose) are their profile in the plane y = const. Nothing here is random: scene.py draws what is.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

SLOTS: dict[str, tuple[str, ...]] = {
    "nose": ("round", "pointed", "drooped"),
    "engines": ("underwing", "rear", "four"),
    "wingtip": ("plain", "winglet", "fence"),
    "tail": ("low", "T", "twin"),
}
PARTS = ("fuselage", "wings", *SLOTS, "roundel")  # index in a part map = position + 1; 0 is everything that is not aeroplane

NOSE_JOINT, FUSELAGE_RADIUS = 0.34, 0.105
WING_ROOT, WING_TIP = 0.07, 0.72  # distance from the axis

# Painting order, far to near.
FAR_POD, FAR_WING, FAR_TIP, FAR_TAIL, FAR_REAR_POD = range(5)
FUSELAGE, NOSE, FIN, NEAR_TAIL, NEAR_POD, NEAR_WING, NEAR_REAR_POD, NEAR_TIP = range(5, 13)


class Piece(NamedTuple):
    """One polygon. `paint` names its colour, `tone` is its shade, `solid` False for a detail that lies on another piece."""

    part: str
    points: np.ndarray  # [n, 3]
    order: int
    paint: str
    tone: float = 1.0
    solid: bool = True
    anchor: tuple[float, float, float] = (0.0, 0.0, 0.0)  # where it is attached: the fixed point of the attachment jitter


def _profile(points: list[tuple[float, float]], y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Lift an (x, z) outline into space, in the plane `y`: [n, 3]."""
    flat = np.asarray(points, dtype=np.float64)
    return np.stack([flat[:, 0], np.full(len(flat), y), flat[:, 1] + z], axis=1)


def _arc(x: float, z: float, rx: float, rz: float, start: float, stop: float, steps: int) -> list[tuple[float, float]]:
    """Return an elliptic arc in (x, z); angles in degrees, 0 = forward, 90 = up."""
    return [(x + rx * float(np.cos(t)), z + rz * float(np.sin(t))) for t in np.radians(np.linspace(start, stop, steps))]


def _leading_edge(y: float) -> float:
    return 0.23 - 0.35 * (abs(y) - WING_ROOT) / (WING_TIP - WING_ROOT)


def _wing_height(y: float) -> float:
    return -0.045 + 0.08 * (abs(y) - WING_ROOT) / (WING_TIP - WING_ROOT)


def _wing(side: int) -> list[Piece]:
    root_chord, tip_chord = 0.31, 0.17
    y0, y1 = WING_ROOT * side, WING_TIP * side
    x0, x1, z0, z1 = _leading_edge(y0), _leading_edge(y1), _wing_height(y0), _wing_height(y1)
    order = NEAR_WING if side > 0 else FAR_WING
    outline = np.array([[x0, y0, z0], [x1, y1, z1], [x1 - tip_chord, y1, z1], [x0 - root_chord, y0, z0]])
    flap = np.array([outline[3], outline[2], outline[2] + [0.05, 0, 0], outline[3] + [0.08, 0, 0]])
    tone = 1.0 if side > 0 else 0.86
    return [Piece("wings", outline, order, "wings", tone), Piece("wings", flap, order, "wings", tone * 0.82, solid=False)]


@cache
def body_pieces() -> tuple[Piece, ...]:
    """Return the pieces of fuselage and wings, the same for every class."""
    r, joint = FUSELAGE_RADIUS, NOSE_JOINT
    top = [(joint, r - 0.004), (0.1, r), (-0.3, r), (-0.6, 0.088)]
    bottom = [(-0.63, 0.06), (-0.6, 0.035), (-0.42, -0.05), (-0.26, -0.092), (-0.1, -r), (joint, 0.004 - r)]
    belly = [(joint, -0.05), (-0.1, -0.055), (-0.33, -0.03), (-0.6, 0.045), *bottom[1:]]
    stripe = [(joint, 0.002), (-0.3, 0.01), (-0.6, 0.065), (-0.6, 0.045), (-0.3, -0.022), (joint, -0.03)]
    shine = [(joint, 0.09), (-0.35, 0.092), (-0.35, 0.07), (joint, 0.068)]
    cockpit = [(joint - 0.005, 0.082), (joint - 0.07, 0.088), (joint - 0.085, 0.038), (joint - 0.005, 0.033)]
    pieces = [
        Piece("fuselage", _profile(top + bottom), FUSELAGE, "fuselage"),
        Piece("fuselage", _profile(belly), FUSELAGE, "fuselage", 0.78, solid=False),
        Piece("fuselage", _profile(stripe), FUSELAGE, "stripe", solid=False),
        Piece("fuselage", _profile(shine), FUSELAGE, "fuselage", 1.12, solid=False),
        Piece("fuselage", _profile(cockpit), FUSELAGE, "glass", solid=False),
    ]
    for x in np.arange(-0.3, 0.22, 0.065):
        window = [(x, 0.056), (x + 0.026, 0.056), (x + 0.026, 0.026), (x, 0.026)]
        pieces.append(Piece("fuselage", _profile(window), FUSELAGE, "glass", solid=False))
    return (*pieces, *_wing(-1), *_wing(+1))


@cache
def roundel_pieces() -> tuple[Piece, ...]:
    """Return the pieces of the shortcut: a cockade on the forward fuselage, in colours of its own, not the scene's."""
    discs = ((0.072, "rim"), (0.062, "outer"), (0.034, "inner"))
    outlines = [(_profile(_arc(0.19, 0.005, r, r, 0, 345, 24)), paint) for r, paint in discs]
    return tuple(Piece("roundel", outline, FUSELAGE, paint, solid=paint == "rim") for outline, paint in outlines)


def _nose(variant: str) -> list[Piece]:
    r, joint, start = FUSELAGE_RADIUS - 0.004, NOSE_JOINT, NOSE_JOINT - 0.008
    if variant == "round":
        outline = [(start, r), *_arc(joint + 0.04, 0.0, 0.125, r, 88, -88, 17), (start, -r)]
        shade = [(start, -0.05), (joint + 0.14, -0.05), *_arc(joint + 0.04, 0.0, 0.125, r, -45, -88, 7), (start, -r)]
    elif variant == "pointed":
        outline = [(start, r), (joint + 0.05, r * 0.86), (joint + 0.17, r * 0.42), (joint + 0.33, 0.004)]
        outline += [(x, -z) for x, z in outline[::-1]]
        shade = [(start, -0.04), (joint + 0.33, -0.002), (joint + 0.17, -r * 0.42), (joint + 0.05, -r * 0.86), (start, -r)]
    else:
        upper = [(start, r), (joint + 0.06, r * 0.92), (joint + 0.13, r * 0.5), (joint + 0.19, -r * 0.25), (joint + 0.225, -0.22)]
        lower = [(joint + 0.18, -0.225), (joint + 0.11, -r * 1.3), (joint + 0.06, -r * 1.05), (start, -r)]
        outline = upper + lower
        shade = [(start, -0.05), (joint + 0.08, -0.06), (joint + 0.15, -0.1), (joint + 0.2, -0.21), *lower]
    anchor = (joint, 0.0, 0.0)
    return [
        Piece("nose", _profile(outline), NOSE, "nose", anchor=anchor),
        Piece("nose", _profile(shade), NOSE, "nose", 0.76, solid=False, anchor=anchor),
    ]


def _pod(front: float, back: float, radius: float, y: float, z: float, order: int) -> list[Piece]:
    """Return the pieces of a nacelle in profile: barrel, shaded belly, stripe and a dark intake."""
    length = front - back
    upper = [(front, 0.88), (front - 0.3 * length, 1.0), (front - 0.65 * length, 0.86), (back, 0.5)]
    outline = [(x, radius * k) for x, k in upper] + [(x, -radius * k) for x, k in upper[::-1]]
    shade = [(front, -0.3 * radius), (back, -0.2 * radius), *[(x, -radius * k) for x, k in upper[::-1]]]
    intake = _arc(front, 0.0, 0.3 * radius, 0.88 * radius, 0, 345, 16)
    band = [(front - 0.42 * length, radius * 0.96), (front - 0.55 * length, radius * 0.9)]
    band += [(x, -z) for x, z in band[::-1]]
    anchor = ((front + back) / 2, y, z)
    return [
        Piece("engines", _profile(outline, y, z), order, "engines", anchor=anchor),
        Piece("engines", _profile(shade, y, z), order, "engines", 0.74, solid=False, anchor=anchor),
        Piece("engines", _profile(band, y, z), order, "stripe", 0.9, solid=False, anchor=anchor),
        Piece("engines", _profile(intake, y, z), order, "intake", solid=True, anchor=anchor),
    ]


def _engines(variant: str) -> list[Piece]:
    pieces: list[Piece] = []
    for side in (-1, 1):
        if variant == "rear":
            pieces += _pod(-0.19, -0.43, 0.072, 0.31 * side, 0.06, NEAR_REAR_POD if side > 0 else FAR_REAR_POD)
            continue
        places = ((0.5, 0.07, 0.23),) if variant == "underwing" else ((0.34, 0.055, 0.2), (0.58, 0.055, 0.2))
        for y, radius, length in places:
            back = _leading_edge(y) + (0.01 if side > 0 else 0.04)  # the far wing would hide more of its own
            z = _wing_height(y) - 0.035
            pieces += _pod(back + length, back, radius, y * side, z, NEAR_POD if side > 0 else FAR_POD)
    return pieces


def _wingtip(variant: str) -> list[Piece]:
    pieces: list[Piece] = []
    x, z = _leading_edge(WING_TIP), _wing_height(WING_TIP)
    for side, order, tone in ((-1, FAR_TIP, 0.88), (1, NEAR_TIP, 1.0)):
        y = WING_TIP * side
        anchor = (x - 0.08, y, z)
        if variant == "winglet":
            outward = y + 0.05 * side
            blade = [(x, y, z), (x - 0.16, outward, z + 0.09), (x - 0.29, outward, z + 0.22), (x - 0.4, outward, z + 0.22)]
            blade += [(x - 0.29, outward, z + 0.05), (x - 0.18, y, z - 0.015)]
            pieces.append(Piece("wingtip", np.array(blade), order, "wingtip", tone, anchor=anchor))
        elif variant == "fence":
            fence = [(x + 0.04, 0.0), (x - 0.2, 0.16), (x - 0.3, 0.16), (x - 0.2, 0.0), (x - 0.3, -0.16), (x - 0.2, -0.16)]
            pieces.append(Piece("wingtip", _profile(fence, y, z), order, "wingtip", tone, anchor=anchor))
    return pieces


def _tail(variant: str) -> list[Piece]:
    pieces: list[Piece] = []

    def add(points: list[tuple[float, float, float]], order: int, tone: float = 1.0, stripe: bool = False) -> None:
        paint = "stripe" if stripe else "tail"
        pieces.append(Piece("tail", np.array(points), order, paint, tone, not stripe, (-0.5, 0.0, 0.08)))

    for side, order, tone in ((-1, FAR_TAIL, 0.86), (1, NEAR_TAIL, 1.0)):
        if variant == "T":
            top = 0.34  # broad and hardly swept: seen from above, a slim one would pass for a taller fin
            add([(-0.41, 0, top), (-0.54, 0.29 * side, top), (-0.7, 0.29 * side, top), (-0.7, 0, top)], NEAR_TAIL, tone)
        else:
            span, front, back = (0.4 * side, -0.57, -0.69) if variant == "low" else (0.28 * side, -0.45, -0.6)
            root = 0.03 * side
            add([(-0.42, root, 0.05), (front, span, 0.06), (back, span, 0.06), (-0.6, root, 0.05)], order, tone)
        if variant == "twin":
            y = 0.28 * side
            add([(-0.42, y, 0.03), (-0.54, y, 0.33), (-0.66, y, 0.33), (-0.61, y, 0.03)], order, tone)
            add([(-0.496, y, 0.22), (-0.516, y, 0.27), (-0.65, y, 0.27), (-0.642, y, 0.22)], order, stripe=True)
    if variant == "low":
        add([(-0.3, 0, 0.1), (-0.43, 0, 0.16), (-0.54, 0, 0.38), (-0.66, 0, 0.38), (-0.61, 0, 0.08)], FIN)
        add([(-0.48, 0, 0.26), (-0.505, 0, 0.31), (-0.645, 0, 0.31), (-0.637, 0, 0.26)], FIN, stripe=True)
    elif variant == "T":
        add([(-0.39, 0, 0.1), (-0.46, 0, 0.34), (-0.66, 0, 0.34), (-0.61, 0, 0.08)], FIN)
        add([(-0.428, 0, 0.23), (-0.443, 0, 0.28), (-0.643, 0, 0.28), (-0.635, 0, 0.23)], FIN, stripe=True)
    return pieces


_BUILDERS = {"nose": _nose, "engines": _engines, "wingtip": _wingtip, "tail": _tail}


@cache
def slot_pieces(slot: str, variant: str | None) -> tuple[Piece, ...]:
    """Return the pieces of one variant; none for a removed part (None) and for `plain`, which is an absence."""
    return () if variant is None else tuple(_BUILDERS[slot](variant))
