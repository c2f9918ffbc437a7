"""Every attribution method on the device gives the map that it gives on the CPU."""

from __future__ import annotations

import pytest
import torch
from patches import CELL, batch, patch_model

from attribution.methods.registry import METHODS

KINDS = ["detr", "additive", "none"]
FEW = {
    "integrated_gradients_blur": {"steps": 4}, "integrated_gradients_mean": {"steps": 4}, "rise": {"n": 50},
    "occlusion": {"window": CELL, "stride": CELL},
}  # fmt: skip
MAPS = [(kind, name) for kind in KINDS for name, method in METHODS.items() if method.applies(patch_model(kind=kind))]


@pytest.mark.parametrize("kind, name", MAPS)
def test_a_map_of_the_device_is_that_of_the_cpu(device: torch.device, kind: str, name: str) -> None:
    method = METHODS[name]
    if not method.is_installed:
        pytest.skip(f"{method.requires} is not installed")
    images, classes, mask = batch()
    masks = torch.zeros_like(mask)
    masks[:, :12, 4:20] = True
    truth = {"siblings": torch.tensor([1, 3, 0]), "masks": masks, "removal_effects": masks * torch.linspace(0, 1, 40)}
    maps = []
    for place in (device, torch.device("cpu")):
        needs = {need: truth[need].to(place) for need in method.needs}
        model = patch_model(kind=kind).to(place)
        made = method.call(model, images.to(place), classes.to(place), padding_mask=mask.to(place), **needs, **FEW.get(name, {}))
        assert made.device.type == place.type and made.dtype == torch.float32 and made.isfinite().all()
        maps.append(made.cpu())
    scale = float(maps[1].abs().max())
    torch.testing.assert_close(maps[0], maps[1], atol=1e-3 * scale, rtol=0)
