"""`python -m tools.report`: what is on the page, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attribution.report import page as pages
from models import load_checkpoint
from tools.report import get_args_parser, main
from util.cli import launch, parse

Command = Callable[..., list[str]]

EVIL = "<script>document.title='x'</script> \"quotes\" & 'more'"
CLASSES = [EVIL, "long " * 1000, "أب جد", "plain"]
FOLDERS = ["a", "b", "c", "plain"]  # names that a file system takes; the checkpoint has the others


def report(command: Command, out: Path, *more: str) -> Path:
    main(parse(get_args_parser(), command("--out", out, *more)))
    return out


@pytest.fixture(scope="module")
def made(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(command, tmp_path_factory.mktemp("out") / "page")


def content(path: Path) -> Any:
    """Return the last argument of the call in a script of the page."""
    words = re.fullmatch(r"\w+\((?:\d+, )?(.*)\);\n", path.read_text(encoding="ascii"))
    assert words is not None
    return json.loads(words[1])


def test_the_summary_is_the_evaluation(made: Path) -> None:
    summary = content(made / pages.SUMMARY)
    images = summary["images"]
    assert images["file"] == [f"{name}/{number}.png" for name in FOLDERS for number in range(3)]
    assert images["label"] == [label for label in range(4) for _ in range(3)]
    right = np.equal(images["label"], images["predicted"])
    assert summary["acc1"] == pytest.approx(100 * right.mean()) and summary["acc5"] is None
    assert summary["curves"]["test_acc1"] == [0, 25, 50]
    assert len(list((made / pages.PICTURES).iterdir())) == len(list((made / pages.MAPS).iterdir())) == 12


def test_maps_of_the_page_are_those_of_the_model_to_one_step_of_a_byte(small_run: Path, made: Path) -> None:
    from attribution import explain
    from datasets import collate, eval_transform, open_split

    model, meta = load_checkpoint(small_run / "checkpoint.pth")
    model.eval()
    split = open_split(small_run, "d", "val", FOLDERS, eval_transform(64, False))
    for number in (0, 1, 5):
        on_page = content(made / pages.maps_name(number))
        images = collate([split[number]]).normalise(**meta.normalisation)
        for name, entry in on_page["maps"].items():
            stored = np.frombuffer(base64.b64decode(entry["bytes"]), np.uint8).reshape(-1, *entry["size"])
            low, high = (np.array(entry[key])[:, None, None] for key in ("low", "high"))
            values = (low + (high - low) * stored / 255).reshape(len(on_page["classes"]), entry["heads"], *entry["size"])
            for row, index in enumerate(on_page["classes"]):
                expected = explain(model, images, index, name)[0].numpy()
                step = float((high - low).max()) / 255
                np.testing.assert_allclose(values[row].mean(0), expected, atol=step + 1e-6)


def test_a_report_replaces_a_report_and_nothing_else(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = report(command, tmp_path / "page", "--methods", "gradcam", "--top_q", "1")
    assert list(content(out / pages.maps_name(0))["maps"]) == ["gradcam"]
    report(command, out)
    assert list(content(out / pages.maps_name(0))["maps"]) == ["attention", "contribution"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not overwritten"):
        report(command, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("flags", "words"), [
    (["--methods", "oracle"], ["oracle", "ground truth"]),
    (["--top_q", "0"], ["--top_q"]),
    (["--resume", ""], ["--resume"]),
])  # fmt: skip
def test_errors_are_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), command("--out", tmp_path / "page", *flags))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert not any(tmp_path.iterdir())  # no half-written page


@pytest.fixture(scope="module")
def evil(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, with names of classes and files that could break it."""
    folder = tmp_path_factory.mktemp("evil") / "page"
    shutil.copytree(made, folder)
    summary = content(folder / pages.SUMMARY)
    summary["classes"] = CLASSES
    summary["images"]["file"] = [f"{EVIL}/{name}" for name in summary["images"]["file"]]
    rows = {"columns": [EVIL], "rows": [{"name": EVIL, "kind": EVIL, "ours": True, "values": [0.5]}]}
    sentences = [
        {"question": EVIL, "answer": answer, "meaning": EVIL, "figures": EVIL} for answer in ("yes", "no", "not measured")
    ]
    audited = {"metric": EVIL, "best": EVIL, "dummy": EVIL, "difference": -0.1, "outcome": f"a dummy wins {EVIL}"}
    summary["attribution"] = {
        "about": EVIL, "verdict": {"label": EVIL, "about": EVIL, "sentences": sentences}, "main": rows, "all": rows,
        "audit": {"about": EVIL, "rows": [audited]},
    }  # fmt: skip
    pages.write_report(folder, EVIL, EVIL, {key: value for key, value in summary.items() if key not in ("title", "colours")})
    return folder


class Tab:
    """A tab that collects what the page complains about, and every request that leaves the folder."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.page = browser.new_context(bypass_csp=False, **options).new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request", lambda request: self.complaints.append(request.url) if request.url[:5] not in ("file:", "data:") else 0
        )
        self.address = (folder / "index.html").as_uri()

    def open(self, hash: str = "") -> Any:
        self.page.goto("about:blank")
        self.page.goto(self.address + hash)
        self.page.wait_for_selector("h1")
        return self.page


@pytest.fixture
def tab(browser: Any, made: Path) -> Iterator[Tab]:
    tab = Tab(browser, made)
    yield tab
    tab.page.context.close()
    assert tab.complaints == []


def test_tables_sort_and_filter(tab: Tab) -> None:
    page = tab.open("#view=classes")
    names = lambda: page.locator("tbody th").all_text_contents()  # noqa: E731
    page.click("thead button >> text=class")
    assert names() == FOLDERS and page.get_attribute("thead th >> nth=0", "aria-sort") == "ascending"
    page.click("thead button >> text=class")
    assert names() == FOLDERS[::-1] and page.get_attribute("thead th >> nth=0", "aria-sort") == "descending"
    page.fill("input[type=search]", "pla")
    rows = page.locator("tbody tr").all_text_contents()
    assert rows and all("plain" in row for row in rows) and "plain" in names()


def test_a_confusion_is_one_click_from_its_images(tab: Tab, made: Path) -> None:
    images = content(made / pages.SUMMARY)["images"]
    page = tab.open("#view=confusions")
    row = page.locator("tbody tr").first
    true, predicted = (FOLDERS.index(name) for name in row.locator("bdi").all_text_contents())
    row.locator("a").click()
    page.wait_for_selector(".gallery")
    pair = [(l, p) for l, p in zip(images["label"], images["predicted"], strict=True)].count((true, predicted))  # noqa: E741
    assert page.locator(".gallery li").count() == pair > 0
    page.click(".gallery a >> nth=0")
    page.wait_for_selector("#method")
    assert page.locator(".stage img").evaluate("image => image.complete && image.naturalWidth > 0")


def test_class_head_method_and_contrast_are_chosen_over_the_image_and_kept_in_the_link(tab: Tab, made: Path) -> None:
    page = tab.open("#class=1&image=3")
    page.wait_for_selector("#method")
    pixels = lambda: page.evaluate("document.querySelector('.stage canvas').toDataURL()")  # noqa: E731
    seen = [pixels()]
    for field, value in (("#head", "1"), ("#of", "2"), ("#against", "0"), ("#method", "contribution")):
        page.select_option(field, value)
        seen.append(pixels())
    assert len(set(seen)) == len(seen)
    drawn = content(made / pages.maps_name(3))["classes"]
    assert page.url.endswith(f"#class=1&image=3&of={drawn[2]}&against={drawn[0]}&method=contribution")
    again = tab.open(page.url.partition("index.html")[2])
    again.wait_for_selector("#method")
    assert pixels() == seen[-1] and again.input_value("#against") == "0"
    page.check("#cells")
    assert pixels() != seen[-1]


def test_the_map_of_the_page_is_drawn_where_it_belongs(tab: Tab, made: Path) -> None:
    """The brightest pixels of the canvas lie in the strongest cell, which the page names as the stored map does."""
    page = tab.open("#image=1&method=attention")
    page.wait_for_selector("#method")
    page.check("#cells")
    stored = content(made / pages.maps_name(1))
    entry, row = stored["maps"]["attention"], int(page.input_value("#of"))
    values = np.frombuffer(base64.b64decode(entry["bytes"]), np.uint8).reshape(-1, entry["heads"], *entry["size"])[row]
    low, high = (np.array(entry[key]).reshape(-1, entry["heads"])[row][:, None, None] for key in ("low", "high"))
    mean = (low + (high - low) * values / 255).mean(0)
    peak = np.unravel_index(mean.argmax(), mean.shape)
    assert page.get_attribute(".stage canvas", "data-peak") == f"{peak[0]},{peak[1]}"
    page.check("#own")
    read = """(() => { const c = document.querySelector('.stage canvas');
        const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return { width: c.width, alpha: Array.from(data).filter((_, i) => i % 4 === 3) }; })()"""
    drawn = page.evaluate(read)
    alpha, width = np.array(drawn["alpha"]), drawn["width"]
    strongest = np.argwhere(alpha.reshape(-1, width) == alpha.max()).mean(0) / (len(alpha) / width, width)
    assert tuple((strongest * entry["extent"]).astype(int)) == peak


def test_long_lists_have_pages(browser: Any, made: Path, tmp_path: Path) -> None:
    folder, count = tmp_path / "page", 200
    summary = content(made / pages.SUMMARY)
    summary["images"] = {"label": [0] * count, "predicted": [1] * 70 + [0] * 130, "p": [0.5] * count, "file": ["x.png"] * count}
    (folder / pages.PICTURES).mkdir(parents=True)
    (folder / pages.SUMMARY.parent).mkdir()
    for number in range(count):
        (folder / pages.picture_name(number)).hardlink_to(made / pages.picture_name(0))
    pages.write_report(folder, "many", "", {key: value for key, value in summary.items() if key not in ("title", "colours")})
    tab = Tab(browser, folder)
    page = tab.open("#class=0")
    lists = lambda: [page.locator(".gallery").nth(k).locator("li").count() for k in (0, 1)]  # noqa: E731
    assert lists() == [60, 60]
    page.click("nav.pages >> nth=0 >> text=next")  # of those taken for another class
    page.wait_for_selector("text=page 2 of 2")
    assert lists() == [10, 60]
    page.click("nav.pages >> nth=2 >> text=next")
    page.wait_for_selector("text=page 2 of 3")
    assert lists() == [10, 60] and page.locator(".gallery").nth(1).locator("a").first.get_attribute("href").endswith("image=130")
    assert tab.open("#view=images&page=1e9").locator(".gallery li").count() == 20
    assert tab.complaints == []
    page.context.close()


def test_keys_move_between_images_and_heads(tab: Tab) -> None:
    page = tab.open("#view=images&image=0")
    page.wait_for_selector("#method")
    page.keyboard.press("2")
    assert page.input_value("#head") == "1"
    page.keyboard.press("0")
    assert page.input_value("#head") == ""
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('image=1')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("location.hash.includes('image=0')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".gallery")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_can_be_anything_and_no_fault_of_accessibility_is_serious(browser: Any, evil: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed (requirements-dev.txt)")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    tab = Tab(browser, evil, color_scheme=scheme, viewport={"width": 390, "height": 800})
    more = ["#class=0", "#class=1", "#view=images&true=0", "#class=none", "#image=999", "#%E0%A4%A"] * (scheme == "light")
    for hash in ("", "#image=4", *more):
        page = tab.open(hash)
        if "image=4" in hash:
            page.wait_for_selector("#method")
        assert page.title() != "x"
        if not hash:  # the page opens with the verdict; tables that few readers want are closed
            assert (
                page.locator("main h2").first.text_content() == "Verdict on the maps" and page.locator("main ol li").count() == 3
            )
            assert not page.locator("details table").first.is_visible()
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), f"{hash} is wider than a phone"
        page.evaluate(source)
        faults = page.evaluate("axe.run()")["violations"]
        assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    page.context.close()
    assert tab.complaints == []
